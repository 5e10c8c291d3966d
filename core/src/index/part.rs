//! A partition as readers see it: its acknowledged records, mapped, and its sketch.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use memmap2::{Mmap, MmapOptions};
use zerocopy::FromBytes;

use crate::error::{Error, Result};

use super::segment::{HEADER_BYTES, Layout, Record, SLOT_BITS, VEC_MAGIC, corrupt, record_crc};
use super::sketch::{self, Sketch};

/// A partition as readers see it.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) partition: u64,
    pub(super) layout: Layout,
    pub(super) blob_bytes: AtomicU64,
    records: AtomicU32,
    state: Mutex<State>,
    sketch: Mutex<Option<Sketched>>,
}

/// What is known of a sealed partition's sketch.
#[derive(Debug, Clone)]
enum Sketched {
    There(Arc<Sketch>),
    /// It cannot be made or read now; the next opening of the store tries again.
    Without,
}

#[derive(Debug, Default)]
struct State {
    mapped: Option<Arc<Mapped>>,
    damaged: bool,
}

/// The acknowledged records of a partition, mapped.
#[derive(Debug)]
pub(super) struct Mapped {
    map: Mmap,
    stride: usize,
    records: u32,
    /// Slots whose checksum is wrong, ascending.
    bad: Vec<u32>,
}

impl Part {
    pub(super) fn new(layout: &Layout, partition: u64, records: u32, blob_bytes: u64) -> Self {
        Self {
            partition,
            layout: layout.clone(),
            blob_bytes: blob_bytes.into(),
            records: records.into(),
            state: Mutex::default(),
            sketch: Mutex::default(),
        }
    }

    /// Acknowledged records.
    pub(super) fn records(&self) -> u32 {
        self.records.load(Ordering::Acquire)
    }

    /// The catalogue has committed this much.
    pub(super) fn acknowledge(&self, records: u32, blob_bytes: u64) {
        // Never back: a view made from an older moment of the catalogue may come in late.
        self.blob_bytes.fetch_max(blob_bytes, Ordering::Relaxed);
        self.records.fetch_max(records, Ordering::Release);
    }

    pub(super) fn damaged(&self) -> bool {
        self.lock().damaged
    }

    /// Marks the partition as unusable; true the first time.
    pub(super) fn set_damaged(&self) -> bool {
        !std::mem::replace(&mut self.lock().damaged, true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records, mapped anew when the partition has grown; new ones are checked once, and `report` hears of each bad one.
    pub(super) fn map(&self, report: &mut dyn FnMut(u32, &Path)) -> Result<Arc<Mapped>> {
        let records = self.records();
        let mut state = self.lock();
        if let Some(mapped) = &state.mapped
            && mapped.records >= records
        {
            return Ok(mapped.clone());
        }
        let path = self.layout.vec_path(self.partition);
        let io = |e: std::io::Error| Error::io(path.display(), &e);
        let file = File::open(&path).map_err(io)?;
        self.layout.check(&file, &path, VEC_MAGIC, self.partition)?;
        let bytes = self.layout.vec_bytes(records);
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
            stride: self.layout.stride(),
            records,
            bad: Vec::new(),
        };
        let known = state.mapped.take();
        let checked = known.as_ref().map_or(0, |m| m.records);
        mapped.bad = known.map_or_else(Vec::new, |m| m.bad.clone());
        for slot in checked..records {
            let sound = mapped.bytes(slot).is_some_and(|bytes| {
                let wanted = self.partition << SLOT_BITS | u64::from(slot);
                Record::ref_from_prefix(bytes).is_ok_and(|(record, _)| {
                    record.id.get() == wanted && record.crc.get() == record_crc(bytes)
                })
            });
            if !sound {
                report(slot, &path);
                mapped.bad.push(slot);
            }
        }
        let mapped = Arc::new(mapped);
        state.mapped = Some(mapped.clone());
        Ok(mapped)
    }
}

impl Part {
    /// The sketch of this partition, which is sealed and mapped as `mapped`; if `make`, made when it is not there. `None`
    /// while another thread makes it, and when there is none.
    pub(super) fn sketch(&self, mapped: &Mapped, make: bool) -> Option<Arc<Sketch>> {
        if mapped.records < sketch::LEAST_RECORDS {
            return None;
        }
        let mut known = match self.sketch.try_lock() {
            Ok(known) => known,
            Err(TryLockError::Poisoned(known)) => known.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let found = known.get_or_insert_with(|| {
            let path = self.layout.sketch_path(self.partition);
            let open = || Sketch::open(&self.layout, self.partition, mapped.records, &path);
            let sketch = match open() {
                Ok(None) if make => {
                    Sketch::write(&self.layout, self.partition, mapped, &path).and_then(|()| open())
                }
                other => other,
            };
            match sketch {
                Ok(Some(sketch)) => Sketched::There(Arc::new(sketch)),
                Ok(None) => Sketched::Without,
                Err(e) => {
                    log::warn!("{}: searches read whole vectors: {e}", path.display());
                    Sketched::Without
                }
            }
        });
        match found {
            Sketched::There(sketch) => Some(sketch.clone()),
            Sketched::Without => None,
        }
    }
}

impl Mapped {
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
