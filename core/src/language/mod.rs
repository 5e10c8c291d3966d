//! Language: text to vectors, and a decoder that speaks.

mod constraint;
mod grammar;
mod prompt;
mod sampling;
mod tokenizer;
mod trie;

pub use constraint::Constraint;
pub use grammar::Grammar;
pub use prompt::{ChatTemplate, Message};
pub use sampling::Sampling;
pub use tokenizer::{Encoded, MAX_TEXT_BYTES, TextStream, Tokenizer};
