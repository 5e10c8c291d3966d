//! The modules of a pack, each at most once in memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};

use super::cost::Cost;
use super::entry::ModuleEntry;
use super::lease::Lease;
use super::load::Loader;
use super::probe;
use super::provider_residue::ProviderResidue;
use super::slot::View;
use super::usage::Keep;
use crate::budget::{Governor, Ledger, Reclaim, WaitPolicy};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::features::Variant;
use crate::ort::{Environment, Placement};
use crate::os::stamp::FileStamp;
use crate::pack::{ArtifactCache, GoldenReport, ModuleKind, Pack};

/// The modules of one pack. Clones share them; thread-safe. Dropping the last clone and the last lease releases every
/// session.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

pub(super) struct Inner {
    pack: Arc<Pack>,
    environment: &'static Environment,
    pub(super) governor: Governor,
    artifacts: ArtifactCache,
    residue: Arc<ProviderResidue>,
    /// In the manifest's order.
    pub(super) entries: Vec<Arc<ModuleEntry>>,
    pub(super) by_id: HashMap<String, usize>,
    /// Loads ahead of need.
    prefetches: Mutex<Vec<JoinHandle<()>>>,
}

/// What is free now, or nothing: loading ahead of need must not cost others their place.
const AHEAD: WaitPolicy<'static> = WaitPolicy {
    evict: false,
    ..WaitPolicy::NONE
};

impl Drop for Inner {
    fn drop(&mut self) {
        for entry in &self.entries {
            entry.release_idle(self.governor.ledger());
        }
    }
}

/// What a slot is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModuleState {
    /// Not in memory.
    Cold,
    /// Being loaded.
    Loading,
    /// In memory.
    Resident,
    /// In memory, but its weights were given back to the kernel; the next run reads them again.
    Parked,
    /// The last load failed; see [`ModuleStatus::error`].
    Failed,
}

impl ModuleState {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Loading => "loading",
            Self::Resident => "resident",
            Self::Parked => "parked",
            Self::Failed => "failed",
        }
    }
}

