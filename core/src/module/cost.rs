//! What a module was measured to cost: remembered between processes, so that the first load of a process can be admitted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::ort::Provider;
use crate::os::file;

/// Changes below this are not worth writing down.
const NOTABLE: u64 = 1 << 20;

/// No module takes a tebibyte: such a file is damaged.
const IMPOSSIBLE: u64 = 1 << 40;

/// Thread-safe.
#[derive(Debug, Default)]
pub(super) struct Cost {
    /// Where it is written down.
    file: Option<PathBuf>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    now: Record,
    /// As it is in the file, if it is.
    written: Option<Record>,
    /// The most its arena had in use during a run of this process.
    run: u64,
    /// A load of this process was looked at.
    looked: bool,
    /// The arena, in whole, when shrinking it last gave nothing back: something small lies in every region of it.
    stuck: u64,
}

/// Bytes are anonymous ones.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// What the session keeps before it runs. `None`: never measured, as other work went on at each load.
    kept_bytes: Option<u64>,
    /// The most its arena had in use during a run; 0 before the first.
    run_bytes: u64,
    /// The most its arena had in use during a load, over what stays.
    load_bytes: u64,
    /// The most the process had during a load, over what stays. `None`: never measured.
    peak_bytes: Option<u64>,
    /// Microseconds of the last load.
    load_us: u64,
    /// Whose session that was.
    provider: Provider,
}

impl Record {
    /// `None` where there is none that can be.
    fn read(file: &Path) -> Option<Self> {
        let record: Self = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        let bytes = [
            record.kept_bytes.unwrap_or(0),
            record.run_bytes,
            record.load_bytes,
            record.peak_bytes.unwrap_or(0),
        ];
        let possible = bytes.iter().all(|&bytes| bytes < IMPOSSIBLE);
        possible.then_some(record)
    }

    /// Whether somebody who knows only `other` would ask for notably more or less.
    fn is_news(&self, other: &Self) -> bool {
        let differ = |a: u64, b: u64| a.abs_diff(b) >= NOTABLE;
        let appears = |a: Option<u64>, b: Option<u64>| {
            a.is_some() != b.is_some() || differ(a.unwrap_or(0), b.unwrap_or(0))
        };
        self.provider != other.provider
            || appears(self.kept_bytes, other.kept_bytes)
            || appears(self.peak_bytes, other.peak_bytes)
            || differ(self.run_bytes, other.run_bytes)
            || differ(self.load_bytes, other.load_bytes)
    }
}

/// What a load showed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    pub(super) provider: Provider,
    /// Anonymous bytes that the session keeps, if that could be measured.
    pub(super) kept: Option<u64>,
    /// The most its arena had in use beyond that meanwhile.
    pub(super) arena: u64,
    /// The most the process had beyond that meanwhile, if it was looked at.
    pub(super) peak: Option<u64>,
    /// How long it took.
    pub(super) ms: f64,
}

impl Cost {
    /// What is known from earlier processes is in `file`.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        // Unreadable or impossible is unknown.
        let written = file.as_deref().and_then(Record::read);
        let known = Known {
            now: written.clone().unwrap_or_default(),
            written,
            ..Known::default()
        };
        Self {
            file,
            known: Mutex::new(known),
        }
    }

    /// Anonymous bytes of the session before it runs, if that was ever measured.
    pub(super) fn anon(&self) -> Option<u64> {
        self.known().now.kept_bytes
    }

    /// The same, if the last session was `provider`'s: another's takes something else.
    pub(super) fn anon_by(&self, provider: Provider) -> Option<u64> {
        let known = self.known();
        let now = Some(&known.now).filter(|now| now.provider == provider);
        now.and_then(|now| now.kept_bytes)
    }

    /// What a load and the runs after it take at most beyond what the session keeps, as far as was seen.
    pub(super) fn more(&self) -> u64 {
        let known = self.known();
        let now = &known.now;
        let peak = now.peak_bytes.unwrap_or(0);
        now.run_bytes.max(now.load_bytes).max(peak)
    }

    /// Whether a load of this process was looked at.
    pub(super) fn was_looked_at(&self) -> bool {
        self.known().looked
    }

    /// The most its arena had during a run; 0 before the first.
    pub(super) fn arena(&self) -> u64 {
        self.known().now.run_bytes
    }

    /// A load showed this.
    pub(super) fn loaded(&self, load: &Load) {
        let mut known = self.known();
        known.looked |= load.peak.is_some();
        let now = &mut known.now;
        now.load_us = (load.ms * 1e3) as u64;
        now.load_bytes = load.arena;
        // It differs from load to load by how free memory lies in the heap.
        now.peak_bytes = match (load.peak, now.peak_bytes) {
            (Some(seen), Some(before)) => Some(seen.max(before / 10 * 9)),
            (seen, before) => seen.or(before),
        };
        if load.kept.is_some() {
            now.kept_bytes = load.kept;
            now.provider = load.provider;
        }
        self.write(known);
    }

    /// After a run the arena had `arena` bytes.
    pub(super) fn ran(&self, arena: u64) {
        let mut known = self.known();
        known.run = known.run.max(arena);
        if arena > known.now.run_bytes {
            known.now.run_bytes = arena;
            self.write(known);
        }
    }

    /// Shrinking an arena of `bytes` gave nothing back.
    pub(super) fn did_not_shrink(&self, bytes: u64) {
        self.known().stuck = bytes;
    }

    /// Whether an arena of `bytes` is known not to shrink: runs of a session lay it out alike.
    pub(super) fn shrinks_not(&self, bytes: u64) -> bool {
        self.known().stuck == bytes
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what is known, where that is news.
    fn write(&self, mut known: MutexGuard<'_, Known>) {
        let Some(path) = &self.file else {
            return;
        };
        let old = known.written.as_ref().filter(|_| path.exists());
        if old.is_some_and(|old| !known.now.is_news(old)) {
            return;
        }
        let text = serde_json::to_vec(&known.now).unwrap_or_default();
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        let made = made.map_err(|e| crate::Error::io(path.display(), &e));
        if let Err(e) = made.and_then(|()| file::atomic_write(path, &text)) {
            // Costs the next process one guess.
            log::debug!("what a module costs cannot be written down: {e}");
        }
        known.written = Some(known.now.clone());
    }
}

