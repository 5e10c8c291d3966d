//! What a slot synchronises with; the model in tests/loom puts loom's own in its place.

pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
pub(super) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
pub(super) use std::thread::yield_now;

/// A place for a shared value, read without a lock.
pub(super) use arc_swap::ArcSwapOption as Shelf;
