//! The governor: decides what is evicted when memory is short.
//!
//! It is asked in two ways. The ledger asks for anonymous bytes before somebody allocates them ([`MakeRoom`]); the kernel, or
//! the application, says that the machine is short ([`Governor::relieve`]). Either way it collects offers from those that hold
//! memory, and takes the lowest retention score first.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::entry::Owner;
use super::events::{Events, What};
use super::ledger::Ledger;
use super::policy::{Age, retention_score, select_victim};
use super::pressure::Level;
use super::reclaim::{Action, MakeRoom, Need, Offer, Reclaim, Room};
use crate::os::leaf::assert_free;

/// What was used within this time is not parked at low pressure.
const IN_USE: Duration = Duration::from_secs(1);

/// When unused modules are given up without any pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Idle {
    /// Parked after so long without use; `None`: never.
    pub park_after: Option<Duration>,
    /// Released after so long without use; `None`: never.
    pub release_after: Option<Duration>,
}

struct Evictor {
    ledger: Ledger,
    events: Events,
    age: Age,
    holders: Mutex<Vec<Weak<dyn Reclaim>>>,
    /// Held during an eviction: two requests at once would each evict for both.
    evicting: Mutex<()>,
}

/// Decides what is evicted when memory is short. Clones share it; thread-safe. Does not keep alive those it evicts from.
#[derive(Clone)]
pub struct Governor(Arc<Evictor>);

impl fmt::Debug for Governor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Governor")
            .field("ledger", &self.0.ledger)
            .field("events", &self.0.events)
            .finish_non_exhaustive()
    }
}

impl Default for Governor {
    /// With a ledger of its own, without a budget.
    fn default() -> Self {
        Self::new(&Ledger::new())
    }
}

impl Governor {
    /// A governor that `ledger` asks for memory as long as it exists.
    pub fn new(ledger: &Ledger) -> Self {
        let evictor = Arc::new(Evictor {
            ledger: ledger.clone(),
            events: Events::default(),
            age: Age::default(),
            holders: Mutex::default(),
            evicting: Mutex::default(),
        });
        let asked: Weak<dyn MakeRoom> = Arc::<Evictor>::downgrade(&evictor);
        ledger.set_make_room(asked);
        Self(evictor)
    }

    /// Adds somebody who can give memory back, until it is dropped.
    pub fn watch(&self, holder: Weak<dyn Reclaim>) {
        lock(&self.0.holders).push(holder);
    }

    /// What it did.
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// The score of the last eviction; holders note it at each use.
    pub fn age(&self) -> &Age {
        &self.0.age
    }

    /// The ledger it keeps within the budget.
    pub fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// Gives memory back because the application says so, and returns the bytes that came back. At [`Level::Low`] it shrinks caches
    /// and arenas and parks what was not just used; at [`Level::Critical`] it releases everything idle and parks what is in use.
    pub fn relieve(&self, level: Level) -> u64 {
        self.give_back(level, Duration::ZERO, Duration::ZERO, u64::MAX)
    }

    /// As [`relieve`](Self::relieve), because the kernel is short of memory. What was just used is not parked: it would be read
    /// again at once, and the kernel drops unused pages by itself. If the pressure `goes_on`, it is not released either, or it
    /// would be loaded for every use. Weights larger than the free part of the budget are not parked: they are charged to another
    /// group, or are thrashing already.
    pub fn relieve_kernel(&self, level: Level, goes_on: bool) -> u64 {
        let release = if goes_on { IN_USE } else { Duration::ZERO };
        let held = self.0.ledger.total().0;
        let room = self.0.ledger.budget().map(|all| all.saturating_sub(held));
        self.give_back(level, IN_USE, release, room.unwrap_or(u64::MAX))
    }

    /// Keeps what was used within `park` from being parked and within `release` from being released, and weights larger than `room`
    /// from being parked.
    fn give_back(&self, level: Level, park: Duration, release: Duration, room: u64) -> u64 {
        if level == Level::None {
            return 0;
        }
        let _evicting = lock(&self.0.evicting);
        let now = Instant::now();
        let mut offers = self.0.offers();
        offers.retain(|offer| {
            let unused = now.duration_since(offer.last_used);
            match (level, offer.action) {
                (_, Action::Shrink) => unused >= release,
                (_, Action::Park) if offer.mapped_bytes > room => false,
                (Level::Critical, Action::Park) => unused >= park,
                (Level::Critical, Action::Release) => !offer.held && unused >= release,
                (_, Action::Park) => !offer.held && unused >= IN_USE,
                (_, Action::Release) => false,
            }
        });
        let bytes = |offer: &Offer| offer.anon_bytes + offer.mapped_bytes;
        self.0.rank(&mut offers, bytes);
        let mut given = 0;
        for offer in &offers {
            given += self.0.take(offer, bytes(offer)).map_or(0, |(a, m)| a + m);
        }
        if given > 0 {
            // What the last of them freed may still be the heap's.
            self.0.ledger.recount_heap();
        }
        given
    }

