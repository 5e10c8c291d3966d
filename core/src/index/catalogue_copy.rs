//! A copy of the catalogue, for a reader that may not write beside the original.

use std::path::{Path, PathBuf};

use super::folder::CATALOGUE;
use crate::error::{Error, Result};

/// A private copy of catalogue and log; the folder goes when this is dropped.
pub(super) struct Copy(PathBuf);

impl Copy {
    pub(super) fn make(store: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let base = std::env::temp_dir();
        let pid = std::process::id();
        let mut number = 0u32;
        let folder = loop {
            let folder = base.join(format!("atom-catalogue-{pid}-{number}"));
            match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => break folder,
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && number < 1000 => {
                    number += 1;
                }
                Err(e) => return Err(Error::io(folder.display(), &e)),
            }
        };
        let copy = Self(folder);
        for name in [CATALOGUE.to_owned(), format!("{CATALOGUE}-wal")] {
            let (from, to) = (store.join(&name), copy.0.join(&name));
            // `copy` would bring the read-only mode along.
            let done = std::fs::read(&from).and_then(|bytes| std::fs::write(&to, bytes));
            match done {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && name != CATALOGUE => {}
                Err(e) => return Err(Error::io(from.display(), &e)),
            }
        }
        Ok(copy)
    }

    /// Where the copy lies.
    pub(super) fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            log::warn!("{}: cannot remove: {e}", self.0.display());
        }
    }
}
