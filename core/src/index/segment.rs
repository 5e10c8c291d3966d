//! The files of one partition: `<id>.vec`, fixed-size records that the scan maps, and `<id>.blob`, features and thumbnails.
//! Both only grow; what the catalogue has not acknowledged is beyond their end for every reader. A record carries its own
//! checksum and its own id, so a damaged one is known without the catalogue.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zerocopy::little_endian::{F32, I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, ErrorKind, Result};
use crate::os::file::sync_dir;

use super::scan::quantise;
use super::types::NewSegment;
use super::{blob, codec};

/// Records of a partition at most; a segment's id is `partition << SLOT_BITS | slot`.
pub(super) const MAX_RECORDS: u32 = 1 << 16;
pub(super) const SLOT_BITS: u32 = 20;

const VERSION: u32 = 1;
pub(super) const VEC_MAGIC: [u8; 8] = *b"ATOMVEC\0";
const BLOB_MAGIC: [u8; 8] = *b"ATOMBLB\0";

/// First bytes of both files.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct FileHeader {
    magic: [u8; 8],
    version: U32,
    dim: U32,
    stride: U32,
    reserved: U32,
    partition: U64,
    store: [u8; 16],
    identity: [u8; 32],
    padding: [u8; 44],
    crc: U32,
}

pub(super) const HEADER_BYTES: u64 = size_of::<FileHeader>() as u64;

/// First bytes of a record of the vec file; `dim` bytes of vector follow, then zeros up to the stride.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct Record {
    pub(super) id: U64,
    pub(super) start_ns: I64,
    pub(super) end_ns: I64,
    pub(super) keyframe_ns: I64,
    pub(super) blob_at: U64,
    pub(super) stream: U32,
    pub(super) scale: F32,
    reserved: U32,
    pub(super) crc: U32,
}

/// What all partitions of a store share.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) folder: PathBuf,
    pub(super) dim: usize,
    pub(super) store: [u8; 16],
    pub(super) identity: [u8; 32],
}

impl Layout {
    /// Bytes of one record, in whole cache lines.
    pub(super) fn stride(&self) -> usize {
        (size_of::<Record>() + self.dim).next_multiple_of(64)
    }

    /// The folder that `folder` is in.
    pub(super) fn store_folder(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    pub(super) fn vec_path(&self, partition: u64) -> PathBuf {
        self.folder.join(format!("{partition:08}.vec"))
    }

    pub(super) fn blob_path(&self, partition: u64) -> PathBuf {
        self.folder.join(format!("{partition:08}.blob"))
    }

    pub(super) fn sketch_path(&self, partition: u64) -> PathBuf {
        self.folder.join(format!("{partition:08}.sketch"))
    }

    /// Bytes of a partition's sketch, if it has one.
    pub(super) fn sketch_bytes(&self, partition: u64) -> u64 {
        std::fs::metadata(self.sketch_path(partition)).map_or(0, |meta| meta.len())
    }

    pub(super) fn vec_bytes(&self, records: u32) -> u64 {
        HEADER_BYTES + u64::from(records) * self.stride() as u64
    }

    fn header(&self, magic: [u8; 8], partition: u64) -> FileHeader {
        let mut header = FileHeader {
            magic,
            version: U32::new(VERSION),
            dim: U32::new(self.dim as u32),
            stride: U32::new(self.stride() as u32),
            reserved: U32::ZERO,
            partition: U64::new(partition),
            store: self.store,
            identity: self.identity,
            padding: [0; 44],
            crc: U32::ZERO,
        };
        header.crc = U32::new(crc_before_last(header.as_bytes()));
        header
    }

    /// Whether the file begins as one of this store's does.
    pub(super) fn check(
        &self,
        file: &File,
        path: &Path,
        magic: [u8; 8],
        partition: u64,
    ) -> Result<()> {
        let mut bytes = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|e| Error::io(path.display(), &e))?;
        if bytes == self.header(magic, partition).as_bytes() {
            Ok(())
        } else {
            Err(corrupt(path, "its header is not the one of this store"))
        }
    }
}

pub(super) fn crc_before_last(bytes: &[u8]) -> u32 {
    crc32fast::hash(&bytes[..bytes.len() - size_of::<U32>()])
}

pub(super) fn record_crc(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..size_of::<Record>() - size_of::<U32>()]);
    hasher.update(&record[size_of::<Record>()..]);
    hasher.finalize()
}

/// The error for a file that the catalogue needs and that is not what it says.
pub(super) fn corrupt(path: &Path, what: &str) -> Error {
    Error::new(
        ErrorKind::StoreCorrupt,
        format!("{} is damaged: {what}", path.display()),
    )
    .remedy("index the video again: what is damaged is replaced, the rest is kept")
}

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
