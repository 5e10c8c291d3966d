//! The entry of a module in the registry: its slot, and what is known of it whether it is loaded or not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::cost::Cost;
use super::resident::Resident;
use super::slot::Slot;
use super::usage::Usage;
use crate::budget::policy::Age;
use crate::budget::{Ledger, Owner};
use crate::os::stamp::FileStamp;

/// Of a module's files: whether they are what they were.
pub(super) type Stamps = Vec<Option<FileStamp>>;

pub(super) struct ModuleEntry {
    pub(super) id: Arc<str>,
    /// As the ledger knows it.
    pub(super) owner: Owner,
    pub(super) slot: Slot<Resident, Stamps>,
    pub(super) usage: Usage,
    pub(super) cost: Cost,
    /// The form it runs in (`Some(None)`: its own), settled by its first load and never changed: what it made before and
    /// what it makes after another load, or when its provider fails, may stand side by side.
    pub(super) variant: OnceLock<Option<usize>>,
    pub(super) loads: AtomicU64,
    pub(super) runs: AtomicU64,
    /// Anonymous bytes a load under way was admitted for.
    loading: AtomicU64,
}

impl ModuleEntry {
    pub(super) fn new(id: &str, age: &Age, cost: Cost) -> Self {
        Self {
            id: id.into(),
            owner: Owner::Module(id.to_owned()),
            slot: Slot::new(),
            usage: Usage::new(age),
            cost,
            variant: OnceLock::new(),
            loads: AtomicU64::new(0),
            runs: AtomicU64::new(0),
            loading: AtomicU64::new(0),
        }
    }

    pub(super) fn loading(&self) -> u64 {
        self.loading.load(Ordering::Relaxed)
    }

    /// Says, until the guard is dropped, that a load admitted for `bytes` is under way.
    pub(super) fn load_under_way(&self, bytes: u64) -> Underway<'_> {
        self.loading.store(bytes, Ordering::Relaxed);
        Underway(self)
    }

    /// Drops the session if nobody leases it, and gives its memory back to the kernel; the anonymous bytes that came back
    /// of those it was charged with, by the kernel's count where that can be told.
    pub(super) fn release_idle(&self, ledger: &Ledger) -> Option<u64> {
        let charged = AtomicU64::new(0);
        let last = |resident: &Resident| {
            charged.store(resident.account.charge.bytes().0, Ordering::Relaxed);
        };
        let release = || self.slot.release_idle(&last);
        let returned =
            ledger.measure_return(|| release().then(|| charged.load(Ordering::Relaxed)))?;
        self.usage.evicted();
        Some(returned)
    }
}

/// Ends what [`ModuleEntry::load_under_way`] said.
pub(super) struct Underway<'a>(&'a ModuleEntry);

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.0.loading.store(0, Ordering::Relaxed);
    }
}
