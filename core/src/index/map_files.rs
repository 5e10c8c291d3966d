//! Rows that a captioner reads, kept apart from the vectors: one file for each segment in `maps/`.
//!
//! A SmolVLM keeps 64 to 832 rows for a picture, many times the rest of a segment. In files of their own they can be made when
//! they are first asked for, remade by another captioner's encoder without touching the vectors, and deleted alone
//! ([`Store::retain_maps`](super::Store::retain_maps)). Every file names what made it. One that is missing, damaged or made by something else is as good as
//! none: it can be made again from the segment's keyframe.
//!
//! | bytes | |
//! |---|---|
//! | 8 | `ATOMMAP` and a zero |
//! | 4 | version, 1 |
//! | 4 | 1: values are f16, 0: f32, because one of them is beyond f16 |
//! | 8 | the segment |
//! | 32 | identity of what made the rows |
//! | 5 x 4 | rows, values of a row, rows and columns of tiles, pictures |
//! | 4 | CRC-32 of all other bytes |
//! | | the values; all numbers are little-endian |

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use half::f16;

use super::segment::{Layout, SLOT_BITS};
use super::types::Provenance;
use crate::error::{Error, ErrorKind, Result};
use crate::features::{FeatureMap, Grid, Source};
use crate::identity::Digest;
use crate::os::file::atomic_write;

/// The folder of these files, in the store's.
const FOLDER: &str = "maps";
const MAGIC: &[u8; 8] = b"ATOMMAP\0";
const VERSION: u32 = 1;
/// Bytes before the values.
const HEAD: usize = 80;
/// Where the checksum is.
const CRC: std::ops::Range<usize> = 76..80;

/// What makes the rows; zeros where it is not known.
pub(super) fn made_by(provenance: &Provenance) -> Digest {
    provenance.features.map.unwrap_or(Digest([0; 32]))
}

fn folder(layout: &Layout) -> PathBuf {
    layout.store_folder().join(FOLDER)
}

fn path(layout: &Layout, id: u64, source: Source) -> PathBuf {
    let (partition, slot) = (id >> SLOT_BITS, id & ((1 << SLOT_BITS) - 1));
    let kind = match source {
        Source::Still => "map",
        Source::Video => "video.map",
    };
    folder(layout).join(format!("{partition:08}-{slot:07}.{kind}"))
}

/// The segment whose file is called `name`.
fn id_of(name: &str) -> Option<u64> {
    let (partition, rest) = name.split_once('-')?;
    let (slot, _) = rest.split_once('.')?;
    let (partition, slot): (u64, u64) = (partition.parse().ok()?, slot.parse().ok()?);
    Some(partition << SLOT_BITS | slot)
}

/// Writes the rows of segment `id`, made by `made_by`; durable when this returns.
pub(super) fn write(
    layout: &Layout,
    id: u64,
    source: Source,
    made_by: Digest,
    map: &FeatureMap,
) -> Result<()> {
    let folder = folder(layout);
    fs::create_dir_all(&folder).map_err(|e| Error::io(folder.display(), &e))?;
    atomic_write(&path(layout, id, source), &encode(id, made_by, map)?)
}

/// The rows of segment `id`, if `made_by` made them and the file is whole.
pub(super) fn read(
    layout: &Layout,
    id: u64,
    source: Source,
    made_by: Digest,
) -> Option<FeatureMap> {
    let path = path(layout, id, source);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => {
            log::warn!("{}: {e}", path.display());
            return None;
        }
    };
    let decoded = decode(id, &bytes);
    if decoded.is_none() {
        log::warn!("{} is damaged and left out", path.display());
    }
    decoded.and_then(|(found, map)| (found == made_by).then_some(map))
}

