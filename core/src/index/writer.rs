//! The writer's side of the files: tidying up at the start, the current partition, the commit that acknowledges.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::Duration;

use rusqlite::params;

use crate::error::{Error, ErrorKind, Result};
use crate::features::{FeatureSources, Variant};
use crate::os::clock::wall_ns;
use crate::os::file::sync_dir;

use super::catalogue::{Catalogue, PartRow};
use super::folder::CATALOGUE;
use super::lock::WriterLock;
use super::part_writer::PartWriter;
use super::segment::{HEADER_BYTES, Layout, MAX_RECORDS, SLOT_BITS};
use super::sql::sql;
use super::types::{NewSegment, StreamId};
use super::{folder, map_files, origin, variant};

/// A partition takes no more segments after this long, so that a slow camera's are not all in one.
const PARTITION_AGE: Duration = Duration::from_secs(24 * 3600);

/// Room kept so that retention can note on a full disk what it is about to free.
const RESERVE_FILE: &str = "reserve";
const RESERVE_BYTES: usize = 128 << 10;

pub(super) struct Writer {
    pub(super) catalogue: Catalogue,
    pub(super) current: Option<PartWriter>,
    next_partition: u64,
    // Last: the catalogue is closed before the next writer may come.
    _lock: WriterLock,
}

impl Writer {
    /// Tidies up after an unclean end and makes ready to append.
    pub(super) fn start(catalogue: Catalogue, lock: WriterLock, layout: &Layout) -> Result<Self> {
        let mut writer = Self {
            next_partition: catalogue.next_partition()?,
            catalogue,
            current: None,
            _lock: lock,
        };
        writer.finish_drops(layout)?;
        let rows = writer.catalogue.parts()?;
        folder::remove_orphans(&layout.folder, |id| rows.iter().any(|r| r.partition == id))?;
        let mut sound = true;
        for row in &rows {
            sound = trim(layout, row)?;
        }
        if let (true, Some(last)) = (sound, rows.last()) {
            let PartRow {
                partition,
                created_ns,
                records,
                blob_bytes,
            } = *last;
            match PartWriter::open(layout, partition, created_ns, records, blob_bytes) {
                Ok(part) => writer.current = Some(part),
                Err(e) => log::warn!("partition {partition} is not appended to: {e}"),
            }
        }
        writer.refill_reserve(layout);
        Ok(writer)
    }

    /// A transaction; when it fails nothing of it remains. On a full disk it is tried once more with the reserve's room.
    pub(super) fn change<T>(
        &mut self,
        layout: &Layout,
        body: impl Fn(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let mut run = || -> rusqlite::Result<T> {
            let conn = &mut self.catalogue.db.conn;
            let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let value = body(&tx)?;
            tx.commit()?;
            Ok(value)
        };
        let path = layout.store_folder().join(CATALOGUE);
        match run().map_err(|e| sql(&path, &e)) {
            Err(e) if e.kind() == ErrorKind::DiskFull => {
                release_reserve(layout.store_folder());
                run().map_err(|e| sql(&path, &e))
            }
            other => other,
        }
    }

    pub(super) fn refill_reserve(&self, layout: &Layout) {
        let path = layout.store_folder().join(RESERVE_FILE);
        if fs::metadata(&path).is_ok_and(|m| m.len() == RESERVE_BYTES as u64) {
            return;
        }
        if let Err(e) = fs::write(&path, vec![0xa5; RESERVE_BYTES]) {
            log::debug!("{}: {e}", path.display());
        }
    }

    /// Unlinks dropped partitions and deletes the rows of what is no more.
    pub(super) fn finish_drops(&mut self, layout: &Layout) -> Result<u64> {
        let dropped: Vec<i64> = self.catalogue.run(|c| {
            c.prepare("SELECT id FROM parts WHERE dropped")?
                .query_map([], |r| r.get(0))?
                .collect()
        })?;
        for &id in &dropped {
            let id = id as u64;
            for path in [
                layout.vec_path(id),
                layout.blob_path(id),
                layout.sketch_path(id),
            ] {
                match fs::remove_file(&path) {
                    Ok(()) => {}
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::io(path.display(), &e)),
                }
            }
        }
        if !dropped.is_empty() {
            sync_dir(&layout.folder)?;
        }
        let mut segments = 0;
        for id in dropped {
            segments += self.change(layout, |tx| {
                let range = params![id << SLOT_BITS, (id + 1) << SLOT_BITS];
                tx.execute(
                    "DELETE FROM captions WHERE segment >= ?1 AND segment < ?2",
                    range,
                )?;
                tx.execute("DELETE FROM replaced WHERE id >= ?1 AND id < ?2", range)?;
                let segments =
                    tx.execute("DELETE FROM segments WHERE id >= ?1 AND id < ?2", range)?;
                tx.execute("DELETE FROM parts WHERE id = ?1", [id])?;
                Ok(segments as u64)
            })?;
        }
        self.change(layout, |tx| {
            tx.execute_batch(
                "DELETE FROM captions WHERE segment IN (SELECT id FROM segments WHERE stream IN
                   (SELECT id FROM streams WHERE name IS NULL));
                 DELETE FROM segments WHERE stream IN (SELECT id FROM streams WHERE name IS NULL);
                 DELETE FROM streams WHERE name IS NULL;",
            )
        })?;
        let catalogue = &self.catalogue;
        map_files::remove_orphans(layout, |id| {
            catalogue.run(|c| {
                c.prepare_cached("SELECT EXISTS (SELECT 1 FROM segments WHERE id = ?1)")?
                    .query_row([id as i64], |row| row.get(0))
            })
        })?;
        Ok(segments)
    }

    /// The partition that takes `count` more segments.
    pub(super) fn partition(
        &mut self,
        layout: &Layout,
        partition_bytes: u64,
        count: u32,
    ) -> Result<&PartWriter> {
        let now = i64::try_from(wall_ns()).unwrap_or(i64::MAX);
        let full = self.current.as_ref().is_none_or(|part| {
            let age = u64::try_from(now.saturating_sub(part.created_ns)).unwrap_or(0);
            part.bytes() >= partition_bytes
                || part.records + count > MAX_RECORDS
                || (part.records > 0 && Duration::from_nanos(age) > PARTITION_AGE)
        });
        if full {
            let number = self.next_partition;
            let part = PartWriter::create(layout, number, now)?;
            self.next_partition += 1;
            self.current = Some(part);
        }
        self.current
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "no partition after making one"))
    }
}

