//! Who holds how much memory, and whether more may be had.
//!
//! Two columns: *anonymous* bytes, which the kernel cannot drop, and clean *mapped* bytes, which it can. The budget is on the
//! first. Code that wants more asks before it allocates ([`Ledger::charge`]): the ledger makes room by evicting, or waits for
//! others to finish, or answers with an error that names budget, need and holders.
//!
//! The book behind the ledger is under a [leaf lock](crate::os::leaf): while it is locked, no file is read and no callback runs.
//! A budget that follows the system is a number in the book, with the time at which the figures behind it were read.
//! A thread that needs a newer number reads the figures without the lock and then writes the number down.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::book::{Book, InMemory};
use super::entry::{Entry, Owner, megabytes};
use super::limit::{Bound, allowed};
use super::reclaim::{MakeRoom, Need, Room};
use crate::error::{Error, ErrorKind};
use crate::os::leaf::{LeafGuard, LeafMutex, assert_free};

/// Growth below this is admitted by the last known budget, however old it is.
const NOTABLE: u64 = 256 << 10;

/// Notable growth is admitted only by figures that are at most this old. Newer ones would tell little more: other programs may
/// take memory right after any reading, and Atom's own memory is in the book.
const FRESH: Duration = Duration::from_millis(100);

/// Growth is refused only by figures that are at most this old.
const FRESH_TO_REFUSE: Duration = Duration::from_millis(5);

/// How often the figures are read again when memory came or went meanwhile.
const READINGS: usize = 3;

/// Reads the bounds that the system sets.
type BoundsReader = Box<dyn FnMut() -> Vec<Bound> + Send>;

pub(super) struct LedgerShared {
    book: LeafMutex<Book>,
    /// Notified when memory is given back.
    freed: Condvar,
    /// The reader of a budget that follows the system. This lock is held while files are read, and is taken before the book's,
    /// never after.
    bounds: Mutex<Option<BoundsReader>>,
    /// Held while something large is loaded or built.
    pub(super) load_lock: Mutex<()>,
}

/// The list of charges. Clones share it; thread-safe.
#[derive(Clone)]
pub struct Ledger(pub(super) Arc<LedgerShared>);

