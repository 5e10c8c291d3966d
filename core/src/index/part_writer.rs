//! Appending to the files of a partition.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zerocopy::IntoBytes;
use zerocopy::little_endian::{F32, I64, U32, U64};

use crate::error::{Error, Result};
use crate::os::file::sync_dir;

use super::scan::quantise;
use super::segment::{BLOB_MAGIC, HEADER_BYTES, Layout, Record, VEC_MAGIC, record_crc};
use super::types::NewSegment;
use super::{blob, codec};

/// The bytes of segments about to be appended to a partition.
#[derive(Default)]
pub(super) struct Batch {
    vec: Vec<u8>,
    blob: Vec<u8>,
}

impl Batch {
    /// Adds a checked segment; returns where its blob begins.
    pub(super) fn push(
        &mut self,
        layout: &Layout,
        id: u64,
        stream: u32,
        segment: &NewSegment<'_>,
        blob_base: u64,
    ) -> Result<u64> {
        let norm = codec::check_vector("embedding", &segment.features.embedding)?;
        let blob_at = blob_base + self.blob.len() as u64;
        blob::encode(id, segment.features, segment.thumbnail, &mut self.blob)?;

        let begin = self.vec.len();
        let mut quantised = Vec::with_capacity(layout.dim);
        let scale = quantise(&segment.features.embedding, norm, &mut quantised);
        let mut record = Record {
            id: U64::new(id),
            start_ns: I64::new(segment.start_ns),
            end_ns: I64::new(segment.end_ns),
            keyframe_ns: I64::new(segment.keyframe_ns),
            blob_at: U64::new(blob_at),
            stream: U32::new(stream),
            scale: F32::new(scale),
            reserved: U32::ZERO,
            crc: U32::ZERO,
        };
        self.vec.extend_from_slice(record.as_bytes());
        self.vec.extend_from_slice(quantised.as_bytes());
        self.vec.resize(begin + layout.stride(), 0);
        record.crc = U32::new(record_crc(&self.vec[begin..]));
        self.vec[begin..begin + size_of::<Record>()].copy_from_slice(record.as_bytes());
        Ok(blob_at)
    }

    pub(super) fn blob_len(&self) -> u64 {
        self.blob.len() as u64
    }
}

/// The partition being written.
pub(super) struct PartWriter {
    pub(super) partition: u64,
    pub(super) created_ns: i64,
    /// Acknowledged records.
    pub(super) records: u32,
    /// Acknowledged bytes of the blob file.
    pub(super) blob_bytes: u64,
    vec: File,
    blob: File,
    vec_path: PathBuf,
    blob_path: PathBuf,
    layout: Layout,
}

impl PartWriter {
    /// New files. Their entries are durable before any catalogue names them; their content is with the first `write`.
    pub(super) fn create(layout: &Layout, partition: u64, created_ns: i64) -> Result<Self> {
        let make = |path: &Path, magic| -> std::io::Result<File> {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)?;
            file.write_all_at(layout.header(magic, partition).as_bytes(), 0)?;
            Ok(file)
        };
        let (vec_path, blob_path) = (layout.vec_path(partition), layout.blob_path(partition));
        let made = (|| {
            let vec = make(&vec_path, VEC_MAGIC).map_err(|e| Error::io(vec_path.display(), &e))?;
            let blob =
                make(&blob_path, BLOB_MAGIC).map_err(|e| Error::io(blob_path.display(), &e))?;
            sync_dir(&layout.folder)?;
            Ok((vec, blob))
        })();
        let (vec, blob) = made.inspect_err(|_| {
            // Half a partition on a full disk helps nobody; the catalogue does not know it yet.
            let _ = std::fs::remove_file(&vec_path);
            let _ = std::fs::remove_file(&blob_path);
        })?;
        Ok(Self {
            partition,
            created_ns,
            records: 0,
            blob_bytes: HEADER_BYTES,
            vec,
            blob,
            vec_path,
            blob_path,
            layout: layout.clone(),
        })
    }

    /// Opens a partition to append to it. The files hold at least what is acknowledged.
    pub(super) fn open(
        layout: &Layout,
        partition: u64,
        created_ns: i64,
        records: u32,
        blob_bytes: u64,
    ) -> Result<Self> {
        let open = |path: &Path, magic| -> Result<File> {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .map_err(|e| Error::io(path.display(), &e))?;
            layout.check(&file, path, magic, partition)?;
            Ok(file)
        };
        let (vec_path, blob_path) = (layout.vec_path(partition), layout.blob_path(partition));
        Ok(Self {
            partition,
            created_ns,
            records,
            blob_bytes,
            vec: open(&vec_path, VEC_MAGIC)?,
            blob: open(&blob_path, BLOB_MAGIC)?,
            vec_path,
            blob_path,
            layout: layout.clone(),
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.layout.vec_bytes(self.records) + self.blob_bytes
    }

    /// Writes `batch` behind what is acknowledged and makes it durable. After an error nothing counts as written.
    pub(super) fn write(&self, batch: &Batch) -> Result<()> {
        let at = self.layout.vec_bytes(self.records);
        let run = || -> Result<()> {
            let blob = |e| Error::io(self.blob_path.display(), &e);
            let vec = |e| Error::io(self.vec_path.display(), &e);
            self.blob
                .write_all_at(&batch.blob, self.blob_bytes)
                .map_err(blob)?;
            self.vec.write_all_at(&batch.vec, at).map_err(vec)?;
            self.blob.sync_data().map_err(blob)?;
            self.vec.sync_data().map_err(vec)
        };
        run().inspect_err(|_| self.rewind())
    }

    /// Gives back the space of what was written and not acknowledged. Only tidies: readers stop before it anyway.
    pub(super) fn rewind(&self) {
        for (file, path, len) in [
            (
                &self.vec,
                &self.vec_path,
                self.layout.vec_bytes(self.records),
            ),
            (&self.blob, &self.blob_path, self.blob_bytes),
        ] {
            if let Err(e) = file.set_len(len) {
                log::warn!("{}: cannot truncate: {e}", path.display());
            }
        }
    }
}
