//! Recorded uses of modules, replayed under a budget: what an order of eviction would have cost. Nothing is loaded and no
//! time passes; retention scores and victims come from [`policy`], as for the governor.

use std::collections::HashMap;
use std::time::Duration;

use atom_core::budget::events::THRASH_WITHIN;
use atom_core::budget::policy::{self, Age, retention_score, select_victim};
use atom_core::budget::{Action, Offer, Owner};
use atom_core::{Error, ErrorKind, Result};

/// Something that is used.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// Bytes it takes of the budget while it is loaded.
    pub bytes: u64,
    /// Milliseconds to load it.
    pub load_ms: f64,
}

/// One use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Use {
    /// When, since the beginning.
    pub at: Duration,
    /// Of which item, by its place.
    pub item: usize,
    /// How long it cannot be evicted for it.
    pub held: Duration,
}

/// In which order things are evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// The governor's: the least worth first.
    Worth,
    /// What was used longest ago first.
    LeastRecentlyUsed,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Outcome {
    /// Uses that were served.
    pub served: u64,
    /// Uses of what is larger than the budget, or found too little room because of what was held; the same under every
    /// order as far as the former go.
    pub refused: u64,
    /// Loads of what had been evicted.
    pub reloads: u64,
    /// Of these, within [`THRASH_WITHIN`] of the eviction.
    pub thrashed: u64,
    /// Milliseconds of the reloads.
    pub reload_ms: f64,
}

struct State<'a> {
    item: &'a Item,
    loaded: bool,
    evicted: Option<Duration>,
    usage: policy::Use,
    last_used: Duration,
    held_until: Duration,
}

impl State<'_> {
    /// What the governor would be offered.
    fn offer(&self) -> Offer {
        Offer {
            owner: Owner::Module(self.item.name.clone()),
            action: Action::Release,
            anon_bytes: self.item.bytes,
            mapped_bytes: 0,
            cost_ms: self.item.load_ms,
            uses: self.usage.uses,
            credit: self.usage.credit,
            last_used: self.usage.last,
            weight: 1.0,
            held: false,
        }
    }

    fn held(&self, at: Duration) -> bool {
        self.held_until > at
    }
}

/// Replays `uses`, in order of time, of `items` with `budget` bytes for all that are loaded.
///
/// # Panics
/// When a use is of no item.
pub fn replay(items: &[Item], uses: &[Use], budget: u64, order: Order) -> Outcome {
    let age = Age::default();
    let mut outcome = Outcome::default();
    let mut states: Vec<State<'_>> = items
        .iter()
        .map(|item| State {
            item,
            loaded: false,
            evicted: None,
            usage: policy::Use::default(),
            last_used: Duration::ZERO,
            held_until: Duration::ZERO,
        })
        .collect();
    for used in uses {
        if !states[used.item].loaded {
            if !make_room(&mut states, used, budget, order, &age) {
                outcome.refused += 1;
                continue;
            }
            let state = &mut states[used.item];
            state.loaded = true;
            if let Some(evicted) = state.evicted {
                outcome.reloads += 1;
                outcome.thrashed += u64::from(used.at - evicted < THRASH_WITHIN);
                outcome.reload_ms += state.item.load_ms;
            }
        }
        let state = &mut states[used.item];
        state.usage.again(&age);
        state.last_used = used.at;
        state.held_until = state.held_until.max(used.at + used.held);
        outcome.served += 1;
    }
    outcome
}

