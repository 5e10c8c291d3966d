//! The folder of things that can be made again: packs, libraries, artifacts.

use std::env;
use std::path::PathBuf;

/// `$ATOM_CACHE`, else `$XDG_CACHE_HOME/atom`, else `~/.cache/atom`, else `atom` in the system's temporary folder.
/// Not created here.
pub fn dir() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(dir) = set("ATOM_CACHE") {
        return dir.into();
    }
    if let Some(dir) = set("XDG_CACHE_HOME") {
        return PathBuf::from(dir).join("atom");
    }
    match set("HOME") {
        Some(home) => PathBuf::from(home).join(".cache").join("atom"),
        None => env::temp_dir().join("atom"),
    }
}
