//! A module's place in the registry: cold, loading, resident or failed.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::permit::Gate;
use crate::budget::Charge;
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::ort::{Port, Session};
use crate::os::stamp::FileStamp;
use crate::trace;

/// How often a waiter looks whether it was cancelled.
const POLL: Duration = Duration::from_millis(10);

/// Set in `Resident::leases` once the session is being released: no lease can be had any more.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// A loaded session.
pub(super) struct Resident {
    pub(super) session: Mutex<Session>,
    pub(super) gate: Gate,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    pub(super) placement: String,
    pub(super) provider: &'static str,
    pub(super) load_ms: f64,
    pub(super) charge: Charge,
    /// Anonymous bytes measured at the load, and what the arena had then.
    loaded: (u64, u64),
    /// What the arena had when the charge was last set.
    arena: AtomicU64,
    leases: AtomicUsize,
}

impl Resident {
    pub(super) fn new(
        module: &str,
        session: Session,
        provider: &'static str,
        load_ms: f64,
        charge: Charge,
    ) -> Self {
        Self {
            loaded: (charge.bytes().0, session.arena_bytes()),
            arena: AtomicU64::new(session.arena_bytes()),
            inputs: session.inputs().to_vec(),
            outputs: session.outputs().to_vec(),
            placement: session.placement().to_string(),
            session: Mutex::new(session),
            gate: Gate::new(module),
            provider,
            load_ms,
            charge,
            leases: AtomicUsize::new(0),
        }
    }

    /// Charges what the arena has grown by since the load. Called by who holds the session.
    pub(super) fn charge_arena(&self, session: &Session) {
        let now = session.arena_bytes();
        if self.arena.swap(now, Ordering::Relaxed) == now {
            return;
        }
        let (anon, then) = self.loaded;
        let mapped = self.charge.bytes().1;
        if let Err(e) = self.charge.resize(anon + now.saturating_sub(then), mapped) {
            log::warn!("a session has grown beyond the budget: {e}");
        }
    }

    /// Counts one lease more, unless the session is being released.
    fn acquire(&self) -> bool {
        let add = |leases: usize| (leases & CLOSED == 0).then_some(leases + 1);
        self.leases
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, add)
            .is_ok()
    }

    pub(super) fn release(&self) {
        self.leases.fetch_sub(1, Ordering::Release);
    }

    /// Shuts the session to new leases, if nobody holds one.
    fn close(&self) -> bool {
        self.leases
            .compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    pub(super) fn leased(&self) -> usize {
        self.leases.load(Ordering::Relaxed) & !CLOSED
    }
}

enum State {
    /// Not loaded, or resident: `Slot::resident` tells which.
    Idle,
    Loading,
    Failed {
        error: Error,
        /// Of the module's files, when it failed.
        stamps: Vec<Option<FileStamp>>,
    },
}

/// What a slot shows to reports.
pub(super) enum View {
    Cold,
    Loading,
    Resident(Arc<Resident>),
    Failed(Error),
}

pub(super) struct Slot {
    /// The module's, for traces.
    pub(super) id: Arc<str>,
    resident: ArcSwapOption<Resident>,
    state: Mutex<State>,
    changed: Condvar,
    pub(super) loads: AtomicU64,
    pub(super) runs: AtomicU64,
}

impl Slot {
    pub(super) fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            resident: ArcSwapOption::empty(),
            state: Mutex::new(State::Idle),
            changed: Condvar::new(),
            loads: AtomicU64::new(0),
            runs: AtomicU64::new(0),
        }
    }

    /// The resident session with one lease counted, if there is one. Lock-free.
    fn resident(&self) -> Option<Arc<Resident>> {
        self.resident
            .load_full()
            .filter(|resident| resident.acquire())
    }

    /// The resident session with one lease counted, loaded by `load` if need be. Of several callers one loads, the
    /// others wait for it. A failure is kept, and returned without another try while `stamps` stay the same.
    pub(super) fn lease(
        &self,
        control: &Control,
        stamps: &dyn Fn() -> Vec<Option<FileStamp>>,
        load: &dyn Fn() -> Result<Resident>,
    ) -> Result<Arc<Resident>> {
        if let Some(resident) = self.resident() {
            return Ok(resident);
        }
        let mut state = self.lock();
        let mut waited = false;
        loop {
            control.check()?;
            if let Some(resident) = self.resident() {
                return Ok(resident);
            }
            match &*state {
                State::Idle => break,
                State::Failed { error, stamps: old } => {
                    // Who waited for the load that failed shares its failure.
                    if waited || *old == stamps() {
                        return Err(error.clone());
                    }
                    break;
                }
                State::Loading => {
                    waited = true;
                    let left = control
                        .deadline
                        .map(|at| at.saturating_duration_since(Instant::now()));
                    let wait = left.map_or(POLL, |left| left.min(POLL));
                    state = self
                        .changed
                        .wait_timeout(state, wait)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
            }
        }
        *state = State::Loading;
        drop(state);
        let mut flight = Flight {
            slot: self,
            end: None,
        };
        // Before the load, so that a file changed during it counts as changed.
        let stamps = stamps();
        let span = trace::span("module", "load").what(&self.id);
        let loaded = load();
        drop(span);
        match loaded {
            Ok(resident) => {
                let resident = Arc::new(resident);
                resident.acquire();
                self.resident.store(Some(Arc::clone(&resident)));
                self.loads.fetch_add(1, Ordering::Relaxed);
                flight.end = Some(State::Idle);
                Ok(resident)
            }
            Err(error) => {
                flight.end = Some(if lasting(error.kind()) {
                    State::Failed {
                        error: error.clone(),
                        stamps,
                    }
                } else {
                    State::Idle
                });
                Err(error)
            }
        }
    }

    /// Drops the session if nobody leases it; whether it did.
    pub(super) fn release_idle(&self) -> bool {
        // Holding the lock keeps a load from starting before the old session is gone.
        let state = self.lock();
        let Some(resident) = self.resident.load_full() else {
            return false;
        };
        if !resident.close() {
            return false;
        }
        self.resident.store(None);
        drop(resident);
        drop(state);
        true
    }

    /// Forgets a failure, so that the next lease tries again.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        if matches!(*state, State::Failed { .. }) {
            *state = State::Idle;
        }
    }

    pub(super) fn view(&self) -> View {
        let state = self.lock();
        if let Some(resident) = self.resident.load_full() {
            return View::Resident(resident);
        }
        match &*state {
            State::Idle => View::Cold,
            State::Loading => View::Loading,
            State::Failed { error, .. } => View::Failed(error.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
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
struct Flight<'a> {
    slot: &'a Slot,
    end: Option<State>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or_else(|| State::Failed {
            error: Error::new(ErrorKind::Internal, "loading panicked"),
            stamps: Vec::new(),
        });
        *self.slot.lock() = end;
        self.slot.changed.notify_all();
    }
}
