//! What a module was measured to cost: remembered between processes, so that the first load of a process can be admitted.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::ort::Provider;
use crate::os::file;

/// Growth of the arena below this is not worth writing down.
const NOTABLE: u64 = 1 << 20;

/// No module takes a tebibyte: such a file is damaged.
const IMPOSSIBLE: u64 = 1 << 40;

/// Thread-safe.
#[derive(Debug, Default)]
pub(super) struct Cost {
    /// Anonymous bytes of the session before it runs; `u64::MAX`: not known.
    anon: AtomicU64,
    /// The most its arena had in use during a run.
    arena: AtomicU64,
    /// The most its arena had in use during a load, over what stays.
    load: AtomicU64,
    /// Microseconds of the last load.
    load_us: AtomicU64,
    /// Whose session that was.
    provider: Mutex<Provider>,
    /// The arena, in whole, when shrinking it last gave nothing back: something small lies in every region of it.
    stuck: AtomicU64,
    /// Where it is written down, and the arena as it was then.
    file: Mutex<Option<(PathBuf, u64)>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// `None`: never measured, as other work went on at each load.
    anon_bytes: Option<u64>,
    arena_bytes: u64,
    load_bytes: u64,
    load_us: u64,
    #[serde(default)]
    provider: Provider,
}

impl Record {
    /// Whether a module can have cost that.
    fn possible(&self) -> bool {
        let anon = self.anon_bytes.unwrap_or(0);
        let bytes = [anon, self.arena_bytes, self.load_bytes];
        bytes.iter().all(|&bytes| bytes < IMPOSSIBLE)
    }
}

impl Cost {
    /// What is known from earlier processes is in `file`. A tenth of an arena is forgotten each time, so that what was once
    /// needed (by another build, a larger input) is not asked for for ever.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        let record = file
            .as_ref()
            .and_then(|file| fs::read(file).ok())
            // Unreadable or impossible is unknown.
            .and_then(|text| serde_json::from_slice::<Record>(&text).ok())
            .filter(Record::possible);
        let known = record.as_ref();
        let arena = known.map_or(0, |known| known.arena_bytes / 10 * 9);
        Self {
            anon: AtomicU64::new(known.and_then(|known| known.anon_bytes).unwrap_or(u64::MAX)),
            arena: AtomicU64::new(arena),
            load: AtomicU64::new(known.map_or(0, |known| known.load_bytes)),
            load_us: AtomicU64::new(known.map_or(0, |known| known.load_us)),
            provider: Mutex::new(known.map_or_else(Provider::default, |known| known.provider)),
            stuck: AtomicU64::new(0),
            file: Mutex::new(file.map(|file| (file, arena))),
        }
    }

    /// Anonymous bytes of the session before it runs, if that was ever measured.
    pub(super) fn anon(&self) -> Option<u64> {
        Some(self.anon.load(Ordering::Relaxed)).filter(|&anon| anon != u64::MAX)
    }

    /// The same, if the last session was `provider`'s: another's takes something else.
    pub(super) fn anon_by(&self, provider: Provider) -> Option<u64> {
        self.anon().filter(|_| *self.provider() == provider)
    }

    fn provider(&self) -> MutexGuard<'_, Provider> {
        self.provider.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a load and the runs after it take at most beyond what the session keeps; 0 before the first.
    pub(super) fn more(&self) -> u64 {
        self.arena().max(self.load.load(Ordering::Relaxed))
    }

    /// The most its arena had during a run; 0 before the first.
    pub(super) fn arena(&self) -> u64 {
        self.arena.load(Ordering::Relaxed)
    }

    /// A load by `provider` took `ms` and needed `more` bytes meanwhile; it left `anon` anonymous bytes, if that could be
    /// measured.
    pub(super) fn loaded(&self, provider: Provider, anon: Option<u64>, more: u64, ms: f64) {
        self.load.store(more, Ordering::Relaxed);
        self.load_us.store((ms * 1e3) as u64, Ordering::Relaxed);
        let known = match anon {
            Some(anon) => self.anon.swap(anon, Ordering::Relaxed) != u64::MAX,
            None => true,
        };
        let changed =
            anon.is_some() && std::mem::replace(&mut *self.provider(), provider) != provider;
        self.write(!known || changed);
    }

    /// After a run the arena had `arena` bytes.
    pub(super) fn ran(&self, arena: u64) {
        let before = self.arena.fetch_max(arena, Ordering::Relaxed);
        if arena > before {
            self.write(false);
        }
    }

    /// Shrinking an arena of `bytes` gave nothing back.
    pub(super) fn did_not_shrink(&self, bytes: u64) {
        self.stuck.store(bytes, Ordering::Relaxed);
    }

    /// Whether an arena of `bytes` is known not to shrink: runs of a session lay it out alike.
    pub(super) fn shrinks_not(&self, bytes: u64) -> bool {
        self.stuck.load(Ordering::Relaxed) == bytes
    }

    /// Writes down what is known, where that is news: `must`, or a notable growth of the arena, or nothing was written.
    fn write(&self, must: bool) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((path, written)) = &mut *file else {
            return;
        };
        let arena = self.arena();
        if !must && path.exists() && arena < *written + NOTABLE {
            return;
        }
        let record = Record {
            anon_bytes: self.anon(),
            arena_bytes: arena,
            load_bytes: self.load.load(Ordering::Relaxed),
            load_us: self.load_us.load(Ordering::Relaxed),
            provider: *self.provider(),
        };
        let text = serde_json::to_vec(&record).unwrap_or_default();
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        let made = made.map_err(|e| crate::Error::io(path.display(), &e));
        if let Err(e) = made.and_then(|()| file::atomic_write(path, &text)) {
            // Costs the next process one guess.
            log::debug!("what a module costs cannot be written down: {e}");
        }
        *written = arena;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_known_to_the_next_process() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("costs/key.json");
        let cost = Cost::new(Some(file.clone()));
        assert_eq!((cost.anon(), cost.more()), (None, 0));
        cost.loaded(Provider::Cpu, None, 30 << 20, 12.0);
        assert_eq!(Cost::new(Some(file.clone())).anon(), None);
        cost.loaded(Provider::Cpu, Some(5 << 20), 30 << 20, 12.0);
        cost.ran(100 << 20);
        let next = Cost::new(Some(file));
        assert_eq!(next.anon(), Some(5 << 20));
        assert_eq!(next.anon_by(Provider::Cpu), Some(5 << 20));
        assert_eq!(next.anon_by(Provider::Qnn), None);
        assert_eq!(next.more(), (100 << 20) / 10 * 9);
    }

    #[test]
    fn a_damaged_record_is_no_record() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("key.json");
        let huge = u64::MAX - 1;
        let impossible = format!(
            r#"{{"anon_bytes":{huge},"arena_bytes":{huge},"load_bytes":{huge},"load_us":{huge}}}"#
        );
        for text in ["", "{}", "[", "\u{0}\u{1}", impossible.as_str()] {
            fs::write(&file, text).expect("written");
            let cost = Cost::new(Some(file.clone()));
            assert_eq!((cost.anon(), cost.more()), (None, 0), "{text:?}");
        }
    }
}
