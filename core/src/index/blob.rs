//! The entries of a partition's blob file: embedding, features and thumbnail of a segment, each with its checksum.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, ErrorKind, Result};
use crate::features::Features;

use super::codec;
use super::segment::{Layout, corrupt, crc_before_last};

const ENTRY_MAGIC: u32 = 0x424c_4f42;

/// First bytes of an entry of the blob file; embedding (f32), features and thumbnail follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Entry {
    magic: U32,
    embedding_bytes: U32,
    features_bytes: U32,
    thumbnail_bytes: U32,
    id: U64,
    embedding_crc: U32,
    features_crc: U32,
    thumbnail_crc: U32,
    crc: U32,
}

/// Adds the entry of segment `id` to `out`.
pub(super) fn encode(
    id: u64,
    features: &Features,
    thumbnail: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    let length = |len: usize| {
        u32::try_from(len).map(U32::new).map_err(|_| {
            Error::new(
                ErrorKind::InvalidArgument,
                "features or thumbnail of 4 GiB or more",
            )
        })
    };
    let mut body = Vec::new();
    codec::put_f32s(&mut body, &features.embedding);
    let split = body.len();
    codec::encode(features, &mut body)?;
    let mut entry = Entry {
        magic: U32::new(ENTRY_MAGIC),
        embedding_bytes: length(split)?,
        features_bytes: length(body.len() - split)?,
        thumbnail_bytes: length(thumbnail.len())?,
        id: U64::new(id),
        embedding_crc: U32::new(crc32fast::hash(&body[..split])),
        features_crc: U32::new(crc32fast::hash(&body[split..])),
        thumbnail_crc: U32::new(crc32fast::hash(thumbnail)),
        crc: U32::ZERO,
    };
    entry.crc = U32::new(crc_before_last(entry.as_bytes()));
    out.extend_from_slice(entry.as_bytes());
    out.extend_from_slice(&body);
    out.extend_from_slice(thumbnail);
    Ok(())
}

/// The blob file of a partition, open for reading.
pub(super) struct Blobs {
    file: File,
    path: PathBuf,
}

impl Blobs {
    pub(super) fn open(layout: &Layout, partition: u64) -> Result<Self> {
        let path = layout.blob_path(partition);
        let file = File::open(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => corrupt(&path, "it is missing"),
            _ => Error::io(path.display(), &e),
        })?;
        Ok(Self { file, path })
    }

    fn read(&self, at: u64, bytes: usize, crc: Option<u32>) -> Result<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        self.file
            .read_exact_at(&mut buffer, at)
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => corrupt(&self.path, "it is too short"),
                _ => Error::io(self.path.display(), &e),
            })?;
        match crc {
            Some(crc) if crc32fast::hash(&buffer) != crc => {
                Err(corrupt(&self.path, &format!("wrong checksum at byte {at}")))
            }
            _ => Ok(buffer),
        }
    }

    fn entry(&self, at: u64, id: u64) -> Result<Entry> {
        let bytes = self.read(at, size_of::<Entry>(), None)?;
        match Entry::read_from_bytes(&bytes) {
            Ok(entry)
                if entry.magic.get() == ENTRY_MAGIC
                    && entry.id.get() == id
                    && entry.crc.get() == crc_before_last(&bytes) =>
            {
                Ok(entry)
            }
            _ => Err(corrupt(
                &self.path,
                &format!("no segment {id} at byte {at}"),
            )),
        }
    }

    /// The embedding of segment `id`, whose entry begins at `at`.
    pub(super) fn embedding(&self, at: u64, id: u64) -> Result<Vec<f32>> {
        let entry = self.entry(at, id)?;
        let at = at + size_of::<Entry>() as u64;
        let bytes = entry.embedding_bytes.get() as usize;
        Ok(codec::get_f32s(&self.read(
            at,
            bytes,
            Some(entry.embedding_crc.get()),
        )?))
    }

    /// All features of segment `id`.
    pub(super) fn features(&self, at: u64, id: u64) -> Result<Features> {
        let entry = self.entry(at, id)?;
        let embedding = self.embedding(at, id)?;
        let at = at + size_of::<Entry>() as u64 + u64::from(entry.embedding_bytes.get());
        let bytes = entry.features_bytes.get() as usize;
        let body = self.read(at, bytes, Some(entry.features_crc.get()))?;
        codec::decode(embedding, &body)
            .ok_or_else(|| corrupt(&self.path, &format!("features of segment {id}")))
    }

    /// The thumbnail of segment `id`.
    pub(super) fn thumbnail(&self, at: u64, id: u64) -> Result<Vec<u8>> {
        let entry = self.entry(at, id)?;
        let at = at
            + size_of::<Entry>() as u64
            + u64::from(entry.embedding_bytes.get())
            + u64::from(entry.features_bytes.get());
        let bytes = entry.thumbnail_bytes.get() as usize;
        self.read(at, bytes, Some(entry.thumbnail_crc.get()))
    }
}
