//! Language: text to vectors, and a decoder that speaks.
//!
//! No task uses grammars, stop strings or conversations of several turns yet. They are here for captioners of models that users
//! bring.

mod beams;
mod choose;
mod constrained;
mod constraint;
mod context;
mod embedding;
mod encoded;
mod feed;
mod generate;
mod generation;
mod grammar;
mod harmless;
mod jinja;
mod kv;
mod model;
mod parts;
mod past;
mod positions;
mod prefix;
mod prompt;
mod query;
mod rules;
mod sampling;
mod step;
mod stop;
mod strftime;
mod text;
mod text_encoder;
mod tokenizer;
mod trie;

pub use choose::Choice;
pub(crate) use constrained::choose_after;
pub use constrained::{Request, constrained_generate};
pub use constraint::Constraint;
pub use context::LanguageContext;
pub use generation::{CHUNK, Generation};
pub use grammar::Grammar;
pub(crate) use jinja::Template;
pub use model::LanguageModel;
pub use parts::Part;
pub use prefix::{PrefixCache, PrefixStats};
pub use prompt::{ChatTemplate, ContentPart, Markers, Message};
pub use query::QueryEncoder;
pub(crate) use query::tokenizer_bytes;
pub use rules::Rules;
pub use sampling::Sampling;
pub use text::{Beams, GenerateOptions, Generated, StopReason};
pub use text_encoder::{MAX_QUERY_BYTES, TextEncoder};
pub use tokenizer::{Encoded, MAX_TEXT_BYTES, TextStream, Tokenizer};
