//! Language: text to vectors, and a decoder that speaks.

mod choose;
mod constraint;
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
mod say;
mod step;
mod stop;
mod text_encoder;
mod tokenizer;
mod trie;
mod visual_prefix;

pub use choose::Choice;
pub use constraint::Constraint;
pub use generate::{GenerateOptions, Generated, StopReason};
pub use generation::{CHUNK, Generation};
pub use grammar::Grammar;
pub use model::LanguageModel;
pub use prefix::{Part, PrefixCache, PrefixStats};
pub use prompt::{ChatTemplate, Message};
pub use query::QueryEncoder;
pub(crate) use query::tokenizer_bytes;
pub use sampling::Sampling;
pub(crate) use say::{ended_early, say};
pub use text_encoder::{MAX_QUERY_BYTES, TextEncoder};
pub use tokenizer::{Encoded, MAX_TEXT_BYTES, TextStream, Tokenizer};
pub use visual_prefix::VisualPrefix;
