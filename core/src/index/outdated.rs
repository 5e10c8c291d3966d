//! Features that other modules made than the pack has now: left out when they are read, counted, and said once.

use crate::error::{Error, ErrorKind, Result};
use crate::features::{FeatureMap, FeatureSources, Features};

use super::origin;
use super::store::{Inner, Reader, lock};

impl Reader {
    /// What made the features of origin `number`.
    fn sources(&mut self, number: i64) -> Result<FeatureSources> {
        if let Some(known) = self.origins.get(&number) {
            return Ok(*known);
        }
        self.origins = origin::all(&self.catalogue.db)?;
        self.origins.get(&number).copied().ok_or_else(|| {
            Error::new(
                ErrorKind::StoreCorrupt,
                format!("the catalogue has no origin {number}"),
            )
            .remedy("delete the store and index the videos again")
        })
    }
}

impl Inner {
    /// Empties the parts of `features` that other modules made than the pack has. `origin`: the segment's; `None` in a store
    /// of format 2.
    pub(super) fn keep_current(&self, origin: Option<i64>, features: &mut Features) -> Result<()> {
        let Some(origin) = origin else {
            return Ok(());
        };
        let made_by = lock(&self.reader).sources(origin)?;
        let wanted = &self.provenance.features;
        if made_by.posteriors != wanted.posteriors {
            features.posteriors = Vec::new();
        }
        if made_by.map != wanted.map {
            features.map = FeatureMap::default();
        }
        if made_by.detections != wanted.detections {
            features.detections = Vec::new();
        }
        Ok(())
    }

    /// Segments with features of other modules than the pack has: any, then posteriors, feature maps and detections.
    pub(super) fn outdated(&self) -> Result<[u64; 4]> {
        let reader = lock(&self.reader);
        let wanted = &self.provenance.features;
        let mut segments = [0; 4];
        for (number, mut made_by) in origin::all(&reader.catalogue.db)? {
            if self.provenance.remakes_maps {
                made_by.map = wanted.map;
            }
            if made_by == *wanted {
                continue;
            }
            let count = origin::count_of(&reader.catalogue.db, number)?;
            let differs = [
                true,
                made_by.posteriors != wanted.posteriors,
                made_by.map != wanted.map,
                made_by.detections != wanted.detections,
            ];
            for (sum, _) in segments
                .iter_mut()
                .zip(differs)
                .filter(|(_, differs)| *differs)
            {
                *sum += count;
            }
        }
        Ok(segments)
    }

    /// Says once, on opening, what is left out.
    pub(super) fn tell_outdated(&self) -> Result<()> {
        let [any, parts @ ..] = self.outdated()?;
        if any == 0 {
            return Ok(());
        }
        let names = ["posteriors", "feature maps", "detections"];
        let parts = names.iter().zip(parts).filter(|(_, count)| *count > 0);
        let parts: Vec<_> = parts
            .map(|(name, count)| format!("{name} ({count} segments)"))
            .collect();
        log::warn!(
            "store {}: {} segments were made with other modules than the pack has now; their vectors stay searchable, but \
             they are read without {}. Index the videos into a new folder to have those made again",
            self.path.display(),
            any,
            parts.join(", ")
        );
        Ok(())
    }
}
