//! A loaded session: what it takes, and how it gives some of that back while it stays.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};

use super::cost::Cost;
use super::permit::Gate;
use super::weights::Weights;
use crate::budget::{Charge, Patience};
use crate::error::Result;
use crate::ort::{Port, Session};

/// Growth of the arena below this is not asked for.
const NOTABLE: u64 = 1 << 20;

pub(super) struct Resident {
    pub(super) session: Mutex<Session>,
    pub(super) gate: Gate,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    pub(super) placement: String,
    pub(super) provider: &'static str,
    pub(super) load_ms: f64,
    pub(super) charge: Charge,
    /// The clean mappings of its weights.
    weights: Weights,
    parked: AtomicBool,
    /// Anonymous bytes measured at the load, and what the arena had then.
    loaded: (u64, u64),
    /// What the arena had when the charge was last set.
    arena: AtomicU64,
}

/// What a load gives.
pub(super) struct Loaded {
    pub(super) session: Session,
    pub(super) weights: Weights,
    /// Anonymous bytes it takes, as far as is known.
    pub(super) anon: u64,
    /// What it was measured to take, where that could be told.
    pub(super) measured: Option<u64>,
}

impl Resident {
    /// `charge` is set to what was measured.
    pub(super) fn new(
        module: &str,
        loaded: Loaded,
        provider: &'static str,
        load_ms: f64,
        charge: Charge,
    ) -> Self {
        let Loaded {
            session,
            weights,
            anon,
            measured: _,
        } = loaded;
        charge.state(anon, weights.bytes());
        let arena = session.arena().touched();
        Self {
            loaded: (anon, arena),
            arena: AtomicU64::new(arena),
            inputs: session.inputs().to_vec(),
            outputs: session.outputs().to_vec(),
            placement: session.placement().to_string(),
            session: Mutex::new(session),
            gate: Gate::new(module),
            provider,
            load_ms,
            charge,
            weights,
            parked: AtomicBool::new(false),
        }
    }

    /// Has the ledger hold what a run is known to need of the arena, before it runs. Called by who has the turn.
    pub(super) fn reserve(&self, cost: &Cost, patience: &Patience<'_>) -> Result<()> {
        let peak = cost.arena();
        let (anon, then) = self.loaded;
        if peak <= self.arena.load(Ordering::Relaxed).max(then) + NOTABLE {
            return Ok(());
        }
        let (_, mapped) = self.charge.bytes();
        self.charge.resize_with(self.anon(peak), mapped, patience)?;
        if let Ok(session) = self.session.try_lock() {
            let arena = session.arena_watch();
            let in_memory = move || (anon + arena().touched()).saturating_sub(then);
            self.charge.watch(in_memory);
        }
        Ok(())
    }

    /// Has the ledger say what the arena has now. Called by who holds the session, after a run.
    pub(super) fn charge_arena(&self, session: &Session, cost: &Cost) {
        let now = session.arena().touched();
        let reserved = cost.arena() > now;
        cost.ran(now);
        if self.arena.swap(now, Ordering::Relaxed) != now || reserved {
            let (_, mapped) = self.charge.bytes();
            self.charge.state(self.anon(now), mapped);
        }
    }

    /// Anonymous bytes when the arena has `arena`.
    fn anon(&self, arena: u64) -> u64 {
        let (anon, then) = self.loaded;
        (anon + arena).saturating_sub(then)
    }

    /// Bytes of the arena that no tensor is in; 0 while it runs, or where shrinking is of no use.
    pub(super) fn slack(&self, cost: &Cost) -> u64 {
        match self.session.try_lock() {
            Ok(session) if cost.shrinks_not(session.arena().bytes) => 0,
            Ok(session) => session.arena().free(),
            Err(_) => 0,
        }
    }

    /// Gives the arena's free blocks back to the kernel, unless it runs; the bytes that came back.
    pub(super) fn shrink(&self, cost: &Cost) -> Option<u64> {
        let session = match self.session.try_lock() {
            Ok(session) => session,
            // A panic in an earlier step leaves the session as usable as before.
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => return None,
        };
        let (before, whole) = (session.arena().touched(), session.arena().bytes);
        session.shrink_arena();
        let after = session.arena().touched();
        if session.arena().bytes == whole {
            cost.did_not_shrink(whole);
        }
        self.arena.store(after, Ordering::Relaxed);
        let (anon, mapped) = self.charge.bytes();
        // Less than before, so that nothing is evicted for it: this may be an eviction.
        let _ = self.charge.resize_free(anon.min(self.anon(after)), mapped);
        Some(before.saturating_sub(after))
    }

    /// Bytes of weights that parking would give back; 0 when it is parked.
    pub(super) fn parkable(&self) -> u64 {
        if self.parked.load(Ordering::Relaxed) {
            0
        } else {
            self.weights.bytes()
        }
    }

    pub(super) fn parked(&self) -> bool {
        self.parked.load(Ordering::Relaxed)
    }

    /// Lets the kernel have the weights; the bytes that are no longer in memory. Runs that are under way go on and read
    /// again what they need.
    pub(super) fn park(&self) -> Result<u64> {
        let given = self.weights.park()?;
        self.parked.store(true, Ordering::Relaxed);
        Ok(given)
    }

    /// Has the kernel read the weights again, if they were parked: the next run would page by page.
    pub(super) fn unpark(&self) {
        if self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::Relaxed) {
            self.weights.will_need();
        }
    }
}
