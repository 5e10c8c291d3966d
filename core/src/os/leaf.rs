//! Locks that are held for a few instructions only, and a check that it stays so.
//!
//! A [`LeafMutex`] is the last lock that a thread takes. While a thread holds one it reads no file, takes no second leaf lock
//! and calls no code that it was handed (a source, a hook, a logger). Code that does one of these things calls [`assert_free`]
//! first. A breach panics in unit tests and debug builds; a release build goes on and remembers the first one, which
//! integration tests ask for ([`first_breach`]).

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

thread_local! {
    /// The name of the leaf lock that this thread holds.
    static HELD: Cell<Option<&'static str>> = const { Cell::new(None) };
}

static FIRST_BREACH: OnceLock<String> = OnceLock::new();

/// To be called before `action`, which may be slow or run foreign code: no leaf lock may be held by this thread.
#[inline]
pub fn assert_free(action: &str) {
    if let Some(lock) = HELD.get() {
        breach(lock, action);
    }
}

/// The first breach in this process: what was done, and under which lock.
pub fn first_breach() -> Option<&'static str> {
    FIRST_BREACH.get().map(String::as_str)
}

#[cold]
fn breach(lock: &str, action: &str) {
    let breach = FIRST_BREACH.get_or_init(|| format!("{action} while the {lock} is locked"));
    if cfg!(any(test, debug_assertions)) && !std::thread::panicking() {
        panic!("{breach}");
    }
}

/// A mutex for values that are only looked at and changed, see the [module](self). A panic of a holder does not poison it:
/// use it for values that are whole after every step.
#[derive(Debug)]
pub struct LeafMutex<T> {
    name: &'static str,
    value: Mutex<T>,
}

impl<T> LeafMutex<T> {
    /// `name` says in a breach which lock it was.
    pub const fn new(name: &'static str, value: T) -> Self {
        let value = Mutex::new(value);
        Self { name, value }
    }

    /// Waits until no other thread holds it.
    pub fn lock(&self) -> LeafGuard<'_, T> {
        assert_free(self.name);
        let guard = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        HELD.set(Some(self.name));
        let marked = Marked;
        LeafGuard { guard, marked }
    }
}

/// The right to use the value, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct LeafGuard<'a, T> {
    guard: MutexGuard<'a, T>,
    // After the lock is let go.
    marked: Marked,
}

/// Takes the mark off this thread.
#[derive(Debug)]
struct Marked;

impl Drop for Marked {
    fn drop(&mut self) {
        HELD.set(None);
    }
}

impl<T> LeafGuard<'_, T> {
    /// Unlocks, waits until `condvar` is notified or `at_most` has passed, and returns without the lock. May return early.
    pub fn wait_timeout(self, condvar: &Condvar, at_most: Duration) {
        let Self { guard, marked } = self;
        drop(condvar.wait_timeout(guard, at_most));
        drop(marked);
    }

    /// Unlocks, waits until `condition` no longer holds or `at_most` has passed, and returns without the lock. `condition` is
    /// asked with the lock, whenever `condvar` is notified.
    pub fn wait_timeout_while(
        self,
        condvar: &Condvar,
        at_most: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) {
        let Self { guard, marked } = self;
        drop(condvar.wait_timeout_while(guard, at_most, condition));
        drop(marked);
    }
}

impl<T> Deref for LeafGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for LeafGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    static LEAF: LeafMutex<u32> = LeafMutex::new("test's leaf", 0);

    #[test]
    fn a_breach_is_seen_and_named() {
        let read = || {
            let _held = LEAF.lock();
            std::hint::black_box(super::super::memory::machine());
        };
        assert!(catch_unwind(read).is_err(), "read under the lock");
        let seen = first_breach().expect("remembered");
        assert!(seen.contains("the test's leaf is locked"), "{seen}");
        // A second leaf lock may wait for a thread that waits for the first.
        let two = || {
            let _held = LEAF.lock();
            drop(LeafMutex::new("other", ()).lock());
        };
        assert!(catch_unwind(two).is_err(), "two leaf locks");
    }

    #[test]
    fn the_mark_goes_with_the_lock() {
        *LEAF.lock() += 1;
        assert_free("after a drop");
        LEAF.lock()
            .wait_timeout(&Condvar::new(), Duration::from_millis(1));
        assert_free("after a wait");
        // What panics while it holds the lock leaves neither mark nor poison.
        let panics = catch_unwind(|| {
            let _held = LEAF.lock();
            panic!("of the test");
        });
        assert!(panics.is_err());
        assert_free("after a panic");
        assert!(*LEAF.lock() > 0);
    }
}
