//! Saying what the keyframes of a segment show, and keeping it with the segment.

pub mod backlog;

use std::sync::Arc;

use super::{Keyframes, OnMade, within_limits};
use crate::caption::{Captioner, OnText, Statement};
use crate::control::{Control, TextOptions};
use crate::error::Result;
use crate::features::{Features, Source};
use crate::index::{Access, Caption, SegmentId, Store};
use crate::language::StopReason;
use crate::module::Registry;
use crate::trace;

/// The caption task of one pack. May be used from several threads at once.
#[derive(Debug)]
pub struct SegmentCaptioner {
    captioner: Arc<dyn Captioner>,
    keyframes: Keyframes,
    maker: String,
}

impl SegmentCaptioner {
    /// The caption task of `captioner`, for the pack of `registry`. Loads no module.
    pub fn new(registry: &Registry, captioner: Arc<dyn Captioner>) -> Self {
        let maker = captioner.identity().to_string();
        Self {
            keyframes: Keyframes::new(registry, captioner.reads()),
            captioner,
            maker,
        }
    }

    /// Stored segments as the captioner reads them.
    pub fn keyframes(&self) -> &Keyframes {
        &self.keyframes
    }

    /// The captioner's identity, as stores keep it. A store serves a caption only to the maker it names.
    pub fn maker(&self) -> &str {
        &self.maker
    }

    /// Says what segment `segment` of `store` shows: a caption kept by the same maker, unless `fresh`, the options ask
    /// for another text, or it is longer than they allow; else a new one, which is kept if the store is open
    /// for writing. Rows that were made for it are given to `on_made`.
    ///
    /// # Errors
    /// As [`caption`](Self::caption), and what the store reports on reading. A new caption that cannot be kept is
    /// returned all the same, with a warning in the log.
    #[allow(clippy::too_many_arguments)]
    pub fn caption_segment(
        &self,
        store: &Store,
        segment: SegmentId,
        options: &TextOptions,
        fresh: bool,
        on_made: OnMade<'_>,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        options.check()?;
        if !fresh && let Some(mut kept) = self.kept(store, segment, options)? {
            control.check()?;
            if on_text(&kept.text).is_break() {
                kept.stop_reason = StopReason::Cancelled;
            }
            return Ok(kept);
        }
        let keyframes = &self.keyframes;
        let features = keyframes.features(store, segment, Source::Still, on_made, control)?;
        let said = self.caption(&[&features], options, control, on_text)?;
        if options.is_plain()
            && store.access() == Access::ReadWrite
            && let Err(error) = self.keep(store, segment, &said)
        {
            log::warn!("the caption of segment {segment} is not kept: {error}");
        }
        Ok(said)
    }

    /// The caption kept with a segment, if it is what `options` ask for.
    fn kept(
        &self,
        store: &Store,
        segment: SegmentId,
        options: &TextOptions,
    ) -> Result<Option<Statement>> {
        if !options.is_plain() {
            return Ok(None);
        }
        let Some(kept) = store.caption(segment, &self.maker)? else {
            return Ok(None);
        };
        let tokens = kept.tokens as usize;
        let most = options.max_tokens.unwrap_or(self.captioner.max_tokens());
        // One that was cut off is what they ask for only if they would cut it there too.
        let fits = match kept.stop_reason == StopReason::MaxTokens.name() {
            true => tokens == most,
            false => tokens <= most,
        };
        let evidence = serde_json::from_str(&kept.grounds);
        match (StopReason::from_name(&kept.stop_reason), evidence) {
            (Some(stop_reason), Ok(evidence)) => Ok(Some(Statement {
                text: kept.text,
                tokens,
                stop_reason,
                evidence,
                prompt_ids: Vec::new(),
                token_ids: Vec::new(),
                stored: true,
            })
            .filter(|_| fits)),
            (_, evidence) => {
                let why = evidence.err().map(|error| error.to_string());
                let why = why.unwrap_or_else(|| format!("stop reason {:?}", kept.stop_reason));
                log::warn!("the caption kept with segment {segment} is unreadable: {why}");
                Ok(None)
            }
        }
    }

    /// Keeps `said` with segment `segment`, durably, unless it was broken off or cut shorter than usual.
    ///
    /// # Errors
    /// What [`Store::set_caption`] reports.
    pub fn keep(&self, store: &Store, segment: SegmentId, said: &Statement) -> Result<()> {
        let whole = match said.stop_reason {
            StopReason::EndOfText | StopReason::Constraint | StopReason::StopString => true,
            StopReason::MaxTokens => said.tokens == self.captioner.max_tokens(),
            _ => false,
        };
        if !whole {
            return Ok(());
        }
        let caption = Caption {
            text: said.text.clone(),
            tokens: u32::try_from(said.tokens).unwrap_or(u32::MAX),
            stop_reason: said.stop_reason.name().to_owned(),
            grounds: said.evidence.to_string(),
        };
        store.set_caption(segment, &self.maker, &caption)
    }

    /// One sentence on the keyframes of one segment, as the pack's captioner makes it. `on_text` gets the text as it comes and
    /// may end it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::error::ErrorKind::InvalidArgument) without features or for `max_tokens` of 0,
    /// [`ErrorKind::BadPack`](crate::error::ErrorKind::BadPack) for features of another pack, and what the captioner's modules
    /// report. Cancel and deadline are no errors: the text so far comes back with that reason.
    pub fn caption(
        &self,
        frames: &[&Features],
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        let _span = trace::span("language", "caption");
        within_limits(frames, options, control, || {
            self.captioner.caption(frames, options, control, on_text)
        })
    }
}
