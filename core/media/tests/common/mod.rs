//! Where the set-up put things.

use std::path::PathBuf;

/// A file or folder of the cache (`ATOM_CACHE`), filled by the set-up.
pub fn cached(path: &str) -> PathBuf {
    let path = atom_core::cache::dir().join(path);
    assert!(
        path.exists(),
        "{} is missing: run `make test`, which fetches it",
        path.display()
    );
    path
}

/// One of the test videos.
pub fn video(name: &str) -> PathBuf {
    cached(&format!("videos/{name}.mp4"))
}
