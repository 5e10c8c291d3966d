//! The catalogue: streams, partitions, segments and captions in SQLite. Its commit is what acknowledges a segment.

use std::collections::HashSet;
use std::io::ErrorKind as IoKind;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use crate::error::{Error, ErrorKind, Result};

use super::catalogue_copy::Copy;
use super::folder::CATALOGUE;
use super::schema::{self, Found};
use super::sql::{Database, sql, unsigned};
use super::types::{Segment, SegmentId, Source, StoreOptions, Stream, StreamId};
use super::{folder, lock};

/// A partition as the catalogue knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartRow {
    pub(super) partition: u64,
    pub(super) created_ns: i64,
    pub(super) records: u32,
    pub(super) blob_bytes: u64,
}

/// A segment's row and where its blob is.
pub(super) struct SegmentRow {
    pub(super) segment: Segment,
    pub(super) blob_at: u64,
    /// What made its features; `None` in a store of format 2.
    pub(super) origin: Option<i64>,
}

/// A connection to the catalogue.
pub(super) struct Catalogue {
    pub(super) db: Database,
    /// Where the catalogue was copied to because its medium cannot be written; removed at the end.
    _copy: Option<Copy>,
}

impl Catalogue {
    /// Opens it for writing; one that is not there yet, or not completely, is made with the identity of `options`. A store
    /// of the version before is carried over to this one if it is of that identity.
    pub(super) fn open_writer(store: &Path, options: &StoreOptions) -> Result<Self> {
        let path = store.join(CATALOGUE);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&path, flags).map_err(|e| sql(&path, &e))?;
        let mut catalogue = Self {
            db: Database { conn, path },
            _copy: None,
        };
        catalogue.set_up()?;
        // Before anything is changed: a newer store stays as it is.
        let found = schema::check_version(&catalogue.db, true)?;
        match found {
            Found::Nothing => folder::check_no_parts(store)?,
            _ => schema::check_identity(&catalogue.db, store, options)?,
        }
        let mode: String = catalogue.run(|c| {
            // Full: the commit is what makes an append durable. Small checkpoints: the log is dead weight on a small disk.
            c.execute_batch("PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=256;")?;
            c.query_row("PRAGMA journal_mode=WAL", [], |r| r.get(0))
        })?;
        if mode != "wal" {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the file system of {} carries no shared write-ahead log",
                    catalogue.db.path.display()
                ),
            )
            .remedy("keep the store on a local file system"));
        }
        match found {
            Found::Nothing => schema::make(&mut catalogue.db, options)?,
            Found::Earlier => schema::carry_over(&mut catalogue.db, options)?,
            Found::Current => {}
        }
        Ok(catalogue)
    }

    /// Opens it for reading, also beside a writer, also on a medium that cannot be written.
    pub(super) fn open_reader(store: &Path) -> Result<Self> {
        let path = store.join(CATALOGUE);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let plain = Connection::open_with_flags(&path, flags).and_then(|conn| {
            conn.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
            Ok(conn)
        });
        let (conn, copy) = match (plain, lock::why_unwritable(store)) {
            (Ok(conn), _) => (conn, None),
            // The reader's side of the log needs a file beside the catalogue, and cannot make it. Nobody writes a medium
            // that is read-only; in a folder closed only to us somebody may, so look at a copy then, as when the disk is full.
            (Err(e), why) => {
                let full = sql(&path, &e).kind() == ErrorKind::DiskFull;
                let Some(why) = why.or(full.then_some(IoKind::StorageFull)) else {
                    return Err(sql(&path, &e));
                };
                let log = std::fs::metadata(store.join(format!("{CATALOGUE}-wal")));
                if why == IoKind::ReadOnlyFilesystem && log.map_or(0, |m| m.len()) == 0 {
                    let uri = format!("file:{}?immutable=1", escape(&path));
                    let flags = flags | OpenFlags::SQLITE_OPEN_URI;
                    let conn =
                        Connection::open_with_flags(uri, flags).map_err(|e| sql(&path, &e))?;
                    (conn, None)
                } else {
                    let copy = Copy::make(store)?;
                    let conn = Connection::open(copy.folder().join(CATALOGUE))
                        .map_err(|e| sql(&path, &e))?;
                    (conn, Some(copy))
                }
            }
        };
        let catalogue = Self {
            db: Database { conn, path },
            _copy: copy,
        };
        catalogue.set_up()?;
        schema::check_version(&catalogue.db, false)?;
        Ok(catalogue)
    }

    /// Runs SQL, with errors that name the file.
    pub(super) fn run<T>(
        &self,
        body: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.db.run(body)
    }

    /// Gives the log's space back, where no reader holds it.
    pub(super) fn shrink_log(&self) {
        let result = self
            .db
            .conn
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(e) = result {
            log::debug!("{}: checkpoint: {e}", self.db.path.display());
        }
    }

    fn set_up(&self) -> Result<()> {
        self.db
            .conn
            .busy_timeout(Duration::from_secs(10))
            .and_then(|()| self.db.conn.execute_batch("PRAGMA temp_store=MEMORY"))
            .map_err(|e| sql(&self.db.path, &e))
    }

    /// Changes whenever another connection has committed.
    pub(super) fn data_version(&self) -> Result<i64> {
        self.run(|c| c.query_row("PRAGMA data_version", [], |r| r.get(0)))
    }

    /// All streams that are not deleted, by id.
    pub(super) fn streams(&self) -> Result<Vec<Stream>> {
        self.run(|c| {
            c.prepare_cached("SELECT * FROM streams WHERE name IS NOT NULL ORDER BY id")?
                .query_map([], stream)?
                .collect()
        })
    }

    pub(super) fn stream_named(&self, name: &str) -> Result<Option<Stream>> {
        self.run(|c| {
            c.prepare_cached("SELECT * FROM streams WHERE name = ?1")?
                .query_row([name], stream)
                .optional()
        })
    }

    /// Partitions that are not dropped, by id.
    pub(super) fn parts(&self) -> Result<Vec<PartRow>> {
        self.run(|c| {
            c.prepare_cached("SELECT * FROM parts WHERE NOT dropped ORDER BY id")?
                .query_map([], |r| {
                    Ok(PartRow {
                        partition: unsigned(r, "id")?,
                        created_ns: r.get("created_ns")?,
                        records: r.get("records")?,
                        blob_bytes: unsigned(r, "blob_bytes")?,
                    })
                })?
                .collect()
        })
    }

    /// Records to leave out of a scan.
    pub(super) fn replaced(&self) -> Result<HashSet<u64>> {
        self.run(|c| {
            c.prepare_cached("SELECT id FROM replaced")?
                .query_map([], |r| unsigned(r, "id"))?
                .collect()
        })
    }

    /// The number the next partition may have; numbers of dropped ones never come back.
    pub(super) fn next_partition(&self) -> Result<u64> {
        self.run(|c| {
            c.query_row(
                "SELECT coalesce(max(seq), 0) + 1 AS next FROM sqlite_sequence WHERE name = 'parts'",
                [],
                |r| unsigned(r, "next"),
            )
        })
    }

    pub(super) fn segment(&self, id: SegmentId) -> Result<SegmentRow> {
        let Ok(key) = i64::try_from(id.0) else {
            return Err(no_segment(id));
        };
        self.run(|c| {
            c.prepare_cached("SELECT * FROM visible WHERE id = ?1")?
                .query_row([key], segment)
                .optional()
        })?
        .ok_or_else(|| no_segment(id))
    }

    /// The segment of `stream` that starts at exactly `start_ns`.
    pub(super) fn segment_starting(
        &self,
        stream: StreamId,
        start_ns: i64,
    ) -> Result<Option<SegmentRow>> {
        self.run(|c| {
            c.prepare_cached("SELECT * FROM visible WHERE stream = ?1 AND start_ns = ?2")?
                .query_row(params![stream.0, start_ns], segment)
                .optional()
        })
    }

    /// The last segment of `stream` that starts at or before `at_ns`.
    pub(super) fn segment_before(&self, stream: StreamId, at_ns: i64) -> Result<Option<Segment>> {
        self.run(|c| {
            c.prepare_cached(
                "SELECT * FROM visible WHERE stream = ?1 AND start_ns <= ?2 ORDER BY start_ns DESC LIMIT 1",
            )?
            .query_row(params![stream.0, at_ns], |r| Ok(segment(r)?.segment))
            .optional()
        })
    }

    /// The segments of `stream` that end at or after `from_ns` and start before `to_ns`, by start.
    pub(super) fn segments(
        &self,
        stream: StreamId,
        from_ns: Option<i64>,
        to_ns: Option<i64>,
    ) -> Result<Vec<Segment>> {
        self.run(|c| {
            c.prepare_cached(
                "SELECT * FROM visible WHERE stream = ?1 AND (?2 IS NULL OR end_ns >= ?2)
                 AND (?3 IS NULL OR start_ns < ?3) ORDER BY start_ns",
            )?
            .query_map(params![stream.0, from_ns, to_ns], |r| {
                Ok(segment(r)?.segment)
            })?
            .collect()
        })
    }

    /// Start of the first and end of the last segment of `stream`.
    pub(super) fn range(&self, stream: StreamId) -> Result<Option<(i64, i64)>> {
        self.run(|c| {
            c.prepare_cached("SELECT min(start_ns), max(end_ns) FROM visible WHERE stream = ?1")?
                .query_row([stream.0], |r| {
                    let (start, end): (Option<i64>, Option<i64>) = (r.get(0)?, r.get(1)?);
                    Ok(start.zip(end))
                })
        })
    }

    /// Visible segments.
    pub(super) fn count(&self) -> Result<u64> {
        self.run(|c| {
            c.query_row("SELECT count(*) AS n FROM visible", [], |r| {
                unsigned(r, "n")
            })
        })
    }
}

