//! The ledger beside the kernel's count of the process: what is made or dropped is measured where that can be told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use super::book::Book;
use super::charge::Charge;
use super::entry::Owner;
use super::ledger::Ledger;
use super::wait_policy::WaitPolicy;
use crate::error::Result;
use crate::os::{memory, smaps};
use crate::trace;

/// Less is not worth a look at the whole heap. So much of what nobody owns is taken for the heap's without having been measured:
/// pieces that work left between blocks in use.
const NOTABLE: i64 = 2 << 20;

/// How often memory is looked at while something is made.
const LOOK: Duration = Duration::from_micros(500);

/// What [`Ledger::trim_after_work`] has seen last.
#[derive(Debug, Default)]
pub struct HeapTrim {
    rest: i64,
    changes: u64,
}

impl Ledger {
    /// Makes something that stays and is no session, such as a vocabulary, and charges `owner` with what it was measured to
    /// take, which is returned too. `expected` bytes are asked for first.
    ///
    /// # Errors
    /// As [`charge_with`](Self::charge_with), and what `make` returns.
    pub fn measure<T>(
        &self,
        owner: Owner,
        expected: u64,
        wait: &WaitPolicy<'_>,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Charge, Grown)> {
        let charge = self.charge_with(owner, expected, 0, wait)?;
        let _lock = self.load_lock();
        let (made, grown) = charge.measure_peak(make)?;
        charge.set_measured(grown.alone().unwrap_or(expected), 0);
        Ok((made, charge, grown))
    }

    /// Waits until nobody else makes something large, until the guard is dropped: peaks do not add up, and what each takes
    /// can be told. Ask for the bytes before.
    pub fn load_lock(&self) -> MutexGuard<'_, ()> {
        let lock = self.0.load_lock.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that work that takes memory, and says how much when it is done, is under way until the guard is dropped: what
    /// others take cannot be measured meanwhile.
    pub fn at_work(&self) -> AtWork {
        let mut book = self.book();
        book.changes += 1;
        book.at_work += 1;
        drop(book);
        AtWork(self.clone())
    }

    /// Says that the caller, who [is at work](Self::at_work), does nothing but what is measured until the guard is dropped.
    pub fn at_rest(&self) -> AtRest {
        let mut book = self.book();
        book.changes += 1;
        book.at_work -= 1;
        drop(book);
        AtRest(self.clone())
    }

    /// Says what the process has that is nobody's here.
    pub fn set_program(&self, anon: u64) {
        self.book().program = Some(anon);
    }

    /// Runs `free`, which drops something and says how many anonymous bytes it was charged with, if it did; by how much less
    /// the kernel counts then, or those bytes where others took or gave back memory at the same time. What did not come back
    /// is the heap's from then on, if [the program's share](Self::set_program) is known.
    pub fn measure_return(&self, free: impl FnOnce() -> Option<u64>) -> Option<u64> {
        let before = self.observe(0);
        let anon = free()?;
        trim_ends();
        let after = self.observe(0);
        // Dropping the charge is one change.
        if before.at_work || after.changes > before.changes + 1 {
            return Some(anon);
        }
        let returned = before.process.saturating_sub(after.process);
        let mut book = self.book();
        book.keep_in_heap(anon.saturating_sub(returned), &after);
        Some(returned.min(anon))
    }

    /// Gives back what is free, and looks again at what the heap keeps: blocks in use between its free ones may be gone by
    /// now. It never has more than the kernel counts beside everything else.
    pub(super) fn recount_heap(&self) {
        trim_ends();
        if self.book().heap.is_none() {
            return;
        }
        let seen = self.observe(0);
        self.book().keep_in_heap(0, &seen);
    }

    /// Gives back what work has left free in the heap: where something was done since this was last called, nobody is at work,
    /// and the kernel counts notably more beside the ledger than then. Other memory of the program looks the same, so it is
    /// not done oftener than that. What the heap keeps is counted again whenever nobody is at work.
    pub fn trim_after_work(&self, last: &mut HeapTrim) {
        let mut seen = self.observe(0);
        let worked = seen.changes != last.changes;
        if worked && !seen.at_work && seen.rest >= last.rest + NOTABLE {
            trim_ends();
            seen = self.observe(0);
            *last = HeapTrim {
                rest: seen.rest,
                changes: seen.changes,
            };
        }
        last.rest = last.rest.min(seen.rest);
        // A charge that changes would spoil what is measured meanwhile.
        if let Ok(_lock) = self.0.load_lock.try_lock()
            && !seen.at_work
        {
            let seen = self.observe(0);
            self.book().keep_in_heap(0, &seen);
        }
    }

    /// What the kernel counts, beside the ledger without `own` bytes.
    fn observe(&self, own: u64) -> Observed {
        let process = smaps::anonymous().unwrap_or_default();
        let book = self.book();
        Observed {
            process,
            rest: process as i64 - (book.anon - book.pending - own) as i64,
            at_work: book.at_work > 0,
            coming: book.pending > 0,
            changes: book.changes,
        }
    }
}

