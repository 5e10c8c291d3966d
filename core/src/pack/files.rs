//! Finding a pack's files without leaving its folder.

use std::path::{Component, Path, PathBuf};

use super::file_ref::FileRef;
use crate::error::{Error, ErrorKind, Result};

/// Why `name` cannot be a file of a pack, if it cannot.
pub(super) fn bad_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if name.contains(['\0', '\\']) {
        return Some("contains a NUL or a backslash");
    }
    let path = Path::new(name);
    if path.is_absolute() {
        return Some("is absolute");
    }
    for component in path.components() {
        match component {
            Component::Normal(_) => {}
            Component::ParentDir => return Some("contains \"..\""),
            _ => return Some("contains \".\""),
        }
    }
    None
}

/// The real path of `file` in the pack at `dir` (a real path), after seeing that it is a regular file inside the folder
/// and has the declared size.
pub(super) fn locate(dir: &Path, file: &FileRef) -> Result<PathBuf> {
    let bad = |what: String| Error::new(ErrorKind::BadPack, what);
    let named = dir.join(&file.file);
    let path = std::fs::canonicalize(&named).map_err(|e| {
        bad(format!("file {} of the pack: {e}", named.display()))
            .remedy("restore the pack from where it came from")
    })?;
    if !path.starts_with(dir) {
        return Err(bad(format!(
            "{} is a link that leaves the pack, to {}",
            named.display(),
            path.display()
        ))
        .remedy("put the file itself into the pack"));
    }
    let metadata = std::fs::metadata(&path).map_err(|e| Error::io(path.display(), &e))?;
    if !metadata.is_file() {
        return Err(bad(format!("{} is not a regular file", named.display()))
            .remedy("put the file itself into the pack"));
    }
    if metadata.len() != file.bytes {
        return Err(bad(format!(
            "{} has {} bytes, the manifest says {}",
            named.display(),
            metadata.len(),
            file.bytes
        ))
        .remedy("restore the pack from where it came from, or correct `bytes` in pack.toml"));
    }
    Ok(path)
}
