//! A cheap check that a file is still the one that was verified.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::leaf;
use crate::error::{Error, Result};

/// Identity, size and times of a file. Two equal stamps in one boot mean that nobody wrote to the file or replaced it in between,
/// unless the clock was set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last change of the content, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of content or attributes, nanoseconds since 1970.
    pub ctime_ns: i64,
}

impl FileStamp {
    /// The stamp of the file at `path`, symlinks followed.
    ///
    /// # Errors
    /// What `stat` gives.
    pub fn of(path: &Path) -> Result<Self> {
        leaf::assert_free("a file is looked at");
        std::fs::metadata(path)
            .map(|metadata| Self::from_metadata(&metadata))
            .map_err(|e| Error::io(path.display(), &e))
    }

    /// The stamp in `metadata`.
    pub fn from_metadata(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000) + rest;
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_file_has_another_stamp() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "same")?;
        std::fs::write(&b, "same")?;
        let before = FileStamp::of(&a).ok();
        assert_eq!(before, FileStamp::of(&a).ok());
        std::fs::rename(&b, &a)?;
        assert_ne!(before, FileStamp::of(&a).ok());
        Ok(())
    }
}
