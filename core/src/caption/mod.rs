//! Captioners: what makes a sentence of a segment's features, and an answer of a question about them.
//!
//! A pack names the kind of its captioner in the `[captioner]` table of `pack.toml`. Core has the kind `vlm` ([`Vlm`]): visual features
//! in the prompt of a language decoder. A program that links other kinds hands them to the runtime it opens; core does not know
//! them.

mod build;
mod captioner;
mod context;
mod keys;
mod statement;
mod vlm;

pub(crate) use build::build;
pub use captioner::{Captioner, CaptionerKind};
pub use context::{CaptionerContext, Evictable};
pub use statement::{OnText, Statement};
pub use vlm::Vlm;
