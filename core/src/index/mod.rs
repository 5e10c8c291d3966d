//! The persistent index. One folder per store: `atom.db` (catalogue: streams, segments, captions; SQLite, write-ahead log), `parts/`
//! (append-only, checksummed files of vectors, features and thumbnails), `maps/` (rows that captioners read, a file for each segment),
//! `lock` (held by the one writer), `reserve` (room that
//! retention needs on a full disk).
//!
//! ```
//! use atom_core::features::Features;
//! use atom_core::index::{Access, Filter, Identity, NewSegment, NewStream, Store, StoreOptions};
//! # fn main() -> atom_core::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("store");
//! let identity = Identity { hash: [7; 32], dim: 2, description: "example".into() };
//! let store = Store::open(&path, &StoreOptions::new(identity, Access::ReadWrite))?;
//! let door = store.open_stream(&NewStream { name: "door".into(), ..Default::default() })?;
//! let features = Features { embedding: vec![0.6, 0.8], ..Default::default() };
//! let segment = NewSegment { start_ns: 0, end_ns: 9, keyframe_ns: 4, features: &features, thumbnail: &[] };
//! let id = store.append(door, &segment)?; // durable from here on
//! let hits = store.search(&[0.0, 1.0], &Filter::best(5))?;
//! assert_eq!((hits[0].segment, hits[0].score), (id, 0.8));
//! # Ok(())
//! # }
//! ```

mod blob;
mod captions;
mod catalogue;
mod catalogue_copy;
mod codec;
mod dot;
mod folder;
mod lock;
mod map_files;
mod mapped;
mod maps;
mod origin;
mod outdated;
mod part;
mod part_writer;
mod rotation;
mod scan;
mod schema;
mod search;
mod segment;
mod sketch;
mod sketch_scan;
mod sql;
mod store;
mod types;
mod variant;
mod write;
mod writer;

pub use store::Store;
pub use types::*;
