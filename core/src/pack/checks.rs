//! Which files were found to have the hash they should have, so that they are hashed once per boot and not at every load.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::identity;
use crate::os::stamp::FileStamp;
use crate::os::{clock, file};

/// A file changed this recently might change again without its times showing it: not to be trusted by stamp.
const RACY_NS: i64 = 100_000_000;

/// Remembered checks, in memory and, once [`persist_in`](Self::persist_in) is called, on disk for other processes of the
/// same boot. Thread-safe.
#[derive(Debug, Default)]
pub struct Checks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: HashMap<PathBuf, Check>,
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Check {
    boot: String,
    sha256: String,
    stamp: FileStamp,
}

impl Checks {
    /// Keeps checks in folder `dir` too, and believes those found there. A folder that cannot be written is no error:
    /// files are then hashed once per process.
    pub fn persist_in(&self, dir: &Path) {
        self.lock().dir = Some(dir.to_owned());
    }

    /// Sees that the file at `path` has the hash `sha256`, reading it only if that is not known.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] when it differs, else what reading gives.
    pub fn ensure(&self, path: &Path, sha256: &str) -> Result<()> {
        let stamp = FileStamp::of(path)?;
        let fits = |check: &Check| {
            check.boot == clock::boot_id() && check.stamp == stamp && check.sha256 == sha256
        };
        let (known, dir) = {
            let state = self.lock();
            (state.known.get(path).is_some_and(fits), state.dir.clone())
        };
        if known {
            return Ok(());
        }
        if let Some(check) = dir
            .and_then(|dir| load(&record_path(&dir, path)))
            .filter(fits)
        {
            self.lock().known.insert(path.to_owned(), check);
            return Ok(());
        }
        self.hash_now(path, sha256, &mut |_| {})
    }

    /// Hashes the file at `path` whatever is known. `progress` is told the bytes done.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    pub fn hash_now(&self, path: &Path, sha256: &str, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let before = FileStamp::of(path)?;
        let now = clock::wall_ns() as i64;
        let found = sha256_of(path, progress)?;
        if found != sha256 {
            self.lock().known.remove(path);
            return Err(differs(path));
        }
        if FileStamp::of(path)? == before && now.saturating_sub(before.ctime_ns) > RACY_NS {
            self.remember(path, &found, before);
        }
        Ok(())
    }

    /// Notes that the file at `path` had this hash when it had this stamp.
    pub(super) fn remember(&self, path: &Path, sha256: &str, stamp: FileStamp) {
        // Without a boot id a record could outlive the boot it is true for.
        if clock::boot_id().is_empty() {
            return;
        }
        let check = Check {
            boot: clock::boot_id().to_owned(),
            sha256: sha256.to_owned(),
            stamp,
        };
        let dir = {
            let mut state = self.lock();
            state.known.insert(path.to_owned(), check.clone());
            state.dir.clone()
        };
        let Some(dir) = dir else { return };
        let stored = serde_json::to_vec(&check)
            .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))
            .and_then(|bytes| {
                std::fs::create_dir_all(&dir).map_err(|e| Error::io(dir.display(), &e))?;
                file::atomic_write(&record_path(&dir, path), &bytes)
            });
        if let Err(e) = stored {
            log::debug!("a checked file cannot be remembered: {e}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn record_path(dir: &Path, path: &Path) -> PathBuf {
    let mut name = hex(Sha256::digest(path.as_os_str().as_encoded_bytes()));
    name.truncate(32);
    dir.join(name + ".json")
}

fn load(record: &Path) -> Option<Check> {
    serde_json::from_slice(&std::fs::read(record).ok()?).ok()
}

/// The SHA-256 of the file at `path`, in lower-case hexadecimal.
///
/// # Errors
/// What reading gives.
pub(super) fn sha256_of(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<String> {
    let io = |e: std::io::Error| Error::io(path.display(), &e);
    let mut file = File::open(path).map_err(io)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let read = file.read(&mut block).map_err(io)?;
        if read == 0 {
            return Ok(hex(hash.finalize()));
        }
        hash.update(&block[..read]);
        done += read as u64;
        progress(done);
    }
}

pub(super) fn differs(path: &Path) -> Error {
    Error::new(
        ErrorKind::BadPack,
        format!(
            "{} is not the file the manifest names: its sha256 differs",
            path.display()
        ),
    )
    .remedy("restore the pack from where it came from")
}

/// Lower-case hexadecimal.
pub(super) fn hex(hash: impl Into<[u8; 32]>) -> String {
    identity::Digest(hash.into()).to_string()
}
