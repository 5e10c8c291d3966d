//! A loaded session: what it takes, and how it gives some of that back while it stays.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Instant;

use super::cost::Cost;
use super::memory_account::MemoryAccount;
use super::permit::Gate;
use super::serving::Serving;
use crate::budget::WaitPolicy;
use crate::decoder::DecoderMap;
use crate::error::Result;
use crate::features::Variant;
use crate::ort::{Port, Session};

/// Milliseconds to read a megabyte of parked weights again where that was not done yet: as from flash.
const UNPARK_MS_PER_MB: f64 = 1.0;

/// Growth of the arena below this is not asked for.
const NOTABLE: u64 = 1 << 20;

pub(super) struct Resident {
    pub(super) session: Mutex<Session>,
    pub(super) gate: Gate,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    /// The map of a decoder's graph.
    pub(super) decoder: Option<Arc<DecoderMap>>,
    pub(super) serving: Arc<Serving>,
    pub(super) load_ms: f64,
    /// The form of the module that runs.
    pub(super) variant: Arc<Variant>,
    parked: AtomicBool,
    /// The bits of how many milliseconds parked weights last took to be read again; a NaN's before.
    unpark_ms: AtomicU64,
    /// What the arena had when the charge was last set.
    arena: AtomicU64,
    // Dropped after the session.
    pub(super) account: Arc<MemoryAccount>,
}

impl Resident {
    pub(super) fn new(
        module: &str,
        (session, decoder): (Session, Option<DecoderMap>),
        variant: Variant,
        serving: Arc<Serving>,
        load_ms: f64,
        account: Arc<MemoryAccount>,
    ) -> Self {
        Self {
            arena: AtomicU64::new(account.arena()),
            inputs: session.inputs().to_vec(),
            outputs: session.outputs().to_vec(),
            decoder: decoder.map(Arc::new),
            session: Mutex::new(session),
            gate: Gate::new(module),
            serving,
            load_ms,
            variant: Arc::new(variant),
            parked: AtomicBool::new(false),
            unpark_ms: AtomicU64::new(f64::NAN.to_bits()),
            account,
        }
    }

    /// Has the ledger hold what a run is known to need of the arena, before it runs. Called by who has the turn.
    pub(super) fn reserve(&self, cost: &Cost, wait: &WaitPolicy<'_>) -> Result<()> {
        let peak = cost.arena();
        let account = &self.account;
        let then = account.arena();
        if peak <= self.arena.load(Ordering::Relaxed).max(then) + NOTABLE {
            return Ok(());
        }
        let (anon, mapped) = (account.anon(then), account.mapped());
        account
            .charge
            .resize_with(account.anon(peak), mapped, wait)?;
        if let Ok(session) = self.session.try_lock() {
            let arena = session.arena_watch();
            let in_memory = move || (anon + arena().touched()).saturating_sub(then);
            account.charge.track_resident(in_memory);
        }
        Ok(())
    }

    /// Has the ledger say what the session and its arena have now. Called by who holds the session, after a run.
    pub(super) fn charge_arena(&self, session: &Session, cost: &Cost) {
        let now = session.arena().touched();
        let reserved = cost.arena() > now;
        cost.ran(now);
        let account = &self.account;
        let replaced = account.was_replaced();
        if self.arena.swap(now, Ordering::Relaxed) != now || reserved || replaced {
            account
                .charge
                .set_measured(account.anon(now), account.mapped());
        }
        if replaced {
            account.charge_residue();
        }
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
        let account = &self.account;
        let (anon, mapped) = account.charge.bytes();
        // Less than before, so that nothing is evicted for it: this may be an eviction.
        let less = anon.min(account.anon(after));
        let _ = account.charge.resize_free(less, mapped);
        Some(before.saturating_sub(after))
    }

    /// Bytes of weights that parking would give back; 0 when it is parked.
    pub(super) fn parkable(&self) -> u64 {
        if self.parked.load(Ordering::Relaxed) {
            0
        } else {
            self.account.mapped()
        }
    }

    pub(super) fn parked(&self) -> bool {
        self.parked.load(Ordering::Relaxed)
    }

    /// Lets the kernel have the weights; the bytes that are no longer in memory. Runs that are under way go on and read
    /// again what they need.
    pub(super) fn park(&self) -> Result<u64> {
        let given = self.account.park()?;
        self.parked.store(true, Ordering::Relaxed);
        Ok(given)
    }

    /// Reads the weights again, if they were parked: the next run would page by page. They stay parked when `check` returns an
    /// error meanwhile.
    pub(super) fn unpark(&self, check: &dyn Fn() -> Result<()>) -> Result<()> {
        if self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::Relaxed) {
            let begun = Instant::now();
            let read = self.account.read_in(check);
            let ms = begun.elapsed().as_secs_f64() * 1e3;
            match read {
                Ok(()) => self.unpark_ms.store(ms.to_bits(), Ordering::Relaxed),
                Err(_) => self.parked.store(true, Ordering::Relaxed),
            }
            return read;
        }
        Ok(())
    }

    /// Milliseconds to have the weights again once they are parked: what that last took, if it was done.
    pub(super) fn unpark_ms(&self) -> f64 {
        let seen = f64::from_bits(self.unpark_ms.load(Ordering::Relaxed));
        if seen.is_nan() {
            self.account.mapped() as f64 / 1e6 * UNPARK_MS_PER_MB
        } else {
            seen
        }
    }
}