/// Evicts for `used` until it fits; whether it does.
fn make_room(states: &mut [State<'_>], used: &Use, budget: u64, order: Order, age: &Age) -> bool {
    let need = states[used.item].item.bytes;
    let of = |states: &[State<'_>], which: &dyn Fn(&State<'_>) -> bool| -> u64 {
        let loaded = states.iter().filter(|state| state.loaded && which(state));
        loaded.map(|state| state.item.bytes).sum()
    };
    // As the ledger: nothing is evicted for what cannot fit anyway.
    if need + of(states, &|state| state.held(used.at)) > budget {
        return false;
    }
    loop {
        let short = (need + of(states, &|_| true)).saturating_sub(budget);
        if short == 0 {
            return true;
        }
        let mut idle: Vec<_> = states
            .iter_mut()
            .filter(|state| state.loaded && !state.held(used.at))
            .collect();
        let offers: Vec<Offer> = idle.iter().map(|state| state.offer()).collect();
        let victim = match order {
            Order::Worth => {
                let sizes = offers.iter().map(|offer| (offer, offer.anon_bytes));
                select_victim(sizes, short)
            }
            Order::LeastRecentlyUsed => (0..idle.len()).min_by_key(|&place| idle[place].last_used),
        };
        let Some(place) = victim else {
            return false;
        };
        age.reach(retention_score(&offers[place], offers[place].anon_bytes));
        let victim = &mut *idle[place];
        victim.loaded = false;
        victim.evicted = Some(used.at);
        victim.usage.evicted();
    }
}

/// The most items of which [`hindsight`] is told.
pub const MAX_HINDSIGHT: usize = 10;

/// (uses refused, milliseconds of reloading) that no order can do better than: of all ways to evict, the one that refuses
/// least and then reloads for the shortest time, which only who knows the future finds. Found by going through every set
/// of items that can be loaded at each use.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for more than [`MAX_HINDSIGHT`] items.
///
/// # Panics
/// When a use is of no item.
pub fn hindsight(items: &[Item], uses: &[Use], budget: u64) -> Result<(u64, f64)> {
    if items.len() > MAX_HINDSIGHT {
        let count = items.len();
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{count} items to look back on: at most {MAX_HINDSIGHT} are possible"),
        ));
    }
    let has = |set: usize, item: usize| set >> item & 1 == 1;
    let bytes = |set: usize| -> u64 {
        let held = items.iter().enumerate().filter(|(i, _)| has(set, *i));
        held.map(|(_, item)| item.bytes).sum()
    };
    let sizes: Vec<u64> = (0..1 << items.len()).map(bytes).collect();
    let mut held_until = vec![Duration::ZERO; items.len()];
    let mut seen = 0;
    // For each set that may be loaded now: the least it took to come there.
    let mut best: Vec<Option<(u64, f64)>> = vec![None; sizes.len()];
    best[0] = Some((0, 0.0));
    for used in uses {
        let own = 1 << used.item;
        let held = (0..items.len()).filter(|&i| held_until[i] > used.at);
        let held: usize = held.map(|i| 1 << i).sum();
        let mut next: Vec<Option<(u64, f64)>> = vec![None; sizes.len()];
        let mut reach = |set: usize, (refused, ms): (u64, f64)| {
            let better = |(r, m): (u64, f64)| (refused, ms) < (r, m);
            if next[set].is_none_or(better) {
                next[set] = Some((refused, ms));
            }
        };
        for (set, way) in best.iter().enumerate() {
            let Some((refused, ms)) = *way else {
                continue;
            };
            if has(set, used.item) {
                reach(set, (refused, ms));
                continue;
            }
            let kept = set & held;
            if sizes[kept | own] > budget {
                reach(set, (refused + 1, ms));
                continue;
            }
            let again = has(seen, used.item);
            let cost = if again { items[used.item].load_ms } else { 0.0 };
            // Every part of what is idle may stay.
            let idle = set & !held;
            let mut stays = idle;
            loop {
                let then = kept | stays | own;
                if sizes[then] <= budget {
                    reach(then, (refused, ms + cost));
                }
                if stays == 0 {
                    break;
                }
                stays = (stays - 1) & idle;
            }
        }
        best = next;
        seen |= own;
        held_until[used.item] = held_until[used.item].max(used.at + used.held);
    }
    let ways = best.into_iter().flatten();
    Ok(ways
        .min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)))
        .unwrap_or_default())
}

/// A recorded module: name, anonymous and mapped bytes, milliseconds of a load.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Its id.
    pub name: String,
    /// Anonymous bytes after runs.
    pub anon_bytes: u64,
    /// Mapped bytes.
    pub mapped_bytes: u64,
    /// Milliseconds of a load.
    pub load_ms: f64,
}

/// What a file of recorded uses holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recording {
    /// The modules, as they were measured at the recording.
    pub modules: Vec<Recorded>,
    /// In order of time; items are places in `modules`.
    pub uses: Vec<Use>,
}