impl Default for Ledger {
    fn default() -> Self {
        Self(Arc::new(LedgerShared {
            book: LeafMutex::new("ledger", Book::default()),
            freed: Condvar::new(),
            bounds: Mutex::default(),
            load_lock: Mutex::default(),
        }))
    }
}

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

    /// Sets the most anonymous bytes that all charges may amount to; `None`: no bound. Idle memory that is charged beyond it
    /// is evicted at once.
    pub fn set_budget(&self, bytes: Option<u64>) {
        // A reading that is under way would replace it.
        let mut bounds = self.bounds();
        let before = bounds.take();
        let mut book = self.book();
        book.budget = bytes;
        book.budget_read = None;
        drop(book);
        drop((bounds, before));
        self.reduce();
    }

    /// Has the budget follow the system: `read` tells its bounds, see [`system_bounds`](super::system_bounds). It is called
    /// from any thread that asks for memory, one at a time and without the ledger's lock, and by
    /// [`refresh_budget`](Self::refresh_budget).
    pub fn follow(&self, read: impl FnMut() -> Vec<Bound> + Send + 'static) {
        let before = self.bounds().replace(Box::new(read));
        drop(before);
        self.refresh_budget();
    }

    /// Reads the bounds that the system sets now, if the budget follows it. Idle memory that is charged beyond them is
    /// evicted.
    pub fn refresh_budget(&self) {
        self.read_bounds(Instant::now());
        self.reduce();
    }

    /// The most anonymous bytes that all charges may amount to, as it was last known.
    pub fn budget(&self) -> Option<u64> {
        self.book().budget
    }

    /// Sets who evicts when the budget is short.
    pub fn set_make_room(&self, room: Weak<dyn MakeRoom>) {
        let before = self.book().room.replace(room);
        drop(before);
    }

    /// All charges, oldest first.
    pub fn snapshot(&self) -> Vec<Entry> {
        self.book().entries.values().cloned().collect()
    }

    /// The sums of anonymous and of mapped bytes.
    pub fn total(&self) -> (u64, u64) {
        let book = self.book();
        let mapped = book.entries.values().map(|entry| entry.mapped_bytes).sum();
        (book.anon, mapped)
    }

    /// Wakes waiters when memory may have been freed by something other than a charge, for example by the end of a lease.
    pub fn wake_waiters(&self) {
        self.0.freed.notify_all();
    }

    /// Sets entry `id` to `anon` and `mapped` bytes if the budget allows it now, and returns whether it did. Reads the system's
    /// figures first if the known ones are too old.
    pub(super) fn try_resize(&self, id: u64, anon: u64, mapped: u64) -> bool {
        let asked = Instant::now();
        match self.resize_by(id, anon, mapped, asked) {
            Verdict::Done => true,
            Verdict::Refused => false,
            Verdict::Unsure { newer_than } => {
                self.read_bounds(newer_than);
                // By now it is as new as can be, unless another thread changed the budget.
                matches!(self.resize_by(id, anon, mapped, newer_than), Verdict::Done)
            }
        }
    }

    fn resize_by(&self, id: u64, anon: u64, mapped: u64, asked: Instant) -> Verdict {
        let mut book = self.book();
        let Some(entry) = book.entries.get(&id) else {
            return Verdict::Refused;
        };
        let more = anon.saturating_sub(entry.anon_bytes);
        let less = anon < entry.anon_bytes;
        let pending = (entry.pending_bytes + more).min(anon);
        if more > 0 {
            let fits = book.short(more) == 0;
            let fresh = if fits { FRESH } else { FRESH_TO_REFUSE };
            let newer_than = asked.checked_sub(fresh).unwrap_or(asked);
            let too_old = book.budget_read.is_some_and(|at| at < newer_than);
            if too_old && (more >= NOTABLE || !fits) {
                return Verdict::Unsure { newer_than };
            }
            if !fits {
                return Verdict::Refused;
            }
        }
        book.set(id, anon, mapped, pending);
        drop(book);
        if less {
            self.0.freed.notify_all();
        }
        Verdict::Done
    }

    /// Reads the system's bounds and writes down the budget that they leave, unless figures newer than `newer_than` are known.
    /// Threads that ask at the same time share one reading.
    pub(super) fn read_bounds(&self, newer_than: Instant) {
        let mut bounds = self.bounds();
        let Some(read) = bounds.as_mut() else {
            return;
        };
        if self.book().budget_read.is_some_and(|at| at >= newer_than) {
            return;
        }
        for reading in 1..=READINGS {
            self.note_what_is_in_memory();
            let before = self.book().held();
            let at = Instant::now();
            let bounds = read();
            let mut book = self.book();
            // Memory of ours that the figures may or may not contain: the smaller budget is the safe one.
            let held = before.min(book.held());
            if before == book.held() || reading == READINGS {
                book.budget = allowed(&bounds, held);
                book.budget_read = Some(at);
                return;
            }
        }
    }

    /// Calls every charge's `in_memory` and writes down what it returns.
    fn note_what_is_in_memory(&self) {
        let book = self.book();
        let watched = book.in_memory.iter();
        let watched: Vec<(u64, InMemory)> =
            watched.map(|(id, bytes)| (*id, bytes.clone())).collect();
        drop(book);
        for (id, in_memory) in &watched {
            assert_free("a charge's watch is called");
            let bytes = in_memory();
            let mut book = self.book();
            let stands = book.in_memory.get(id);
            let entry = book.entries.get(id);
            // Who set the charge meanwhile knows better.
            if let (Some(_), Some(entry)) = (stands.filter(|it| Arc::ptr_eq(it, in_memory)), entry)
            {
                let pending = entry.anon_bytes.saturating_sub(bytes);
                let pending = pending.min(entry.pending_bytes);
                book.set_pending(*id, pending);
            }
        }
    }

    pub(super) fn make_room(&self, need: &Need) -> Room {
        let room = self.book().room.as_ref().and_then(Weak::upgrade);
        assert_free("memory is evicted");
        room.map_or_else(Room::default, |room| room.make_room(need))
    }

    /// Evicts idle memory that is held beyond the budget, then wakes waiters.
    pub(super) fn reduce(&self) {
        let short = self.book().short(0);
        if short > 0 {
            self.make_room(&Need {
                anon_bytes: short,
                partly: true,
                drain: false,
            });
        }
        self.0.freed.notify_all();
    }

    /// Waits until memory is given back, for `at_most`.
    pub(super) fn wait_for_room(&self, at_most: Duration) {
        self.book().wait_timeout(&self.0.freed, at_most);
    }

    /// The error for entry `id`, which cannot have `anon` bytes.
    pub(super) fn refusal(&self, id: u64, anon: u64) -> Error {
        let book = self.book();
        let Some(owner) = book.entries.get(&id).map(|entry| entry.owner.clone()) else {
            return Error::new(ErrorKind::Internal, "a charge has left its ledger");
        };
        let (budget, held) = (book.budget.unwrap_or(u64::MAX), book.anon);
        let entries: Vec<Entry> = book.entries.values().cloned().collect();
        drop(book);
        let mut holders: BTreeMap<&Owner, u64> = BTreeMap::new();
        for entry in entries.iter().filter(|e| e.anon_bytes > 0) {
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
                "{owner} needs {} of anonymous memory; of the budget of {}, {} are held{}{}",
                megabytes(anon),
                megabytes(budget),
                megabytes(held),
                if holders.is_empty() { "" } else { " by " },
                holders.join(", "),
            ),
        )
        .remedy("raise the memory budget, end what holds it, or ask for less (fewer tokens, a smaller pack)")
    }

    pub(super) fn book(&self) -> LeafGuard<'_, Book> {
        self.0.book.lock()
    }

    /// A panic while figures are read leaves the reader as it was.
    fn bounds(&self) -> MutexGuard<'_, Option<BoundsReader>> {
        assert_free("the system's bounds are waited for");
        self.0.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The book's answer to a request.
enum Verdict {
    /// It is written down.
    Done,
    /// It does not fit.
    Refused,
    /// Figures are needed that were read after this.
    Unsure { newer_than: Instant },
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
