//! Where the test videos are.

use std::path::PathBuf;

/// `$ATOM_CACHE/videos`, filled by the set-up.
pub fn video(name: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = std::env::var_os("ATOM_CACHE").map_or_else(
        || {
            std::env::var_os("XDG_CACHE_HOME")
                .map_or_else(home, PathBuf::from)
                .join("atom")
        },
        PathBuf::from,
    );
    let path = cache.join("videos").join(format!("{name}.mp4"));
    assert!(
        path.exists(),
        "{} is missing: run `make setup`",
        path.display()
    );
    path
}
