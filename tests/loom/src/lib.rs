//! The real sources of the module slot (core/src/module/slot.rs) and of the capture ring (core/src/flow/ring.rs), run by
//! loom through every order of their threads' steps within a bound.
//!
//! Both reach what they synchronise with through one file, core/src/module/sync.rs and core/src/flow/ring_sync.rs;
//! [`stand_in`] takes its place. `build.rs` makes a copy of each for every mutation, on which the same models must fail:
//! a model that cannot fail proves nothing.
//!
//! # What is not modelled
//! - Time. loom's `wait_timeout` never times out. So a wake-up that only the time-out would mend is found as a deadlock.
//! - arc-swap, through which a slot shows its value: a mutex stands in, which orders more than arc-swap promises.
//! - heapless, in which the ring keeps its frames: [`spsc`] stands in, the same algorithm with the same orderings.
//! - The cancel flag and the errors are the real ones, with the standard library's atomics: loom sees no choice there.
//! - `SeqCst`. loom takes it as `AcqRel`; the stand-ins put a sequentially consistent fence before and after it, which
//!   loom does know, and which is a little stronger than what the code may count on.

// Instances of a room use what their model uses.
#![allow(dead_code, unused, dropping_copy_types, clippy::all)]

extern crate self as heapless;

#[path = "../../../core/src/control.rs"]
pub mod control;
#[path = "../../../core/src/error.rs"]
pub mod error;
#[path = "../../../core/src/frame.rs"]
pub mod frame;
pub mod spsc;
pub mod stand_in;

/// A model, by name.
pub type Model = (&'static str, fn());

/// A change to a source that breaks a promise.
pub struct Mutation {
    pub name: &'static str,
    /// The model that must fail, as room::model.
    pub model: &'static str,
    /// What it must say when it fails.
    pub says: &'static str,
    pub models: &'static [Model],
}

include!(concat!(env!("OUT_DIR"), "/instances.rs"));

/// The models of the sources as they are, by room.
pub const ROOMS: [(&str, &[Model]); 2] =
    [("slot", slot::model::MODELS), ("ring", ring::model::MODELS)];

/// Runs `model` through all orders with at most `preemptions` involuntary switches of threads; how many there were.
///
/// # Panics
/// When the model fails in one of them.
pub fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let orders = std::sync::Arc::new(AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&orders);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{} orders", orders.load(Ordering::Relaxed));
}
