//! What a captioner is made from.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::keys;
use crate::budget::{EvictableCell, Owner, WaitPolicy};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::features::FeatureSources;
use crate::identity::Record;
use crate::language::LanguageContext;
use crate::module::Registry;
use crate::pack::{CaptionerSpec, FileRef, Forms, Pack, Task};

/// The pack a captioner serves, and what it may use: modules, language decoders and governed memory. Clones share everything.
#[derive(Debug, Clone)]
pub struct CaptionerContext {
    registry: Registry,
    language: LanguageContext,
    spec: CaptionerSpec,
}

impl CaptionerContext {
    pub(crate) fn new(
        registry: &Registry,
        language: &LanguageContext,
        spec: &CaptionerSpec,
    ) -> Self {
        Self {
            registry: registry.clone(),
            language: language.clone(),
            spec: spec.clone(),
        }
    }

    /// The pack.
    pub fn pack(&self) -> &Pack {
        self.registry.pack()
    }

    /// The pack's modules.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The pack's language decoders.
    pub fn language(&self) -> &LanguageContext {
        &self.language
    }

    /// The `[captioner]` table of `pack.toml`. Modules it names exist and are of the right kind.
    pub fn spec(&self) -> &CaptionerSpec {
        &self.spec
    }

    /// The prompt of `[tasks.caption]` or `[tasks.ask]`.
    pub fn prompt(&self, task: Task) -> Option<&str> {
        self.pack().manifest().tasks.prompt(task)
    }

    /// Refuses a pack that leaves out a key the kind needs or has one without meaning for it. Keys are those of
    /// `[captioner]`, with `files.NAME` for a file, and `prompt` of the tasks the pack serves.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] naming the key.
    pub fn expect_keys(&self, needed: &[&str], optional: &[&str]) -> Result<()> {
        keys::expect(self.pack().manifest(), &self.spec, needed, optional)
    }

    /// The table `[captioner.options]` as the kind declares it. Give `T` `#[serde(deny_unknown_fields)]`, so that a misspelt
    /// option is refused by name.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] naming the option.
    pub fn options<T: DeserializeOwned>(&self) -> Result<T> {
        let options = self.spec.options.clone();
        options.try_into().map_err(|error: toml::de::Error| {
            let what = error.message();
            Error::new(ErrorKind::BadPack, format!("captioner.options: {what}"))
                .remedy(format!("correct it; kind = {:?}", self.spec.kind))
        })
    }

    /// The file that `[captioner.files]` calls `name`; read it with [`Pack::read`], which checks its hash.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] if the pack names none.
    pub fn file(&self, name: &str) -> Result<&FileRef> {
        let file = self.spec.files.get(name);
        file.ok_or_else(|| keys::missing(&format!("captioner.files.{name}"), &self.spec.kind))
    }

    /// What decides the results of module `id`, all its forms included; a field of the identity of a captioner that runs it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the pack has no such module.
    pub fn computation(&self, id: &str) -> Result<Record> {
        Ok(self.pack().module(id)?.computation(Forms::All))
    }

    /// What makes the features besides the search vector; those that a captioner reads are fields of its identity.
    ///
    /// # Errors
    /// As [`Manifest::feature_sources`](crate::pack::Manifest::feature_sources).
    pub fn feature_sources(&self) -> Result<FeatureSources> {
        self.pack().manifest().feature_sources()
    }

    /// A place for a value that is built on first use and dropped when memory is short and nobody uses it. `name` shows in the
    /// ledger; `expected_bytes` is what building it is expected to take.
    pub fn evictable<T: Send + Sync + 'static>(
        &self,
        name: &str,
        expected_bytes: u64,
    ) -> Evictable<T> {
        let owner = Owner::Tables(name.to_owned());
        Evictable(EvictableCell::new(
            owner,
            expected_bytes,
            self.registry.governor(),
        ))
    }
}

/// A value that is built on first use, shared, and dropped when memory is short and nobody uses it.
#[derive(Debug)]
pub struct Evictable<T>(EvictableCell<T>);

impl<T: Send + Sync + 'static> Evictable<T> {
    /// The value; `build` makes it if it is not in memory. Hold it while you use it and no longer.
    ///
    /// # Errors
    /// What `build` returns; [`ErrorKind::OutOfBudget`] if there is no room; cancel and deadline while waiting for room.
    pub fn get(&self, control: &Control, build: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let check = || control.check();
        self.0.get(&WaitPolicy::until(&check, None), build)
    }
}
