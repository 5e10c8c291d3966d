//! What a task of the language decoder returns.

use crate::language::{Generated, StopReason};

use super::Ground;

/// A caption or an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Exactly what was streamed.
    pub text: String,
    /// Its length in tokens.
    pub tokens: usize,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// What it rests on; empty when the text was generated freely from visual features.
    pub grounds: Vec<Ground>,
}

impl Statement {
    /// A generated text and what it rests on.
    pub fn new(generated: Generated, grounds: Vec<Ground>) -> Self {
        Self {
            text: generated.text,
            tokens: generated.tokens,
            stop_reason: generated.stop_reason,
            grounds,
        }
    }
}
