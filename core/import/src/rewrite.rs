//! Rewrites the graphs of a pack under construction, and proves each rewrite: the new graph and the old one run on the same
//! made inputs, and the new one is kept only if their results agree.

mod compare;
mod decoder;
mod run;
mod tower;

pub(crate) use compare::{Tolerance, largest_difference};
pub use decoder::decoder;
pub(crate) use run::{Noise, Runner, run};
pub use tower::tower;

/// What became of a graph, in words for a report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// What was done.
    pub done: Vec<String>,
    /// What was left, and why.
    pub left: Vec<String>,
    /// Whether one buffer is past and present of each layer's keys and values now: `kv = "shared"`.
    pub shares_cache: bool,
    /// Whether a decoder writes the logits of its last row alone now.
    pub last_logits: bool,
}
