//! Language: text to vectors, and a decoder that speaks.
//!
//! No task uses grammars, stop strings, conversations or sampling other than greedy yet. They are here for captioners of models
//! that users bring.

mod choose;
mod constrained;
mod constraint;
mod context;
mod encoded;
mod generate;
mod generation;
mod grammar;
mod kv;
mod model;
mod positions;
mod prefix;
mod prompt;
mod query;
mod sampling;
mod step;
mod stop;
mod text_encoder;
mod tokenizer;
mod trie;

pub use choose::Choice;
pub use constrained::{Request, constrained_generate};
pub(crate) use constrained::{choose_after, harmless};
pub use constraint::Constraint;
pub use context::LanguageContext;
pub use generate::{GenerateOptions, Generated, StopReason};
pub use generation::{CHUNK, Generation};
pub use grammar::Grammar;
pub use model::LanguageModel;
pub use prefix::{Part, PrefixCache, PrefixStats};
pub use prompt::{ChatTemplate, Message};
pub use query::QueryEncoder;
pub(crate) use query::tokenizer_bytes;
pub use sampling::Sampling;
pub use text_encoder::{MAX_QUERY_BYTES, TextEncoder};
pub use tokenizer::{Encoded, MAX_TEXT_BYTES, TextStream, Tokenizer};
