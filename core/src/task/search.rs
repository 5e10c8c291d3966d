//! Search: words to time ranges.

use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{Filter, Hit, Store};
use crate::language::TextEncoder;
use crate::module::Registry;
use crate::trace;

/// What to look for, and where.
#[derive(Debug, Clone)]
pub struct SearchQuery {
    /// The words, at most 64 kB of UTF-8; not blank.
    pub text: String,
    /// The most hits wanted, 1..=10,000.
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

impl SearchQuery {
    /// The best ten segments for `text` anywhere in the store.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            k: 10,
            from_ns: None,
            to_ns: None,
            stream: None,
            min_score: None,
        }
    }
}

/// The largest `k` a query may ask for.
pub const MAX_HITS: usize = 10_000;

/// The search task: text encoder, then the store's scan. Safe to share between threads.
pub struct Searcher {
    encoder: TextEncoder,
    template: String,
    min_score: f32,
}

impl Searcher {
    /// The search path of the registry's pack. Loads no module.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack cannot search.
    pub fn new(registry: &Registry) -> Result<Self> {
        let manifest = registry.pack().manifest();
        let task = manifest.tasks.search.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("pack {:?} cannot search", manifest.id),
            )
            .remedy("use a pack whose pack.toml has [tasks.search]")
        })?;
        Ok(Self {
            encoder: TextEncoder::new(registry, &task.text_encoder)?,
            template: task.query_template.clone(),
            min_score: task.min_score,
        })
    }

    /// The best segments of `store` for the query, best first; empty when nothing reaches the threshold.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a blank or over-long text or a `k` out of range, [`ErrorKind::NotFound`] for
    /// a stream the store does not have, and what the encoder and the store report.
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
        let words = query.text.trim();
        if words.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "the query is blank"));
        }
        if let (Some(from), Some(to)) = (query.from_ns, query.to_ns)
            && from >= to
        {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("the time range from {from} ns to {to} ns is empty"),
            ));
        }
        let stream = match &query.stream {
            Some(name) => Some(store.stream(name)?.id),
            None => None,
        };
        let prompt = self.template.replace("{}", words);
        let vector = self.encoder.encode(&prompt, control)?;
        store.search(
            &vector,
            &Filter {
                k: query.k,
                stream,
                from_ns: query.from_ns,
                to_ns: query.to_ns,
                min_score: Some(query.min_score.unwrap_or(self.min_score)),
            },
        )
    }
}
