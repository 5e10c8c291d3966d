//! What the ledger writes down: plain figures and arithmetic on them, no lock and no clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::entry::{Entry, Owner};
use super::reclaim::MakeRoom;

/// Says how many bytes of a charge are in memory by now.
pub(super) type InMemory = Arc<dyn Fn() -> u64 + Send + Sync>;

#[derive(Default)]
pub(super) struct Book {
    next_id: u64,
    pub(super) entries: BTreeMap<u64, Entry>,
    /// Of entries that are coming into memory, by the entry's number.
    pub(super) in_memory: BTreeMap<u64, InMemory>,
    /// Sum of the entries' anonymous bytes.
    pub(super) anon: u64,
    /// Sum of the entries' pending bytes.
    pub(super) pending: u64,
    /// The most that `anon` may be.
    pub(super) budget: Option<u64>,
    /// When the figures behind a budget that follows the system were read; `None`: the budget is a fixed one.
    pub(super) budget_read: Option<Instant>,
    /// How often what is in memory changed, and work that takes memory began or ended.
    pub(super) changes: u64,
    /// Anonymous bytes that the process had before anything was charged, if that is known.
    pub(super) program: Option<u64>,
    /// The entry of what the heap kept.
    pub(super) heap: Option<u64>,
    /// What of it was measured to have stayed when something was freed.
    pub(super) kept: u64,
    /// Work under way that takes memory of which the ledger is told when it is done.
    pub(super) at_work: u64,
    pub(super) room: Option<Weak<dyn MakeRoom>>,
    /// Who waits long enough for what stands in the way to be drained.
    pub(super) draining: usize,
}

impl Book {
    /// Bytes that are missing to have `more` than there is.
    pub(super) fn short(&self, more: u64) -> u64 {
        match self.budget {
            Some(budget) => (self.anon + more).saturating_sub(budget),
            None => 0,
        }
    }

    /// Anonymous bytes that are in memory, so that the kernel counts them too.
    pub(super) fn held(&self) -> u64 {
        self.anon - self.pending
    }

    /// What entry `id` is charged with.
    pub(super) fn anon_of(&self, id: u64) -> u64 {
        self.entries.get(&id).map_or(0, |entry| entry.anon_bytes)
    }

    pub(super) fn set(&mut self, id: u64, anon: u64, mapped: u64, pending: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            if anon - pending != entry.anon_bytes - entry.pending_bytes {
                self.changes += 1;
            }
            self.anon = self.anon - entry.anon_bytes + anon;
            self.pending = self.pending - entry.pending_bytes + pending;
            entry.anon_bytes = anon;
            entry.pending_bytes = pending;
            entry.mapped_bytes = mapped;
        }
    }

    /// Of entry `id` all but `pending` bytes are in memory.
    pub(super) fn set_pending(&mut self, id: u64, pending: u64) {
        if let Some(entry) = self.entries.get(&id) {
            let (anon, mapped) = (entry.anon_bytes, entry.mapped_bytes);
            self.set(id, anon, mapped, pending.min(anon));
        }
    }

    pub(super) fn enter(&mut self, owner: Owner) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let entry = Entry {
            owner,
            anon_bytes: 0,
            pending_bytes: 0,
            mapped_bytes: 0,
        };
        self.entries.insert(id, entry);
        id
    }
}
