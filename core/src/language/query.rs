//! The words of a query to a vector a store can be searched with, as the pack's search task says.

use std::sync::Arc;

use super::text_encoder::TextEncoder;
use crate::budget::{EvictableCell, Owner, WaitPolicy};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::module::Registry;
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

/// What turns queries into vectors: the pack's text encoder and the sentence it is given. Cheap to clone; clones share the
/// vocabulary, which is read by the first query and released when memory is short and no query is being encoded. May be
/// used from any thread. Making one loads nothing.
#[derive(Debug, Clone)]
pub struct QueryEncoder {
    registry: Registry,
    encoder: EvictableCell<TextEncoder>,
    module: String,
    template: String,
    min_score: f32,
}

impl QueryEncoder {
    /// The query encoder of the registry's pack.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack cannot search.
    pub fn new(registry: &Registry) -> Result<Self> {
        let pack = registry.pack();
        let manifest = pack.manifest();
        let task = manifest.tasks.search.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("pack {:?} cannot search", manifest.id),
            )
            .remedy("use a pack whose pack.toml has [tasks.search]")
        })?;
        let module = task.text_encoder.clone();
        let expected = tokenizer_bytes(pack, &module);
        let owner = Owner::Tables(module.clone());
        Ok(Self {
            registry: registry.clone(),
            encoder: EvictableCell::new(owner, expected, registry.governor()),
            module,
            template: task.query_template.clone(),
            min_score: task.min_score,
        })
    }

    /// The pack's own cosine below which a segment is no match.
    pub fn min_score(&self) -> f32 {
        self.min_score
    }

    /// The vector of a user's `words`, L2-normalised. Special tokens that they spell are taken as plain words.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for blank words; otherwise as [`TextEncoder::new`], [`TextEncoder::encode`] and
    /// [`EvictableCell::get`].
    pub fn encode(&self, words: &str, control: &Control) -> Result<Vec<f32>> {
        let words = words.trim();
        if words.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "the query is blank"));
        }
        let encoder = self.encoder(control)?;
        let words = encoder.tokenizer().harmless(words)?;
        encoder.encode(&self.template.replace("{}", &words), control)
    }

    /// As [`encode`](Self::encode), of the words as they are: blanks around them and special tokens stay, and they may be empty.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), but for blank words.
    pub fn embed(&self, words: &str, control: &Control) -> Result<Vec<f32>> {
        let encoder = self.encoder(control)?;
        encoder.encode(&self.template.replace("{}", words), control)
    }

    fn encoder(&self, control: &Control) -> Result<Arc<TextEncoder>> {
        let check = || control.check();
        self.encoder.get(&WaitPolicy::until(&check, None), || {
            TextEncoder::new(&self.registry, &self.module)
        })
    }
}
