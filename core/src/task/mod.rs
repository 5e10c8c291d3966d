//! Tasks: paths through modules. Tasks own no module and never import each other; what several of them share is here.

pub mod ask;
pub mod assemble;
pub mod caption;
pub mod ingest;
pub mod search;

use std::sync::{Arc, Mutex, PoisonError};

use crate::budget::{Charge, Owner};
use crate::error::{Error, ErrorKind, Result};
use crate::ground::{Ground, Grounding, Taxonomy};
use crate::language::{Generated, LanguageModel, PrefixCache, StopReason, tokenizer_bytes};
use crate::module::{Registry, patience};
use crate::pack::{LanguageTask, Pack};

/// A caption or an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Exactly what was streamed.
    pub text: String,
    /// Its length in tokens.
    pub tokens: usize,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// What it rests on; empty when the text was generated freely from visual features.
    pub grounds: Vec<Ground>,
    /// It was kept with the segment and not generated anew.
    pub stored: bool,
}

impl Statement {
    fn new(generated: Generated, grounds: Vec<Ground>) -> Self {
        Self {
            text: generated.text,
            tokens: generated.tokens,
            stop_reason: generated.stop_reason,
            grounds,
            stored: false,
        }
    }
}

/// What the tasks that speak share: tokenizers, templates and the taxonomy, each read by the first that needs it, and
/// the beginnings of prompts. Thread-safe.
#[derive(Debug)]
pub struct Speech {
    registry: Registry,
    prefixes: PrefixCache,
    /// By decoder and token embedding.
    models: Mutex<Vec<(ModelKey, LanguageModel, Charge)>>,
    grounding: Mutex<Option<(Arc<Grounding>, Charge)>>,
}

type ModelKey = (String, Option<String>);

impl Speech {
    /// Reads nothing yet. Beginnings of prompts may take `prefix_bytes`.
    pub fn new(registry: &Registry, prefix_bytes: u64) -> Self {
        Self {
            registry: registry.clone(),
            prefixes: PrefixCache::new(prefix_bytes, registry.governor()),
            models: Mutex::default(),
            grounding: Mutex::default(),
        }
    }

    /// The pack's modules.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The beginnings of prompts.
    pub fn prefixes(&self) -> &PrefixCache {
        &self.prefixes
    }

    /// The decoder of `task`.
    fn model(&self, task: &LanguageTask) -> Result<LanguageModel> {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (task.language_decoder.clone(), task.token_embedding.clone());
        if let Some((_, model, _)) = models.iter().find(|(have, ..)| *have == key) {
            return Ok(model.clone());
        }
        let (decoder, embedding) = (&key.0, key.1.as_deref());
        let owner = Owner::Tables(decoder.clone());
        let expected = tokenizer_bytes(self.registry.pack(), decoder);
        let go_on = || Ok(());
        let (model, charge) =
            self.registry
                .ledger()
                .measure(owner, expected, &patience(&go_on, None), || {
                    LanguageModel::sharing(&self.registry, decoder, embedding, &self.prefixes)
                })?;
        models.push((key, model.clone(), charge));
        Ok(model)
    }

    /// The grounding the pack declares.
    fn grounding(&self) -> Result<Arc<Grounding>> {
        let slot = self.grounding.lock();
        let mut slot = slot.unwrap_or_else(PoisonError::into_inner);
        if let Some((grounding, _)) = &*slot {
            return Ok(grounding.clone());
        }
        let owner = Owner::Tables("grounding".into());
        let ledger = self.registry.ledger();
        let go_on = || Ok(());
        let (made, charge) = ledger.measure(owner, 1 << 20, &patience(&go_on, None), || {
            grounding(self.registry.pack())
        })?;
        Ok(slot.insert((Arc::new(made), charge)).0.clone())
    }
}

/// The grounding `pack` declares.
fn grounding(pack: &Pack) -> Result<Grounding> {
    let manifest = pack.manifest();
    let Some(spec) = &manifest.grounding else {
        let message = format!("pack {:?} has no [grounding]", manifest.id);
        return Err(Error::new(ErrorKind::BadPack, message)
            .remedy("add one that names a taxonomy, or use mode = \"prefix\""));
    };
    let taxonomy = Taxonomy::from_bytes(&pack.read(&spec.taxonomy)?)
        .map_err(|error| error.context(&spec.taxonomy.file))?;
    Ok(Grounding::new(taxonomy, &pack.labels()?))
}
