//! Who holds how much memory.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;

/// What memory is held for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A module's session.
    Module(String),
    /// The keys and values of one generation.
    Kv(u64),
    /// Beginnings of prompts, kept for the next that begins so.
    Prefixes,
    /// Cached features.
    Features,
    /// The index.
    Index,
    /// Frames waiting in queues.
    Queue,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(id) => write!(f, "module {id}"),
            Self::Kv(id) => write!(f, "kv {id}"),
            Self::Prefixes => f.write_str("prefixes"),
            Self::Features => f.write_str("features"),
            Self::Index => f.write_str("index"),
            Self::Queue => f.write_str("queue"),
        }
    }
}

/// What one charge amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What for.
    pub owner: Owner,
    /// Anonymous bytes: the kernel cannot drop them.
    pub anon_bytes: u64,
    /// Clean bytes mapped from files: the kernel can.
    pub mapped_bytes: u64,
}

#[derive(Default)]
struct State {
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

/// The list of charges. Clones share it; thread-safe.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<State>>);

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ledger").field(&self.snapshot()).finish()
    }
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Charges `owner` with `anon` anonymous and `mapped` clean mapped bytes, until the charge is dropped.
    ///
    /// # Errors
    /// None while no budget is set; [`ErrorKind::OutOfBudget`](crate::ErrorKind::OutOfBudget) is what callers must
    /// expect.
    pub fn charge(&self, owner: Owner, anon: u64, mapped: u64) -> Result<Charge> {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.entries.insert(
            id,
            Entry {
                owner,
                anon_bytes: anon,
                mapped_bytes: mapped,
            },
        );
        Ok(Charge {
            ledger: self.clone(),
            id,
        })
    }

    /// All charges, oldest first.
    pub fn snapshot(&self) -> Vec<Entry> {
        self.lock().entries.values().cloned().collect()
    }

    /// The sums of anonymous and of mapped bytes.
    pub fn total(&self) -> (u64, u64) {
        let state = self.lock();
        let sum = |bytes: fn(&Entry) -> u64| state.entries.values().map(bytes).sum();
        (sum(|e| e.anon_bytes), sum(|e| e.mapped_bytes))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry of the ledger; dropping it takes the entry out.
#[derive(Debug)]
#[must_use = "the charge ends when this is dropped"]
pub struct Charge {
    ledger: Ledger,
    id: u64,
}

impl Charge {
    /// Changes what is charged.
    ///
    /// # Errors
    /// As [`Ledger::charge`]; the charge then stays as it was.
    pub fn resize(&self, anon: u64, mapped: u64) -> Result<()> {
        if let Some(entry) = self.ledger.lock().entries.get_mut(&self.id) {
            entry.anon_bytes = anon;
            entry.mapped_bytes = mapped;
        }
        Ok(())
    }

    /// (anonymous, mapped) bytes charged.
    pub fn bytes(&self) -> (u64, u64) {
        let state = self.ledger.lock();
        let entry = state.entries.get(&self.id);
        entry.map_or((0, 0), |entry| (entry.anon_bytes, entry.mapped_bytes))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.lock().entries.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_end_with_their_owner() -> Result<()> {
        let ledger = Ledger::new();
        let module = ledger.charge(Owner::Module("encoder".into()), 10, 100)?;
        let kv = ledger.clone().charge(Owner::Kv(7), 5, 0)?;
        assert_eq!(ledger.total(), (15, 100));
        kv.resize(50, 1)?;
        assert_eq!(ledger.total(), (60, 101));
        assert_eq!(kv.bytes(), (50, 1));
        drop(module);
        let left = ledger.snapshot();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].owner, Owner::Kv(7));
        drop(kv);
        assert_eq!(ledger.total(), (0, 0));
        Ok(())
    }
}
