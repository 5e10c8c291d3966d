//! The order of eviction.
//!
//! GreedyDual-Size-Frequency (Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching
//! Policy", HPL-98-69, 1998): a thing's score is the age at its last use plus uses x cost / bytes. The lowest score is evicted
//! first and becomes the age. So what is costly to load, small or often used stays, and what is no longer used is overtaken in
//! time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::reclaim::Offer;

/// The score of the last eviction. Clones share it; lock-free.
#[derive(Debug, Clone, Default)]
pub struct Age(Arc<AtomicU64>);

impl Age {
    /// The age now.
    pub fn now(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Something with this score was evicted. The age never falls.
    pub fn reach(&self, worth: f64) {
        // Positive floating-point numbers are ordered as their bits are.
        self.0
            .fetch_max(worth.max(0.0).to_bits(), Ordering::Relaxed);
    }
}

/// The score of `offer`, in milliseconds per megabyte of the `bytes` that it would give back: the lowest is evicted first.
pub fn retention_score(offer: &Offer, bytes: u64) -> f64 {
    let megabytes = (bytes as f64 / 1e6).max(1e-3);
    offer.credit + offer.weight * offer.uses * offer.cost_ms / megabytes
}

/// The index of the offer to evict first when `short` bytes are needed: the one with the lowest score. Each comes with the bytes
/// it would give; bytes beyond `short` do not count. If they did, a large thing would go where a small one would do: 4 % more time
/// on the recorded uses of tests/fixtures/uses (`atom-bench evict`).
pub fn select_victim<'a>(
    offers: impl IntoIterator<Item = (&'a Offer, u64)>,
    short: u64,
) -> Option<usize> {
    let worths = offers
        .into_iter()
        .map(|(offer, bytes)| retention_score(offer, bytes.min(short)));
    let least = worths.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
    least.map(|(place, _)| place)
}

/// How something was used, for its score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Use {
    /// When it was last used.
    pub last: Instant,
    /// How often, older uses counting less.
    pub uses: f64,
    /// The age at the last use.
    pub credit: f64,
}

impl Default for Use {
    fn default() -> Self {
        Self {
            last: Instant::now(),
            uses: 0.0,
            credit: 0.0,
        }
    }
}

impl Use {
    /// It is used now.
    pub fn again(&mut self, age: &Age) {
        self.last = Instant::now();
        self.uses = used_again(self.uses);
        self.credit = age.now();
    }

    /// It was evicted.
    pub fn evicted(&mut self) {
        self.uses = after_eviction(self.uses);
    }
}

/// The count of uses does not rise beyond this: from here on, each new use forgets an old one.
const MOST_USES: f64 = 16.0;

/// The count of uses after one more.
pub(crate) fn used_again(uses: f64) -> f64 {
    uses.min(MOST_USES - 1.0) + 1.0
}

/// The count of uses after an eviction: half are forgotten.
pub(crate) fn after_eviction(uses: f64) -> f64 {
    uses / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Action, Owner};

    #[test]
    fn a_small_thing_goes_where_it_will_do() {
        let offer = |bytes, cost_ms| Offer {
            owner: Owner::Queue,
            action: Action::Release,
            anon_bytes: bytes,
            mapped_bytes: 0,
            cost_ms,
            uses: 1.0,
            credit: 0.0,
            last_used: Instant::now(),
            weight: 1.0,
            held: false,
        };
        // The large one is worth less a byte, and costs more to have again.
        let offers = [offer(10_000_000, 50.0), offer(1_000_000, 10.0)];
        let first = |short| select_victim(offers.iter().map(|o| (o, o.anon_bytes)), short);
        assert_eq!(first(1_000_000), Some(1));
        assert_eq!(first(10_000_000), Some(0));
        assert_eq!(select_victim([], 1), None);
    }
}
