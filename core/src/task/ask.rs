//! Answering questions on the keyframes of a segment.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::control::{Control, TextOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::features::Features;
use crate::ground::{Grounding, answer};
use crate::language::{LanguageModel, VisualPrefix, say};
use crate::module::Registry;
use crate::pack::CaptionMode;
use crate::task::{Speech, Statement};
use crate::trace;

/// Longest question, in bytes.
const MAX_QUESTION: usize = 16 << 10;

/// The question task of one pack. Making it loads no module; may be used from several threads at once.
#[derive(Debug)]
pub struct Asker(Way);

#[derive(Debug)]
enum Way {
    Grounded(LanguageModel, Arc<Grounding>),
    Prefix(VisualPrefix),
}

impl Asker {
    /// The question task of the registry's pack.
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
        let registry = speech.registry();
        let manifest = registry.pack().manifest();
        let Some(task) = &manifest.tasks.ask else {
            let message = format!("pack {:?} cannot answer questions", manifest.id);
            return Err(
                Error::new(ErrorKind::Unsupported, message).remedy("use a pack with a [tasks.ask]")
            );
        };
        Ok(Self(match task.mode {
            CaptionMode::Grounded => Way::Grounded(speech.model(task)?, speech.grounding()?),
            CaptionMode::Prefix => {
                Way::Prefix(VisualPrefix::new(registry, task, speech.model(task)?)?)
            }
        }))
    }

    /// Answers `question` on the keyframes of one segment. In a grounded pack it reads existence, count and kind off
    /// what is grounded, denies only with a hedge, and says so when it cannot tell. `on_text` gets the text as it comes
    /// and may end it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] without features, for a question that is blank or longer than 16 kB, or for
    /// `max_tokens` of 0; [`ErrorKind::BadPack`] for features of another pack, and what the decoder reports. Cancel and
    /// deadline are no errors: the text so far comes back with that reason.
    pub fn ask(
        &self,
        frames: &[&Features],
        question: &str,
        options: &TextOptions,
        control: &Control,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Statement> {
        let question = question.trim();
        if question.is_empty() || question.len() > MAX_QUESTION {
            let message = format!("the question has {} bytes", question.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message)
                .remedy(format!("ask one of 1 to {MAX_QUESTION} bytes")));
        }
        let _span = trace::span("language", "ask");
        match &self.0 {
            Way::Grounded(model, known) => {
                let seen = known.observe(frames)?;
                let answer = answer(&seen, question);
                let context = seen.context();
                let prompt = (&*context, question);
                let candidates = &answer.candidates;
                let mut options = options.clone();
                // What is seen decides before likelihood does.
                if options.choices.iter().any(|choice| seen.names(choice)) {
                    options.choices.retain(|choice| seen.names(choice));
                }
                let said = say(model, prompt, candidates, &options, control, on_text)?;
                let grounds = match options.choices.is_empty() {
                    true => answer.grounds,
                    false => seen.grounds(),
                };
                Ok(Statement::new(said, grounds))
            }
            Way::Prefix(prefix) => {
                let said = prefix.say(frames, Some(question), options, control, on_text)?;
                Ok(Statement::new(said, Vec::new()))
            }
        }
    }
}
