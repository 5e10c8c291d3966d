//! Beginnings of prompts that have been through the decoder: a system prompt once for all, a picture or what was seen of
//! it once for the caption and every question.
//!
//! A prompt is fed in parts. What the decoder holds after each part but the last is kept, under a hash of the decoder and
//! of every part so far; the next prompt that begins with the same parts takes it over and feeds only the rest. The steps
//! are the same with and without the cache, so the logits are too, to the last bit.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::generation::Generation;
use super::kv::Snapshot;
use super::model::LanguageModel;
use super::parts::{Fed, Part};
use super::past::Past;
use super::positions::Positions;
use crate::budget::policy::{Age, Use};
use crate::budget::{Action, Charge, Given, Governor, Ledger, Offer, Owner, Reclaim};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};

/// The decoder and all parts up to a boundary, hashed.
pub(super) type Key = [u8; 32];

/// What is kept at one boundary.
pub(super) struct Prefix {
    pub(super) kv: Snapshot,
    pub(super) positions: Positions,
    /// The positions in it.
    pub(super) history: Vec<Past>,
}

struct Entry {
    prefix: Arc<Prefix>,
    /// When it was last used, in uses of the cache.
    clock: u64,
    used: Use,
}

impl Entry {
    fn used(&mut self, clock: u64, age: &Age) {
        self.clock = clock;
        self.used.again(age);
    }
}

/// What a cache has done and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PrefixStats {
    /// Prompts that began with a kept prefix.
    pub hits: u64,
    /// Prompts that did not.
    pub misses: u64,
    /// Positions that were taken over.
    pub reused_tokens: u64,
    /// Positions of prompts that went through the decoder.
    pub fed_tokens: u64,
    /// Prefixes given up for newer ones, or on request.
    pub evicted: u64,
    /// Prefixes held now.
    pub entries: usize,
    /// Bytes they take.
    pub bytes: u64,
    /// The most bytes they may take.
    pub limit_bytes: u64,
}

/// Prefixes of any number of decoders, the least recently used given up first. Clones share it; thread-safe. Its bytes
/// are charged to the ledger as [`Owner::Prefixes`].
#[derive(Clone)]
pub struct PrefixCache(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
}

struct State {
    entries: HashMap<Key, Entry>,
    clock: u64,
    stats: PrefixStats,
    charge: Option<Charge>,
    ledger: Ledger,
    age: Age,
}

/// Milliseconds to have a position again: what the decoder takes for it. Good enough to compare with loading a module.
const POSITION_MS: f64 = 2.0;

impl Reclaim for Shared {
    /// Each beginning by itself, the least recently used first: that is the order in which they go.
    fn offers(&self) -> Vec<Offer> {
        let state = self.lock();
        let mut entries: Vec<_> = state.entries.values().collect();
        entries.sort_by_key(|entry| entry.clock);
        let offer = |entry: &Entry| Offer {
            owner: Owner::Prefixes,
            action: Action::Shrink,
            anon_bytes: entry.prefix.kv.bytes(),
            mapped_bytes: 0,
            cost_ms: entry.prefix.history.len() as f64 * POSITION_MS,
            uses: entry.used.uses,
            credit: entry.used.credit,
            last_used: entry.used.last,
            weight: 1.0,
            held: false,
        };
        entries.into_iter().map(offer).collect()
    }

