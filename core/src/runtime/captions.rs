//! Captions and answers: which captioner serves the pack, and the runtime's methods for it.

use std::sync::Arc;

use super::{Runtime, unserved};
use crate::caption::{Captioner, OnText, Statement};
use crate::control::{Control, TextOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::features::{Features, Source};
use crate::index::{SegmentId, Store};
use crate::pack::Task;
use crate::task::ask::Asker;
use crate::task::caption::SegmentCaptioner;
use crate::task::{Keyframes, OnMade, keep_in_store};

impl Runtime {
    /// Says what the pictures whose `features` are given show. They should be of one segment. `on_text` gets the text
    /// piece by piece and may stop it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack cannot caption or the kind of its captioner is not linked, and what its
    /// modules report. A deadline or cancel is no error: the text so far comes back with that reason.
    pub fn caption(
        &self,
        features: &[&Features],
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        let captioner = self.segment_captioner()?;
        captioner.caption(features, options, control, on_text)
    }

    /// Says what segment `segment` of `store` shows. A caption that this pack's captioner gave it before is served without
    /// generating, unless `fresh` or the options ask for something else; a new one is kept if the store is open for
    /// writing.
    ///
    /// # Errors
    /// As [`caption`](Self::caption), and what the store reports on reading.
    pub fn caption_segment(
        &self,
        store: &Store,
        segment: SegmentId,
        options: &TextOptions,
        fresh: bool,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        let captioner = self.segment_captioner()?;
        let keep = &keep_in_store;
        captioner.caption_segment(store, segment, options, fresh, keep, control, on_text)
    }

    /// As [`caption_segment`](Self::caption_segment). Rows that the captioner reads and that were made for it are given to `on_made`;
    /// for who captions from a store opened read-only.
    ///
    /// # Errors
    /// As [`caption_segment`](Self::caption_segment).
    #[allow(clippy::too_many_arguments)]
    pub fn caption_segment_with(
        &self,
        store: &Store,
        segment: SegmentId,
        options: &TextOptions,
        fresh: bool,
        on_made: OnMade<'_>,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        let captioner = self.segment_captioner()?;
        captioner.caption_segment(store, segment, options, fresh, on_made, control, on_text)
    }

    /// Keeps a caption with its segment, durably, unless it was broken off; for who captioned from a store opened
    /// read-only.
    ///
    /// # Errors
    /// What [`Store::set_caption`] reports.
    pub fn keep_caption(&self, store: &Store, segment: SegmentId, said: &Statement) -> Result<()> {
        self.segment_captioner()?.keep(store, segment, said)
    }

    /// Answers `question` about the pictures whose `features` are given, as [`caption`](Self::caption) does.
    ///
    /// # Errors
    /// As [`caption`](Self::caption); [`ErrorKind::InvalidArgument`] for a blank question.
    pub fn ask(
        &self,
        features: &[&Features],
        question: &str,
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        let asker = Asker::new(self.captioner(Task::Ask)?.clone());
        asker.ask(features, question, options, control, on_text)
    }

    pub(super) fn segment_captioner(&self) -> Result<SegmentCaptioner> {
        let captioner = self.captioner(Task::Caption)?.clone();
        Ok(SegmentCaptioner::new(&self.0.registry, captioner))
    }

    /// The features of a stored segment, for captions and answers, as a frame of `source`. Rows that the captioner reads and that
    /// are not stored are made of the stored keyframe if the pack says so, and given to `on_made` to be kept.
    ///
    /// # Errors
    /// What the store reports on reading, and what the captioner's encoder reports.
    pub fn segment_features(
        &self,
        store: &Store,
        segment: SegmentId,
        source: Source,
        on_made: OnMade<'_>,
        control: &Control,
    ) -> Result<Features> {
        let keyframes = Keyframes::new(&self.0.registry, self.text_parts());
        keyframes.features(store, segment, source, on_made, control)
    }

    /// The captioner, if it serves `task`, which is [`Task::Caption`] or [`Task::Ask`].
    pub(super) fn captioner(&self, task: Task) -> Result<&Arc<dyn Captioner>> {
        let manifest = self.pack().manifest();
        if !manifest.tasks.has(task) {
            return Err(unserved::lacks(&manifest.id, task));
        }
        self.0.captioner.as_ref().ok_or_else(|| {
            let kind = manifest.captioner.as_ref().map_or("", |spec| &spec.kind);
            let message = format!(
                "pack {:?} cannot {}: its captioner is of kind {kind:?}, which this program does not link",
                manifest.id,
                unserved::verb(task)
            );
            Error::new(ErrorKind::Unsupported, message).remedy(format!(
                "use a build of Atom with the feature {kind:?}, or add the kind to RuntimeOptions::captioners"
            ))
        })
    }
}
