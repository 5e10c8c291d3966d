//! What the ledger writes down: who holds how much.

use std::fmt;

/// What memory is held for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A module's session.
    Module(String),
    /// The keys and values of one generation.
    Kv(u64),
    /// Cached prompt prefixes.
    Prefixes,
    /// Vocabularies, taxonomies and the like.
    Tables(String),
    /// Frames waiting in queues.
    Queue,
    /// Buffers in which frames are prepared for a module.
    Frames,
    /// What an execution provider keeps after its last session is gone.
    Provider(String),
    /// Free blocks that the heap cannot give back because blocks in use lie between them.
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
    /// Of these, what was asked for but is not in memory yet.
    pub pending_bytes: u64,
    /// Clean bytes mapped from files: the kernel can drop them.
    pub mapped_bytes: u64,
}

/// `bytes` for people.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
