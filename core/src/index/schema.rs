//! The catalogue's tables and their versions: making a store, recognising it, and carrying over one of the version before.
//!
//! | version | what changed |
//! |---|---|
//! | 2 | Identities are hashes of debug text, over all modules of the index task together. |
//! | 3 | Identities are [canonical](crate::identity): `meta.identity` is that of the vectors alone, `meta.encoding` what it is the hash of. `origins` and `segments.origin` say what made the other features. `meta.files` is the identity in the headers of the partitions' files, where it is another: they are not written again. |
//!
//! A store of version 2 is opened read-only as it is, and carried over when it is opened for writing: in one transaction, so
//! that a crash leaves one version or the other. Only the pack that made it can do so, since the old identity does not say
//! what differs. Older versions of Atom refuse a store of version 3 and leave it as it is.

use std::path::Path;

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};

use super::origin;
use super::segment::SLOT_BITS;
use super::sql::{Database, sql};
use super::types::{Earlier, Identity, Provenance, StoreOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::identity::{Digest, differences};

/// Version of schema and files; a store of a newer one is refused.
const SCHEMA: i64 = 3;
/// The version before, without origins: carried over when it is opened for writing, read as it is otherwise.
const EARLIER: i64 = 2;
/// "Atom": tells a store from some other program's database of the same name.
const APPLICATION: i64 = 0x4174_6f6d;

const TABLES: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
-- A deleted stream keeps its row (name NULL) until nothing refers to it; ids are never used again.
CREATE TABLE streams(
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE,
  source_uri TEXT, source_sha256 BLOB, source_bytes INTEGER,
  boot_id TEXT, start_wall_ns INTEGER, complete INTEGER NOT NULL DEFAULT 0);
-- What is acknowledged of each partition's files. A dropped one is gone for readers, its files are being unlinked.
CREATE TABLE parts(
  id INTEGER PRIMARY KEY AUTOINCREMENT, created_ns INTEGER NOT NULL,
  records INTEGER NOT NULL, blob_bytes INTEGER NOT NULL, dropped INTEGER NOT NULL DEFAULT 0);
-- id = partition << 20 | slot
CREATE TABLE segments(
  id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, start_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL,
  keyframe_ns INTEGER NOT NULL, blob_at INTEGER NOT NULL, origin INTEGER NOT NULL DEFAULT 1,
  UNIQUE(stream, start_ns));
-- Records of damaged segments that were appended anew: the scan leaves them out.
CREATE TABLE replaced(id INTEGER PRIMARY KEY);
CREATE TABLE captions(
  segment INTEGER NOT NULL, maker TEXT NOT NULL, text TEXT NOT NULL, tokens INTEGER NOT NULL,
  stop_reason TEXT NOT NULL, grounds TEXT NOT NULL, PRIMARY KEY(segment, maker)) WITHOUT ROWID;
CREATE VIEW visible AS
  SELECT segments.*, streams.name AS name FROM segments
  JOIN streams ON streams.id = segments.stream AND streams.name IS NOT NULL
  JOIN parts ON parts.id = segments.id >> 20 AND NOT parts.dropped;
";
const _: () = assert!(SLOT_BITS == 20, "the view above says 20");

/// What a store says of itself.
pub(super) struct Stored {
    /// The store's own id.
    pub(super) store: [u8; 16],
    pub(super) identity: Identity,
    /// The identity in the headers of its files.
    pub(super) files: [u8; 32],
    /// The encoding behind the identity; empty where it is not known.
    pub(super) encoding: Vec<u8>,
}

/// What opening found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing yet.
    Nothing,
    /// A store of the version before.
    Earlier,
    /// A store of this version.
    Current,
}

/// What is said of the fields that differ, at most.
const TOLD: usize = 3;

/// Which version is there; an error for any but the last two.
pub(super) fn check_version(db: &Database, may_make: bool) -> Result<Found> {
    // Of one moment: a writer may be making the store beside us.
    let (version, application, tables): (i64, i64, i64) = db.run(|c| {
        let moment = c.unchecked_transaction()?;
        Ok((
            moment.query_row("PRAGMA user_version", [], |r| r.get(0))?,
            moment.query_row("PRAGMA application_id", [], |r| r.get(0))?,
            moment.query_row("SELECT count(*) FROM sqlite_master", [], |r| r.get(0))?,
        ))
    })?;
    if version == 0 && tables == 0 && application == 0 {
        return if may_make {
            Ok(Found::Nothing)
        } else {
            Err(Error::new(
                ErrorKind::NotFound,
                format!("{}: the store was never completed", db.path.display()),
            )
            .remedy("index a video into it first"))
        };
    }
    if application != APPLICATION {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{} is some other program's database", db.path.display()),
        )
        .remedy("name a new or an empty folder"));
    }
    match version {
        SCHEMA => Ok(Found::Current),
        EARLIER => Ok(Found::Earlier),
        _ => Err(Error::new(
            ErrorKind::StoreVersion,
            format!(
                "{} has version {version}, this Atom reads {EARLIER} and {SCHEMA}",
                db.path.display()
            ),
        )
        .remedy("use the Atom that wrote it, or index into a new folder")),
    }
}

/// Sees that the store's vectors are those of `options`.
pub(super) fn check_identity(db: &Database, store: &Path, options: &StoreOptions) -> Result<()> {
    let stored = stored(db, &options.provenance, &options.identity)?;
    check(store, &stored, &options.identity, &options.provenance)
}

