//! What a provider keeps of memory after its last session is gone: what can be seen of it from here.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::os::{memory, smaps};

/// Watches what the provider's sessions take and give back. Other threads' allocations at the same moments are counted too:
/// a measurement, not an account.
pub(super) struct Floor(Mutex<State>);

struct State {
    sessions: usize,
    /// Anonymous bytes that sessions took and did not give back.
    left: u64,
    floor: u64,
}

impl Floor {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(State {
            sessions: 0,
            left: 0,
            floor: 0,
        }))
    }

    /// Makes a session with `make`; the anonymous bytes it took.
    pub(super) fn load<T, E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<(T, u64), E> {
        let (made, grown) = measured(make);
        let taken = u64::try_from(grown).unwrap_or(0);
        let mut state = self.lock();
        match made {
            Ok(made) => {
                state.sessions += 1;
                Ok((made, taken))
            }
            Err(e) => {
                state.left += taken;
                Err(e)
            }
        }
    }

    /// Runs a session for the first time with `run`; the bytes it took for that.
    pub(super) fn first_run<T>(run: impl FnOnce() -> T) -> (T, u64) {
        let (done, grown) = measured(run);
        (done, u64::try_from(grown).unwrap_or(0))
    }

    /// Releases with `release` a session that took `taken` bytes. What it gives back beyond that is of later runs, which are
    /// not watched.
    pub(super) fn release(&self, taken: u64, release: impl FnOnce()) {
        let ((), grown) = measured(release);
        let given = u64::try_from(-grown).unwrap_or(0);
        let mut state = self.lock();
        state.left += taken.saturating_sub(given);
        state.sessions = state.sessions.saturating_sub(1);
    }

    /// The most that can have stayed, once the last session has gone.
    pub(super) fn most(&self) -> Option<u64> {
        let state = self.lock();
        (state.sessions == 0).then_some(state.left)
    }

    /// `bytes` were seen to stay.
    pub(super) fn seen(&self, bytes: u64) {
        let mut state = self.lock();
        state.floor = state.floor.max(bytes);
    }

    /// What was seen to stay; 0 before the last session has gone.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().floor
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `work` returns, and by how much the process's anonymous memory grew. What others have given back to the heap before
/// must not count, so the heap is trimmed on both sides.
fn measured<T>(work: impl FnOnce() -> T) -> (T, i64) {
    let anon = || {
        memory::trim();
        smaps::anonymous().map_or(0, |bytes| bytes as i64)
    };
    let before = anon();
    let done = work();
    (done, anon() - before)
}
