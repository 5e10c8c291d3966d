//! What changes a store: streams, appends, deletion, retention. One at a time, under the writer's mutex.
//!
//! The order of an append: blob and vector bytes written and synced, then the catalogue's commit (synced too), then the answer.
//! Whatever is in the files beyond what the catalogue says was never acknowledged.

use std::collections::HashMap;
use std::sync::MutexGuard;

use rusqlite::{OptionalExtension, params};

use crate::error::{Error, ErrorKind, Result};
use crate::features::Source as Taken;

use super::blob::Blobs;
use super::catalogue::PartRow;
use super::codec;
use super::folder::CATALOGUE;
use super::map_files;
use super::part_writer::Batch;
use super::segment::{Layout, MAX_RECORDS, SLOT_BITS};
use super::sql::sql;
use super::store::{Store, lock};
use super::types::*;
use super::variant;
use super::writer::{MadeBy, NewRow, Writer};

impl Store {
    pub(super) fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        match &self.0.writer {
            Some(writer) => Ok(lock(writer)),
            None => Err(Error::new(
                ErrorKind::ReadOnly,
                format!("store {} was opened read-only", self.0.path.display()),
            )
            .remedy("open it for writing")),
        }
    }

    /// Makes a stream, or finds the one of that name when it has the same source and boot.
    /// A wall time given for a stream that has none is kept.
    ///
    /// # Errors
    /// `AlreadyExists` when the name stands for another source or boot; `InvalidArgument` for an empty or over-long name;
    /// `ReadOnly`, `DiskFull`, `Io`.
    pub fn open_stream(&self, new: &NewStream) -> Result<StreamId> {
        if new.name.is_empty() || new.name.len() > 1024 {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a stream name of {} bytes: 1 to 1024", new.name.len()),
            ));
        }
        let bytes = match new.source.as_ref().and_then(|s| s.bytes) {
            Some(bytes) => Some(i64::try_from(bytes).map_err(|_| {
                Error::new(ErrorKind::InvalidArgument, "a source of over 2^63 bytes")
            })?),
            None => None,
        };
        let mut writer = self.writer()?;
        if let Some(old) = writer.catalogue.stream_named(&new.name)? {
            check_same(&old, new)?;
            if let (None, Some(wall)) = (old.start_wall_ns, new.start_wall_ns) {
                set_wall(&mut writer, &self.0.layout, old.id, wall)?;
            }
            return Ok(old.id);
        }
        let source = new.source.as_ref();
        let id = writer.change(&self.0.layout, |tx| {
            tx.execute(
                "INSERT INTO streams(name, source_uri, source_sha256, source_bytes, boot_id, start_wall_ns)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    new.name,
                    source.map(|s| &s.uri),
                    source.and_then(|s| s.sha256),
                    bytes,
                    new.boot_id,
                    new.start_wall_ns,
                ],
            )?;
            Ok(tx.last_insert_rowid())
        })?;
        self.0.refresh()?;
        u32::try_from(id)
            .map(StreamId)
            .map_err(|_| Error::new(ErrorKind::Internal, "the store has had 2^32 streams"))
    }

    /// Notes whether the stream's source was indexed to its end.
    ///
    /// # Errors
    /// `NotFound`, `ReadOnly`, `DiskFull`, `Io`.
    pub fn set_complete(&self, stream: StreamId, complete: bool) -> Result<()> {
        let changed = self.writer()?.change(&self.0.layout, |tx| {
            tx.execute(
                "UPDATE streams SET complete = ?2 WHERE id = ?1 AND name IS NOT NULL",
                params![stream.0, complete],
            )
        })?;
        found(changed, stream)
    }

    /// Notes the wall time (nanoseconds since 1970) at timestamp 0 of the stream's clock, once it is known.
    ///
    /// # Errors
    /// `NotFound`, `ReadOnly`, `DiskFull`, `Io`.
    pub fn set_start_wall(&self, stream: StreamId, wall_ns: i64) -> Result<()> {
        set_wall(&mut *self.writer()?, &self.0.layout, stream, wall_ns)
    }

    /// Appends one segment; see [`append_batch`](Self::append_batch).
    pub fn append(&self, stream: StreamId, segment: &NewSegment<'_>) -> Result<SegmentId> {
        let ids = self.append_batch(stream, std::slice::from_ref(segment))?;
        ids.first()
            .copied()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "an append without an id"))
    }

    /// Appends segments to a stream, all or none. When this returns they survive a crash of the process and a loss of power.
    /// A segment of the same stream and start that is there already stays as it is and gives its id, unless its bytes are
    /// damaged: then it is replaced. One call with several segments costs as many disk syncs as one with one.
    ///
    /// # Errors
    /// `InvalidArgument`: an end before the start, a keyframe outside, features with a NaN, of the wrong dimension or zero, over
    /// 65,536 segments. `StoreForeign`: another form of the visual encoder made what is there. `NotFound`: no such stream. `DiskFull`: nothing was appended, and appending works again once there is
    /// space. `ReadOnly`, `Io`.
    pub fn append_batch(
        &self,
        stream: StreamId,
        segments: &[NewSegment<'_>],
    ) -> Result<Vec<SegmentId>> {
        for segment in segments {
            check_segment(segment, self.0.layout.dim)?;
        }
        let too_many = |_| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("{} segments in one batch", segments.len()),
            )
        };
        let count = u32::try_from(segments.len()).map_err(too_many)?;
        if count > MAX_RECORDS {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("{count} segments in one batch: at most {MAX_RECORDS}"),
            ));
        }
        let mut writer = self.writer()?;
        let variant = variant::of(
            &self.0.path,
            &writer.catalogue.db,
            &self.0.provenance,
            segments,
        )?;
        let made_by = MadeBy {
            variant,
            features: &self.0.provenance.features,
        };
        let known = self.known(&writer, stream, segments)?;
        let fresh =
            |segment: &NewSegment<'_>| !matches!(known.get(&segment.start_ns), Some((_, true)));
        if !segments.iter().any(fresh) {
            return Ok(ids_of(segments, &known, &HashMap::new()));
        }

        let layout = &self.0.layout;
        let before = writer.current.as_ref().map(|part| part.partition);
        let part = writer.partition(layout, self.0.partition_bytes, count)?;
        let sealed = before.filter(|before| *before != part.partition);
        let (partition, created_ns) = (part.partition, part.created_ns);
        let mut batch = Batch::default();
        let mut new: HashMap<i64, u64> = HashMap::new();
        let mut rows = Vec::new();
        let mut records = part.records;
        for segment in segments {
            if !fresh(segment) || new.contains_key(&segment.start_ns) {
                continue;
            }
            let id = partition << SLOT_BITS | u64::from(records);
            // Before the commit: what it acknowledges is all there. Without one, opening the store deletes it.
            let map = &segment.features.map;
            if codec::apart(map) {
                let made_by = map_files::made_by(&self.0.provenance);
                map_files::write(layout, id, Taken::Still, made_by, map)?;
            }
            let blob_at = batch.push(layout, id, stream.0, segment, part.blob_bytes)?;
            let replaced = known.get(&segment.start_ns).map(|(id, _)| *id);
            rows.push(NewRow {
                id,
                replaced,
                segment: *segment,
                blob_at,
            });
            new.insert(segment.start_ns, id);
            records += 1;
        }
        let blob_bytes = part.blob_bytes + batch.blob_len();
        part.write(&batch)?;

        let row = PartRow {
            partition,
            created_ns,
            records,
            blob_bytes,
        };
        if let Err((error, unsure)) = writer.commit(stream, &row, &rows, &made_by) {
            if unsure {
                // It may yet turn out to be on the disk after a power loss, so its bytes must stay as they are.
                writer.current = None;
            } else if let Some(part) = &writer.current {
                part.rewind();
            }
            writer.catalogue.shrink_log();
            return Err(sql(&self.0.path.join(CATALOGUE), &error));
        }
        if let Some(part) = &mut writer.current {
            (part.records, part.blob_bytes) = (records, blob_bytes);
        }
        let view = self.0.view();
        match view.parts.iter().rev().find(|p| p.partition == partition) {
            Some(part) if rows.iter().all(|r| r.replaced.is_none()) => {
                part.acknowledge(records, blob_bytes);
            }
            _ => self.0.refresh()?,
        }
        if let Some(sealed) = sealed {
            // Now rather than in the first search to come; without it searches still work.
            let view = self.0.view();
            let part = view.parts.iter().find(|p| p.partition == sealed);
            if let Some((part, mapped)) = part.and_then(|p| Some((p, self.0.map(p)?))) {
                part.sketch(&mapped, true);
            }
        }
        Ok(ids_of(segments, &known, &new))
    }

    /// Which of `segments` the stream has already, by start: id, and whether its bytes are all there.
    fn known(
        &self,
        writer: &Writer,
        stream: StreamId,
        segments: &[NewSegment<'_>],
    ) -> Result<HashMap<i64, (u64, bool)>> {
        let exists = writer.catalogue.run(|c| {
            c.prepare_cached("SELECT 1 FROM streams WHERE id = ?1 AND name IS NOT NULL")?
                .query_row([stream.0], |_| Ok(()))
                .optional()
        })?;
        found(usize::from(exists.is_some()), stream)?;
        let mut known = HashMap::new();
        for segment in segments {
            let row = writer
                .catalogue
                .segment_starting(stream, segment.start_ns)?;
            if let Some(row) = row {
                let id = row.segment.id.0;
                known.insert(segment.start_ns, (id, self.is_sound(id, row.blob_at)));
            }
        }
        Ok(known)
    }

    fn is_sound(&self, id: u64, blob_at: u64) -> bool {
        let partition = id >> SLOT_BITS;
        let slot = (id & ((1 << SLOT_BITS) - 1)) as u32;
        let view = self.0.view();
        let part = view.parts.iter().find(|p| p.partition == partition);
        part.and_then(|part| self.0.map(part))
            .is_some_and(|mapped| mapped.is_sound(slot))
            && Blobs::open(&self.0.layout, partition)
                .and_then(|blobs| {
                    blobs.features(blob_at, id)?;
                    blobs.thumbnail(blob_at, id)
                })
                .is_ok()
    }

    /// Deletes a stream and its segments. The space of partitions that hold nothing else comes back at once, that of the others
    /// with retention.
    ///
    /// # Errors
    /// `NotFound`, `ReadOnly`, `DiskFull`, `Io`.
    pub fn delete_stream(&self, stream: StreamId) -> Result<()> {
        let layout = &self.0.layout;
        let mut writer = self.writer()?;
        // First only the mark, which fits on a full disk; searches leave the stream out from here on.
        let changed = writer.change(layout, |tx| {
            tx.execute(
                "UPDATE streams SET name = NULL WHERE id = ?1 AND name IS NOT NULL",
                [stream.0],
            )
        })?;
        found(changed, stream)?;
        let emptied = writer.change(layout, |tx| {
            tx.execute(
                "UPDATE parts SET dropped = 1 WHERE NOT EXISTS (SELECT 1 FROM visible
                 WHERE visible.id >= parts.id << 20 AND visible.id < (parts.id + 1) << 20)",
                [],
            )
        })?;
        self.0.refresh()?;
        if emptied > 0 {
            writer.let_go_of_dropped()?;
        }
        writer.finish_drops(layout)?;
        writer.refill_reserve(layout);
        self.0.refresh()
    }

    /// Unlinks the oldest partitions until the store takes at most `max_bytes`; the newest partition always stays. Works on a full
    /// disk.
    ///
    /// # Errors
    /// `ReadOnly`, `DiskFull`, `Io`.
    pub fn retain(&self, max_bytes: u64) -> Result<Retained> {
        let layout = &self.0.layout;
        let mut writer = self.writer()?;
        let parts = writer.catalogue.parts()?;
        let size = |row: &PartRow| {
            layout.vec_bytes(row.records)
                + row.blob_bytes
                + layout.sketch_bytes(row.partition)
                + map_files::bytes_of(layout, row.partition)
        };
        let mut total: u64 = parts.iter().map(size).sum::<u64>() + self.0.catalogue_bytes();
        let mut retained = Retained::default();
        let mut last = None;
        for row in parts.iter().take(parts.len().saturating_sub(1)) {
            if total <= max_bytes {
                break;
            }
            total -= size(row);
            retained.bytes += size(row);
            retained.partitions += 1;
            last = Some(row.partition as i64);
        }
        let Some(last) = last else {
            return Ok(retained);
        };
        writer.change(layout, |tx| {
            tx.execute("UPDATE parts SET dropped = 1 WHERE id <= ?1", [last])
        })?;
        self.0.refresh()?;
        writer.let_go_of_dropped()?;
        retained.segments = writer.finish_drops(layout)?;
        writer.catalogue.shrink_log();
        writer.refill_reserve(layout);
        Ok(retained)
    }
}

