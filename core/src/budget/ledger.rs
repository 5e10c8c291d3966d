//! Who holds how much memory, and whether more may be had.
//!
//! Two columns: *anonymous* bytes, which the kernel cannot drop, and clean *mapped* bytes, which it can. The budget is on the
//! first. Whoever wants more asks before it allocates ([`Ledger::charge`]): room is made by evicting, or by waiting for others
//! to finish, or the answer is an error that names budget, need and holders.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::admission::Waiting;
use super::entry::{Entry, Owner, Totals};
use super::reclaim::{MakeRoom, Need, Room};
use crate::error::{Error, ErrorKind, Result};

/// Says what the budget is when the charges come to that; `None`: no bound.
type Allowance = Arc<dyn Fn(Totals) -> Option<u64> + Send + Sync>;

/// Says how many bytes of a charge are in memory by now.
type Watch = Box<dyn Fn() -> u64 + Send>;

/// Growth below this is measured against the budget as it was last known.
const NOTABLE: u64 = 256 << 10;

/// How long, and for whom, to wait for room that evicting alone does not make.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    /// An error ends the waiting: cancelled, too late.
    pub check: &'a (dyn Fn() -> Result<()> + Sync),
    /// At most this long.
    pub at_most: Duration,
    /// Whether others may be evicted; else only what is free is had.
    pub evict: bool,
    /// What the caller itself keeps from being evicted meanwhile: waiting for that to go would be in vain.
    pub holds: Option<&'a Owner>,
}

impl Patience<'_> {
    /// Evicts, but waits for nobody.
    pub const NONE: Patience<'static> = Patience {
        check: &|| Ok(()),
        at_most: Duration::ZERO,
        evict: true,
        holds: None,
    };
}

#[derive(Default)]
pub(super) struct State {
    next: u64,
    pub(super) entries: BTreeMap<u64, Entry>,
    /// Of entries that are coming into memory.
    watches: BTreeMap<u64, Watch>,
    /// Sum of the entries' anonymous bytes.
    pub(super) anon: u64,
    pub(super) budget: Option<u64>,
    pub(super) allowance: Option<Allowance>,
    pub(super) pending: u64,
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

impl State {
    fn follow(&mut self) {
        let Some(allowance) = self.allowance.clone() else {
            return;
        };
        let watched: Vec<_> = self.watches.iter().map(|(id, w)| (*id, w())).collect();
        for (id, in_memory) in watched {
            if let Some(entry) = self.entries.get(&id) {
                let pending = entry.anon_bytes.saturating_sub(in_memory);
                let (anon, mapped) = (entry.anon_bytes, entry.mapped_bytes);
                self.set(id, anon, mapped, pending.min(entry.pending_bytes));
            }
        }
        self.budget = allowance(self.totals());
    }

    pub(super) fn short(&self, more: u64) -> u64 {
        match self.budget {
            Some(budget) => (self.anon + more).saturating_sub(budget),
            None => 0,
        }
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

    pub(super) fn enter(&mut self, owner: Owner) -> u64 {
        let id = self.next;
        self.next += 1;
        let entry = Entry {
            owner,
            anon_bytes: 0,
            pending_bytes: 0,
            mapped_bytes: 0,
        };
        self.entries.insert(id, entry);
        id
    }

    fn totals(&self) -> Totals {
        Totals {
            anon_bytes: self.anon,
            pending_bytes: self.pending,
        }
    }
}

#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Told when something is given back.
    freed: Condvar,
    /// Who makes something large.
    pub(super) turn: Mutex<()>,
}

/// The list of charges. Clones share it; thread-safe.
#[derive(Clone, Default)]
pub struct Ledger(pub(super) Arc<Shared>);

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ledger").field(&self.snapshot()).finish()
    }
}

impl Ledger {
    /// An empty ledger without a budget.
    pub fn new() -> Self {
        Self::default()
    }

    /// Charges `owner` with `anon` anonymous and `mapped` clean mapped bytes, until the charge is dropped. Where the
    /// budget is short, others' idle memory is evicted; nobody is waited for. Call it before allocating, holding no lock
    /// that evicting may need.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfBudget`] naming budget, need and holders; nothing is charged then.
    pub fn charge(&self, owner: Owner, anon: u64, mapped: u64) -> Result<Charge> {
        self.charge_with(owner, anon, mapped, &Patience::NONE)
    }

