//! Answering questions on the keyframes of a segment.

use std::sync::Arc;

use super::within_limits;
use crate::caption::{Captioner, OnText, Statement};
use crate::control::{Control, TextOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::features::Features;
use crate::trace;

/// Longest question, in bytes.
const MAX_QUESTION: usize = 16 << 10;

/// The question task of one pack. May be used from several threads at once.
#[derive(Debug)]
pub struct Asker {
    captioner: Arc<dyn Captioner>,
}

impl Asker {
    /// The question task of `captioner`. Loads no module.
    pub fn new(captioner: Arc<dyn Captioner>) -> Self {
        Self { captioner }
    }

    /// Answers `question` on the keyframes of one segment, as the pack's captioner does. `on_text` gets the text as it comes
    /// and may end it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] without features, for a question that is blank or longer than 16 kB, or for
    /// `max_tokens` of 0; [`ErrorKind::BadPack`] for features of another pack, and what the captioner's modules report. Cancel
    /// and deadline are no errors: the text so far comes back with that reason.
    pub fn ask(
        &self,
        frames: &[&Features],
        question: &str,
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        let question = question.trim();
        if question.is_empty() || question.len() > MAX_QUESTION {
            let message = format!("the question has {} bytes", question.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message)
                .remedy(format!("ask one of 1 to {MAX_QUESTION} bytes")));
        }
        let _span = trace::span("language", "ask");
        within_limits(frames, options, control, || {
            let captioner = &self.captioner;
            captioner.answer(frames, question, options, control, on_text)
        })
    }
}
