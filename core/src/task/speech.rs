//! What the tasks that speak share: decoders with their vocabularies, the taxonomy, and the beginnings of prompts.

use std::sync::{Arc, Mutex, PoisonError};

use crate::budget::{Kept, Owner};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::ground::{Grounding, Taxonomy};
use crate::language::{LanguageModel, PrefixCache, VisualPrefix, tokenizer_bytes};
use crate::module::{Registry, patience};
use crate::pack::{CaptionMode, LanguageTask, Pack};

/// What a taxonomy is expected to take.
const TAXONOMY_BYTES: u64 = 1 << 20;

/// Tokenizers, templates and the taxonomy, each read by the first that needs it and released when memory is short and
/// nobody speaks, and the beginnings of prompts. Clones share them; thread-safe.
#[derive(Debug, Clone)]
pub struct Speech(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    registry: Registry,
    prefixes: PrefixCache,
    /// By decoder and token embedding.
    models: Mutex<Vec<(ModelKey, Kept<LanguageModel>)>>,
    grounding: Kept<Grounding>,
}

type ModelKey = (String, Option<String>);

/// What one task speaks with. Hold it while it speaks, no longer: meanwhile nothing of it can be released.
#[derive(Debug)]
pub(super) enum Voice {
    Grounded(Arc<LanguageModel>, Arc<Grounding>),
    Prefix(VisualPrefix),
}

impl Speech {
    /// Reads nothing yet. Beginnings of prompts may take `prefix_bytes`.
    pub fn new(registry: &Registry, prefix_bytes: u64) -> Self {
        let governor = registry.governor();
        let owner = Owner::Tables("grounding".into());
        Self(Arc::new(Shared {
            registry: registry.clone(),
            prefixes: PrefixCache::new(prefix_bytes, governor),
            models: Mutex::default(),
            grounding: Kept::new(owner, TAXONOMY_BYTES, governor),
        }))
    }

    /// The pack's modules.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The beginnings of prompts.
    pub fn prefixes(&self) -> &PrefixCache {
        &self.0.prefixes
    }

    /// What `task` speaks with; what of it is not in memory is read.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] when what the task names does not fit, [`ErrorKind::OutOfBudget`] when there is no room to
    /// read it; cancelling and deadline while waiting for that.
    pub(super) fn voice(&self, task: &LanguageTask, control: &Control) -> Result<Voice> {
        let model = self.model(task, control)?;
        Ok(match task.mode {
            CaptionMode::Grounded => Voice::Grounded(model, self.grounding(control)?),
            CaptionMode::Prefix => Voice::Prefix(VisualPrefix::new(self.registry(), task, model)?),
        })
    }

    /// The decoder of `task`.
    fn model(&self, task: &LanguageTask, control: &Control) -> Result<Arc<LanguageModel>> {
        let registry = self.registry();
        let key = (task.language_decoder.clone(), task.token_embedding.clone());
        let (decoder, embedding) = (&key.0, key.1.as_deref());
        let kept = {
            let models = self.0.models.lock();
            let mut models = models.unwrap_or_else(PoisonError::into_inner);
            match models.iter().find(|(have, _)| *have == key) {
                Some((_, kept)) => kept.clone(),
                None => {
                    let owner = Owner::Tables(decoder.clone());
                    let expected = tokenizer_bytes(registry.pack(), decoder);
                    let kept = Kept::new(owner, expected, registry.governor());
                    models.push((key.clone(), kept.clone()));
                    kept
                }
            }
        };
        let check = || control.check();
        kept.get(&patience(&check, None), || {
            LanguageModel::sharing(registry, decoder, embedding, self.prefixes())
        })
    }

    /// The grounding the pack declares.
    fn grounding(&self, control: &Control) -> Result<Arc<Grounding>> {
        let check = || control.check();
        let pack = self.registry().pack();
        let kept = &self.0.grounding;
        kept.get(&patience(&check, None), || grounding(pack))
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
