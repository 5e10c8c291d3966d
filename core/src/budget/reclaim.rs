//! Offers to give memory back, and the traits of those who make and take them.

use std::time::Instant;

use super::entry::Owner;

/// A way to give memory back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Free what a session or cache does not need, such as an arena's free blocks. It stays usable.
    Shrink,
    /// Drop the clean mapped weights from memory. The session stays; the next run reads them again.
    Park,
    /// Drop the session; the next use loads it again.
    Release,
}

impl Action {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shrink => "shrink",
            Self::Park => "park",
            Self::Release => "release",
        }
    }
}

/// Something that could be given up.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Whose it is.
    pub owner: Owner,
    /// How.
    pub action: Action,
    /// Anonymous bytes it would give back.
    pub anon_bytes: u64,
    /// Mapped bytes it would give back.
    pub mapped_bytes: u64,
    /// The measured milliseconds to get it back.
    pub cost_ms: f64,
    /// How often it was used, older uses counting less.
    pub uses: f64,
    /// The [age](super::policy::Age) when it was last used.
    pub credit: f64,
    /// When it was last used.
    pub last_used: Instant,
    /// The application's preference for keeping it; 1 is usual.
    pub weight: f64,
    /// It is in use, so it cannot be evicted now.
    pub held: bool,
}

/// What one [`Reclaim::give_up`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Given {
    /// Anonymous bytes that left the ledger.
    pub anon_bytes: u64,
    /// Mapped bytes that are no longer resident, as the kernel counts them.
    pub mapped_bytes: u64,
}

/// A holder of memory that can give some back: the module registry, a cache.
pub trait Reclaim: Send + Sync {
    /// What could be given up. Nothing that is pinned or being loaded.
    fn offers(&self) -> Vec<Offer>;

    /// Gives up what `offer` names; `None` if it is no longer idle.
    fn give_up(&self, offer: &Offer) -> Option<Given>;

    /// Bytes of loads under way: they will be offered when they are done.
    fn loading(&self) -> u64 {
        0
    }

    /// Gives `owner` no new users, so that it becomes idle, until [`relent`](Self::relent).
    fn drain(&self, owner: &Owner) {
        let _ = owner;
    }

    /// Ends every [`drain`](Self::drain).
    fn relent(&self) {}
}

/// How many anonymous bytes are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Bytes needed.
    pub anon_bytes: u64,
    /// Whether fewer bytes help too. If not, nothing is evicted unless all idle memory together suffices.
    pub partly: bool,
    /// Whether modules in use that are in the way get no new users: a request has waited for long.
    pub drain: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Room {
    /// Bytes given back.
    pub given: u64,
    /// Idle bytes that were kept because they do not suffice.
    pub idle: u64,
    /// What is in use now and could be evicted later.
    pub held: Vec<(Owner, u64)>,
    /// Bytes of loads under way.
    pub loading: u64,
}

/// Makes room in the ledger: the governor.
pub trait MakeRoom: Send + Sync {
    /// Evicts until `need` is met or nothing idle is left. Called without the ledger's lock.
    fn make_room(&self, need: &Need) -> Room;

    /// No request waits any more: ends every [`drain`](Reclaim::drain).
    fn relent(&self);
}
