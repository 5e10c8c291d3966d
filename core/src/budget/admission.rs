//! Waiting for room: evict, wait for those who use memory now, give up when that cannot help.

use std::sync::Weak;
use std::time::{Duration, Instant};

use super::entry::Owner;
use super::ledger::{Charge, Patience};
use super::reclaim::{Need, Room};
use crate::error::Result;

/// How often who waits for room looks again.
const POLL: Duration = Duration::from_millis(5);

/// After waiting this long, what stands in the way gets no new holders.
const DRAIN_AFTER: Duration = Duration::from_millis(100);

/// How often who waits has what the heap keeps counted again: that takes a millisecond or two.
const RECOUNT: Duration = Duration::from_millis(50);

/// A budget that follows the kernel's figures is given this long to grow: what others gave back may not be counted yet, and
/// what they do unseen by the ledger comes to an end.
const HOPE: Duration = Duration::from_secs(5);

/// One who waits for room.
pub(super) struct Waiting<'a> {
    charge: &'a Charge,
    began: Instant,
    recounted: Option<Instant>,
    draining: bool,
}

impl<'a> Waiting<'a> {
    /// Has `charge` wait.
    pub(super) fn new(charge: &'a Charge) -> Self {
        Self {
            charge,
            began: Instant::now(),
            recounted: None,
            draining: false,
        }
    }

    /// Resizes the charge to `anon` and `mapped` bytes once there is room for that.
    ///
    /// # Errors
    /// As [`Charge::resize_with`].
    pub(super) fn until_it_fits(
        mut self,
        anon: u64,
        mapped: u64,
        patience: &Patience<'_>,
    ) -> Result<()> {
        let ledger = &self.charge.ledger;
        loop {
            let (short, hopeless) = {
                let state = ledger.lock();
                let more = anon.saturating_sub(self.charge.anon_in(&state));
                let beyond = state.budget.is_some_and(|budget| anon > budget);
                let hope = state.allowance.is_some() && self.began.elapsed() < HOPE;
                (state.short(more), beyond && !hope)
            };
            if hopeless {
                // Nobody is evicted for what would not fit an empty ledger.
                return Err(self.charge.refusal(anon));
            }
            let room = ledger.make_room(&Need {
                anon_bytes: short,
                partly: false,
                drain: self.draining,
            });
            if self.charge.resize_now(anon, mapped) {
                return Ok(());
            }
            if self.recounted.is_none_or(|at| at.elapsed() >= RECOUNT) {
                ledger.recount_heap();
                self.recounted = Some(Instant::now());
                if self.charge.resize_now(anon, mapped) {
                    return Ok(());
                }
            }
            (patience.check)()?;
            let waited = self.began.elapsed();
            if waited >= patience.at_most || !self.worth_waiting(anon, &room, patience) {
                return Err(self.charge.refusal(anon));
            }
            if waited >= DRAIN_AFTER && !self.draining {
                self.draining = true;
                ledger.lock().draining += 1;
            }
            ledger.wait_for_room(POLL);
        }
    }

    /// Whether it may fit once all who use memory now have finished.
    fn worth_waiting(&self, anon: u64, room: &Room, patience: &Patience<'_>) -> bool {
        let state = self.charge.ledger.lock();
        if state.allowance.is_some() && self.began.elapsed() < HOPE {
            return true;
        }
        let generations: u64 = state
            .entries
            .iter()
            .filter(|(id, entry)| **id != self.charge.id && matches!(entry.owner, Owner::Kv(_)))
            .map(|(_, entry)| entry.anon_bytes)
            .sum();
        let modules: u64 = room
            .held
            .iter()
            .filter(|(owner, _)| Some(owner) != patience.holds)
            .map(|(_, bytes)| *bytes)
            .sum();
        let more = anon.saturating_sub(self.charge.anon_in(&state));
        // What evicting has not given back by now may be on its way: another thread may be loading.
        state.short(more) <= room.idle + generations + modules + room.loading
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.draining {
            return;
        }
        let mut state = self.charge.ledger.lock();
        state.draining -= 1;
        let room = if state.draining == 0 {
            state.room.as_ref().and_then(Weak::upgrade)
        } else {
            None
        };
        drop(state);
        if let Some(room) = room {
            room.relent();
        }
    }
}
