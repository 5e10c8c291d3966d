//! The words of a query to a vector a store can be searched with, as the pack's search task says.

use std::sync::Arc;

use super::text_encoder::TextEncoder;
use crate::budget::{Charge, Owner};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::module::{Registry, patience};
use crate::pack::Pack;

/// Bytes of memory for one of a `tokenizer.json`: its vocabulary and merges as hash maps of strings.
const PER_JSON_BYTE: u64 = 11;

/// What the tokenizer of module `id` is expected to take.
pub(crate) fn tokenizer_bytes(pack: &Pack, id: &str) -> u64 {
    let tokenizer = pack
        .module(id)
        .ok()
        .and_then(|spec| spec.tokenizer.as_ref());
    tokenizer.map_or(0, |tokenizer| tokenizer.file.bytes * PER_JSON_BYTE)
}

/// What turns queries into vectors: the pack's text encoder and the sentence it is given. Cheap to clone; may be used
/// from any thread. Making one loads nothing.
#[derive(Debug, Clone)]
pub struct QueryEncoder {
    encoder: TextEncoder,
    template: String,
    min_score: f32,
    /// For the vocabulary.
    _charge: Arc<Charge>,
}

impl QueryEncoder {
    /// The query encoder of the registry's pack.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack cannot search, and what [`TextEncoder::new`] reports.
    pub fn new(registry: &Registry) -> Result<Self> {
        let manifest = registry.pack().manifest();
        let task = manifest.tasks.search.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("pack {:?} cannot search", manifest.id),
            )
            .remedy("use a pack whose pack.toml has [tasks.search]")
        })?;
        let owner = Owner::Tables(task.text_encoder.clone());
        let (encoder, charge) = registry.ledger().measure(
            owner,
            tokenizer_bytes(registry.pack(), &task.text_encoder),
            &patience(&|| Ok(()), None),
            || TextEncoder::new(registry, &task.text_encoder),
        )?;
        Ok(Self {
            encoder,
            _charge: Arc::new(charge),
            template: task.query_template.clone(),
            min_score: task.min_score,
        })
    }

    /// The pack's own cosine below which a segment is no match.
    pub fn min_score(&self) -> f32 {
        self.min_score
    }

    /// The vector of `words`, L2-normalised.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for blank words; otherwise as [`TextEncoder::encode`].
    pub fn encode(&self, words: &str, control: &Control) -> Result<Vec<f32>> {
        let words = words.trim();
        if words.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "the query is blank"));
        }
        self.encoder
            .encode(&self.template.replace("{}", words), control)
    }
}
