//! What the governor and the registry did: counted, logged, and the latest kept.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::entry::{Owner, megabytes};
use super::reclaim::Action;
use crate::os::leaf::{LeafGuard, LeafMutex, assert_free};

/// How many events are kept.
const KEPT: usize = 256;

/// A reload within this time after the eviction counts as thrash.
pub const THRASH_WITHIN: Duration = Duration::from_secs(2);

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A module was loaded, or something else that is kept was read.
    Loaded {
        /// Which.
        owner: Owner,
        /// How long it took, in milliseconds.
        ms: f64,
        /// Anonymous bytes it took.
        anon_bytes: u64,
        /// Bytes of files it has mapped.
        mapped_bytes: u64,
        /// How long before it had been evicted, if it had been.
        evicted_before: Option<Duration>,
    },
    /// Something was given up.
    Evicted {
        /// Whose.
        owner: Owner,
        /// How.
        action: Action,
        /// Anonymous and mapped bytes it was thought to give back.
        asked: (u64, u64),
        /// What came back: anonymous bytes by the ledger, mapped ones by the kernel's count.
        returned: (u64, u64),
    },
    /// The level of memory pressure changed.
    Pressure {
        /// "none", "low" or "critical".
        level: &'static str,
        /// Which source says so, and why.
        reason: String,
    },
    /// Something did not fit the budget.
    Refused {
        /// Who asked.
        owner: Owner,
        /// For how many anonymous bytes.
        bytes: u64,
    },
}

impl What {
    /// The name in reports: loaded, parked, released, shrunk, pressure, refused.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Loaded { .. } => "loaded",
            Self::Evicted { action, .. } => match action {
                Action::Shrink => "shrunk",
                Action::Park => "parked",
                Action::Release => "released",
            },
            Self::Pressure { .. } => "pressure",
            Self::Refused { .. } => "refused",
        }
    }

    /// What it is about: a module's id, another owner's name; empty for pressure.
    pub fn subject(&self) -> String {
        match self {
            Self::Loaded { owner, .. }
            | Self::Evicted { owner, .. }
            | Self::Refused { owner, .. } => match owner {
                Owner::Module(id) => id.clone(),
                other => other.to_string(),
            },
            Self::Pressure { .. } => String::new(),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loaded {
                owner,
                ms,
                anon_bytes,
                mapped_bytes,
                evicted_before,
            } => {
                let (anon, mapped) = (megabytes(*anon_bytes), megabytes(*mapped_bytes));
                write!(
                    f,
                    "{owner} loaded in {ms:.0} ms: {anon} anonymous, {mapped} mapped"
                )?;
                match evicted_before {
                    Some(before) => write!(f, "; evicted {} ms before", before.as_millis()),
                    None => Ok(()),
                }
            }
            Self::Evicted {
                owner,
                asked,
                returned,
                ..
            } => write!(
                f,
                "{owner} {}: {} of {} anonymous and {} of {} mapped came back",
                self.name(),
                megabytes(returned.0),
                megabytes(asked.0),
                megabytes(returned.1),
                megabytes(asked.1)
            ),
            Self::Pressure { level, reason } => write!(f, "memory pressure {level}: {reason}"),
            Self::Refused { owner, bytes } => {
                write!(f, "{owner} was refused {}", megabytes(*bytes))
            }
        }
    }
}

/// An event and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// 1 for the first; without gaps.
    pub number: u64,
    /// When.
    pub at: Instant,
    /// What.
    pub what: What,
}

/// How often what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Loads of modules.
    pub loaded: u64,
    /// Of these, of what had been evicted before.
    pub reloaded: u64,
    /// Of these, within [`THRASH_WITHIN`] of the eviction.
    pub thrashed: u64,
    /// Arenas and caches shrunk.
    pub shrunk: u64,
    /// Modules parked.
    pub parked: u64,
    /// Modules released to make room, or because they were idle.
    pub released: u64,
    /// Vocabularies and other tables read.
    pub tables_read: u64,
    /// Of these, released.
    pub tables_released: u64,
    /// Changes of the pressure level.
    pub pressure: u64,
    /// Requests that did not fit the budget.
    pub refused: u64,
    /// Anonymous bytes that evictions gave back, by the ledger.
    pub anon_returned_bytes: u64,
    /// Mapped bytes that evictions gave back, by the kernel's count.
    pub mapped_returned_bytes: u64,
}

#[derive(Default)]
struct Log {
    last: u64,
    kept: VecDeque<Event>,
    counters: Counters,
}

struct Shared {
    log: LeafMutex<Log>,
    added: Condvar,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            log: LeafMutex::new("event log", Log::default()),
            added: Condvar::new(),
        }
    }
}

/// The events of one runtime. Clones share them; thread-safe.
#[derive(Clone, Default)]
pub struct Events(Arc<Shared>);

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Events").field(&self.counters()).finish()
    }
}

impl Events {
    /// Adds one: counted, kept and logged.
    pub fn add(&self, what: What) {
        assert_free("an event is logged");
        match &what {
            What::Refused { .. } | What::Pressure { .. } => log::warn!("{what}"),
            _ => log::info!("{what}"),
        }
        let mut log = self.lock();
        log.last += 1;
        let event = Event {
            number: log.last,
            at: Instant::now(),
            what,
        };
        count(&mut log.counters, &event.what);
        let oldest = match log.kept.len() {
            KEPT => log.kept.pop_front(),
            _ => None,
        };
        log.kept.push_back(event);
        drop(log);
        drop(oldest);
        self.0.added.notify_all();
    }

    /// The events after number `after`, oldest first. Only the last 256 are kept.
    pub fn since(&self, after: u64) -> Vec<Event> {
        let log = self.lock();
        let kept = log.kept.iter();
        kept.filter(|event| event.number > after).cloned().collect()
    }

    /// How often what happened so far.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// Waits until there is an event after number `after`, for `at_most`, and returns as [`since`](Self::since) does. Call it on a
    /// thread of your own, where you may use the runtime. There is no callback, because events happen during evictions and loads.
    pub fn wait_since(&self, after: u64, at_most: Duration) -> Vec<Event> {
        let log = self.lock();
        log.wait_timeout_while(&self.0.added, at_most, |log| log.last <= after);
        self.since(after)
    }

    fn lock(&self) -> LeafGuard<'_, Log> {
        self.0.log.lock()
    }
}

fn count(counters: &mut Counters, what: &What) {
    match what {
        What::Loaded {
            owner: Owner::Module(_),
            evicted_before,
            ..
        } => {
            counters.loaded += 1;
            counters.reloaded += u64::from(evicted_before.is_some());
            let soon = evicted_before.is_some_and(|before| before < THRASH_WITHIN);
            counters.thrashed += u64::from(soon);
        }
        What::Loaded { .. } => counters.tables_read += 1,
        What::Evicted {
            owner,
            action,
            returned,
            ..
        } => {
            match (action, owner) {
                (Action::Shrink, _) => counters.shrunk += 1,
                (Action::Park, _) => counters.parked += 1,
                (Action::Release, Owner::Module(_)) => counters.released += 1,
                (Action::Release, _) => counters.tables_released += 1,
            }
            counters.anon_returned_bytes += returned.0;
            counters.mapped_returned_bytes += returned.1;
        }
        What::Pressure { .. } => counters.pressure += 1,
        What::Refused { .. } => counters.refused += 1,
    }
}