/// By how much the process's anonymous memory grew while something was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grown {
    /// Bytes, but for those that the ledger has for something else.
    pub bytes: u64,
    /// The most it had meanwhile beyond what stays, where [that was looked at](Charge::measure_peak).
    pub meanwhile: Option<u64>,
    /// Nobody else took or gave back memory at the same time, as far as the ledger knows.
    pub quiet: bool,
}

impl Grown {
    /// The bytes, if they are what was made alone.
    pub fn alone(self) -> Option<u64> {
        self.quiet.then_some(self.bytes)
    }

    /// What was made had so much meanwhile beyond that, if it was looked at and nobody else took part.
    pub fn meanwhile_alone(self) -> Option<u64> {
        self.meanwhile.filter(|_| self.quiet)
    }
}

impl Charge {
    /// Runs `make`, and says by how much the process's anonymous memory grew.
    ///
    /// # Errors
    /// What `make` returns.
    pub fn measure<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<(T, Grown)> {
        // What is free, but still the heap's, would be taken for nothing; so would what making it needed.
        trim_ends();
        let before = self.others();
        let reuse = memory::reuse_blocks();
        let made = make();
        drop(reuse);
        trim_ends();
        let made = made?;
        let after = self.others();
        let quiet = before.changes == after.changes && !before.at_work;
        let grown = Grown {
            bytes: u64::try_from(after.rest - before.rest).unwrap_or(0),
            meanwhile: None,
            quiet,
        };
        Ok((made, grown))
    }

    /// As [`measure`](Self::measure), with what it takes while it is made: a thread looks at that every half millisecond.
    ///
    /// # Errors
    /// As there.
    pub fn measure_peak<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<(T, Grown)> {
        let mut most = None;
        let (made, grown) = self.measure(|| {
            let made;
            (made, most) = at_most(make);
            made
        })?;
        let after = smaps::anonymous().ok();
        let meanwhile = most
            .zip(after)
            .map(|(most, after)| most.saturating_sub(after));
        Ok((made, Grown { meanwhile, ..grown }))
    }

    fn others(&self) -> Observed {
        let _span = trace::span("memory", "measure");
        self.ledger().observe(self.held())
    }
}

impl Book {
    /// The heap has kept `more` bytes, but never more than what nobody else owns by what was `seen`.
    fn keep_in_heap(&mut self, more: u64, seen: &Observed) {
        let Some(program) = self.program else {
            return;
        };
        let entry = self.heap.and_then(|id| self.entries.get(&id));
        let counted = entry.map_or(0, |entry| entry.anon_bytes);
        let unowned = u64::try_from(seen.rest - program as i64 + counted as i64).unwrap_or(0);
        let pieces = match seen.at_work || seen.coming {
            // What is being worked with looks the same.
            true => counted.saturating_sub(self.kept),
            false => NOTABLE as u64,
        };
        self.kept = (self.kept + more).min(unowned);
        let keeps = (self.kept + pieces).min(unowned);
        if keeps == counted {
            return;
        }
        let id = match self.heap {
            Some(id) => id,
            None => self.enter(Owner::Heap),
        };
        self.heap = Some(id);
        self.set(id, keeps, 0, 0);
    }
}

/// The kernel's figure beside the ledger's.
struct Observed {
    /// Anonymous bytes of the process.
    process: u64,
    /// Anonymous bytes in memory that are not on the ledger for something else; below 0 where the ledger says too much.
    rest: i64,
    /// They take memory that is not on the ledger.
    at_work: bool,
    /// Something on the ledger is not in memory yet, or only in part.
    coming: bool,
    changes: u64,
}

/// Ends what [`Ledger::at_work`] said.
#[derive(Debug)]
pub struct AtWork(Ledger);

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut book = self.0.book();
        book.changes += 1;
        book.at_work -= 1;
    }
}

/// Ends what [`Ledger::at_rest`] said.
#[derive(Debug)]
pub struct AtRest(Ledger);

impl Drop for AtRest {
    fn drop(&mut self) {
        let mut book = self.0.book();
        book.changes += 1;
        book.at_work += 1;
    }
}

/// Runs `make`; the most anonymous bytes that the process had meanwhile, where a thread could look.
fn at_most<T>(make: impl FnOnce() -> T) -> (T, Option<u64>) {
    let (ended, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let look = || {
        while !ended.load(Ordering::Relaxed) {
            most.fetch_max(smaps::anonymous().unwrap_or(0), Ordering::Relaxed);
            thread::park_timeout(LOOK);
        }
    };
    let made = thread::scope(|scope| {
        let looking = thread::Builder::new()
            .name("atom-peak".into())
            .spawn_scoped(scope, look)
            .ok();
        // Also when making it panics.
        let end = Ending(&ended, looking.as_ref().map(|looking| looking.thread()));
        let made = make();
        drop(end);
        // Gone for the kernel, too. It does not panic.
        let _ = looking.map(|looking| looking.join());
        made
    });
    // No process has none.
    (made, Some(most.into_inner()).filter(|&most| most > 0))
}

/// Says that it has ended, to a thread that may sleep.
struct Ending<'a>(&'a AtomicBool, Option<&'a Thread>);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1 {
            thread.unpark();
        }
    }
}

/// Gives what is free back to the kernel, wherever it is.
fn trim_ends() {
    let _span = trace::span("memory", "trim");
    memory::trim_ends();
}
