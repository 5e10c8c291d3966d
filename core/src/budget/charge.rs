//! A charge: the ledger's entry for one holder of memory.

use std::sync::Arc;

use super::admission::Waiting;
use super::entry::Owner;
use super::ledger::Ledger;
use super::wait_policy::WaitPolicy;
use crate::error::Result;

/// An entry of the ledger; dropping it takes the entry out.
#[derive(Debug)]
#[must_use = "the charge ends when this is dropped"]
pub struct Charge {
    ledger: Ledger,
    id: u64,
}

impl Ledger {
    /// Charges `owner` with `anon` anonymous and `mapped` clean mapped bytes until the charge is dropped. If the budget is short,
    /// idle memory of others is evicted; memory in use is not waited for. Call it before you allocate, and hold no lock that an
    /// eviction may need.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfBudget`](crate::ErrorKind::OutOfBudget) naming budget, need and holders; nothing is charged then.
    pub fn charge(&self, owner: Owner, anon: u64, mapped: u64) -> Result<Charge> {
        self.charge_with(owner, anon, mapped, &WaitPolicy::NONE)
    }

    /// As [`charge`](Self::charge), but waits for memory that others are using, as `wait` says.
    ///
    /// # Errors
    /// As there, and what `wait.check` returns.
    pub fn charge_with(
        &self,
        owner: Owner,
        anon: u64,
        mapped: u64,
        wait: &WaitPolicy<'_>,
    ) -> Result<Charge> {
        let charge = self.enter(owner);
        charge.resize_with(anon, mapped, wait)?;
        Ok(charge)
    }

    /// As [`charge`](Self::charge), but evicts nothing: fails unless that much is free now. For caches, which must not take
    /// memory from others. May be called with locks held that an eviction needs.
    ///
    /// # Errors
    /// As there.
    pub fn charge_free(&self, owner: Owner, anon: u64, mapped: u64) -> Result<Charge> {
        let charge = self.enter(owner);
        charge.resize_free(anon, mapped)?;
        Ok(charge)
    }

    fn enter(&self, owner: Owner) -> Charge {
        let id = self.book().enter(owner);
        Charge {
            ledger: self.clone(),
            id,
        }
    }
}

impl Charge {
    /// Changes what is charged; room for more is made as by [`Ledger::charge`].
    ///
    /// # Errors
    /// As there; the charge then stays as it was.
    pub fn resize(&self, anon: u64, mapped: u64) -> Result<()> {
        self.resize_with(anon, mapped, &WaitPolicy::NONE)
    }

    /// Changes what is charged; room for more is made as by [`Ledger::charge_with`].
    ///
    /// # Errors
    /// As there; the charge then stays as it was.
    pub fn resize_with(&self, anon: u64, mapped: u64, wait: &WaitPolicy<'_>) -> Result<()> {
        if self.ledger.try_resize(self.id, anon, mapped) {
            return Ok(());
        }
        if !wait.evict {
            return Err(self.ledger.refusal(self.id, anon));
        }
        Waiting::new(&self.ledger, self.id).until_it_fits(anon, mapped, wait)
    }

    /// Changes what is charged. Evicts nothing: fails unless that much is free now.
    ///
    /// # Errors
    /// As [`Ledger::charge_free`]; the charge then stays as it was.
    pub fn resize_free(&self, anon: u64, mapped: u64) -> Result<()> {
        if self.ledger.try_resize(self.id, anon, mapped) {
            return Ok(());
        }
        Err(self.ledger.refusal(self.id, anon))
    }

    /// Lets the ledger call `in_memory` to learn how many of the charged bytes are in memory by now, until
    /// [`set_pending`](Self::set_pending) or [`set_measured`](Self::set_measured) is called. `in_memory` runs on any thread,
    /// without the ledger's lock, and must not wait for a thread that asks for memory.
    pub fn track_resident(&self, in_memory: impl Fn() -> u64 + Send + Sync + 'static) {
        let watch = Arc::new(in_memory);
        let before = self.ledger.book().in_memory.insert(self.id, watch);
        drop(before);
    }

    /// Records that all but `pending` of the charged bytes are in memory.
    pub fn set_pending(&self, pending: u64) {
        let mut book = self.ledger.book();
        let watch = book.in_memory.remove(&self.id);
        book.set_pending(self.id, pending);
        drop(book);
        drop(watch);
    }

    /// Sets the charge to what was measured, even beyond the budget: the memory is taken already. Idle memory of others is
    /// evicted if the budget is then exceeded.
    pub fn set_measured(&self, anon: u64, mapped: u64) {
        let mut book = self.ledger.book();
        let watch = book.in_memory.remove(&self.id);
        book.set(self.id, anon, mapped, 0);
        drop(book);
        drop(watch);
        self.ledger.reduce();
    }

    /// (anonymous, mapped) bytes charged.
    pub fn bytes(&self) -> (u64, u64) {
        let book = self.ledger.book();
        let entry = book.entries.get(&self.id);
        entry.map_or((0, 0), |entry| (entry.anon_bytes, entry.mapped_bytes))
    }

    /// Anonymous bytes of the charge that are in memory.
    pub(super) fn held(&self) -> u64 {
        let book = self.ledger.book();
        let entry = book.entries.get(&self.id);
        entry.map_or(0, |entry| entry.anon_bytes - entry.pending_bytes)
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut book = self.ledger.book();
        let watch = book.in_memory.remove(&self.id);
        book.set(self.id, 0, 0, 0);
        let entry = book.entries.remove(&self.id);
        drop(book);
        drop((watch, entry));
        self.ledger.wake_waiters();
    }
}
