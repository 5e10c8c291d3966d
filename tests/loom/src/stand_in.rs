//! What stands in for core/src/module/sync.rs and core/src/flow/ring_sync.rs.

/// For the slot.
pub mod slot {
    use std::cell::Cell;

    pub use loom::sync::atomic::{AtomicUsize, Ordering};
    pub use loom::sync::{Arc, Mutex, MutexGuard};
    pub use loom::thread::yield_now;
    use std::sync::LockResult;
    pub use std::sync::PoisonError;
    use std::time::Duration;

    /// For `arc_swap::ArcSwapOption`.
    pub struct Shelf<T>(Mutex<Option<Arc<T>>>);

    impl<T> Shelf<T> {
        pub fn empty() -> Self {
            Self(Mutex::new(None))
        }

        pub fn load_full(&self) -> Option<Arc<T>> {
            self.0.lock().unwrap().clone()
        }

        pub fn store(&self, value: Option<Arc<T>>) {
            let old = std::mem::replace(&mut *self.0.lock().unwrap(), value);
            drop(old);
        }
    }

    loom::thread_local! {
        static SLEPT: Cell<usize> = Cell::new(0);
    }

    /// How often this thread has waited.
    pub fn slept() -> usize {
        SLEPT.with(Cell::get)
    }

    /// loom's, and says who waited.
    pub struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        pub fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            _: Duration,
        ) -> LockResult<(MutexGuard<'a, T>, ())> {
            SLEPT.with(|slept| slept.set(slept.get() + 1));
            // Never times out: who is not woken sleeps for ever, and loom says so.
            match self.0.wait(guard) {
                Ok(guard) => Ok((guard, ())),
                Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), ()))),
            }
        }

        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

/// For the ring.
pub mod ring {
    pub use loom::sync::Arc;
    pub use loom::sync::atomic::Ordering;
    use loom::sync::atomic::{self, fence};
    use loom::sync::{Condvar, Mutex};
    use std::time::Duration;

    /// A cell that loom watches at the moment its address is asked for.
    pub struct UnsafeCell<T> {
        value: std::cell::UnsafeCell<T>,
        watched: loom::cell::UnsafeCell<()>,
    }

    impl<T> UnsafeCell<T> {
        pub fn new(value: T) -> Self {
            Self {
                value: std::cell::UnsafeCell::new(value),
                watched: loom::cell::UnsafeCell::new(()),
            }
        }

        pub fn get(&self) -> *mut T {
            self.watched.with_mut(|_| ());
            self.value.get()
        }
    }

    /// Does `with` as loom does it, between fences when it is to be sequentially consistent.
    fn ordered<R>(order: Ordering, with: impl FnOnce() -> R) -> R {
        let fenced = order == Ordering::SeqCst;
        if fenced {
            fence(Ordering::SeqCst);
        }
        let result = with();
        if fenced {
            fence(Ordering::SeqCst);
        }
        result
    }

    macro_rules! atomics {
        ($($name:ident: $value:ty),*) => {$(
            pub struct $name(atomic::$name);

            impl $name {
                pub fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value))
                }

                pub fn load(&self, order: Ordering) -> $value {
                    ordered(order, || self.0.load(order))
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    ordered(order, || self.0.store(value, order));
                }

            }
        )*};
    }
    atomics!(AtomicBool: bool, AtomicU32: u32, AtomicU64: u64);

    impl AtomicU32 {
        pub fn compare_exchange(
            &self,
            old: u32,
            new: u32,
            order: Ordering,
            failed: Ordering,
        ) -> Result<u32, u32> {
            ordered(order, || self.0.compare_exchange(old, new, order, failed))
        }

        pub fn fetch_or(&self, value: u32, order: Ordering) -> u32 {
            ordered(order, || self.0.fetch_or(value, order))
        }

        pub fn fetch_and(&self, value: u32, order: Ordering) -> u32 {
            ordered(order, || self.0.fetch_and(value, order))
        }

        pub fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
            ordered(order, || self.0.fetch_add(value, order))
        }
    }

    impl AtomicU64 {
        pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            ordered(order, || self.0.fetch_add(value, order))
        }
    }

    loom::lazy_static! {
        /// The kernel's queue of sleepers: one for all words, so some are woken for nothing, as a futex may.
        static ref KERNEL: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
    }

    /// The kernel looks at the word under the lock under which it wakes.
    pub fn futex_wait(word: &AtomicU32, seen: u32, _: Option<Duration>) {
        let guard = KERNEL.0.lock().unwrap();
        if word.load(Ordering::SeqCst) == seen {
            drop(KERNEL.1.wait(guard).unwrap());
        }
    }

    pub fn futex_wake(_: &AtomicU32) {
        let guard = KERNEL.0.lock().unwrap();
        KERNEL.1.notify_all();
        drop(guard);
    }
}