fn ids_of(
    segments: &[NewSegment<'_>],
    known: &HashMap<i64, (u64, bool)>,
    new: &HashMap<i64, u64>,
) -> Vec<SegmentId> {
    let id = |s: &NewSegment<'_>| {
        let old = || known.get(&s.start_ns).map(|(id, _)| *id);
        new.get(&s.start_ns).copied().or_else(old)
    };
    segments.iter().filter_map(id).map(SegmentId).collect()
}

fn set_wall(writer: &mut Writer, layout: &Layout, stream: StreamId, wall_ns: i64) -> Result<()> {
    let changed = writer.change(layout, |tx| {
        tx.execute(
            "UPDATE streams SET start_wall_ns = ?2 WHERE id = ?1 AND name IS NOT NULL",
            params![stream.0, wall_ns],
        )
    })?;
    found(changed, stream)
}

fn found(changed: usize, stream: StreamId) -> Result<()> {
    if changed > 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NotFound,
        format!("no stream {stream} in the store"),
    ))
}

fn check_same(old: &Stream, new: &NewStream) -> Result<()> {
    let same = match (&old.source, &new.source) {
        (Some(old), Some(new)) => old.same_as(new),
        (old, new) => old.is_none() && new.is_none(),
    };
    if !same {
        let name = |s: &Option<Source>| s.as_ref().map_or("a camera".into(), |s| s.uri.clone());
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "stream {:?} is of {} and not of {}, or that has changed since",
                old.name,
                name(&old.source),
                name(&new.source)
            ),
        )
        .remedy("give the new one another name, or delete the stream first"));
    }
    if let (Some(before), Some(now)) = (&old.boot_id, &new.boot_id)
        && before != now
    {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "stream {:?} counts in the monotonic clock of an earlier boot, which began anew",
                old.name
            ),
        )
        .remedy("name the stream anew at each boot, or give its frames wall-clock times"));
    }
    Ok(())
}

fn check_segment(segment: &NewSegment<'_>, dim: usize) -> Result<()> {
    let (start, end, key) = (segment.start_ns, segment.end_ns, segment.keyframe_ns);
    if start > end || !(start..=end).contains(&key) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("a segment from {start} to {end} ns with its keyframe at {key} ns"),
        ));
    }
    codec::check(segment.features, dim).map_err(|e| e.context(format!("segment at {start} ns")))
}
