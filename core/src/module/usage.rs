//! How a module is used: what eviction goes by. Outlives the session.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::budget::policy::{Age, after_eviction, used_again};

/// How dear a module is to the application, against others of equal use and cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Keep {
    /// The default.
    #[default]
    Usual,
    /// Goes before others: it is worth a quarter.
    Less,
    /// Goes after others: it is worth four times as much.
    More,
    /// Never evicted.
    Pinned,
}

impl Keep {
    fn weight(self) -> f64 {
        match self {
            Self::Less => 0.25,
            Self::Usual => 1.0,
            Self::More | Self::Pinned => 4.0,
        }
    }
}

/// Lock-free, so that a lease on a resident module is.
#[derive(Debug, Default)]
pub(super) struct Usage {
    age: Age,
    /// Nanoseconds since [`epoch`].
    last_used: AtomicU64,
    /// Bits of an f64.
    uses: AtomicU64,
    credit: AtomicU64,
    /// When it was last evicted, in nanoseconds since [`epoch`]; 0: never.
    evicted: AtomicU64,
    keep: AtomicU8,
}

impl Usage {
    pub(super) fn new(age: &Age) -> Self {
        Self {
            age: age.clone(),
            ..Self::default()
        }
    }

    /// Counts a use. Races lose a count, which does not matter.
    pub(super) fn used(&self) {
        let uses = used_again(self.uses());
        self.uses.store(uses.to_bits(), Ordering::Relaxed);
        self.credit
            .store(self.age.now().to_bits(), Ordering::Relaxed);
        self.touched();
    }

    /// It was still in use just now.
    pub(super) fn touched(&self) {
        self.last_used.store(now(), Ordering::Relaxed);
    }

    /// It was evicted.
    pub(super) fn evicted(&self) {
        let uses = after_eviction(self.uses());
        self.uses.store(uses.to_bits(), Ordering::Relaxed);
        self.evicted.store(now(), Ordering::Relaxed);
    }

    /// How long ago it was evicted, if ever; asked once, it is forgotten.
    pub(super) fn take_evicted(&self) -> Option<Duration> {
        let at = self.evicted.swap(0, Ordering::Relaxed);
        (at > 0).then(|| Duration::from_nanos(now().saturating_sub(at)))
    }

    pub(super) fn last_used(&self) -> Instant {
        epoch() + Duration::from_nanos(self.last_used.load(Ordering::Relaxed))
    }

    pub(super) fn uses(&self) -> f64 {
        f64::from_bits(self.uses.load(Ordering::Relaxed))
    }

    pub(super) fn credit(&self) -> f64 {
        f64::from_bits(self.credit.load(Ordering::Relaxed))
    }

    pub(super) fn set_keep(&self, keep: Keep) {
        self.keep.store(keep as u8, Ordering::Relaxed);
    }

    pub(super) fn keep(&self) -> Keep {
        let all = [Keep::Usual, Keep::Less, Keep::More, Keep::Pinned];
        let keep = self.keep.load(Ordering::Relaxed);
        all.into_iter()
            .find(|one| *one as u8 == keep)
            .unwrap_or_default()
    }

    pub(super) fn weight(&self) -> f64 {
        self.keep().weight()
    }
}

/// When times began to be counted.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

fn now() -> u64 {
    // 1 at the least: 0 says never.
    u64::try_from(epoch().elapsed().as_nanos())
        .unwrap_or(u64::MAX)
        .max(1)
}
