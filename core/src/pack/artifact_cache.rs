//! What is made from a pack and kept: optimised, prepacked forms of graphs, and those that a provider compiled.
//!
//! One folder per entry, named by what it was made from; written aside and renamed, so that an entry is whole or absent.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::checks::{self, Checks};
use super::spec::{ModuleSpec, Provider};
use crate::error::{Error, ErrorKind, Result};
use crate::ort::Placement;
use crate::os::file;
use crate::os::stamp::FileStamp;
use crate::os::{cpu, memory, user};

/// Raised when entries are made in another way.
const FORMAT: u32 = 5;
const MODEL: &str = "model.onnx";
const RECORD: &str = "entry.json";
/// Beside a compiled graph, which itself is one node: where the nodes it was made from run.
const PLACEMENT: &str = "placement.json";
/// Beside a prepacked graph: how many bytes of its weights runs read.
const EXTENT: &str = "extent";
const QUARANTINE: &str = "quarantine";
const CHECKS: &str = "checks";
const COSTS: &str = "costs";
/// An unfinished entry this old has no maker any more.
const ABANDONED: Duration = Duration::from_secs(3600);
/// An entry not used for this long is of a pack, a library or a processor that is gone.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// A folder of forms made on this device. Clones share it; thread-safe, and safe to share among processes.
#[derive(Debug, Clone, Default)]
pub struct ArtifactCache(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    checks: Checks,
    /// Bytes that entries may come to.
    limit: u64,
}

/// Which files need not be hashed.
#[derive(Clone, Copy)]
enum Trust {
    /// Those that were, and have not been touched since.
    Stamp,
    /// None.
    Nothing,
}

/// Names an entry by what it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    module: String,
    files: Vec<RecordedFile>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordedFile {
    name: String,
    sha256: String,
    bytes: u64,
}

impl ArtifactCache {
    /// Bytes that entries may come to, unless told otherwise.
    pub const DEFAULT_LIMIT: u64 = 4 << 30;

