//! Tasks: paths through modules. Tasks own no module and never import each other; what several of them share is here.

pub mod ask;
pub mod assemble;
pub mod caption;
pub mod ingest;
pub mod search;
mod speech;

pub use speech::Speech;
use speech::Voice;

use crate::error::{Error, Result};
use crate::ground::Ground;
use crate::language::{Generated, StopReason, ended_early};

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
    /// It was kept with the segment and not generated anew.
    pub stored: bool,
}

impl Statement {
    fn new(generated: Generated, grounds: Vec<Ground>) -> Self {
        Self {
            text: generated.text,
            tokens: generated.tokens,
            stop_reason: generated.stop_reason,
            grounds,
            stored: false,
        }
    }

    /// What there is to say when cancel or deadline came before there was anything to say it with; other errors stay.
    fn ended_early(error: Error) -> Result<Self> {
        Ok(Self::new(ended_early(error)?, Vec::new()))
    }
}
