//! A module's place in the registry: cold, loading, resident or failed. Knows nothing of what it holds.

use std::time::{Duration, Instant};

use super::sync::{
    Arc, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, PoisonError, Shelf, yield_now,
};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};

/// How often a waiter looks whether it was cancelled.
const POLL: Duration = Duration::from_millis(10);

/// Set in `Held::leases` once the value is being released: no lease can be had any more.
const CLOSED: usize = 1 << (usize::BITS - 1);
/// Set while new leases have to wait, so that those there are come to an end.
const DRAINING: usize = 1 << (usize::BITS - 2);
const FLAGS: usize = CLOSED | DRAINING;

/// What a slot holds, and who leases it.
pub(super) struct Held<T> {
    pub(super) value: T,
    leases: AtomicUsize,
}

impl<T> Held<T> {
    fn new(value: T, leases: usize) -> Self {
        Self {
            value,
            leases: AtomicUsize::new(leases),
        }
    }

    /// Counts one lease more, unless the value is being released or drained.
    fn acquire(&self) -> bool {
        let add = |leases: usize| (leases & FLAGS == 0).then_some(leases + 1);
        self.leases
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, add)
            .is_ok()
    }

    /// Ends a lease; whether it was the last.
    pub(super) fn release(&self) -> bool {
        self.leases.fetch_sub(1, Ordering::Release) & !FLAGS == 1
    }

    /// Shuts the value to new leases, if nobody holds one.
    fn close(&self) -> bool {
        let close = |leases: usize| (leases & !DRAINING == 0).then_some(CLOSED);
        self.leases
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, close)
            .is_ok()
    }

    /// How many leases there are.
    pub(super) fn leased(&self) -> usize {
        self.leases.load(Ordering::Relaxed) & !FLAGS
    }
}

/// `S` says what the thing was loaded from, to see whether a failure may have been mended.
enum State<S> {
    /// Not loaded, or resident: `Slot::held` tells which.
    Idle,
    Loading,
    Failed {
        error: Error,
        /// What it was to be loaded from, when it failed.
        source: S,
    },
}

/// What a slot shows to reports.
pub(super) enum View<T> {
    Cold,
    Loading,
    Resident(Arc<Held<T>>),
    Failed(Error),
}

pub(super) struct Slot<T, S> {
    held: Shelf<Held<T>>,
    state: Mutex<State<S>>,
    changed: Condvar,
}

impl<T, S: PartialEq> Slot<T, S> {
    pub(super) fn new() -> Self {
        Self {
            held: Shelf::empty(),
            state: Mutex::new(State::Idle),
            changed: Condvar::new(),
        }
    }

    /// The resident value with one lease counted, if there is one that may be leased. Lock-free.
    fn resident(&self) -> Option<Arc<Held<T>>> {
        self.held.load_full().filter(|held| held.acquire())
    }

    /// The resident value with one lease counted, loaded by `load` if need be. Of several callers one loads, the
    /// others wait for it; while it is drained all wait. A failure is kept, and returned without another try while `source`
    /// stays the same.
    pub(super) fn lease(
        &self,
        control: &Control,
        source: &dyn Fn() -> S,
        load: &dyn Fn() -> Result<T>,
    ) -> Result<Arc<Held<T>>> {
        if let Some(held) = self.resident() {
            return Ok(held);
        }
        let mut state = self.lock();
        let mut waited = false;
        loop {
            control.check()?;
            if let Some(held) = self.resident() {
                return Ok(held);
            }
            match &*state {
                // Resident, but drained.
                State::Idle if self.held.load_full().is_some() => state = self.wait(state, control),
                State::Idle => break,
                State::Failed { error, source: old } => {
                    // Who waited for the load that failed shares its failure.
                    if waited || *old == source() {
                        return Err(error.clone());
                    }
                    break;
                }
                State::Loading => {
                    waited = true;
                    state = self.wait(state, control);
                }
            }
        }
        *state = State::Loading;
        drop(state);
        let mut flight = Flight {
            slot: self,
            end: None,
            source,
        };
        // Before the load, so that a file changed during it counts as changed.
        let source = source();
        match load() {
            Ok(value) => {
                let held = Arc::new(Held::new(value, 1));
                self.held.store(Some(Arc::clone(&held)));
                flight.end = Some(State::Idle);
                Ok(held)
            }
            Err(error) => {
                flight.end = Some(if lasting(error.kind()) {
                    State::Failed {
                        error: error.clone(),
                        source,
                    }
                } else {
                    State::Idle
                });
                Err(error)
            }
        }
    }

    /// Drops the value if nobody leases it, after `last` has had it; whether it did. Whoever wants it meanwhile waits, so
    /// that a load never begins before the old value is gone; and whoever peeks at it is waited for, so that its memory is
    /// free when this returns.
    pub(super) fn release_idle(&self, last: &dyn Fn(&T)) -> bool {
        let state = self.lock();
        let Some(held) = self.held.load_full() else {
            return false;
        };
        if !held.close() {
            return false;
        }
        self.held.store(None);
        last(&held.value);
        while Arc::strong_count(&held) > 1 {
            yield_now();
        }
        drop(held);
        drop(state);
        self.changed.notify_all();
        true
    }

    /// The value, if it is resident, without a lease: it may be shut to leases meanwhile, but lives while it is held. Hold
    /// it briefly, and never while calling this slot.
    pub(super) fn peek(&self) -> Option<Arc<Held<T>>> {
        self.held.load_full()
    }

    /// Makes new leases wait, so that those there are come to an end; until [`relent`](Self::relent) or a release.
    pub(super) fn drain(&self) {
        if let Some(held) = self.held.load_full() {
            held.leases.fetch_or(DRAINING, Ordering::Relaxed);
        }
    }

    /// Ends [`drain`](Self::drain).
    pub(super) fn relent(&self) {
        // Under the lock, or it may come between a waiter's look and its sleep.
        let state = self.lock();
        if let Some(held) = self.held.load_full() {
            held.leases.fetch_and(!DRAINING, Ordering::Relaxed);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Forgets a failure, so that the next lease tries again.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        if matches!(*state, State::Failed { .. }) {
            *state = State::Idle;
        }
    }

    pub(super) fn view(&self) -> View<T> {
        let state = self.lock();
        if let Some(held) = self.held.load_full() {
            return View::Resident(held);
        }
        match &*state {
            State::Idle => View::Cold,
            State::Loading => View::Loading,
            State::Failed { error, .. } => View::Failed(error.clone()),
        }
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State<S>>,
        control: &Control,
    ) -> MutexGuard<'a, State<S>> {
        let left = control
            .deadline
            .map(|at| at.saturating_duration_since(Instant::now()));
        let wait = left.map_or(POLL, |left| left.min(POLL));
        self.changed
            .wait_timeout(state, wait)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error would come again if nothing changed on disk.
fn lasting(kind: ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::OutOfBudget
            | ErrorKind::Cancelled
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Busy
            | ErrorKind::DiskFull
    )
}

/// Ends the loading state whatever happens, a panic included.
struct Flight<'a, T, S: PartialEq> {
    slot: &'a Slot<T, S>,
    end: Option<State<S>>,
    source: &'a dyn Fn() -> S,
}

impl<T, S: PartialEq> Drop for Flight<'_, T, S> {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or_else(|| State::Failed {
            error: Error::new(ErrorKind::Internal, "loading panicked"),
            source: (self.source)(),
        });
        *self.slot.lock() = end;
        self.slot.changed.notify_all();
    }
}
