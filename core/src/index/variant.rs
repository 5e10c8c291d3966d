//! Which form of the visual encoder made the vectors of a store. The store's identity does not say: a pack may gain and lose
//! variants for accelerators, and keeps the stores that one of its forms made.

use std::path::Path;

use rusqlite::{OptionalExtension, Transaction, params};

use crate::error::{Error, ErrorKind, Result};
use crate::features::Variant;

use super::sql::Database;
use super::types::{NewSegment, Provenance};

const HASH: &str = "variant";
const NAME: &str = "variant_name";

/// What made the vectors of a store; by its hash of today in a store of format 2.
pub(super) fn read(db: &Database, provenance: &Provenance) -> Result<Option<Variant>> {
    let get = "SELECT value FROM meta WHERE key = ?1";
    let forms = provenance.earlier.iter().flat_map(|e| &e.forms);
    let today = |hash| {
        let mut forms = forms.clone();
        let renamed = forms.find(|(old, _)| *old == hash);
        renamed.map_or(hash, |(_, new)| *new)
    };
    db.run(|c| {
        let mut get = c.prepare_cached(get)?;
        let hash = get.query_row([HASH], |r| r.get(0)).optional()?.map(today);
        let name = get.query_row([NAME], |r| r.get(0)).optional()?;
        Ok(hash.zip(name).map(|(hash, name)| Variant { hash, name }))
    })
}

/// Sees that the form of the encoder that made the vectors is one that the pack has.
pub(super) fn check_known(path: &Path, db: &Database, provenance: &Provenance) -> Result<()> {
    let forms = &provenance.forms;
    let Some(found) = read(db, provenance)? else {
        return Ok(());
    };
    if forms.is_empty() || forms.iter().any(|form| form.hash == found.hash) {
        return Ok(());
    }
    let names: Vec<&str> = forms.iter().map(|form| form.name.as_str()).collect();
    Err(Error::new(
        ErrorKind::StoreForeign,
        format!(
            "the vectors of store {} were made by {}, which the pack no longer has: it has {}",
            path.display(),
            found.name,
            names.join(", ")
        ),
    )
    .remedy("use the pack that made it, or index the videos into another folder"))
}

/// What made `segments`, which must be one and the one that made what the store at `path` holds; `None` where nobody says.
pub(super) fn of<'a>(
    path: &Path,
    db: &Database,
    provenance: &Provenance,
    segments: &[NewSegment<'a>],
) -> Result<Option<&'a Variant>> {
    let mut made_by = segments
        .iter()
        .filter_map(|s| s.features.made_by.as_deref());
    let Some(first) = made_by.next() else {
        return Ok(None);
    };
    for variant in made_by {
        same(path, Some(first), variant)?;
    }
    same(path, read(db, provenance)?.as_ref(), first)?;
    Ok(Some(first))
}

/// Notes, with the first vectors, what made them.
pub(super) fn note(tx: &Transaction<'_>, variant: &Variant) -> rusqlite::Result<()> {
    let set = "INSERT OR IGNORE INTO meta(key, value) VALUES (?1, ?2)";
    tx.execute(set, params![HASH, variant.hash])?;
    tx.execute(set, params![NAME, variant.name])?;
    Ok(())
}

/// Refuses `wanted` where `found` made what is there.
pub(super) fn same(path: &Path, found: Option<&Variant>, wanted: &Variant) -> Result<()> {
    let Some(found) = found.filter(|found| found.hash != wanted.hash) else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::StoreForeign,
        format!(
            "the vectors of store {} were made by {}; here they would be made by {}, which makes others of the same picture",
            path.display(),
            found.name,
            wanted.name
        ),
    )
    .remedy("index into another folder, or add to this one in a process that has not loaded the module before: it then runs in the form that made the store"))
}