    /// As [`charge`](Self::charge); what others are using is waited for with `patience`.
    ///
    /// # Errors
    /// As there, and what `patience.check` returns.
    pub fn charge_with(
        &self,
        owner: Owner,
        anon: u64,
        mapped: u64,
        patience: &Patience<'_>,
    ) -> Result<Charge> {
        let charge = self.enter(owner);
        charge.resize_with(anon, mapped, patience)?;
        Ok(charge)
    }

    /// As [`charge`](Self::charge), of what is free now: nothing is evicted. For caches, which must not cost others their
    /// place; may be called with locks held.
    ///
    /// # Errors
    /// As there.
    pub fn charge_free(&self, owner: Owner, anon: u64, mapped: u64) -> Result<Charge> {
        let charge = self.enter(owner);
        charge.resize_free(anon, mapped)?;
        Ok(charge)
    }

    /// Sets the most anonymous bytes that all charges may amount to; `None`: no bound. What is charged beyond it now is
    /// evicted as far as it is idle.
    pub fn set_budget(&self, bytes: Option<u64>) {
        let mut state = self.lock();
        state.budget = bytes;
        state.allowance = None;
        let short = state.short(0);
        drop(state);
        if short > 0 {
            self.reduce(short);
        }
        self.0.freed.notify_all();
    }

    /// Has `allowance` asked for the budget whenever something notable is wanted, and by
    /// [`follow_allowance`](Self::follow_allowance). It is called with the ledger locked: it must not use it.
    pub fn set_allowance(&self, allowance: impl Fn(Totals) -> Option<u64> + Send + Sync + 'static) {
        self.lock().allowance = Some(Arc::new(allowance));
        self.follow_allowance();
    }

    /// Asks for the budget anew. What is held beyond it is evicted as far as it is idle.
    pub fn follow_allowance(&self) {
        let mut state = self.lock();
        state.follow();
        let short = state.short(0);
        drop(state);
        if short > 0 {
            self.reduce(short);
        }
        self.0.freed.notify_all();
    }

    /// The most anonymous bytes that all charges may amount to.
    pub fn budget(&self) -> Option<u64> {
        self.lock().budget
    }

    /// Who makes room when the budget is short.
    pub fn set_make_room(&self, room: Weak<dyn MakeRoom>) {
        self.lock().room = Some(room);
    }

    /// All charges, oldest first.
    pub fn snapshot(&self) -> Vec<Entry> {
        self.lock().entries.values().cloned().collect()
    }

    /// The sums of anonymous and of mapped bytes.
    pub fn total(&self) -> (u64, u64) {
        let state = self.lock();
        let mapped = state.entries.values().map(|entry| entry.mapped_bytes).sum();
        (state.anon, mapped)
    }

    /// Tells who waits for room that some may have come free in another way than by a charge: a holder has let go.
    pub fn let_go(&self) {
        self.0.freed.notify_all();
    }

    fn enter(&self, owner: Owner) -> Charge {
        let id = self.lock().enter(owner);
        Charge {
            ledger: self.clone(),
            id,
        }
    }

    /// Without the lock, since what is evicted drops its charge.
    pub(super) fn make_room(&self, need: &Need) -> Room {
        let room = self.lock().room.as_ref().and_then(Weak::upgrade);
        room.map_or_else(Room::default, |room| room.make_room(need))
    }

    /// Evicts towards the budget, as far as what is idle reaches.
    fn reduce(&self, short: u64) {
        self.make_room(&Need {
            anon_bytes: short,
            partly: true,
            drain: false,
        });
    }

