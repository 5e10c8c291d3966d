//! The acknowledged records of a partition, mapped.

use std::fs::File;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};
use zerocopy::FromBytes;

use crate::error::{Error, Result};

use super::segment::{HEADER_BYTES, Layout, Record, SLOT_BITS, VEC_MAGIC, corrupt, record_crc};

/// The acknowledged records of a partition, mapped.
#[derive(Debug)]
pub(super) struct Mapped {
    map: Mmap,
    stride: usize,
    records: u32,
    /// Slots whose checksum is wrong, ascending.
    bad: Vec<u32>,
}

impl Mapped {
    /// Maps the first `records` records. Those that `known`, an earlier map of the partition, has are not checked again;
    /// `report` hears of each new one that is damaged.
    pub(super) fn open(
        layout: &Layout,
        partition: u64,
        records: u32,
        known: Option<&Self>,
        report: &mut dyn FnMut(u32, &Path),
    ) -> Result<Self> {
        let path = layout.vec_path(partition);
        let io = |e: std::io::Error| Error::io(path.display(), &e);
        let file = File::open(&path).map_err(io)?;
        layout.check(&file, &path, VEC_MAGIC, partition)?;
        let bytes = layout.vec_bytes(records);
        if file.metadata().map_err(io)?.len() < bytes {
            return Err(corrupt(&path, "it is shorter than the catalogue says"));
        }
        let len = usize::try_from(bytes)
            .map_err(|_| corrupt(&path, "it is longer than this machine can map"))?;
        // SAFETY: the file is Atom's own and, below `len`, never written or truncated again: writers append behind the
        // acknowledged length and unlink whole files, which keeps the mapped inode. The file was just seen to be that long.
        // All of it is read as plain bytes, for which every bit pattern is valid.
        let map = unsafe { MmapOptions::new().len(len).map(&file) }.map_err(io)?;
        let mut mapped = Mapped {
            map,
            stride: layout.stride(),
            records,
            bad: known.map_or_else(Vec::new, |known| known.bad.clone()),
        };
        for slot in known.map_or(0, |known| known.records)..records {
            let sound = mapped.bytes(slot).is_some_and(|bytes| {
                let wanted = partition << SLOT_BITS | u64::from(slot);
                Record::ref_from_prefix(bytes).is_ok_and(|(record, _)| {
                    record.id.get() == wanted && record.crc.get() == record_crc(bytes)
                })
            });
            if !sound {
                report(slot, &path);
                mapped.bad.push(slot);
            }
        }
        Ok(mapped)
    }

    /// Records acknowledged when it was mapped.
    pub(super) fn records(&self) -> u32 {
        self.records
    }

    fn bytes(&self, slot: u32) -> Option<&[u8]> {
        let begin = HEADER_BYTES as usize + slot as usize * self.stride;
        self.map.get(begin..begin + self.stride)
    }

    /// The record at `slot` and its vector (with padding).
    pub(super) fn record(&self, slot: u32) -> Option<(&Record, &[i8])> {
        let (record, rest) = Record::ref_from_prefix(self.bytes(slot)?).ok()?;
        Some((record, <[i8]>::ref_from_bytes(rest).ok()?))
    }

    /// Every sound record with its vector (with padding), in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Record, &[i8])> {
        let mut bad = self.bad.iter().peekable();
        (0..self.records).filter_map(move |slot| {
            if bad.peek() == Some(&&slot) {
                bad.next();
                return None;
            }
            self.record(slot)
        })
    }

    /// Whether `slot` is acknowledged and its checksum right.
    pub(super) fn is_sound(&self, slot: u32) -> bool {
        slot < self.records && self.bad.binary_search(&slot).is_err()
    }
}