impl Drop for Cost {
    /// Runs that needed less than what is known have a tenth of it forgotten, so that what was once needed (by another build, a
    /// larger input) is not asked for for ever. A file that was removed meanwhile stays so.
    fn drop(&mut self) {
        let written = self.file.as_ref().is_some_and(|file| file.exists());
        let mut known = self.known();
        if written && known.run > 0 {
            let forgotten = known.now.run_bytes / 10 * 9;
            known.now.run_bytes = known.run.max(forgotten);
            self.write(known);
        }
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
        let load = Load {
            arena: 30 << 20,
            ms: 12.0,
            ..Load::default()
        };
        cost.loaded(&load);
        assert_eq!(Cost::new(Some(file.clone())).anon(), None);
        let measured = Load {
            kept: Some(40 << 20),
            ..load
        };
        cost.loaded(&measured);
        assert_eq!((cost.more(), cost.was_looked_at()), (30 << 20, false));
        let peak = |mb: u64| Load {
            peak: Some(mb << 20),
            ..measured
        };
        cost.loaded(&peak(50));
        assert_eq!((cost.more(), cost.was_looked_at()), (50 << 20, true));
        cost.loaded(&peak(32));
        assert_eq!(cost.more(), (50 << 20) / 10 * 9);
        cost.ran(100 << 20);
        let next = Cost::new(Some(file));
        assert_eq!(next.anon(), Some(40 << 20));
        assert_eq!(next.anon_by(Provider::Cpu), Some(40 << 20));
        assert_eq!(next.anon_by(Provider::Qnn), None);
        assert_eq!((next.more(), next.was_looked_at()), (100 << 20, false));
    }

    #[test]
    fn what_runs_no_longer_need_is_forgotten_bit_by_bit() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("key.json");
        let process = |arena: &[u64]| {
            let cost = Cost::new(Some(file.clone()));
            let asked_for = cost.arena();
            arena.iter().for_each(|&bytes| cost.ran(bytes));
            asked_for
        };
        assert_eq!(process(&[100 << 20, 60 << 20]), 0);
        // Nothing is forgotten where nothing runs, or while it is needed.
        assert_eq!(process(&[]), 100 << 20);
        assert_eq!(process(&[100 << 20]), 100 << 20);
        assert_eq!(process(&[60 << 20]), 100 << 20);
        assert_eq!(process(&[60 << 20]), (100 << 20) / 10 * 9);
        for _ in 0..9 {
            process(&[60 << 20]);
        }
        assert_eq!(process(&[]), 60 << 20);
        let cost = Cost::new(Some(file.clone()));
        cost.ran(30 << 20);
        fs::remove_file(&file).expect("removed");
        drop(cost);
        assert!(!file.exists());
    }

    #[test]
    fn a_damaged_record_is_no_record() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("key.json");
        let record = Record {
            kept_bytes: Some(IMPOSSIBLE),
            ..Record::default()
        };
        let impossible = serde_json::to_string(&record).expect("text");
        let other = impossible.replace("load_us", "load_ns");
        for text in ["", "{}", "[", "\u{0}\u{1}", &impossible, &other] {
            fs::write(&file, text).expect("written");
            let cost = Cost::new(Some(file.clone()));
            assert_eq!((cost.anon(), cost.more()), (None, 0), "{text:?}");
        }
    }
}