/// A report on one module.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleStatus {
    /// The module.
    pub id: String,
    /// What it does.
    pub kind: ModuleKind,
    /// What its slot is doing.
    pub state: ModuleState,
    /// How often it was loaded since the registry was made.
    pub loads: u64,
    /// How many runs it has done since.
    pub runs: u64,
    /// Leases held now.
    pub leases: usize,
    /// Anonymous bytes: what its session was measured to take at the load, and what its arena has grown by since; 0
    /// unless resident.
    pub anon_bytes: u64,
    /// Bytes of files it maps; 0 unless resident.
    pub mapped_bytes: u64,
    /// How dear it is to the application.
    pub keep: Keep,
    /// The provider in use; `None` unless resident.
    pub provider: Option<String>,
    /// The form it runs in, its own or a variant, by its graph and precision; `None` unless resident.
    pub variant: Option<String>,
    /// Which provider runs how many nodes, as ONNX Runtime recorded it; `None` unless resident.
    pub placement: Option<String>,
    /// The same in full; for a compiled module as found when it was compiled.
    pub nodes: Placement,
    /// How near its golden outputs the session came when it was loaded; `None` on the processor, which is not asked.
    pub golden_cosine: Option<f64>,
    /// How much of the load was spent on that, in milliseconds.
    pub golden_ms: Option<f64>,
    /// Why providers that are preferred to the one in use do not serve it, and what of it they leave to others.
    pub fallbacks: Vec<String>,
    /// How long the last load took, in milliseconds; `None` unless resident.
    pub load_ms: Option<f64>,
    /// Why the last load failed.
    pub error: Option<String>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("pack", &self.0.pack.dir())
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry of `pack`'s modules, all cold, whose memory `governor` governs.
    pub fn new(
        pack: Arc<Pack>,
        environment: &'static Environment,
        governor: &Governor,
        artifacts: ArtifactCache,
    ) -> Self {
        let modules = &pack.manifest().modules;
        let by_id = modules
            .iter()
            .enumerate()
            .map(|(i, module)| (module.id.clone(), i));
        let by_id = by_id.collect();
        let entries = modules.iter().map(|module| {
            let cost = Cost::new(artifacts.cost_file(module, environment.version()));
            Arc::new(ModuleEntry::new(&module.id, governor.age(), cost))
        });
        let entries = entries.collect();
        if let Some(dir) = artifacts.checks_dir() {
            pack.checks().persist_in(&dir);
        }
        let inner = Arc::new(Inner {
            pack,
            environment,
            governor: governor.clone(),
            residue: ProviderResidue::new(governor.ledger()),
            artifacts,
            entries,
            by_id,
            prefetches: Mutex::default(),
        });
        let holder: Weak<dyn Reclaim> = Arc::<Inner>::downgrade(&inner);
        governor.watch(holder);
        Self(inner)
    }

    /// As [`lease_with`](Self::lease_with), unbounded.
    ///
    /// # Errors
    /// As there, but for cancelling and deadline.
    pub fn lease(&self, id: &str) -> Result<Lease> {
        self.lease_with(id, &Control::default())
    }

    /// Leases the module called `id`, loading it if need be. Lock-free when it is resident. Of several callers one
    /// loads and the others wait. A load once begun is finished even when its caller is cancelled meanwhile, since
    /// others may wait for it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown id, cancelling and deadline while waiting or reading parked weights again,
    /// and what loading gives. A failed load is tried again once the module's files change, or after
    /// [`reset`](Self::reset).
    pub fn lease_with(&self, id: &str, control: &Control) -> Result<Lease> {
        let check = || control.check();
        self.lease_for(id, control, &WaitPolicy::until(&check, None))
    }

    fn lease_for(&self, id: &str, control: &Control, wait: &WaitPolicy<'_>) -> Result<Lease> {
        let index = self.index(id)?;
        let inner = &*self.0;
        let spec = &inner.pack.manifest().modules[index];
        let stamps = || -> Vec<Option<FileStamp>> {
            spec.weights()
                .map(|file| FileStamp::of(&inner.pack.path(file)).ok())
                .collect()
        };
        let entry = &inner.entries[index];
        let loader = Loader {
            pack: &inner.pack,
            spec,
            environment: inner.environment,
            events: inner.governor.events(),
            ledger: inner.governor.ledger(),
            artifacts: &inner.artifacts,
            residue: &inner.residue,
            entry,
        };
        let load = || loader.load(wait);
        let held = entry.slot.lease(control, &stamps, &load)?;
        entry.usage.used();
        let lease = Lease::new(
            Arc::clone(&inner.pack),
            index,
            Arc::clone(entry),
            Arc::clone(&held),
            inner.governor.ledger().clone(),
        );
        held.value.unpark(&|| control.check())?;
        Ok(lease)
    }

    /// Begins to load the module called `id`, or to read its weights again if they were parked, on a thread of its own: for
    /// who will need it soon and has other work before. Does nothing where it is in memory or others would have to be evicted;
    /// what fails is told to who leases it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown id.
    pub fn prefetch(&self, id: &str) -> Result<()> {
        let entry = &self.0.entries[self.index(id)?];
        match entry.slot.peek() {
            Some(held) if held.value.parked() => self.load_ahead(id),
            None if matches!(entry.slot.view(), View::Cold) => self.load_ahead(id),
            _ => {}
        }
        Ok(())
    }

    fn load_ahead(&self, id: &str) {
        let (registry, module) = (self.clone(), id.to_owned());
        let load = move || {
            if let Err(e) = registry.lease_for(&module, &Control::default(), &AHEAD) {
                log::debug!("module {module} was not loaded ahead of need: {e}");
            }
        };
        let mut prefetches = self.prefetches();
        prefetches.retain(|thread| !thread.is_finished());
        match thread::Builder::new()
            .name("atom-prefetch".into())
            .spawn(load)
        {
            Ok(thread) => prefetches.push(thread),
            Err(e) => log::debug!("no thread to load {id} ahead of need: {e}"),
        }
    }

    /// Waits until nothing is loaded ahead of need any more. Whoever lets go of a registry for good calls it, so that no
    /// load is under way when the process ends.
    pub fn settle(&self) {
        let threads: Vec<_> = self.prefetches().drain(..).collect();
        for thread in threads {
            // One that panicked has loaded nothing.
            let _ = thread.join();
        }
    }

    fn prefetches(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        let prefetches = self.0.prefetches.lock();
        prefetches.unwrap_or_else(PoisonError::into_inner)
    }

    /// How dear module `id` is to the application when memory is short.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown id.
    pub fn set_keep(&self, id: &str, keep: Keep) -> Result<()> {
        self.0.entries[self.index(id)?].usage.set_keep(keep);
        Ok(())
    }

    /// Has module `id` run in the form that has the hash `hash`, by whichever provider serves it so, for as long as this
    /// registry lives: what it makes can then be added to what that form made before. Waits for a load under way. What it runs
    /// in: another form, if it was loaded in one before.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown id, [`ErrorKind::BadPack`](crate::ErrorKind::BadPack)
    /// where no form has that hash.
    pub fn pin_variant(&self, id: &str, hash: &[u8; 32]) -> Result<Variant> {
        let index = self.index(id)?;
        let spec = &self.0.pack.manifest().modules[index];
        let Some(wanted) = spec.variant_of(hash) else {
            return Err(Error::new(
                ErrorKind::BadPack,
                format!("module {id:?} has no variant of the hash asked for"),
            )
            .remedy("use the pack that has it"));
        };
        // Loads settle it too, and take turns.
        let _lock = self.ledger().load_lock();
        let variant = *self.0.entries[index].variant.get_or_init(|| wanted);
        Ok(spec.variant(variant))
    }

    /// Drops the session of a module that nobody leases, and gives its memory back; `false` if it is leased or not
    /// resident.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown id.
    pub fn release_idle(&self, id: &str) -> Result<bool> {
        let entry = &self.0.entries[self.index(id)?];
        Ok(entry.release_idle(self.ledger()).is_some())
    }

    /// Forgets a failed load, so that the next lease tries again.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown id.
    pub fn reset(&self, id: &str) -> Result<()> {
        self.0.entries[self.index(id)?].slot.reset();
        Ok(())
    }

    /// Runs every module that has a golden input and compares its outputs with the golden ones.
    ///
    /// # Errors
    /// What leasing and running give; a low cosine is reported, not an error.
    pub fn golden(&self) -> Result<Vec<GoldenReport>> {
        let modules = self.0.pack.manifest().modules.iter();
        modules
            .filter_map(|spec| Some((spec, spec.golden.as_ref()?)))
            .map(|(spec, golden)| {
                let lease = self.lease(&spec.id)?;
                let mut step = lease.step(&Control::default())?;
                // In the form that was loaded, which may have golden outputs of its own.
                let variant = self.0.entries[self.index(&spec.id)?].variant.get();
                let spec = &spec.as_variant(variant.copied().flatten());
                let golden = spec.golden.as_ref().unwrap_or(golden);
                let cosine = probe::golden_cosine(&self.0.pack, spec, golden, &mut step)
                    .map_err(|e| e.context(format_args!("golden run of module {:?}", spec.id)))?;
                Ok(GoldenReport {
                    module: spec.id.clone(),
                    cosine,
                    floor: golden.cosine,
                })
            })
            .collect()
    }

    /// The pack.
    pub fn pack(&self) -> &Arc<Pack> {
        &self.0.pack
    }

    /// The ledger that sessions are charged to.
    pub fn ledger(&self) -> &Ledger {
        self.0.governor.ledger()
    }

    /// Who decides what is evicted.
    pub fn governor(&self) -> &Governor {
        &self.0.governor
    }

    /// The cache of prepacked forms.
    pub fn artifacts(&self) -> &ArtifactCache {
        &self.0.artifacts
    }

    /// The environment sessions are made in.
    pub fn environment(&self) -> &'static Environment {
        self.0.environment
    }

    /// A report on every module, in the manifest's order.
    pub fn status(&self) -> Vec<ModuleStatus> {
        let modules = self.0.pack.manifest().modules.iter();
        modules
            .zip(&self.0.entries)
            .map(|(spec, entry)| {
                let mut status = ModuleStatus {
                    id: spec.id.clone(),
                    kind: spec.kind,
                    state: ModuleState::Cold,
                    loads: entry.loads.load(Ordering::Relaxed),
                    runs: entry.runs.load(Ordering::Relaxed),
                    leases: 0,
                    anon_bytes: 0,
                    mapped_bytes: 0,
                    keep: entry.usage.keep(),
                    provider: None,
                    variant: None,
                    placement: None,
                    nodes: Placement::default(),
                    golden_cosine: None,
                    golden_ms: None,
                    fallbacks: Vec::new(),
                    load_ms: None,
                    error: None,
                };
                match entry.slot.view() {
                    View::Cold => {}
                    View::Loading => status.state = ModuleState::Loading,
                    View::Failed(error) => {
                        status.state = ModuleState::Failed;
                        status.error = Some(error.to_string());
                    }
                    View::Resident(held) => {
                        let resident = &held.value;
                        status.state = if resident.parked() {
                            ModuleState::Parked
                        } else {
                            ModuleState::Resident
                        };
                        (status.anon_bytes, status.mapped_bytes) = resident.account.charge.bytes();
                        status.leases = held.leased();
                        let serving = resident.serving.now();
                        status.provider = Some(serving.provider.name().to_owned());
                        status.variant = Some(resident.variant.name.clone());
                        status.placement = Some(serving.placement.to_string());
                        status.nodes = serving.placement;
                        status.golden_cosine = serving.golden.map(|(cosine, _)| cosine);
                        status.golden_ms = serving.golden.map(|(_, ms)| ms);
                        status.fallbacks = serving.fallbacks;
                        status.load_ms = Some(resident.load_ms);
                    }
                }
                status
            })
            .collect()
    }

    fn index(&self, id: &str) -> Result<usize> {
        match self.0.by_id.get(id) {
            Some(&index) => Ok(index),
            // For its error, which names the modules there are.
            None => self.0.pack.module(id).map(|_| 0),
        }
    }
}