fn encode(id: u64, made_by: Digest, map: &FeatureMap) -> Result<Vec<u8>> {
    let number = |number: usize| {
        u32::try_from(number).map_err(|_| {
            let what = format!("a feature map of {} x {}", map.rows, map.dim);
            Error::new(ErrorKind::InvalidArgument, what)
        })
    };
    let half = map.data.iter().all(|v| v.abs() <= f16::MAX.to_f32());
    let mut bytes = Vec::with_capacity(HEAD + map.data.len() * if half { 2 } else { 4 });
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(u32::from(half).to_le_bytes());
    bytes.extend(id.to_le_bytes());
    bytes.extend(made_by.as_bytes());
    for value in [
        number(map.rows)?,
        number(map.dim)?,
        map.grid.rows,
        map.grid.cols,
        number(map.pictures)?,
    ] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    for value in &map.data {
        match half {
            true => bytes.extend(f16::from_f32(*value).to_le_bytes()),
            false => bytes.extend(value.to_le_bytes()),
        }
    }
    let crc = checksum(&bytes);
    bytes[CRC].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

fn decode(id: u64, bytes: &[u8]) -> Option<(Digest, FeatureMap)> {
    let (head, values) = bytes.split_at_checked(HEAD)?;
    let u32_at = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let size = |at: usize| usize::try_from(u32_at(at)?).ok();
    if head.get(..8)? != MAGIC || u32_at(8)? != VERSION || u32_at(CRC.start)? != checksum(bytes) {
        return None;
    }
    if u64::from_le_bytes(head.get(16..24)?.try_into().ok()?) != id {
        return None;
    }
    let made_by = Digest(head.get(24..56)?.try_into().ok()?);
    let (rows, dim) = (size(56)?, size(60)?);
    let count = rows.checked_mul(dim)?;
    let data: Vec<f32> = match u32_at(12)? {
        0 => {
            let values = values.as_chunks::<4>().0;
            values.iter().map(|b| f32::from_le_bytes(*b)).collect()
        }
        1 => {
            let values = values.as_chunks::<2>().0;
            let values = values.iter().map(|b| f16::from_le_bytes(*b));
            values.map(f16::to_f32).collect()
        }
        _ => return None,
    };
    let map = FeatureMap {
        rows,
        dim,
        data,
        grid: Grid {
            rows: u32_at(64)?,
            cols: u32_at(68)?,
        },
        pictures: size(72)?,
    };
    (map.data.len() == count).then_some((made_by, map))
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CRC.start]);
    hasher.update(&bytes[CRC.end..]);
    hasher.finalize()
}

/// A file of `maps/`.
pub(super) struct Kept {
    pub(super) path: PathBuf,
    pub(super) id: u64,
    pub(super) bytes: u64,
    pub(super) made: SystemTime,
}

/// All files there are; none if the folder is not there.
pub(super) fn all(layout: &Layout) -> Result<Vec<Kept>> {
    let folder = folder(layout);
    let io = |e: std::io::Error| Error::io(folder.display(), &e);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io(e)),
    };
    let mut kept = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io)?;
        let Some(id) = entry.file_name().to_str().and_then(id_of) else {
            continue;
        };
        // One that went meanwhile counts for nothing.
        let Ok(meta) = entry.metadata() else { continue };
        kept.push(Kept {
            path: entry.path(),
            id,
            bytes: meta.len(),
            made: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        });
    }
    Ok(kept)
}

/// Bytes of all of them.
pub(super) fn bytes(layout: &Layout) -> u64 {
    let all = all(layout).unwrap_or_default();
    all.iter().map(|kept| kept.bytes).sum()
}

/// Bytes of those of one partition.
pub(super) fn bytes_of(layout: &Layout, partition: u64) -> u64 {
    let all = all(layout).unwrap_or_default();
    let of = all.iter().filter(|kept| kept.id >> SLOT_BITS == partition);
    of.map(|kept| kept.bytes).sum()
}

/// Deletes the files of segments that are not `known`, and what was being written when the machine stopped.
pub(super) fn remove_orphans(layout: &Layout, known: impl Fn(u64) -> Result<bool>) -> Result<()> {
    for kept in all(layout)? {
        let unfinished = kept.path.extension().is_none_or(|kind| kind != "map");
        if unfinished || !known(kept.id)? {
            remove(&kept.path)?;
        }
    }
    Ok(())
}

pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path.display(), &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> FeatureMap {
        FeatureMap {
            rows: 6,
            dim: 2,
            data: (0u8..12).map(|i| f32::from(i) * 0.25 - 1.0).collect(),
            grid: Grid { rows: 1, cols: 2 },
            pictures: 3,
        }
    }

    #[test]
    fn round_trip_every_truncation_and_every_flipped_byte() {
        let made_by = Digest([7; 32]);
        let bytes = encode(5, made_by, &sample()).unwrap();
        assert_eq!(bytes.len(), HEAD + 24);
        assert_eq!(decode(5, &bytes), Some((made_by, sample())));
        assert_eq!(decode(6, &bytes), None);
        for cut in 0..bytes.len() {
            assert_eq!(decode(5, &bytes[..cut]), None, "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(decode(5, &flipped), None, "flipped at {at}");
        }
    }

    #[test]
    fn what_f16_cannot_hold_stays_f32() {
        let mut map = sample();
        map.data[3] = 1e6;
        let bytes = encode(5, Digest([7; 32]), &map).unwrap();
        assert_eq!(decode(5, &bytes).map(|(_, map)| map), Some(map));
        assert_eq!(bytes.len(), HEAD + 48);
    }

    #[test]
    fn names_tell_the_segment() {
        assert_eq!(id_of("00000003-0000005.map"), Some(3 << 20 | 5));
        assert_eq!(id_of("00000003-0000005.video.map"), Some(3 << 20 | 5));
        assert_eq!(id_of("lost+found"), None);
        assert_eq!(id_of("00000003-x.map"), None);
    }
}