    /// A cache in folder `dir`, made when first written to. A folder that cannot be written is no error: what is there is
    /// used, and modules load without what is not, with a logged warning.
    ///
    /// Entries come to at most [`DEFAULT_LIMIT`](Self::DEFAULT_LIMIT) bytes.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self::with_limit(dir, Self::DEFAULT_LIMIT)
    }

    /// As [`new`](Self::new), with entries of at most `limit` bytes together: those whose use is longest ago are removed when
    /// one is added. A single larger one stays.
    pub fn with_limit(dir: impl Into<PathBuf>, limit: u64) -> Self {
        let inner = Inner {
            dir: dir.into(),
            checks: Checks::default(),
            limit,
        };
        inner.checks.persist_in(&inner.dir.join(CHECKS));
        inner.sweep();
        Self(Some(Arc::new(inner)))
    }

    /// No cache: modules load as they lie in the pack.
    pub fn disabled() -> Self {
        Self(None)
    }

    /// The folder, unless disabled.
    pub fn dir(&self) -> Option<&Path> {
        self.0.as_ref().map(|inner| inner.dir.as_path())
    }

    /// Where checks of a pack's files are remembered too.
    pub(crate) fn checks_dir(&self) -> Option<PathBuf> {
        self.dir().map(|dir| dir.join(CHECKS))
    }

    /// Where it is written down what `spec` was measured to cost under ONNX Runtime `version` on this processor.
    pub(crate) fn cost_file(&self, spec: &ModuleSpec, version: &str) -> Option<PathBuf> {
        let provider = spec.providers.first().copied().unwrap_or(Provider::Cpu);
        let key = Self::key(spec, version, provider);
        Some(self.dir()?.join(COSTS).join(key.0).with_extension("json"))
    }

    /// Whether there is an entry; it may turn out to be damaged.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.dir().is_some_and(|dir| dir.join(&key.0).is_dir())
    }

    /// Bytes on disk, quarantined entries included; 0 when disabled or unreadable.
    pub fn size(&self) -> u64 {
        self.dir().map_or(0, size_of_dir)
    }

    /// The key of `spec` made by ONNX Runtime `version` for `provider` on this processor.
    pub(crate) fn key(spec: &ModuleSpec, version: &str, provider: Provider) -> Key {
        let mut hash = Sha256::new();
        hash.update(format!(
            "atom artifact {FORMAT}\0{version}\0{}\0",
            provider.name()
        ));
        hash.update(cpu::isa());
        for (name, size) in &spec.fixed {
            hash.update(format!("\0{name}:{size}"));
        }
        for file in spec.weights() {
            // External data is found by its name, so the name counts.
            hash.update(format!("\0{}\0{}", file.file, file.sha256));
        }
        let mut key = checks::hex(hash.finalize());
        key.truncate(40);
        Key(key)
    }

    /// The key of `spec` as compiled under ONNX Runtime `version` by `provider`; see [`Provider::compiler`] for `compiler`.
    pub(crate) fn compiled_key(
        spec: &ModuleSpec,
        version: &str,
        provider: Provider,
        compiler: &str,
    ) -> Key {
        let mut hash = Sha256::new();
        hash.update(format!(
            "atom compiled {FORMAT}\0{version}\0{provider}\0{compiler}\0"
        ));
        for (name, size) in &spec.fixed {
            hash.update(format!("\0{name}:{size}"));
        }
        for file in spec.weights() {
            hash.update(format!("\0{}\0{}", file.file, file.sha256));
        }
        let mut key = checks::hex(hash.finalize());
        key.truncate(40);
        Key(key)
    }

    /// The graph of an intact entry. A damaged one is put into quarantine, as if it were absent.
    pub(crate) fn find(&self, key: &Key) -> Option<PathBuf> {
        self.find_with(key, Trust::Stamp)
    }

    /// How much of the weights beside the graph at `model` runs read, from their start: all where that is not known.
    pub(crate) fn extent(model: &Path) -> u64 {
        let text = fs::read_to_string(model.with_file_name(EXTENT)).ok();
        let bytes = text.and_then(|text| text.trim().parse().ok());
        bytes.unwrap_or(u64::MAX)
    }

    /// Writes `bytes` beside the graph at `model` for [`extent`](Self::extent), while the entry is made.
    pub(crate) fn keep_extent(model: &Path, bytes: u64) -> Result<()> {
        let path = model.with_file_name(EXTENT);
        fs::write(&path, bytes.to_string()).map_err(|e| Error::io(path.display(), &e))
    }

    /// The graph of an intact compiled entry and the placement found when it was made. Hashed at every call: a provider
    /// loads a damaged one and computes garbage.
    pub(crate) fn find_compiled(&self, key: &Key) -> Option<(PathBuf, Placement)> {
        let model = self.find_with(key, Trust::Nothing)?;
        let path = model.with_file_name(PLACEMENT);
        let read = fs::read(&path)
            .map_err(|e| Error::io(path.display(), &e))
            .and_then(|text| {
                serde_json::from_slice(&text)
                    .map_err(|e| Error::new(ErrorKind::BadPack, format!("{}: {e}", path.display())))
            });
        match read {
            Ok(placement) => Some((model, placement)),
            Err(e) => {
                self.quarantine(key, &e);
                None
            }
        }
    }

    /// Writes `placement` beside the graph at `model`, while the entry is made.
    pub(crate) fn keep_placement(model: &Path, placement: &Placement) -> Result<()> {
        let text = serde_json::to_vec_pretty(placement)
            .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
        let path = model.with_file_name(PLACEMENT);
        fs::write(&path, text).map_err(|e| Error::io(path.display(), &e))
    }

    fn find_with(&self, key: &Key, trust: Trust) -> Option<PathBuf> {
        let inner = self.0.as_ref()?;
        let entry = inner.dir.join(&key.0);
        if !entry.is_dir() {
            return None;
        }
        match inner.check(&entry, trust) {
            Ok(()) => {
                // When it was last used; of no consequence where it cannot be written.
                let now =
                    fs::File::open(&entry).and_then(|dir| dir.set_modified(SystemTime::now()));
                if let Err(e) = now {
                    log::debug!("the use of artifact {} cannot be noted: {e}", key.0);
                }
                Some(entry.join(MODEL))
            }
            Err(e) => {
                self.quarantine(key, &e);
                None
            }
        }
    }

    /// Makes an entry with `build`, which writes the graph to the path it is given and what belongs to it beside it.
    ///
    /// # Errors
    /// What `build` or writing gives; nothing is left behind.
    pub(crate) fn create(
        &self,
        key: &Key,
        module: &str,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let Some(inner) = &self.0 else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the artifact cache is disabled",
            ));
        };
        let unique = format!(
            "{}.tmp-{}-{}",
            key.0,
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        );
        let temporary = inner.dir.join(unique);
        let made = inner.write(&temporary, module, build).and_then(|record| {
            let entry = inner.dir.join(&key.0);
            if let Err(e) = fs::rename(&temporary, &entry) {
                // Another process was quicker; its entry serves as well.
                if !entry.is_dir() {
                    return Err(Error::io(entry.display(), &e));
                }
                return Ok(());
            }
            file::sync_dir(&inner.dir)?;
            inner.shrink(&entry);
            for file in &record.files {
                let path = entry.join(&file.name);
                inner
                    .checks
                    .remember(&path, &file.sha256, FileStamp::of(&path)?);
            }
            Ok(())
        });
        let _ = fs::remove_dir_all(&temporary);
        memory::trim();
        made
    }

    /// Whether an entry of this key was found not to compute what its graph does.
    pub(crate) fn condemned(&self, key: &Key) -> bool {
        self.0
            .as_ref()
            .is_some_and(|inner| inner.mark(key).exists())
    }

    /// Why there cannot be a good entry of this key, if that was found.
    pub(crate) fn condemned_for(&self, key: &Key) -> Option<String> {
        fs::read_to_string(self.0.as_ref()?.mark(key)).ok()
    }

    /// Remembers that there cannot be a good entry of this key, so that it is not made at every start.
    pub(crate) fn condemn(&self, key: &Key, why: &Error) {
        let Some(inner) = &self.0 else { return };
        if let Err(e) = file::atomic_write(&inner.mark(key), why.to_string().as_bytes()) {
            log::debug!(
                "that artifact {} is unusable cannot be remembered: {e}",
                key.0
            );
        }
    }

    /// Takes an entry out of use, keeping it for a look; the one kept before is removed.
    pub(crate) fn quarantine(&self, key: &Key, why: &Error) {
        let Some(inner) = &self.0 else { return };
        log::warn!("artifact {} is damaged and will be made anew: {why}", key.0);
        let entry = inner.dir.join(&key.0);
        let quarantine = inner.dir.join(QUARANTINE);
        // Only one, since entries are large.
        let _ = fs::remove_dir_all(&quarantine);
        let moved = fs::create_dir_all(&quarantine)
            .and_then(|()| fs::rename(&entry, quarantine.join(&key.0)));
        if moved.is_err() {
            let _ = fs::remove_dir_all(&entry);
        }
    }
}

