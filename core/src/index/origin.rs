//! Which modules made the features of each segment, so that features of modules that the pack no longer has are left out.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::error::{Error, ErrorKind, Result};
use crate::features::{FeatureMap, FeatureSources, Features};
use crate::identity::Digest;

use super::catalogue::Catalogue;
use super::store::{Inner, Reader, lock};

/// The number of `sources` among the store's origins; it is added if it is new.
pub(super) fn number(tx: &Transaction<'_>, sources: &FeatureSources) -> rusqlite::Result<i64> {
    let FeatureSources {
        posteriors,
        map,
        detections,
    } = sources;
    let blob = |digest: &Option<Digest>| digest.map(|digest| digest.0);
    let values = params![blob(posteriors), blob(map), blob(detections)];
    let known = tx
        .prepare_cached(
            "SELECT id FROM origins WHERE posteriors IS ?1 AND map IS ?2 AND detections IS ?3",
        )?
        .query_row(values, |row| row.get(0))
        .optional()?;
    match known {
        Some(id) => Ok(id),
        None => {
            tx.prepare_cached(
                "INSERT INTO origins(posteriors, map, detections) VALUES (?1, ?2, ?3)",
            )?
            .execute(values)?;
            Ok(tx.last_insert_rowid())
        }
    }
}

fn sources(row: &Row<'_>) -> rusqlite::Result<FeatureSources> {
    let digest = |column| -> rusqlite::Result<Option<Digest>> {
        let bytes: Option<[u8; 32]> = row.get(column)?;
        Ok(bytes.map(Digest))
    };
    Ok(FeatureSources {
        posteriors: digest("posteriors")?,
        map: digest("map")?,
        detections: digest("detections")?,
    })
}

impl Catalogue {
    /// What made the features of the store's segments, by number. None in a store of format 2: the pack that opened it made
    /// all of them.
    fn origins(&self) -> Result<HashMap<i64, FeatureSources>> {
        self.run(|c| {
            let tables = "SELECT count(*) FROM sqlite_master WHERE name = 'origins'";
            if c.query_row(tables, [], |row| row.get::<_, i64>(0))? == 0 {
                return Ok(HashMap::new());
            }
            let mut query = c.prepare_cached("SELECT * FROM origins")?;
            let mut rows = query.query([])?;
            let mut origins = HashMap::new();
            while let Some(row) = rows.next()? {
                // A damaged row costs its own segments only: their origin is then unknown.
                match sources(row) {
                    Ok(sources) => drop(origins.insert(row.get("id")?, sources)),
                    Err(e) => log::debug!("{}: an origin is damaged: {e}", self.path.display()),
                }
            }
            Ok(origins)
        })
    }

    /// Visible segments of origin `number`.
    fn count_of(&self, number: i64) -> Result<u64> {
        let count = "SELECT count(*) FROM visible WHERE origin = ?1";
        let count: i64 = self.run(|c| c.query_row(count, [number], |row| row.get(0)))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

impl Reader {
    /// What made the features of origin `number`.
    fn sources(&mut self, number: i64) -> Result<FeatureSources> {
        if let Some(known) = self.origins.get(&number) {
            return Ok(*known);
        }
        self.origins = self.catalogue.origins()?;
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
        for (number, made_by) in reader.catalogue.origins()? {
            if made_by == *wanted {
                continue;
            }
            let count = reader.catalogue.count_of(number)?;
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

/// The table, part of the catalogue's.
pub(super) const ORIGINS: &str = "
-- What made the features of a segment besides its vector: identities, NULL where nothing makes the part.
CREATE TABLE origins(id INTEGER PRIMARY KEY, posteriors BLOB, map BLOB, detections BLOB);
";
