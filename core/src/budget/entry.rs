//! What the ledger writes down: who holds how much.

use std::fmt;

/// What memory is held for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A module's session.
    Module(String),
    /// The keys and values of one generation.
    Kv(u64),
    /// Beginnings of prompts, kept for the next that begins so.
    Prefixes,
    /// Vocabularies, taxonomies and the like, read once and kept.
    Tables(String),
    /// Frames waiting in queues.
    Queue,
    /// What frames are prepared in for a module.
    Frames,
    /// What an execution provider keeps after its last session.
    Provider(String),
    /// Free blocks between those in use, which the heap cannot give back: what releases were measured not to return.
    Heap,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(id) => write!(f, "module {id}"),
            Self::Kv(id) => write!(f, "kv {id}"),
            Self::Tables(what) => write!(f, "tables {what}"),
            Self::Prefixes => f.write_str("prefixes"),
            Self::Queue => f.write_str("queue"),
            Self::Frames => f.write_str("frames"),
            Self::Provider(name) => write!(f, "provider {name}"),
            Self::Heap => f.write_str("heap"),
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
    /// Of these, what is only promised so far: it was asked for and is not in memory yet.
    pub pending_bytes: u64,
    /// Clean bytes mapped from files: the kernel can.
    pub mapped_bytes: u64,
}

/// `bytes` for people.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
