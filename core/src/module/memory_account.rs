//! The memory that a module's session takes. Shared by the holder of the session and by the rescue that replaces it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::made::Loaded;
use super::provider_residue::ResidueGuard;
use super::weights::Weights;
use crate::budget::Charge;
use crate::error::Result;
use crate::ort::Provider;

/// The charge, weights and provider residue of one module's session. Thread-safe.
pub(super) struct MemoryAccount {
    pub(super) charge: Charge,
    taken: Mutex<Taken>,
    /// The clean mappings of its weights.
    weights: Mutex<Weights>,
    // Dropped last, after the session and the charge.
    residue: ResidueGuard,
}

/// What the session in use took when it was loaded.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    anon: u64,
    mapped: u64,
    /// What the arena had then.
    arena: u64,
    /// Another session replaced it, and the charge does not say so yet.
    replaced: bool,
}

impl Taken {
    fn by(loaded: &Loaded) -> Self {
        Self {
            anon: loaded.anon,
            mapped: loaded.weights.bytes(),
            arena: loaded.session.arena().touched(),
            replaced: false,
        }
    }
}

impl MemoryAccount {
    /// The account of a session that was just loaded; sets `charge` to what was measured.
    pub(super) fn new(charge: Charge, loaded: &Loaded, residue: ResidueGuard) -> Self {
        let taken = Taken::by(loaded);
        charge.set_measured(taken.anon, taken.mapped);
        Self {
            charge,
            weights: Mutex::new(loaded.weights.clone()),
            taken: Mutex::new(taken),
            residue,
        }
    }

    /// Replaces the session in use by `loaded`, of `provider`. The old session stays in memory until the caller drops it.
    pub(super) fn replace(&self, loaded: &Loaded, provider: Provider) {
        let (anon, mapped) = self.charge.bytes();
        let taken = Taken {
            replaced: true,
            ..Taken::by(loaded)
        };
        *self.taken() = taken;
        // From now on nobody parks what the caller is about to unmap.
        *lock(&self.weights) = loaded.weights.clone();
        self.residue.also(provider);
        // Both are in memory. Stated, not asked for: a run waits for it, and a moment later the first is gone.
        self.charge
            .set_measured(anon + taken.anon, mapped + taken.mapped);
    }

    /// Whether the session was replaced since the last call; its predecessor is gone by now. The caller holds the session.
    pub(super) fn was_replaced(&self) -> bool {
        std::mem::take(&mut self.taken().replaced)
    }

    /// Charges what providers keep of sessions that are gone. The session's own charge must be up to date.
    pub(super) fn charge_residue(&self) {
        self.residue.charge();
    }

    /// Anonymous bytes when the arena has `arena`.
    pub(super) fn anon(&self, arena: u64) -> u64 {
        let taken = *self.taken();
        (taken.anon + arena).saturating_sub(taken.arena)
    }

    /// What the arena had when the session was loaded.
    pub(super) fn arena(&self) -> u64 {
        self.taken().arena
    }

    /// Bytes of files that it maps.
    pub(super) fn mapped(&self) -> u64 {
        self.taken().mapped
    }

    /// See [`Weights::park`]. A replacement waits until it is done, so that the mappings live as long.
    pub(super) fn park(&self) -> Result<u64> {
        lock(&self.weights).park()
    }

    /// See [`Weights::read_in`].
    pub(super) fn read_in(&self, check: &dyn Fn() -> Result<()>) -> Result<()> {
        // Parking, or another session in its place, does not wait for that.
        let weights = lock(&self.weights).clone();
        weights.read_in(check)
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        lock(&self.taken)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
