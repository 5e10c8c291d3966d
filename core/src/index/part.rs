//! A partition as readers see it: how much of it is acknowledged, its mapped records and its sketch.

use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use crate::error::Result;

use super::mapped::Mapped;
use super::segment::Layout;
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
            && mapped.records() >= records
        {
            return Ok(mapped.clone());
        }
        let known = state.mapped.as_deref();
        let mapped = Mapped::open(&self.layout, self.partition, records, known, report)?;
        let mapped = Arc::new(mapped);
        state.mapped = Some(mapped.clone());
        Ok(mapped)
    }
}

impl Part {
    /// The sketch of this partition, which is sealed and mapped as `mapped`; if `make`, made when it is not there. `None`
    /// while another thread makes it, and when there is none.
    pub(super) fn sketch(&self, mapped: &Mapped, make: bool) -> Option<Arc<Sketch>> {
        if mapped.records() < sketch::LEAST_RECORDS {
            return None;
        }
        let mut known = match self.sketch.try_lock() {
            Ok(known) => known,
            Err(TryLockError::Poisoned(known)) => known.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let found = known.get_or_insert_with(|| {
            let path = self.layout.sketch_path(self.partition);
            let open = || Sketch::open(&self.layout, self.partition, mapped.records(), &path);
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
