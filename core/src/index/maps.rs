//! What a store does with rows that captioners read: reading, keeping and deleting them.

use super::store::Store;
use super::types::SegmentId;
use super::{codec, map_files};
use crate::error::Result;
use crate::features::{FeatureMap, Source};

impl Store {
    /// The rows that a captioner reads of segment `id`, prepared as a frame of `source`, if they are kept and the pack's own
    /// modules made them.
    ///
    /// # Errors
    /// `NotFound` when there is no such segment.
    pub fn map(&self, id: SegmentId, source: Source) -> Result<Option<FeatureMap>> {
        self.row(id)?;
        let made_by = map_files::made_by(&self.0.provenance);
        Ok(map_files::read(&self.0.layout, id.0, source, made_by))
    }

    /// Keeps rows that the pack's modules made of segment `id`, in place of earlier ones. When this returns they survive a crash
    /// of the process and a loss of power.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for rows that do not fit together or are not finite; `ReadOnly`, `DiskFull`, `Io`.
    pub fn set_map(&self, id: SegmentId, source: Source, map: &FeatureMap) -> Result<()> {
        codec::check_map(map)?;
        let made_by = map_files::made_by(&self.0.provenance);
        let writer = self.writer()?;
        writer.catalogue.segment(id)?;
        map_files::write(&self.0.layout, id.0, source, made_by, map)
    }

    /// Deletes rows for captioners, oldest first, until they take at most `max_bytes`; the bytes that came free. Segments,
    /// vectors and captions stay. What is asked for again is made again from the keyframe.
    ///
    /// # Errors
    /// `ReadOnly`, `Io`.
    pub fn retain_maps(&self, max_bytes: u64) -> Result<u64> {
        let _writer = self.writer()?;
        let mut kept = map_files::all(&self.0.layout)?;
        kept.sort_by_key(|kept| (kept.made, kept.id));
        let total: u64 = kept.iter().map(|kept| kept.bytes).sum();
        let mut freed = 0;
        for kept in kept {
            if total - freed <= max_bytes {
                break;
            }
            map_files::remove(&kept.path)?;
            freed += kept.bytes;
        }
        Ok(freed)
    }
}
