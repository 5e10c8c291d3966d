//! The decoders that captioners share, and the prompt prefixes they have in common.

use std::sync::{Arc, Mutex, PoisonError};

use super::{LanguageModel, PrefixCache, tokenizer_bytes};
use crate::budget::{EvictableCell, Owner, WaitPolicy};
use crate::control::Control;
use crate::error::Result;
use crate::module::Registry;

/// The language decoders of one pack, and the cache of prompt prefixes they share. Tokenizer and chat template of a decoder
/// are read on first use and dropped when memory is short and nobody uses them. Clones share everything; thread-safe.
#[derive(Debug, Clone)]
pub struct LanguageContext(Arc<Decoders>);

#[derive(Debug)]
struct Decoders {
    registry: Registry,
    prefixes: PrefixCache,
    models: Mutex<Vec<(ModelKey, EvictableCell<LanguageModel>)>>,
}

/// Decoder and token embedding.
type ModelKey = (String, Option<String>);

impl LanguageContext {
    /// Reads nothing yet. Prompt prefixes may take up to `prefix_bytes`.
    pub fn new(registry: &Registry, prefix_bytes: u64) -> Self {
        Self(Arc::new(Decoders {
            registry: registry.clone(),
            prefixes: PrefixCache::new(prefix_bytes, registry.governor()),
            models: Mutex::default(),
        }))
    }

    /// The cache of prompt prefixes.
    pub fn prefixes(&self) -> &PrefixCache {
        &self.0.prefixes
    }

    /// The model of module `decoder`, with module `token_embedding` for a decoder that reads embeddings. Reads tokenizer and
    /// chat template if they are not in memory. Hold the model while you generate and no longer: a model in use cannot be
    /// evicted.
    ///
    /// # Errors
    /// As [`LanguageModel::new`]; [`ErrorKind::OutOfBudget`](crate::error::ErrorKind::OutOfBudget) if there is no room for the
    /// tokenizer; cancel and deadline of `control` while waiting for room.
    pub fn model(
        &self,
        decoder: &str,
        token_embedding: Option<&str>,
        control: &Control,
    ) -> Result<Arc<LanguageModel>> {
        let registry = &self.0.registry;
        let key = (decoder.to_owned(), token_embedding.map(str::to_owned));
        let model = {
            let models = self.0.models.lock();
            let mut models = models.unwrap_or_else(PoisonError::into_inner);
            match models.iter().find(|(known, _)| *known == key) {
                Some((_, model)) => model.clone(),
                None => {
                    let owner = Owner::Tables(decoder.to_owned());
                    let expected = tokenizer_bytes(registry.pack(), decoder);
                    let model = EvictableCell::new(owner, expected, registry.governor());
                    models.push((key, model.clone()));
                    model
                }
            }
        };
        let check = || control.check();
        model.get(&WaitPolicy::until(&check, None), || {
            LanguageModel::sharing(registry, decoder, token_embedding, self.prefixes())
        })
    }
}
