//! The loop that draws a text token by token.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::constraint::{Constraint, Next};
use super::generation::Generation;
use super::sampling::{Sampler, Sampling};
use super::stop::StopStrings;
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};

/// What a text may be and when it ends.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// The most tokens, forced ones included; 0 gives an empty text.
    pub max_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The text ends before the first of these.
    pub stop: Vec<String>,
    /// What the text may be.
    pub constraint: Option<Constraint>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            sampling: Sampling::default(),
            stop: Vec::new(),
            constraint: None,
        }
    }
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopReason {
    /// It is complete: the model ended it, or it was composed without one.
    EndOfText,
    /// It has as many tokens as allowed.
    MaxTokens,
    /// A stop string came.
    StopString,
    /// The deadline passed; the text is what there was by then.
    Deadline,
    /// The caller cancelled, or its callback broke off; the text is what there was by then.
    Cancelled,
    /// The constraint is fulfilled and allows nothing more.
    Constraint,
}

impl StopReason {
    /// The reason of that [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [
            Self::EndOfText,
            Self::MaxTokens,
            Self::StopString,
            Self::Deadline,
            Self::Cancelled,
            Self::Constraint,
        ];
        all.into_iter().find(|reason| reason.name() == name)
    }

    /// The name in reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::EndOfText => "end_of_text",
            Self::MaxTokens => "max_tokens",
            Self::StopString => "stop_string",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::Constraint => "constraint",
        }
    }
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A generated text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// Exactly what was streamed: without stop string, special tokens, or a character cut in two at the end.
    pub text: String,
    /// Number of `token_ids`.
    pub tokens: usize,
    /// The tokens drawn, without the one that ended the text.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub stop_reason: StopReason,
}

impl Generation {
    /// Continues the text. `on_text` gets every piece as it becomes certain, on this thread, and breaks off by
    /// returning [`ControlFlow::Break`]. The tokens drawn become part of this generation; `truncate` takes them back.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`], before anything runs, for options out of range, when nothing was fed, or when
    /// `max_tokens` (or the constraint's longest text, if shorter) does not fit into the context;
    /// [`ErrorKind::Inference`] for a failed step or logits that are not finite. Cancel and deadline are no errors
    /// here: they end the text, also from within a step.
    pub fn generate(
        &mut self,
        options: &GenerateOptions,
        control: &Control,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated> {
        let mut sampler = Sampler::new(&options.sampling)?;
        let mut stop = StopStrings::new(&options.stop)?;
        let mut walk = options
            .constraint
            .as_ref()
            .map(Constraint::walk)
            .transpose()?;
        let longest = options
            .constraint
            .as_ref()
            .map_or(usize::MAX, Constraint::longest);
        if self.position() == 0 {
            return Err(
                Error::new(ErrorKind::InvalidArgument, "nothing was fed to go on from")
                    .remedy("feed a prompt first"),
            );
        }
        // The last token need not go through the decoder.
        self.check_room(options.max_tokens.min(longest).saturating_sub(1))?;

        let end_tokens = sorted(&self.model.0.spec.eos);
        let mut decode = self.model.tokenizer().stream();
        let mut text = String::new();
        let mut token_ids = Vec::new();
        let mut allowed = Vec::new();
        let mut show = |piece: &str| {
            if piece.is_empty() {
                return ControlFlow::Continue(());
            }
            text.push_str(piece);
            on_text(piece)
        };
        let stop_reason = loop {
            let next = walk.as_ref().map_or(Next::Open, |walk| walk.next());
            if next == Next::End {
                break StopReason::Constraint;
            }
            if token_ids.len() >= options.max_tokens {
                break StopReason::MaxTokens;
            }
            let token = if let Next::Forced(token) = next {
                if let Err(error) = control.check() {
                    break interrupted(error)?;
                }
                token
            } else {
                if let Err(error) = self.refresh(control) {
                    break interrupted(error)?;
                }
                let limit = walk.as_ref().map(|walk| {
                    allowed.clear();
                    allowed.extend_from_slice(walk.allowed());
                    if walk.may_end() {
                        allowed.extend_from_slice(&end_tokens);
                        allowed.sort_unstable();
                    }
                    allowed.as_slice()
                });
                let token = sampler.next(&self.logits, self.history(), limit)?;
                if end_tokens.binary_search(&token).is_ok() {
                    break StopReason::EndOfText;
                }
                token
            };
            if let Some(walk) = &mut walk {
                walk.advance(token)?;
            }
            self.pending.push(token);
            token_ids.push(token);
            let (piece, met) = stop.push(&decode.push(token)?);
            if show(&piece).is_break() {
                stop.rest();
                break StopReason::Cancelled;
            }
            if met {
                break StopReason::StopString;
            }
        };
        // Nothing is left to wait for: the text is over whatever the callback says.
        let _ = show(&stop.rest());
        Ok(Generated {
            text,
            tokens: token_ids.len(),
            token_ids,
            stop_reason,
        })
    }
}

/// The reason a cancelled or overdue step stands for; other errors stay errors.
fn interrupted(error: Error) -> Result<StopReason> {
    match error.kind() {
        ErrorKind::Cancelled => Ok(StopReason::Cancelled),
        ErrorKind::DeadlineExceeded => Ok(StopReason::Deadline),
        _ => Err(error),
    }
}

fn sorted(ids: &[u32]) -> Vec<u32> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}