    fn give_up(&self, offer: &Offer) -> Option<Given> {
        if offer.owner != Owner::Prefixes {
            return None;
        }
        let mut state = self.lock();
        let before = state.stats.bytes;
        state.make_room(before.saturating_sub(offer.anon_bytes), 0);
        state.settle();
        let given = before - state.stats.bytes;
        (given > 0).then(|| Given {
            anon_bytes: given,
            ..Given::default()
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PrefixCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PrefixCache").field(&self.stats()).finish()
    }
}

impl PrefixCache {
    /// An empty cache of at most `limit` bytes; 0 keeps nothing. It gives up what `governor` wants of it.
    pub fn new(limit: u64, governor: &Governor) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                entries: HashMap::new(),
                clock: 0,
                stats: PrefixStats {
                    limit_bytes: limit,
                    ..PrefixStats::default()
                },
                charge: None,
                ledger: governor.ledger().clone(),
                age: governor.age().clone(),
            }),
        });
        let holder: Weak<dyn Reclaim> = Arc::<Shared>::downgrade(&shared);
        governor.watch(holder);
        Self(shared)
    }

    /// What was done so far, and what is held.
    pub fn stats(&self) -> PrefixStats {
        self.lock().stats
    }

    /// Gives everything up; the bytes that came back. What is in use at this moment comes back when that is over.
    pub fn clear(&self) -> u64 {
        self.shrink_to(0)
    }

    /// Gives up the least recently used until at most `bytes` are held; the bytes that came back.
    pub fn shrink_to(&self, bytes: u64) -> u64 {
        let mut state = self.lock();
        let before = state.stats.bytes;
        state.make_room(bytes, 0);
        state.settle();
        before - state.stats.bytes
    }

    /// The prefix kept under the last of `keys` that has one, and its place in `keys`.
    fn find(&self, keys: &[Key]) -> Option<(usize, Arc<Prefix>)> {
        let mut state = self.lock();
        state.clock += 1;
        let (now, age) = (state.clock, state.age.clone());
        let found = keys.iter().enumerate().rev().find_map(|(at, key)| {
            let entry = state.entries.get_mut(key)?;
            entry.used(now, &age);
            Some((at, entry.prefix.clone()))
        });
        // What leads to it is used as well: who keeps a picture's prefix keeps the system prompt's.
        for key in &keys[..found.as_ref().map_or(0, |(at, _)| *at)] {
            if let Some(entry) = state.entries.get_mut(key) {
                entry.used(now, &age);
            }
        }
        match &found {
            Some((_, prefix)) => {
                state.stats.hits += 1;
                state.stats.reused_tokens += prefix.history.len() as u64;
            }
            None => state.stats.misses += 1,
        }
        found
    }

    /// Keeps what `generation` holds now, if there is room for it. That there is not is no error.
    fn keep(&self, key: Key, generation: &Generation) {
        let bytes = generation.prefix_bytes();
        {
            let mut state = self.lock();
            if bytes > state.stats.limit_bytes || state.entries.contains_key(&key) {
                return;
            }
            // Charged before it is allocated; the budget may say no.
            let limit = state.stats.limit_bytes;
            state.make_room(limit, bytes);
            if let Err(error) = state.charge(bytes) {
                log::debug!("a prefix is not kept: {error}");
                return;
            }
        }
        // Without the lock: a copy of some megabytes.
        let prefix = generation.prefix();
        let mut state = self.lock();
        match prefix {
            Ok(prefix) => {
                state.clock += 1;
                let mut entry = Entry {
                    prefix: Arc::new(prefix),
                    clock: 0,
                    used: Use::default(),
                };
                entry.used(state.clock, &state.age);
                if let Some(old) = state.entries.insert(key, entry) {
                    state.stats.bytes -= old.prefix.kv.bytes();
                    state.stats.entries -= 1;
                }
                state.stats.bytes += bytes;
                state.stats.entries += 1;
                // Others may have kept something meanwhile.
                let limit = state.stats.limit_bytes;
                state.make_room(limit, 0);
            }
            Err(error) => log::debug!("a prefix is not kept: {error}"),
        }
        state.settle();
    }

    fn fed(&self, tokens: usize) {
        self.lock().stats.fed_tokens += tokens as u64;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl State {
    /// Gives up the least recently used until `more` bytes fit below `limit`.
    fn make_room(&mut self, limit: u64, more: u64) {
        while self.stats.bytes + more > limit {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.clock);
            let Some(key) = oldest.map(|(key, _)| *key) else {
                return;
            };
            if let Some(entry) = self.entries.remove(&key) {
                self.stats.bytes -= entry.prefix.kv.bytes();
                self.stats.entries -= 1;
                self.stats.evicted += 1;
            }
        }
    }

    /// Charges what is held and `more`.
    fn charge(&mut self, more: u64) -> Result<()> {
        let bytes = self.stats.bytes + more;
        match &self.charge {
            Some(charge) => charge.resize_free(bytes, 0),
            None => {
                self.charge = Some(self.ledger.charge_free(Owner::Prefixes, bytes, 0)?);
                Ok(())
            }
        }
    }

    /// Charges what is held, which is no more than was charged before.
    fn settle(&mut self) {
        if self.stats.bytes == 0 {
            self.charge = None;
        } else if let Err(error) = self.charge(0) {
            log::warn!("the prefixes' charge: {error}");
        }
        if let Some(charge) = &self.charge {
            charge.set_pending(0);
        }
    }
}

