//! What a text may be, and what came of it.

use serde::{Deserialize, Serialize};

use super::constraint::Constraint;
use super::rules::Rules;
use super::sampling::Sampling;
use crate::error::{Error, ErrorKind, Result};
use crate::pack::EarlyStopping;

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
    /// Which tokens may come next.
    pub rules: Rules,
    /// How many texts are followed at once, and how they are weighed.
    pub beams: Beams,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            sampling: Sampling::default(),
            stop: Vec::new(),
            constraint: None,
            rules: Rules::default(),
            beams: Beams::default(),
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

/// How a beam search weighs texts and when it ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Beams {
    /// Texts that are followed at once; 1 is no beam search.
    pub count: usize,
    /// A finished text's score is divided by its length to this power: above 0 favours long texts.
    pub length_penalty: f32,
    /// When it ends.
    pub early_stopping: EarlyStopping,
}

impl Default for Beams {
    fn default() -> Self {
        Self {
            count: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Finished(false),
        }
    }
}

/// The reason a cancelled or overdue step stands for; other errors stay errors.
pub(super) fn interrupted(error: Error) -> Result<StopReason> {
    match error.kind() {
        ErrorKind::Cancelled => Ok(StopReason::Cancelled),
        ErrorKind::DeadlineExceeded => Ok(StopReason::Deadline),
        _ => Err(error),
    }
}

pub(super) fn sorted(ids: &[u32]) -> Vec<u32> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}
