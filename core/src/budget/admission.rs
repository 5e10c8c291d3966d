//! Waiting for memory: evict what is idle, wait for running work, refuse when neither can help.

use std::sync::Weak;
use std::time::{Duration, Instant};

use super::entry::Owner;
use super::ledger::Ledger;
use super::reclaim::{Need, Room};
use super::wait_policy::WaitPolicy;
use crate::error::Result;

/// How often a waiting request tries again.
const POLL: Duration = Duration::from_millis(5);

/// After this long, modules in the way of a waiting request are leased to nobody new.
const DRAIN_AFTER: Duration = Duration::from_millis(100);

/// How often a waiting request has the heap trimmed and measured, which takes a millisecond or two.
const RECOUNT: Duration = Duration::from_millis(50);

/// How long a request waits for a budget that follows the system to grow: memory that was just freed may not be counted yet, and
/// work that the ledger does not know of may end.
const HOPE: Duration = Duration::from_secs(5);

/// A request that waits for memory.
pub(super) struct Waiting<'a> {
    ledger: &'a Ledger,
    /// The entry that is to grow.
    id: u64,
    began: Instant,
    recounted: Option<Instant>,
    draining: bool,
}

impl<'a> Waiting<'a> {
    /// A request to grow entry `id` of `ledger`.
    pub(super) fn new(ledger: &'a Ledger, id: u64) -> Self {
        Self {
            ledger,
            id,
            began: Instant::now(),
            recounted: None,
            draining: false,
        }
    }

    /// Resizes the entry to `anon` and `mapped` bytes once there is room for that.
    ///
    /// # Errors
    /// As [`Charge::resize_with`](super::Charge::resize_with).
    pub(super) fn until_it_fits(
        mut self,
        anon: u64,
        mapped: u64,
        wait: &WaitPolicy<'_>,
    ) -> Result<()> {
        let ledger = self.ledger;
        loop {
            let (short, hopeless) = {
                let book = ledger.book();
                let more = anon.saturating_sub(book.anon_of(self.id));
                let beyond = book.budget.is_some_and(|budget| anon > budget);
                let hope = book.budget_read.is_some() && self.began.elapsed() < HOPE;
                (book.short(more), beyond && !hope)
            };
            if hopeless {
                // Nobody is evicted for what would not fit an empty ledger.
                return Err(ledger.refusal(self.id, anon));
            }
            let room = ledger.make_room(&Need {
                anon_bytes: short,
                partly: false,
                drain: self.draining,
            });
            if room.given > 0 {
                // What came back is the kernel's to say.
                ledger.read_bounds(Instant::now());
            }
            if ledger.try_resize(self.id, anon, mapped) {
                return Ok(());
            }
            if self.recounted.is_none_or(|at| at.elapsed() >= RECOUNT) {
                ledger.recount_heap();
                self.recounted = Some(Instant::now());
                if ledger.try_resize(self.id, anon, mapped) {
                    return Ok(());
                }
            }
            (wait.check)()?;
            let waited = self.began.elapsed();
            if waited >= wait.at_most || !self.worth_waiting(anon, &room, wait) {
                return Err(ledger.refusal(self.id, anon));
            }
            if waited >= DRAIN_AFTER && !self.draining {
                self.draining = true;
                ledger.book().draining += 1;
            }
            ledger.wait_for_room(POLL);
        }
    }

    /// Whether the request may fit once all work that uses memory now has ended.
    fn worth_waiting(&self, anon: u64, room: &Room, wait: &WaitPolicy<'_>) -> bool {
        let book = self.ledger.book();
        if book.budget_read.is_some() && self.began.elapsed() < HOPE {
            return true;
        }
        let generations: u64 = book
            .entries
            .iter()
            .filter(|(id, entry)| **id != self.id && matches!(entry.owner, Owner::Kv(_)))
            .map(|(_, entry)| entry.anon_bytes)
            .sum();
        let modules: u64 = room
            .held
            .iter()
            .filter(|(owner, _)| Some(owner) != wait.holds)
            .map(|(_, bytes)| *bytes)
            .sum();
        let more = anon.saturating_sub(book.anon_of(self.id));
        // What evicting has not given back by now may be on its way: another thread may be loading.
        book.short(more) <= room.idle + generations + modules + room.loading
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.draining {
            return;
        }
        let mut book = self.ledger.book();
        book.draining -= 1;
        let room = if book.draining == 0 {
            book.room.as_ref().and_then(Weak::upgrade)
        } else {
            None
        };
        drop(book);
        if let Some(room) = room {
            room.relent();
        }
    }
}
