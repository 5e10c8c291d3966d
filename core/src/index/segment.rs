//! The files of one partition: `<id>.vec`, fixed-size records that the scan maps, and `<id>.blob`, features and thumbnails.
//! Both only grow; what the catalogue has not acknowledged is beyond their end for every reader. A record carries its own
//! checksum and its own id, so a damaged one is known without the catalogue.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zerocopy::little_endian::{F32, I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, ErrorKind, Result};

/// Records of a partition at most; a segment's id is `partition << SLOT_BITS | slot`.
pub(super) const MAX_RECORDS: u32 = 1 << 16;
pub(super) const SLOT_BITS: u32 = 20;

const VERSION: u32 = 1;
pub(super) const VEC_MAGIC: [u8; 8] = *b"ATOMVEC\0";
pub(super) const BLOB_MAGIC: [u8; 8] = *b"ATOMBLB\0";

/// First bytes of both files.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct FileHeader {
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
    pub(super) reserved: U32,
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

    pub(super) fn header(&self, magic: [u8; 8], partition: u64) -> FileHeader {
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
