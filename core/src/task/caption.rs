//! Saying what the keyframes of a segment show.

pub mod backlog;

use std::ops::ControlFlow;

use crate::control::{Control, TextOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::features::Features;
use crate::identity::Canonical;
use crate::index::{Access, Caption, SegmentId, Store};
use crate::language::{StopReason, say};
use crate::module::Registry;
use crate::pack::{CaptionMode, Forms, LanguageTask, Pack};
use crate::task::{Speech, Statement, Voice};
use crate::trace;

/// The caption task of one pack. Making it loads no module; may be used from several threads at once.
#[derive(Debug)]
pub struct Captioner {
    speech: Speech,
    task: LanguageTask,
    maker: String,
}

/// Goes up when captions of the same pack come out differently: kept ones are then no longer served.
const WORDING: u32 = 2;

impl Captioner {
    /// The caption task of the registry's pack.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack has none, [`ErrorKind::BadPack`] when what it names does not fit.
    pub fn new(registry: &Registry) -> Result<Self> {
        Self::sharing(&Speech::new(registry, 0))
    }

    /// As [`new`](Self::new), with what other tasks have read already.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn sharing(speech: &Speech) -> Result<Self> {
        let pack = speech.registry().pack();
        let manifest = pack.manifest();
        let Some(task) = &manifest.tasks.caption else {
            let message = format!("pack {:?} cannot caption", manifest.id);
            return Err(Error::new(ErrorKind::Unsupported, message)
                .remedy("use a pack with a [tasks.caption]"));
        };
        Ok(Self {
            speech: speech.clone(),
            task: task.clone(),
            maker: maker(pack, task)?,
        })
    }

    /// Whose captions these are: a hash of everything they depend on besides the features. A store serves a caption only
    /// to its own maker.
    pub fn maker(&self) -> &str {
        &self.maker
    }

    /// Says what segment `segment` of `store` shows: a caption kept by the same maker, unless `fresh`, the options ask
    /// for one of several choices, or it is longer than they allow; else a new one, which is kept if the store is open
    /// for writing.
    ///
    /// # Errors
    /// As [`caption`](Self::caption), and what the store reports on reading. A new caption that cannot be kept is
    /// returned all the same, with a warning in the log.
    pub fn caption_segment(
        &self,
        store: &Store,
        segment: SegmentId,
        options: &TextOptions,
        fresh: bool,
        control: &Control,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Statement> {
        options.check()?;
        if !fresh && let Some(mut kept) = self.kept(store, segment, options)? {
            control.check()?;
            if on_text(&kept.text).is_break() {
                kept.stop_reason = StopReason::Cancelled;
            }
            return Ok(kept);
        }
        let features = store.features(segment)?;
        let said = self.caption(&[&features], options, control, on_text)?;
        if options.choices.is_empty()
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
        if !options.choices.is_empty() {
            return Ok(None);
        }
        let Some(kept) = store.caption(segment, &self.maker)? else {
            return Ok(None);
        };
        let tokens = kept.tokens as usize;
        // One that was cut off is what they ask for only if they would cut it there too.
        let fits = match kept.stop_reason == StopReason::MaxTokens.name() {
            true => tokens == options.max_tokens,
            false => tokens <= options.max_tokens,
        };
        let grounds = serde_json::from_str(&kept.grounds);
        match (StopReason::from_name(&kept.stop_reason), grounds) {
            (Some(stop_reason), Ok(grounds)) => Ok(Some(Statement {
                text: kept.text,
                tokens,
                stop_reason,
                grounds,
                stored: true,
            })
            .filter(|_| fits)),
            (_, grounds) => {
                let why = grounds.err().map(|error| error.to_string());
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
            StopReason::MaxTokens => said.tokens == TextOptions::default().max_tokens,
            _ => false,
        };
        if !whole {
            return Ok(());
        }
        let grounds = serde_json::to_string(&said.grounds)
            .map_err(|error| Error::new(ErrorKind::Internal, format!("grounds: {error}")))?;
        let caption = Caption {
            text: said.text.clone(),
            tokens: u32::try_from(said.tokens).unwrap_or(u32::MAX),
            stop_reason: said.stop_reason.name().to_owned(),
            grounds,
        };
        store.set_caption(segment, &self.maker, &caption)
    }

    /// One sentence on the keyframes of one segment; where they differ it hedges. In a grounded pack it names nothing
    /// the features do not carry. `on_text` gets the text as it comes and may end it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] without features or for `max_tokens` of 0, [`ErrorKind::BadPack`] for features of
    /// another pack, and what the decoder reports. Cancel and deadline are no errors: the text so far comes back with
    /// that reason.
    pub fn caption(
        &self,
        frames: &[&Features],
        options: &TextOptions,
        control: &Control,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Statement> {
        let _span = trace::span("language", "caption");
        let voice = match self.speech.voice(&self.task, control) {
            Ok(voice) => voice,
            Err(error) => return Statement::ended_early(error),
        };
        match &voice {
            Voice::Grounded(model, known) => {
                let seen = known.observe(frames)?;
                let context = seen.context();
                let prompt = (&*context, "Describe the picture.");
                let said = say(model, prompt, &seen.sentences(), options, control, on_text)?;
                Ok(Statement::new(said, seen.grounds()))
            }
            Voice::Prefix(prefix) => {
                let said = prefix.say(frames, None, options, control, on_text)?;
                Ok(Statement::new(said, Vec::new()))
            }
        }
    }
}

/// The identity of what makes captions of `task`.
fn maker(pack: &Pack, task: &LanguageTask) -> Result<String> {
    let mut identity = Canonical::new("atom.caption", WORDING);
    let sources = pack.manifest().feature_sources()?;
    match task.mode {
        CaptionMode::Grounded => {
            let taxonomy = pack.manifest().grounding.as_ref().map(|g| &g.taxonomy);
            identity
                .field("mode", "grounded")
                .field("taxonomy", &taxonomy)
                .field("posteriors", &sources.posteriors)
                .field("detections", &sources.detections);
        }
        CaptionMode::Prefix => {
            identity
                .field("mode", "prefix")
                .field("feature_map", &sources.map);
        }
    }
    let modules = [
        ("decoder", Some(&task.language_decoder)),
        ("token_embedding", task.token_embedding.as_ref()),
        ("connector", task.connector.as_ref()),
    ];
    for (name, id) in modules {
        if let Some(id) = id {
            identity.field(name, &pack.module(id)?.computation(Forms::All));
        }
    }
    identity
        .field("image_token", &task.image_token)
        .field("prompt", &task.prompt);
    Ok(identity.finish().to_string())
}
