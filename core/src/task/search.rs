//! Search: words to time ranges.

use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{Filter, Hit, Store};
use crate::language::QueryEncoder;
use crate::trace;

/// What to look for, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchQuery {
    /// The words, at most 64 kB of UTF-8; not blank.
    pub text: String,
    /// The most hits wanted, 1..=10,000.
    #[serde(default = "usual_hits")]
    pub k: usize,
    /// Only segments that end after this stream time, in nanoseconds.
    pub from_ns: Option<i64>,
    /// Only segments that start before this stream time, in nanoseconds.
    pub to_ns: Option<i64>,
    /// Only this stream.
    pub stream: Option<String>,
    /// Cosine below which a segment is no match, -1..=1; the pack's own threshold when absent.
    pub min_score: Option<f32>,
}

fn usual_hits() -> usize {
    10
}

impl SearchQuery {
    /// The best ten segments for `text` anywhere in the store.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            k: usual_hits(),
            from_ns: None,
            to_ns: None,
            stream: None,
            min_score: None,
        }
    }
}

/// The largest `k` a query may ask for.
pub const MAX_HITS: usize = 10_000;

/// The search task: query encoder, then the store's scan. Safe to share between threads.
pub struct Searcher {
    encoder: QueryEncoder,
}

impl Searcher {
    /// The search path with the pack's query encoder. Loads no module.
    pub fn new(encoder: QueryEncoder) -> Self {
        Self { encoder }
    }

    /// The best segments of `store` for the query, best first; empty when nothing reaches the threshold.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a blank or over-long text, a `k` out of range or an empty range of time,
    /// [`ErrorKind::NotFound`] for a stream the store does not have, and what the encoder and the store report.
    pub fn search(
        &self,
        store: &Store,
        query: &SearchQuery,
        control: &Control,
    ) -> Result<Vec<Hit>> {
        let _span = trace::span("search", "search");
        if query.k == 0 || query.k > MAX_HITS {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("{} hits asked for: k must be 1..={MAX_HITS}", query.k),
            ));
        }
        let stream = match &query.stream {
            Some(name) => Some(store.stream(name)?.id),
            None => None,
        };
        let filter = Filter {
            k: query.k,
            stream,
            from_ns: query.from_ns,
            to_ns: query.to_ns,
            min_score: Some(query.min_score.unwrap_or(self.encoder.min_score())),
        };
        filter.check()?;
        store.search(&self.encoder.encode(&query.text, control)?, &filter)
    }
}