impl Inner {
    fn mark(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{}.unusable", key.0))
    }

    /// Writes and syncs a whole entry into `folder`.
    fn write(
        &self,
        folder: &Path,
        module: &str,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Record> {
        let io = |path: &Path, e: &std::io::Error| Error::io(path.display(), e);
        fs::create_dir_all(folder).map_err(|e| io(folder, &e))?;
        build(&folder.join(MODEL))?;
        let mut record = Record {
            format: FORMAT,
            module: module.to_owned(),
            files: Vec::new(),
        };
        for found in fs::read_dir(folder).map_err(|e| io(folder, &e))? {
            let found = found.map_err(|e| io(folder, &e))?;
            let path = found.path();
            let Ok(name) = found.file_name().into_string() else {
                return Err(Error::new(
                    ErrorKind::Internal,
                    "an artifact's name is not UTF-8",
                ));
            };
            // Mapped files must not be writable by others, whatever the umask.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
                .and_then(|()| fs::File::open(&path)?.sync_all())
                .map_err(|e| io(&path, &e))?;
            record.files.push(RecordedFile {
                name,
                sha256: checks::sha256_of(&path, &mut |_| {})?,
                bytes: found.metadata().map_err(|e| io(&path, &e))?.len(),
            });
        }
        if !record.files.iter().any(|file| file.name == MODEL) {
            return Err(Error::new(
                ErrorKind::Internal,
                "ONNX Runtime wrote no optimised graph",
            ));
        }
        let text = serde_json::to_vec_pretty(&record)
            .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
        file::atomic_write(&folder.join(RECORD), &text)?;
        Ok(record)
    }

    /// Whether an entry is whole and has the hashes it was made with.
    fn check(&self, entry: &Path, trust: Trust) -> Result<()> {
        let bad = |what: String| Error::new(ErrorKind::BadPack, what);
        let path = entry.join(RECORD);
        let text = fs::read(&path).map_err(|e| Error::io(path.display(), &e))?;
        let record: Record =
            serde_json::from_slice(&text).map_err(|e| bad(format!("{}: {e}", path.display())))?;
        if record.format != FORMAT || !record.files.iter().any(|file| file.name == MODEL) {
            return Err(bad(format!(
                "{} is not a record of this version",
                path.display()
            )));
        }
        for file in &record.files {
            if super::files::bad_name(&file.name).is_some() || file.name.contains('/') {
                return Err(bad(format!("{} names {:?}", path.display(), file.name)));
            }
            let path = entry.join(&file.name);
            let metadata =
                fs::symlink_metadata(&path).map_err(|e| Error::io(path.display(), &e))?;
            if !metadata.is_file() || metadata.len() != file.bytes {
                return Err(bad(format!(
                    "{} has not the size it was made with",
                    path.display()
                )));
            }
            let user = user::effective_id();
            if metadata.mode() & 0o022 != 0 || (metadata.uid() != user && metadata.uid() != 0) {
                return Err(bad(format!("{} can be written by others", path.display())));
            }
            match trust {
                Trust::Stamp => self.checks.ensure(&path, &file.sha256)?,
                Trust::Nothing => self.checks.hash_now(&path, &file.sha256, &mut |_| {})?,
            }
        }
        Ok(())
    }

    /// Removes the entries whose use is longest ago until all are within the limit; never `newest`.
    fn shrink(&self, newest: &Path) {
        let Ok(found) = fs::read_dir(&self.dir) else {
            return;
        };
        let mut entries: Vec<(SystemTime, PathBuf, u64)> = found
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path != newest && path.join(RECORD).exists())
            .filter_map(|path| {
                let used = fs::metadata(&path).and_then(|metadata| metadata.modified());
                let bytes = size_of_dir(&path);
                Some((used.ok()?, path, bytes))
            })
            .collect();
        entries.sort();
        let mut bytes = size_of_dir(newest) + entries.iter().map(|(_, _, b)| b).sum::<u64>();
        for (_, path, size) in entries {
            if bytes <= self.limit {
                return;
            }
            // Who has it mapped keeps it; whoever wants it next makes it anew.
            match fs::remove_dir_all(&path) {
                Ok(()) => {
                    log::info!("artifact {} gives way to newer ones", path.display());
                    bytes -= size;
                }
                Err(e) => log::debug!("{}: {e}", path.display()),
            }
        }
    }

    /// Removes what makers that died left behind, and what nobody has used for long.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let limit = if entry.file_name().to_string_lossy().contains(".tmp-") {
                ABANDONED
            } else if path.join(RECORD).exists() {
                UNUSED
            } else {
                continue;
            };
            let age = entry.metadata().and_then(|metadata| metadata.modified());
            let age = age
                .ok()
                .and_then(|at| SystemTime::now().duration_since(at).ok());
            if age.is_some_and(|age| age > limit) {
                let _ = fs::remove_dir_all(path);
            }
        }
    }
}

fn size_of_dir(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() {
                size_of_dir(&entry.path())
            } else {
                metadata.len()
            })
        })
        .sum()
}

#[cfg(test)]
#[path = "artifact_cache_tests.rs"]
mod tests;