/// Gives the reserve's room to whoever needs it now.
pub(super) fn release_reserve(store: &Path) {
    let path = store.join(RESERVE_FILE);
    let file = OpenOptions::new().write(true).open(&path);
    if let Err(e) = file.and_then(|file| file.set_len(0)) {
        log::warn!("{}: {e}", path.display());
    }
}

/// Cuts off what was never acknowledged; false when the files are shorter than what was.
fn trim(layout: &Layout, row: &PartRow) -> Result<bool> {
    let mut sound = true;
    for (path, wanted) in [
        (
            layout.vec_path(row.partition),
            layout.vec_bytes(row.records),
        ),
        (layout.blob_path(row.partition), row.blob_bytes),
    ] {
        let len = fs::metadata(&path).map(|m| m.len());
        match len {
            Ok(len) if len == wanted => {}
            Ok(len) if len > wanted => {
                log::info!(
                    "{}: {} unacknowledged bytes removed",
                    path.display(),
                    len - wanted
                );
                OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .and_then(|f| f.set_len(wanted))
                    .map_err(|e| Error::io(path.display(), &e))?;
            }
            // Its segments cannot be read any more, the others can; reading one says so.
            _ => sound = false,
        }
    }
    if !sound {
        log::warn!(
            "{}: partition {} is missing or too short",
            layout.folder.display(),
            row.partition
        );
    }
    Ok(sound)
}

/// A segment about to be acknowledged.
pub(super) struct NewRow<'a> {
    pub(super) id: u64,
    /// The damaged segment it stands in for.
    pub(super) replaced: Option<u64>,
    pub(super) segment: NewSegment<'a>,
    pub(super) blob_at: u64,
}

/// What made segments about to be acknowledged.
pub(super) struct MadeBy<'a> {
    /// The form of the encoder, where it is known.
    pub(super) variant: Option<&'a Variant>,
    pub(super) features: &'a FeatureSources,
}

impl Writer {
    /// Acknowledges `rows` and what `part` then holds. An error comes with whether the commit may have reached the disk.
    pub(super) fn commit(
        &mut self,
        stream: StreamId,
        part: &PartRow,
        rows: &[NewRow<'_>],
        made_by: &MadeBy<'_>,
    ) -> Result<(), (rusqlite::Error, bool)> {
        let fill = |tx: &rusqlite::Transaction<'_>| -> rusqlite::Result<()> {
            if let Some(variant) = made_by.variant {
                variant::note(tx, variant)?;
            }
            let origin = origin::number(tx, made_by.features)?;
            for row in rows {
                if let Some(old) = row.replaced {
                    let ids = [old as i64, row.id as i64];
                    tx.execute("DELETE FROM segments WHERE id = ?1", [ids[0]])?;
                    tx.execute("INSERT OR IGNORE INTO replaced VALUES (?1)", [ids[0]])?;
                    tx.execute("UPDATE captions SET segment = ?2 WHERE segment = ?1", ids)?;
                }
                tx.prepare_cached("INSERT INTO segments VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                    .execute(params![
                        row.id as i64,
                        stream.0,
                        row.segment.start_ns,
                        row.segment.end_ns,
                        row.segment.keyframe_ns,
                        row.blob_at as i64,
                        origin
                    ])?;
            }
            tx.prepare_cached(
                "INSERT INTO parts(id, created_ns, records, blob_bytes) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT(id) DO UPDATE SET records = ?3, blob_bytes = ?4",
            )?
            .execute(params![
                part.partition as i64,
                part.created_ns,
                part.records,
                part.blob_bytes as i64
            ])?;
            Ok(())
        };
        let tx = self
            .catalogue
            .db
            .conn
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(|e| (e, false))?;
        fill(&tx).map_err(|e| (e, false))?;
        tx.commit().map_err(|e| (e, true))
    }

    pub(super) fn let_go_of_dropped(&mut self) -> Result<()> {
        if let Some(part) = &self.current
            && part.blob_bytes > HEADER_BYTES
            && !(self.catalogue.parts()?.iter()).any(|row| row.partition == part.partition)
        {
            self.current = None;
        }
        Ok(())
    }
}
