//! In which order things are given up.
//!
//! GreedyDual-Size-Frequency (Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching
//! Policy", HPL-98-69, 1998): each thing is worth its age at the last use plus uses x cost / bytes; the least worth goes
//! first, and its worth becomes the age. What is dear to load, small or often used stays; what was dear but is no longer
//! used is overtaken in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::reclaim::Offer;

/// How far eviction has come: the worth of what was last given up. Clones share it; lock-free.
#[derive(Debug, Clone, Default)]
pub struct Age(Arc<AtomicU64>);

impl Age {
    /// The age now.
    pub fn now(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Something worth `worth` was given up. Never goes back.
    pub fn reach(&self, worth: f64) {
        // Positive floating-point numbers are ordered as their bits are.
        self.0
            .fetch_max(worth.max(0.0).to_bits(), Ordering::Relaxed);
    }
}

/// What keeping `offer` is worth, in milliseconds per megabyte of `bytes` it would give back.
pub fn worth(offer: &Offer, bytes: u64) -> f64 {
    let megabytes = (bytes as f64 / 1e6).max(1e-3);
    offer.credit + offer.weight * offer.uses * offer.cost_ms / megabytes
}

/// Uses that are counted: each one that is forgotten for every one that comes, from here on.
const MOST_USES: f64 = 16.0;

/// The count of uses after one more.
pub fn used_again(uses: f64) -> f64 {
    uses.min(MOST_USES - 1.0) + 1.0
}