impl Recording {
    /// Reads lines `module NAME ANON_BYTES MAPPED_BYTES LOAD_MS` and, after these and in order of time, `AT_MS NAME
    /// HELD_MS`. What follows a `#` is a comment.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] naming the line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut recording = Self::default();
        let mut places = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let words: Vec<_> = line
                .split('#')
                .next()
                .unwrap_or("")
                .split_whitespace()
                .collect();
            let wrong = |why: &str| {
                Error::new(
                    ErrorKind::InvalidArgument,
                    format!("recorded uses, line {}: {why}", number + 1),
                )
                .remedy(
                    "write `module NAME ANON_BYTES MAPPED_BYTES LOAD_MS` or `AT_MS NAME HELD_MS`",
                )
            };
            match words[..] {
                [] => {}
                ["module", name, anon, mapped, load] => {
                    let bytes =
                        |word: &str| word.parse().map_err(|_| wrong("not a number of bytes"));
                    places.insert(name.to_owned(), recording.modules.len());
                    recording.modules.push(Recorded {
                        name: name.to_owned(),
                        anon_bytes: bytes(anon)?,
                        mapped_bytes: bytes(mapped)?,
                        load_ms: milliseconds(load)
                            .ok_or_else(|| wrong("not a time"))?
                            .as_secs_f64()
                            * 1e3,
                    });
                }
                [at, name, held] => {
                    let at = milliseconds(at).ok_or_else(|| wrong("not a time"))?;
                    if recording.uses.last().is_some_and(|last| last.at > at) {
                        return Err(wrong("earlier than the line before"));
                    }
                    recording.uses.push(Use {
                        at,
                        item: *places.get(name).ok_or_else(|| wrong("no such module"))?,
                        held: milliseconds(held).ok_or_else(|| wrong("not a time"))?,
                    });
                }
                _ => return Err(wrong("neither a module nor a use")),
            }
        }
        Ok(recording)
    }
}

/// At most a hundred years.
fn milliseconds(word: &str) -> Option<Duration> {
    let ms: f64 = word.parse().ok()?;
    (0.0..3.2e12)
        .contains(&ms)
        .then(|| Duration::from_secs_f64(ms / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "module dear 10 0 100 # per byte\nmodule cheap 10 0 1\nmodule other 10 0 1\n\
        0 dear 0\n10 cheap 0\n20 other 0\n30 dear 0\n40 cheap 50\n45 other 0\n";

    fn items(recording: &Recording) -> Vec<Item> {
        let item = |m: &Recorded| Item {
            name: m.name.clone(),
            bytes: m.anon_bytes,
            load_ms: m.load_ms,
        };
        recording.modules.iter().map(item).collect()
    }

    const ORDERS: [Order; 2] = [Order::Worth, Order::LeastRecentlyUsed];

    fn outcome(budget: u64, order: Order) -> Outcome {
        let recording = Recording::parse(TEXT).unwrap();
        replay(&items(&recording), &recording.uses, budget, order)
    }

    #[test]
    fn what_is_dear_to_load_stays() {
        let worth = outcome(20, Order::Worth);
        assert_eq!(
            (worth.reloads, worth.reload_ms),
            (2, 2.0),
            "cheap and other only"
        );
        let lru = outcome(20, Order::LeastRecentlyUsed);
        assert_eq!((lru.reloads, lru.thrashed, lru.reload_ms), (3, 3, 102.0));
        for order in ORDERS {
            let all = outcome(30, order);
            assert_eq!((all.served, all.reloads, all.refused), (6, 0, 0));
            // Held by its use at 40 ms, the one there is room for is not had at 45 ms.
            assert_eq!(outcome(10, order).refused, 1);
            assert_eq!(outcome(9, order).refused, 6);
        }
    }

    #[test]
    fn hindsight_is_a_bound() {
        let recording = Recording::parse(TEXT).unwrap();
        let items = items(&recording);
        for budget in [9, 10, 20, 30] {
            let (refused, ms) = hindsight(&items, &recording.uses, budget).unwrap();
            for order in ORDERS {
                let outcome = replay(&items, &recording.uses, budget, order);
                assert!(
                    (refused, ms) <= (outcome.refused, outcome.reload_ms),
                    "{budget} {order:?}"
                );
            }
        }
        // Who knows that `dear` is not used again lets it go at 40 ms.
        assert_eq!(hindsight(&items, &recording.uses, 20).unwrap(), (0, 1.0));
        let many = vec![items[0].clone(); MAX_HINDSIGHT + 1];
        assert!(hindsight(&many, &[], 1).is_err());
    }

    #[test]
    fn a_bad_line_is_named() {
        for (bad, says) in [
            ("module a 1 2", "neither a module nor a use"),
            ("5 nobody 1", "no such module"),
            ("module a 1 2 x", "not a time"),
            ("module a -1 2 3", "not a number of bytes"),
            ("module a 1 2 3\n5 a 0\n4 a 0", "line 3: earlier"),
        ] {
            let error = Recording::parse(bad).unwrap_err();
            assert!(error.message().contains(says), "{error}");
        }
    }
}
