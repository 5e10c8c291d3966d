//! The modules of a pack, each at most once in memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::lease::Lease;
use super::load;
use super::probe;
use super::slot::{Slot, View};
use crate::budget::Ledger;
use crate::control::Control;
use crate::error::Result;
use crate::ort::Environment;
use crate::os::memory;
use crate::os::stamp::FileStamp;
use crate::pack::{ArtifactCache, GoldenReport, ModuleKind, Pack};

/// The modules of one pack. Clones share them; thread-safe. Dropping the last clone and the last lease releases every
/// session.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    pack: Arc<Pack>,
    environment: &'static Environment,
    ledger: Ledger,
    artifacts: ArtifactCache,
    /// In the manifest's order.
    slots: Vec<Arc<Slot>>,
    by_id: HashMap<String, usize>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let loaded = self.slots.iter().filter(|slot| slot.release_idle()).count();
        if loaded > 0 {
            memory::trim();
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
    /// The provider in use; `None` unless resident.
    pub provider: Option<String>,
    /// Which provider runs how many nodes, as ONNX Runtime recorded it; `None` unless resident.
    pub placement: Option<String>,
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
    /// A registry of `pack`'s modules, all cold.
    pub fn new(
        pack: Arc<Pack>,
        environment: &'static Environment,
        ledger: Ledger,
        artifacts: ArtifactCache,
    ) -> Self {
        let modules = &pack.manifest().modules;
        let by_id = modules
            .iter()
            .enumerate()
            .map(|(i, module)| (module.id.clone(), i));
        let by_id = by_id.collect();
        let slots = modules.iter().map(|module| Arc::new(Slot::new(&module.id)));
        let slots = slots.collect();
        if let Some(dir) = artifacts.checks_dir() {
            pack.checks().persist_in(&dir);
        }
        Self(Arc::new(Inner {
            pack,
            environment,
            ledger,
            artifacts,
            slots,
            by_id,
        }))
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
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown id, cancelling and deadline while waiting,
    /// and what loading gives. A failed load is tried again once the module's files change, or after
    /// [`reset`](Self::reset).
    pub fn lease_with(&self, id: &str, control: &Control) -> Result<Lease> {
        let index = self.index(id)?;
        let inner = &*self.0;
        let spec = &inner.pack.manifest().modules[index];
        let stamps = || -> Vec<Option<FileStamp>> {
            spec.weights()
                .map(|file| FileStamp::of(&inner.pack.path(file)).ok())
                .collect()
        };
        let load = || {
            load::load(
                &inner.pack,
                spec,
                inner.environment,
                &inner.ledger,
                &inner.artifacts,
            )
        };
        let slot = &inner.slots[index];
        let resident = slot.lease(control, &stamps, &load)?;
        Ok(Lease::new(
            Arc::clone(&inner.pack),
            index,
            Arc::clone(slot),
            resident,
        ))
    }

    /// Drops the session of a module that nobody leases, and gives its memory back; `false` if it is leased or not
    /// resident.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown id.
    pub fn release_idle(&self, id: &str) -> Result<bool> {
        let released = self.0.slots[self.index(id)?].release_idle();
        if released {
            memory::trim();
        }
        Ok(released)
    }

    /// Forgets a failed load, so that the next lease tries again.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown id.
    pub fn reset(&self, id: &str) -> Result<()> {
        self.0.slots[self.index(id)?].reset();
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
        &self.0.ledger
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
            .zip(&self.0.slots)
            .map(|(spec, slot)| {
                let mut status = ModuleStatus {
                    id: spec.id.clone(),
                    kind: spec.kind,
                    state: ModuleState::Cold,
                    loads: slot.loads.load(Ordering::Relaxed),
                    runs: slot.runs.load(Ordering::Relaxed),
                    leases: 0,
                    anon_bytes: 0,
                    mapped_bytes: 0,
                    provider: None,
                    placement: None,
                    load_ms: None,
                    error: None,
                };
                match slot.view() {
                    View::Cold => {}
                    View::Loading => status.state = ModuleState::Loading,
                    View::Failed(error) => {
                        status.state = ModuleState::Failed;
                        status.error = Some(error.to_string());
                    }
                    View::Resident(resident) => {
                        status.state = ModuleState::Resident;
                        (status.anon_bytes, status.mapped_bytes) = resident.charge.bytes();
                        status.leases = resident.leased();
                        status.provider = Some(resident.provider.to_owned());
                        status.placement = Some(resident.placement.clone());
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
