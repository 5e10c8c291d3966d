//! Measures what is made or dropped: the kernel's count of the process before and after, less what the ledger knows of.

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

/// A smaller difference is not worth trimming the heap. So many unowned bytes are attributed to the heap without a measurement: the
/// pieces that work leaves free between blocks in use.
const NOTABLE: i64 = 2 << 20;

/// How often the process's memory is read while something is made.
const LOOK: Duration = Duration::from_micros(500);

/// The state of the ledger when [`Ledger::trim_after_work`] last trimmed.
#[derive(Debug, Default)]
pub struct HeapTrim {
    rest: i64,
    changes: u64,
}

impl Ledger {
    /// Asks for `expected` bytes, makes something that stays and is no session, such as a vocabulary, and charges `owner` with
    /// what it was measured to take. Returns the measurement too.
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

    /// Locks the loading of anything large until the guard is dropped, so that peaks do not add up and each load can be
    /// measured. Ask for the bytes before you take it.
    pub fn load_lock(&self) -> MutexGuard<'_, ()> {
        let lock = self.0.load_lock.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks, until the guard is dropped, that work is under way whose memory is charged only at its end. What others take cannot
    /// be measured meanwhile.
    pub fn at_work(&self) -> AtWork {
        let mut book = self.book();
        book.changes += 1;
        book.at_work += 1;
        drop(book);
        AtWork(self.clone())
    }

    /// Lifts the caller's own [`at_work`](Self::at_work) mark until the guard is dropped: all it does meanwhile is what is being
    /// measured.
    pub fn at_rest(&self) -> AtRest {
        let mut book = self.book();
        book.changes += 1;
        book.at_work -= 1;
        drop(book);
        AtRest(self.clone())
    }

    /// Sets the anonymous bytes that the process had before anything was charged.
    pub fn set_program(&self, anon: u64) {
        self.book().program = Some(anon);
    }

    /// Runs `free`, which drops something and returns the anonymous bytes that it was charged with, or `None` if it dropped
    /// nothing. Returns the bytes that the kernel counts less afterwards, or the charged bytes if other threads took or freed
    /// memory at the same time. Bytes that did not come back are charged to the heap, if
    /// [the program's share](Self::set_program) is known.
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

    /// Trims the heap and measures again what it keeps: blocks that held free ones back may be gone by now. The heap is never
    /// charged with more than the kernel counts beyond all other charges.
    pub(super) fn recount_heap(&self) {
        trim_ends();
        if self.book().heap.is_none() {
            return;
        }
        let seen = self.observe(0);
        self.book().keep_in_heap(0, &seen);
    }

    /// Trims the heap if work was done since the last call, no work is under way, and unowned memory has grown notably since the
    /// last trim. It does not trim more often because the program's own memory looks the same. Whenever no work is under way, what
    /// the heap keeps is measured again.
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

    /// The kernel's count, and what of it is beyond the ledger without `own` bytes.
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
    /// Bytes, without those that the ledger charged to others meanwhile.
    pub bytes: u64,
    /// The peak beyond what stays, if it was [sampled](Charge::measure_peak).
    pub meanwhile: Option<u64>,
    /// As far as the ledger knows, no other thread took or freed memory at the same time.
    pub quiet: bool,
}

impl Grown {
    /// The bytes, if no other thread can have contributed to them.
    pub fn alone(self) -> Option<u64> {
        self.quiet.then_some(self.bytes)
    }

    /// The peak beyond what stays, if it was sampled and no other thread can have contributed to it.
    pub fn meanwhile_alone(self) -> Option<u64> {
        self.meanwhile.filter(|_| self.quiet)
    }
}

impl Charge {
    /// Runs `make` and measures by how much the process's anonymous memory grew.
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

    /// As [`measure`](Self::measure), and samples the peak on a thread of its own, every half millisecond.
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
    /// Charges the heap with `more` bytes than before, but with no more than what is unowned by what was `seen`.
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
    /// Work is under way whose memory is not on the ledger yet.
    at_work: bool,
    /// Something on the ledger is not in memory yet, or only in part.
    coming: bool,
    changes: u64,
}

/// The mark that [`Ledger::at_work`] sets, until it is dropped.
#[derive(Debug)]
pub struct AtWork(Ledger);

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut book = self.0.book();
        book.changes += 1;
        book.at_work -= 1;
    }
}

/// Lifts the mark of [`Ledger::at_work`] until it is dropped.
#[derive(Debug)]
pub struct AtRest(Ledger);

impl Drop for AtRest {
    fn drop(&mut self) {
        let mut book = self.0.book();
        book.changes += 1;
        book.at_work += 1;
    }
}

/// Runs `make`; also returns the most anonymous bytes that the process had meanwhile, if a thread could be started to sample them.
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

/// Tells a thread that may be asleep that the work has ended.
struct Ending<'a>(&'a AtomicBool, Option<&'a Thread>);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1 {
            thread.unpark();
        }
    }
}

/// Gives free heap memory back to the kernel, of all heaps.
fn trim_ends() {
    let _span = trace::span("memory", "trim");
    memory::trim_ends();
}
