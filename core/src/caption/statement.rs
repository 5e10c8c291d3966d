//! What a captioner returns.

use std::ops::ControlFlow;

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::language::{Generated, StopReason};

/// Receives a text piece by piece as it is made, and may end it.
pub type OnText<'a> = &'a mut dyn FnMut(&str) -> ControlFlow<()>;

/// A caption or an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Exactly what was streamed.
    pub text: String,
    /// Tokens that a decoder made for it; 0 if none was needed.
    pub tokens: usize,
    /// The tokens of the prompt; a picture's rows stand as the token in whose place they are, and are left out if there is none.
    /// Empty if no decoder was needed.
    pub prompt_ids: Vec<u32>,
    /// The tokens that a decoder made, without the one that ended the text. Empty for a stored text.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// What the text rests on, in a stable shape of the captioner's own; an empty list if it was generated freely.
    pub evidence: Value,
    /// It was stored with the segment and is not new.
    pub stored: bool,
}

impl Statement {
    /// A text that needed no decoder; gives it to `on_text` in one piece.
    pub fn composed(text: impl Into<String>, evidence: Value, on_text: OnText<'_>) -> Self {
        let text = text.into();
        let stop_reason = match on_text(&text).is_break() {
            true => StopReason::Cancelled,
            false => StopReason::EndOfText,
        };
        Self {
            text,
            tokens: 0,
            prompt_ids: Vec::new(),
            token_ids: Vec::new(),
            stop_reason,
            evidence,
            stored: false,
        }
    }

    /// A text that a decoder generated.
    pub fn generated(generated: Generated, evidence: Value) -> Self {
        Self {
            text: generated.text,
            tokens: generated.tokens,
            prompt_ids: Vec::new(),
            token_ids: generated.token_ids,
            stop_reason: generated.stop_reason,
            evidence,
            stored: false,
        }
    }

    /// The empty statement of a task that was cancelled or overdue before its first piece of text; other errors stay errors.
    pub(crate) fn ended_early(error: Error) -> Result<Self> {
        let stop_reason = match error.kind() {
            ErrorKind::Cancelled => StopReason::Cancelled,
            ErrorKind::DeadlineExceeded => StopReason::Deadline,
            _ => return Err(error),
        };
        Ok(Self {
            text: String::new(),
            tokens: 0,
            prompt_ids: Vec::new(),
            token_ids: Vec::new(),
            stop_reason,
            evidence: Value::Array(Vec::new()),
            stored: false,
        })
    }
}
