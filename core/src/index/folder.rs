//! What kind of folder a store is opened at.

use std::fs;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

use super::lock;

/// The file of the catalogue.
pub(super) const CATALOGUE: &str = "atom.db";
/// The folder of the partitions' files.
pub(super) const PARTS: &str = "parts";

/// What a path holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Folder {
    Missing,
    /// Nothing, or a store that was being made when the machine stopped.
    Empty,
    Store,
}

/// Looks without changing anything; a folder of something else is an error.
pub(super) fn inspect(path: &Path) -> Result<Folder> {
    let io = |e: std::io::Error| Error::io(path.display(), &e);
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Folder::Missing),
        Err(e) => return Err(io(e)),
        Ok(meta) if !meta.is_dir() => {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("{} is a file: a store is a folder", path.display()),
            )
            .remedy("name a new or an empty folder"));
        }
        Ok(_) => {}
    }
    if path.join(CATALOGUE).exists() {
        return Ok(Folder::Store);
    }
    for entry in fs::read_dir(path).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let name = name.to_string_lossy();
        if name == PARTS {
            check_no_parts(path)?;
        } else if name != lock::FILE && name != "lost+found" && !name.starts_with(CATALOGUE) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{} is no store: it holds {name:?} and no {}",
                    path.display(),
                    CATALOGUE
                ),
            )
            .remedy("name a new or an empty folder"));
        }
    }
    Ok(Folder::Empty)
}

/// Refuses to begin a catalogue beside partitions: they would be taken for leftovers.
pub(super) fn check_no_parts(store: &Path) -> Result<()> {
    let parts = store.join(PARTS);
    match fs::read_dir(&parts).map(|mut entries| entries.next().is_some()) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Error::new(
            ErrorKind::StoreCorrupt,
            format!(
                "store {} has partitions and no catalogue {}",
                store.display(),
                CATALOGUE
            ),
        )
        .remedy("bring the catalogue back, or delete the folder and index again")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(parts.display(), &e)),
    }
}

/// Deletes files of partitions that the catalogue does not know: made or dropped just before the machine stopped.
pub(super) fn remove_orphans(parts: &Path, known: impl Fn(u64) -> bool) -> Result<()> {
    let io = |e: std::io::Error| Error::io(parts.display(), &e);
    for entry in fs::read_dir(parts).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let Some((id, kind)) = name.to_str().and_then(|n| n.split_once('.')) else {
            continue;
        };
        // A sketch that was being written.
        let unfinished = kind.starts_with("sketch.");
        if !unfinished && !matches!(kind, "vec" | "blob" | "sketch") {
            continue;
        }
        if id.len() >= 8 && id.parse().is_ok_and(|id| unfinished || !known(id)) {
            log::info!("{}: removed, never acknowledged", entry.path().display());
            fs::remove_file(entry.path()).map_err(|e| Error::io(entry.path().display(), &e))?;
        }
    }
    Ok(())
}