    /// Waits at most that long until somebody gives something back.
    pub(super) fn wait_for_room(&self, at_most: Duration) {
        let state = self.lock();
        drop(self.0.freed.wait_timeout(state, at_most));
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry of the ledger; dropping it takes the entry out.
#[derive(Debug)]
#[must_use = "the charge ends when this is dropped"]
pub struct Charge {
    pub(super) ledger: Ledger,
    pub(super) id: u64,
}

impl Charge {
    /// Changes what is charged; more is had as by [`Ledger::charge`].
    ///
    /// # Errors
    /// As there; the charge then stays as it was.
    pub fn resize(&self, anon: u64, mapped: u64) -> Result<()> {
        self.resize_with(anon, mapped, &Patience::NONE)
    }

    /// As [`resize`](Self::resize); what others are using is waited for with `patience`.
    ///
    /// # Errors
    /// As [`Ledger::charge_with`]; the charge then stays as it was.
    pub fn resize_with(&self, anon: u64, mapped: u64, patience: &Patience<'_>) -> Result<()> {
        if self.resize_now(anon, mapped) {
            return Ok(());
        }
        if !patience.evict {
            return Err(self.refusal(anon));
        }
        Waiting::new(self).until_it_fits(anon, mapped, patience)
    }

    /// As [`resize`](Self::resize), out of what is free now: nothing is evicted.
    ///
    /// # Errors
    /// As there.
    pub fn resize_free(&self, anon: u64, mapped: u64) -> Result<()> {
        if self.resize_now(anon, mapped) {
            return Ok(());
        }
        Err(self.refusal(anon))
    }

    /// Has `in_memory` say how many of its bytes are in memory by now, until that is said otherwise. It is called with the
    /// ledger locked: it must not use it.
    pub fn watch(&self, in_memory: impl Fn() -> u64 + Send + 'static) {
        let mut state = self.ledger.lock();
        state.watches.insert(self.id, Box::new(in_memory));
    }

    /// Says that all of it but `pending` bytes is in memory by now.
    pub fn settle(&self, pending: u64) {
        let mut state = self.ledger.lock();
        state.watches.remove(&self.id);
        if let Some(entry) = state.entries.get(&self.id) {
            let (anon, mapped) = (entry.anon_bytes, entry.mapped_bytes);
            state.set(self.id, anon, mapped, pending.min(anon));
        }
    }

    /// Says what was measured: it is so, whatever the budget says. Idle memory of others is evicted where that is too
    /// much.
    pub fn state(&self, anon: u64, mapped: u64) {
        let mut state = self.ledger.lock();
        state.watches.remove(&self.id);
        state.set(self.id, anon, mapped, 0);
        let short = state.short(0);
        drop(state);
        self.ledger.0.freed.notify_all();
        if short > 0 {
            self.ledger.reduce(short);
        }
    }

    /// (anonymous, mapped) bytes charged.
    pub fn bytes(&self) -> (u64, u64) {
        let state = self.ledger.lock();
        let entry = state.entries.get(&self.id);
        entry.map_or((0, 0), |entry| (entry.anon_bytes, entry.mapped_bytes))
    }

    pub(super) fn resize_now(&self, anon: u64, mapped: u64) -> bool {
        let mut state = self.ledger.lock();
        let Some(entry) = state.entries.get(&self.id) else {
            return false;
        };
        let more = anon.saturating_sub(entry.anon_bytes);
        let less = anon < entry.anon_bytes;
        let pending = (entry.pending_bytes + more).min(anon);
        if more >= NOTABLE {
            state.follow();
        }
        if more > 0 && state.short(more) > 0 {
            return false;
        }
        state.set(self.id, anon, mapped, pending);
        drop(state);
        if less {
            self.ledger.0.freed.notify_all();
        }
        true
    }

    /// Why `anon` bytes cannot be had.
    pub(super) fn refusal(&self, anon: u64) -> Error {
        let state = self.ledger.lock();
        let Some(entry) = state.entries.get(&self.id) else {
            return Error::new(ErrorKind::Internal, "a charge has left its ledger");
        };
        let mut holders: BTreeMap<&Owner, u64> = BTreeMap::new();
        for entry in state.entries.values().filter(|e| e.anon_bytes > 0) {
            *holders.entry(&entry.owner).or_default() += entry.anon_bytes;
        }
        let mut holders: Vec<_> = holders.into_iter().collect();
        holders.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let holders: Vec<String> = holders
            .iter()
            .map(|(owner, bytes)| format!("{owner} {}", megabytes(*bytes)))
            .collect();
        Error::new(
            ErrorKind::OutOfBudget,
            format!(
                "{} needs {} of anonymous memory; of the budget of {}, {} are held{}{}",
                entry.owner,
                megabytes(anon),
                megabytes(state.budget.unwrap_or(u64::MAX)),
                megabytes(state.anon),
                if holders.is_empty() { "" } else { " by " },
                holders.join(", "),
            ),
        )
        .remedy("raise the memory budget, end what holds it, or ask for less (fewer tokens, a smaller pack)")
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut state = self.ledger.lock();
        state.watches.remove(&self.id);
        state.set(self.id, 0, 0, 0);
        state.entries.remove(&self.id);
        drop(state);
        self.ledger.0.freed.notify_all();
    }
}

impl Charge {
    pub(super) fn anon_in(&self, state: &State) -> u64 {
        let entry = state.entries.get(&self.id);
        entry.map_or(0, |entry| entry.anon_bytes)
    }
}

/// `bytes` for people.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
