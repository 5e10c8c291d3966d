//! Answering questions on the keyframes of a segment.

use std::ops::ControlFlow;

use crate::control::{Control, TextOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::features::Features;
use crate::ground::answer;
use crate::language::say;
use crate::module::Registry;
use crate::pack::LanguageTask;
use crate::task::{Speech, Statement, Voice};
use crate::trace;

/// Longest question, in bytes.
const MAX_QUESTION: usize = 16 << 10;

/// The question task of one pack. Making it loads no module; may be used from several threads at once.
#[derive(Debug)]
pub struct Asker {
    speech: Speech,
    task: LanguageTask,
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
        let manifest = speech.registry().pack().manifest();
        let Some(task) = &manifest.tasks.ask else {
            let message = format!("pack {:?} cannot answer questions", manifest.id);
            return Err(
                Error::new(ErrorKind::Unsupported, message).remedy("use a pack with a [tasks.ask]")
            );
        };
        Ok(Self {
            speech: speech.clone(),
            task: task.clone(),
        })
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
        let voice = match self.speech.voice(&self.task, control) {
            Ok(voice) => voice,
            Err(error) => return Statement::ended_early(error),
        };
        match &voice {
            Voice::Grounded(model, known) => {
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
            Voice::Prefix(prefix) => {
                let said = prefix.say(frames, Some(question), options, control, on_text)?;
                Ok(Statement::new(said, Vec::new()))
            }
        }
    }
}
