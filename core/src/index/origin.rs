//! Which modules made the features of each segment, so that features of modules that the pack no longer has are left out.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::error::Result;
use crate::features::FeatureSources;
use crate::identity::Digest;

use super::sql::Database;

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

/// What made the features of the store's segments, by number. None in a store of format 2: the pack that opened it made
/// all of them.
pub(super) fn all(db: &Database) -> Result<HashMap<i64, FeatureSources>> {
    db.run(|c| {
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
                Err(e) => log::debug!("{}: an origin is damaged: {e}", db.path.display()),
            }
        }
        Ok(origins)
    })
}

/// Visible segments of origin `number`.
pub(super) fn count_of(db: &Database, number: i64) -> Result<u64> {
    let count = "SELECT count(*) FROM visible WHERE origin = ?1";
    let count: i64 = db.run(|c| c.query_row(count, [number], |row| row.get(0)))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// The table, part of the catalogue's.
pub(super) const ORIGINS: &str = "
-- What made the features of a segment besides its vector: identities, NULL where nothing makes the part.
CREATE TABLE origins(id INTEGER PRIMARY KEY, posteriors BLOB, map BLOB, detections BLOB);
";
