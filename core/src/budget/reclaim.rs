//! What can be given back, and who gives it.

use std::time::Instant;

use super::entry::Owner;

/// A way to give memory back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Free what a session or cache holds without needing it: an arena's free blocks, cached beginnings. It stays usable.
    Shrink,
    /// Let the kernel have the clean mapped weights; the session stays, the next run reads them again.
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
    /// Milliseconds it takes to have it again, as measured.
    pub cost_ms: f64,
    /// How often it was used, older uses counting less.
    pub uses: f64,
    /// The [age](super::policy::Age) when it was last used.
    pub credit: f64,
    /// When it was last used.
    pub last_used: Instant,
    /// How much dearer than others the application holds it; 1 is usual.
    pub weight: f64,
    /// Somebody is using it: it cannot be had now.
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
    /// What could be given up; nothing pinned, nothing that is being loaded.
    fn offers(&self) -> Vec<Offer>;

    /// Gives up what `offer` said, if it is still idle; `None` if it is not.
    fn give_up(&self, offer: &Offer) -> Option<Given>;

    /// Bytes of loads under way: they will be offered when they are done.
    fn loading(&self) -> u64 {
        0
    }

    /// From now on `owner` gets no new users, so that it becomes idle; until [`relent`](Self::relent).
    fn drain(&self, owner: &Owner) {
        let _ = owner;
    }

    /// Ends every [`drain`](Self::drain).
    fn relent(&self) {}
}

/// How many anonymous bytes are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// At least so many.
    pub anon_bytes: u64,
    /// Fewer are of use too; else nothing is given up unless all that is idle comes to so many.
    pub partly: bool,
    /// Somebody has waited for long: what is in use and stands in the way gets no new users.
    pub drain: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Room {
    /// Bytes given back.
    pub given: u64,
    /// Bytes that are idle and were kept, since they do not suffice.
    pub idle: u64,
    /// What could be given back later: it is in use.
    pub held: Vec<(Owner, u64)>,
    /// Bytes of loads under way.
    pub loading: u64,
}

/// Makes room in the ledger: the governor.
pub trait MakeRoom: Send + Sync {
    /// Evicts until `need` is met or nothing idle is left. Called without the ledger's lock.
    fn make_room(&self, need: &Need) -> Room;

    /// Nobody waits any more.
    fn relent(&self);
}