fn no_segment(id: SegmentId) -> Error {
    Error::new(ErrorKind::NotFound, format!("no segment {id} in the store"))
        .remedy("retention or a deletion may have removed it: search again")
}

fn stream(row: &Row<'_>) -> rusqlite::Result<Stream> {
    let uri: Option<String> = row.get("source_uri")?;
    let bytes: Option<i64> = row.get("source_bytes")?;
    let sha256 = row.get("source_sha256")?;
    Ok(Stream {
        id: StreamId(row.get("id")?),
        name: row.get("name")?,
        source: uri.map(|uri| Source {
            uri,
            sha256,
            bytes: bytes.and_then(|b| u64::try_from(b).ok()),
        }),
        boot_id: row.get("boot_id")?,
        start_wall_ns: row.get("start_wall_ns")?,
        complete: row.get("complete")?,
    })
}

fn segment(row: &Row<'_>) -> rusqlite::Result<SegmentRow> {
    Ok(SegmentRow {
        segment: Segment {
            id: SegmentId(unsigned(row, "id")?),
            stream: StreamId(row.get("stream")?),
            stream_name: row.get("name")?,
            start_ns: row.get("start_ns")?,
            end_ns: row.get("end_ns")?,
            keyframe_ns: row.get("keyframe_ns")?,
        },
        blob_at: unsigned(row, "blob_at")?,
        // Looked for by its name: a writer may carry the store over beside a reader.
        origin: match row.as_ref().column_index("origin") {
            Ok(column) => row.get(column)?,
            Err(_) => None,
        },
    })
}

/// A path within an SQLite URI.
fn escape(path: &Path) -> String {
    let mut out = String::new();
    for c in path.to_string_lossy().chars() {
        match c {
            '%' => out.push_str("%25"),
            '?' => out.push_str("%3f"),
            '#' => out.push_str("%23"),
            c => out.push(c),
        }
    }
    out
}