/// Carries the store over from the version before. Its identity has been checked.
pub(super) fn carry_over(db: &mut Database, options: &StoreOptions) -> Result<()> {
    let StoreOptions {
        identity,
        provenance,
        ..
    } = options;
    let stored = stored(db, provenance, identity)?;
    let path = db.path.clone();
    let mut run = || -> rusqlite::Result<()> {
        let behavior = TransactionBehavior::Immediate;
        let tx = db.conn.transaction_with_behavior(behavior)?;
        fill_origins(&tx, &stored, identity, provenance)?;
        tx.pragma_update(None, "user_version", SCHEMA)?;
        tx.commit()
    };
    run().map_err(|e| sql(&path, &e))?;
    log::info!(
        "{}: carried over from version {EARLIER} to {SCHEMA}; older versions of Atom no longer open it",
        path.display()
    );
    Ok(())
}

/// Makes the tables.
pub(super) fn make(db: &mut Database, options: &StoreOptions) -> Result<()> {
    let identity = &options.identity;
    let path = db.path.clone();
    let mut run = || -> rusqlite::Result<()> {
        let tx = db.conn.transaction()?;
        tx.execute_batch(TABLES)?;
        tx.execute_batch(origin::ORIGINS)?;
        origin::number(&tx, &options.provenance.features)?;
        let set = "INSERT INTO meta(key, value) VALUES (?1, ?2)";
        tx.execute(
            "INSERT INTO meta(key, value) VALUES ('store', randomblob(16))",
            [],
        )?;
        tx.execute(set, params!["identity", identity.hash])?;
        tx.execute(set, params!["dim", identity.dim as i64])?;
        tx.execute(set, params!["description", identity.description])?;
        tx.execute(set, params!["encoding", options.provenance.encoding])?;
        tx.pragma_update(None, "application_id", APPLICATION)?;
        tx.pragma_update(None, "user_version", SCHEMA)?;
        tx.commit()
    };
    run().map_err(|e| sql(&path, &e))
}

/// What the store says of itself. The identity of a store of the version before is given as `wanted` if it is the one
/// that `provenance` had then.
pub(super) fn stored(db: &Database, provenance: &Provenance, wanted: &Identity) -> Result<Stored> {
    let get = "SELECT value FROM meta WHERE key = ?1";
    db.run(|c| {
        let hash: [u8; 32] = c.query_row(get, ["identity"], |r| r.get(0))?;
        let files = c.query_row(get, ["files"], |r| r.get(0)).optional()?;
        let encoding = c.query_row(get, ["encoding"], |r| r.get(0)).optional()?;
        let dim: i64 = c.query_row(get, ["dim"], |r| r.get(0))?;
        let dim =
            usize::try_from(dim).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, dim))?;
        let ours = |earlier: &Earlier| earlier.identity == hash;
        let carried = provenance.earlier.as_ref().is_some_and(ours);
        Ok(Stored {
            store: c.query_row(get, ["store"], |r| r.get(0))?,
            identity: Identity {
                hash: if carried { wanted.hash } else { hash },
                dim,
                description: c.query_row(get, ["description"], |r| r.get(0))?,
            },
            files: files.unwrap_or(hash),
            encoding: encoding.unwrap_or_default(),
        })
    })
}

/// A store of format 2 as one of format 3: everything in it gets the identities of the pack that opens it, which its old
/// identity has shown to be the one that made it. One transaction: a crash leaves the store of format 2.
fn fill_origins(
    tx: &Transaction<'_>,
    stored: &Stored,
    wanted: &Identity,
    provenance: &Provenance,
) -> rusqlite::Result<()> {
    tx.execute_batch(&format!(
        "{}
         ALTER TABLE segments ADD COLUMN origin INTEGER NOT NULL DEFAULT 1;",
        origin::ORIGINS
    ))?;
    origin::number(tx, &provenance.features)?;
    let set = "INSERT OR REPLACE INTO meta(key, value) VALUES (?1, ?2)";
    // The headers of the files keep the old hash: they only say that a file is of this store.
    tx.execute(set, params!["files", stored.files])?;
    tx.execute(set, params!["identity", wanted.hash])?;
    tx.execute(set, params!["encoding", provenance.encoding])?;
    for (old, new) in provenance.earlier.iter().flat_map(|e| &e.forms) {
        let change = "UPDATE meta SET value = ?2 WHERE key = 'variant' AND value = ?1";
        tx.execute(change, params![old, new])?;
    }
    for (old, new) in provenance.earlier.iter().flat_map(|e| &e.captions) {
        let change = "UPDATE OR IGNORE captions SET maker = ?2 WHERE maker = ?1";
        tx.execute(change, params![old, new])?;
    }
    Ok(())
}

/// Whether the vectors of the store at `path` are those that `wanted` would make.
fn check(path: &Path, stored: &Stored, wanted: &Identity, provenance: &Provenance) -> Result<()> {
    let found = &stored.identity;
    if found.hash == wanted.hash && found.dim == wanted.dim {
        return Ok(());
    }
    let name = |identity: &Identity| {
        let hash = Digest(identity.hash).to_string();
        let begin = &hash[..8];
        format!(
            "{} ({begin}…, {} values)",
            identity.description, identity.dim
        )
    };
    let mut message = format!(
        "the vectors of store {} were made by {}, not by {}",
        path.display(),
        name(found),
        name(wanted)
    );
    let fields = differences(&stored.encoding, &provenance.encoding).unwrap_or_default();
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "not given".to_owned());
    for (at, field) in fields.iter().take(TOLD).enumerate() {
        let colon = if at == 0 { ":" } else { ";" };
        message += &format!(
            "{colon} {} was {} and is {}",
            field.field,
            value(&field.first),
            value(&field.second)
        );
    }
    if fields.len() > TOLD {
        message += &format!("; {} more fields differ", fields.len() - TOLD);
    }
    Err(Error::new(ErrorKind::StoreForeign, message)
        .remedy("use the pack that made it, or index the videos into another folder"))
}