impl LanguageModel {
    /// Begins a generation on a prompt in `parts`, with room for `room` more positions as far as the context allows. The
    /// longest beginning that is kept is taken over, and what the decoder holds after each part but the last is kept.
    /// What comes out is the same whatever is kept, but depends on where the parts are cut.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a decoder of an encoder-decoder model;
    /// as [`start`](Self::start), [`Generation::feed`] and [`Generation::feed_embeds`]; what making rows gives.
    pub fn begin(&self, parts: &[Part<'_>], room: usize, control: &Control) -> Result<Generation> {
        let parts: Vec<&Part<'_>> = parts
            .iter()
            .filter(|part| !matches!(part, Part::Ids([])))
            .collect();
        let exact = self.0.spec.exact_prefix;
        let cache = self.0.prefixes.as_ref().filter(|_| exact);
        let keys = match cache {
            Some(_) => self.keys(&parts),
            None => Vec::new(),
        };
        let found = cache
            .filter(|_| !keys.is_empty())
            .and_then(|cache| cache.find(&keys));
        let done = found.as_ref().map_or(0, |(at, _)| at + 1);
        let kept = found.as_ref().map_or(0, |(_, prefix)| prefix.history.len());
        let mut rest = Vec::new();
        for part in &parts[done..] {
            rest.push(match part {
                Part::Ids(ids) => Fed::Ids(ids),
                Part::Rows {
                    make, stands_for, ..
                } => Fed::Rows(*stands_for, make()?),
                Part::Marked {
                    ids, marker, make, ..
                } => Fed::marked(ids, *marker, make()?)?,
            });
        }
        let length = kept + rest.iter().map(Fed::len).sum::<usize>();
        let capacity = length.saturating_add(room).min(self.context());
        let mut generation = self.start(capacity.max(length), control)?;
        if generation.reads_encoder() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a prompt in parts is for decoders that read no encoder's output",
            )
            .remedy("start a generation and attend to the output"));
        }
        if let Some((_, prefix)) = &found {
            generation.take_over(prefix, control)?;
        }
        if !exact {
            // Everything in one step.
            generation.feed_parts(&rest, control)?;
            return Ok(generation);
        }
        for (at, part) in (done..).zip(&rest) {
            generation.feed_parts(std::slice::from_ref(part), control)?;
            if let (Some(cache), Some(key)) = (cache, keys.get(at)) {
                cache.keep(*key, &generation);
            }
        }
        if let Some(cache) = cache {
            cache.fed(length - kept);
        }
        Ok(generation)
    }

    /// A key for every boundary: after each part but the last.
    fn keys(&self, parts: &[&Part<'_>]) -> Vec<Key> {
        let mut key = self.0.identity;
        let inner = &parts[..parts.len().saturating_sub(1)];
        let next = |part: &&Part<'_>| {
            let mut hash = Sha256::new_with_prefix(key);
            match part {
                Part::Ids(ids) => {
                    hash.update([0]);
                    ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
                }
                Part::Rows { identity, .. } => {
                    hash.update([1]);
                    hash.update(identity);
                }
                Part::Marked {
                    ids,
                    marker,
                    identity,
                    ..
                } => {
                    hash.update([2]);
                    hash.update(identity);
                    hash.update(marker.to_le_bytes());
                    ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
                }
            }
            key = hash.finalize().into();
            key
        };
        inner.iter().map(next).collect()
    }
}