    /// Parks and releases what has been unused for as long as `idle` says.
    pub fn tidy(&self, idle: &Idle) {
        let _evicting = lock(&self.0.evicting);
        let now = Instant::now();
        for offer in self.0.offers() {
            let after = match offer.action {
                Action::Shrink => continue,
                Action::Park => idle.park_after,
                Action::Release => idle.release_after,
            };
            let unused = now.duration_since(offer.last_used);
            if !offer.held && after.is_some_and(|after| unused >= after) {
                self.0.take(&offer, 0);
            }
        }
    }
}

impl Evictor {
    fn offers(&self) -> Vec<Offer> {
        assert_free("holders of memory are asked");
        self.holders()
            .iter()
            .flat_map(|holder| holder.offers())
            .collect()
    }

    fn holders(&self) -> Vec<Arc<dyn Reclaim>> {
        let mut holders = lock(&self.holders);
        holders.retain(|holder| holder.strong_count() > 0);
        holders.iter().filter_map(Weak::upgrade).collect()
    }

    /// Lowest score first.
    fn rank(&self, offers: &mut [Offer], bytes: impl Fn(&Offer) -> u64) {
        offers
            .sort_by(|a, b| retention_score(a, bytes(a)).total_cmp(&retention_score(b, bytes(b))));
    }

    /// Gives up `offer`; the (anonymous, mapped) bytes that came back.
    fn take(&self, offer: &Offer, bytes: u64) -> Option<(u64, u64)> {
        assert_free("memory is given up");
        let holders = self.holders();
        let given = holders.iter().find_map(|holder| holder.give_up(offer))?;
        if bytes > 0 {
            self.age.reach(retention_score(offer, bytes));
        }
        let returned = (given.anon_bytes, given.mapped_bytes);
        self.events.add(What::Evicted {
            owner: offer.owner.clone(),
            action: offer.action,
            asked: (offer.anon_bytes, offer.mapped_bytes),
            returned,
        });
        Some(returned)
    }
}

impl MakeRoom for Evictor {
    fn make_room(&self, need: &Need) -> Room {
        let _evicting = lock(&self.evicting);
        let mut offers = self.offers();
        offers.retain(|offer| offer.anon_bytes > 0);
        let mut room = Room {
            loading: self.holders().iter().map(|holder| holder.loading()).sum(),
            ..Room::default()
        };
        let (mut idle, mut offers): (Vec<_>, Vec<_>) =
            offers.into_iter().partition(|offer| !offer.held);
        let most = most_idle(&idle);
        if most < need.anon_bytes && !need.partly {
            // What is kept now need not be loaded again when the rest comes free.
            room.idle = most;
            idle.clear();
        }
        while room.given < need.anon_bytes {
            let short = need.anon_bytes - room.given;
            let sizes = idle.iter().map(|offer| (offer, offer.anon_bytes));
            let Some(first) = select_victim(sizes, short) else {
                break;
            };
            let offer = idle.swap_remove(first);
            if let Some((anon, _)) = self.take(&offer, offer.anon_bytes) {
                room.given += anon;
            }
        }
        if room.given >= need.anon_bytes {
            return room;
        }
        self.rank(&mut offers, |offer| offer.anon_bytes);
        let held = offers
            .iter()
            .filter(|offer| offer.action == Action::Release);
        room.held = held
            .map(|offer| (offer.owner.clone(), offer.anon_bytes))
            .collect();
        if need.drain {
            let mut wanted = need.anon_bytes.saturating_sub(room.given + room.idle);
            for (owner, bytes) in &room.held {
                if wanted == 0 {
                    break;
                }
                for holder in self.holders() {
                    holder.drain(owner);
                }
                wanted = wanted.saturating_sub(*bytes);
            }
        }
        room
    }

    fn relent(&self) {
        for holder in self.holders() {
            holder.relent();
        }
    }
}

/// The bytes of `offers` together. What an owner can shrink is part of what it can release, so only the larger counts.
fn most_idle(offers: &[Offer]) -> u64 {
    let mut sums: BTreeMap<(&Owner, Action), u64> = BTreeMap::new();
    for offer in offers {
        *sums.entry((&offer.owner, offer.action)).or_default() += offer.anon_bytes;
    }
    let mut most: BTreeMap<&Owner, u64> = BTreeMap::new();
    for ((owner, _), sum) in sums {
        let bytes = most.entry(owner).or_default();
        *bytes = sum.max(*bytes);
    }
    most.values().sum()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
