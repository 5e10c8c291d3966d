//! Pressure from limits: how close this process's memory cgroup, or one above it, is to its own.

use std::os::fd::{AsFd, BorrowedFd};

use super::config::CgroupShares;
use super::{Level, Reading, Source, megabytes};
use crate::os::cgroup::{
    CgroupFs, Events, LevelMemory, MemoryCgroup, Notifier, PressureLevel, Version,
};
use crate::os::poll::{Interest, Ready};

/// Watches the limits of the memory cgroup and of its ancestors; the level closest to its limit counts.
///
/// Version 1 tells of crossed thresholds and of hard reclaim, version 2 of what its `memory.events` counts. Where a
/// group does not let this process register, it is read whenever the monitor wakes.
#[derive(Debug)]
pub struct CgroupSource {
    /// The group, or why there is none.
    fs: CgroupFs,
    group: Result<MemoryCgroup, String>,
    shares: CgroupShares,
    watched: Vec<Watched>,
    /// Limits at the last reading: other limits need other thresholds.
    bounds: Vec<Option<u64>>,
    /// Counts at the last reading.
    events: Vec<Events>,
    /// Why the kernel does not tell.
    untold: Option<String>,
}

#[derive(Debug)]
struct Watched {
    notifier: Notifier,
    /// What an event means by itself.
    level: Level,
    fired: bool,
}

impl CgroupSource {
    /// The group this process is in.
    pub fn new(fs: &CgroupFs, shares: CgroupShares) -> Self {
        let mut source = Self {
            fs: fs.clone(),
            group: fs.memory().map_err(|e| e.to_string()),
            shares,
            watched: Vec::new(),
            bounds: Vec::new(),
            events: Vec::new(),
            untold: None,
        };
        // What happened before is no news.
        source.read();
        source
    }

    /// Registers for the limits there are now.
    fn watch(&mut self, group: &MemoryCgroup) {
        self.watched.clear();
        self.untold = None;
        for (index, bound) in self.bounds.clone().into_iter().enumerate() {
            let Some(bound) = bound else { continue };
            let at = |share: f64| (bound as f64 * share) as u64;
            let notifiers = match group.version() {
                Version::V1 => vec![
                    (group.notify_usage(index, at(self.shares.low)), Level::None),
                    (
                        group.notify_usage(index, at(self.shares.critical)),
                        Level::None,
                    ),
                    (
                        group.notify_pressure(index, PressureLevel::Medium),
                        Level::Low,
                    ),
                    (
                        group.notify_pressure(index, PressureLevel::Critical),
                        Level::Critical,
                    ),
                ],
                Version::V2 => vec![(group.notify_events(index), Level::None)],
            };
            for (notifier, level) in notifiers {
                match notifier {
                    Ok(notifier) => self.watched.push(Watched {
                        notifier,
                        level,
                        fired: false,
                    }),
                    Err(why) => self.untold = Some(why.to_string()),
                }
            }
        }
    }

    fn judge(&mut self, levels: &[LevelMemory]) -> Reading {
        let worst = levels
            .iter()
            .filter_map(|own| Some((own, own.bound()?)))
            .max_by(|(a, a_bound), (b, b_bound)| {
                let share = |own: &LevelMemory, bound: u64| {
                    own.unreclaimable() as f64 / bound.max(1) as f64
                };
                share(a, *a_bound).total_cmp(&share(b, *b_bound))
            });
        let (mut level, mut why) = match worst {
            None => (
                Level::None,
                format!(
                    "{}: no limit, {} charged",
                    levels[0].name,
                    megabytes(levels[0].usage)
                ),
            ),
            Some((own, bound)) => (
                self.shares.level(own.unreclaimable(), bound),
                format!(
                    "{}: {} of {} ({}) cannot be reclaimed",
                    own.name,
                    megabytes(own.unreclaimable()),
                    megabytes(bound),
                    if own.high == Some(bound) {
                        "memory.high"
                    } else {
                        "limit"
                    },
                ),
            ),
        };
        for (own, before) in levels.iter().zip(&self.events) {
            let out = own.events.oom > before.oom || own.events.oom_kill > before.oom_kill;
            if out || own.under_oom {
                level = Level::Critical;
                why = format!(
                    "{}: the kernel found no memory, and held or killed a process",
                    own.name
                );
            }
        }
        self.events = levels.iter().map(|own| own.events).collect();
        let fired = self
            .watched
            .iter_mut()
            .filter_map(|watched| std::mem::take(&mut watched.fired).then_some(watched.level))
            .max();
        if let Some(fired) = fired.filter(|fired| *fired > level) {
            level = fired;
            why = format!("{why}; the kernel finds ever less to reclaim");
        }
        if let Some(reason) = &self.untold {
            why = format!("{why}; read only now and then: {reason}");
        }
        Reading::seen(level, why)
    }
}

impl Source for CgroupSource {
    fn name(&self) -> &str {
        "cgroup"
    }

    fn read(&mut self) -> Reading {
        let group = match &self.group {
            Ok(group) => group.clone(),
            Err(why) => return Reading::absent(why),
        };
        let levels = match group.read() {
            Ok(levels) => levels,
            Err(why) => {
                // Removed, which takes that this process was moved: at the next reading its new group is asked.
                self.group = self.fs.memory().map_err(|e| e.to_string());
                self.watched.clear();
                self.bounds.clear();
                self.events.clear();
                return Reading::absent(why);
            }
        };
        let bounds: Vec<Option<u64>> = levels.iter().map(LevelMemory::bound).collect();
        if bounds != self.bounds {
            self.bounds = bounds;
            self.watch(&group);
        }
        self.judge(&levels)
    }

    fn events(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        self.watched
            .iter()
            .map(|watched| (watched.notifier.as_fd(), watched.notifier.interest()))
            .collect()
    }

    fn acknowledge(&mut self, ready: &[Ready]) {
        let mut ready = ready.iter();
        self.watched.retain_mut(|watched| {
            let ready = ready.next().copied().unwrap_or_default();
            // A changed kernel file is reported with POLLERR as well.
            if !(ready.event || ready.broken) {
                return true;
            }
            watched.fired = true;
            match watched.notifier.acknowledge() {
                Ok(()) => true,
                Err(why) => {
                    self.untold = Some(why.to_string());
                    false
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// A version 2 tree with the groups `/a` and `/a/b`, this process in the latter.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> std::io::Result<Self> {
            let tree = Self(tempfile::tempdir()?);
            tree.write("proc/self/cgroup", "0::/a/b\n")?;
            tree.write(
                "proc/self/mountinfo",
                "30 24 0:26 / /cg rw - cgroup2 none rw\n",
            )?;
            for group in ["a", "a/b"] {
                tree.write(&format!("cg/{group}/memory.max"), "max\n")?;
                tree.write(&format!("cg/{group}/memory.high"), "max\n")?;
                tree.write(&format!("cg/{group}/memory.events"), "oom 0\noom_kill 0\n")?;
                tree.charge(group, 100, 0)?;
            }
            Ok(tree)
        }

        fn write(&self, path: &str, text: &str) -> std::io::Result<()> {
            let path: PathBuf = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            fs::write(path, text)
        }

        /// In MB: what is charged, and what of it is clean page cache.
        fn charge(&self, group: &str, charge: u64, cache: u64) -> std::io::Result<()> {
            let bytes = |mb: u64| mb * 1_000_000;
            self.write(
                &format!("cg/{group}/memory.current"),
                &bytes(charge).to_string(),
            )?;
            self.write(
                &format!("cg/{group}/memory.stat"),
                &format!(
                    "anon {}\nfile {}\nactive_file {}\n",
                    bytes(charge - cache),
                    bytes(cache),
                    bytes(cache)
                ),
            )
        }

        fn source(&self) -> CgroupSource {
            let fs = CgroupFs::at(self.0.path().join("proc"), self.0.path());
            CgroupSource::new(&fs, CgroupShares::default())
        }
    }

    #[test]
    fn the_level_closest_to_its_limit_counts() -> std::io::Result<()> {
        let tree = Tree::new()?;
        let mut source = tree.source();
        let mut read = || {
            let reading = source.read();
            (reading.level(), reading.why().to_owned())
        };
        assert_eq!(
            read(),
            (Level::None, "/a/b: no limit, 100 MB charged".into())
        );
        tree.write("cg/a/b/memory.max", "200000000\n")?;
        let (level, why) = read();
        assert_eq!(level, Level::None);
        // A recorded file cannot be polled for changes, but it is read.
        assert!(
            why.starts_with("/a/b: 100 MB of 200 MB (limit) cannot be reclaimed"),
            "{why}"
        );
        tree.charge("a/b", 171, 0)?;
        assert_eq!(read().0, Level::Low);
        // Page cache fills the limit: no pressure.
        tree.charge("a/b", 199, 90)?;
        assert_eq!(read().0, Level::None);
        tree.charge("a/b", 199, 5)?;
        assert_eq!(read().0, Level::Critical);
        tree.charge("a/b", 100, 0)?;
        assert_eq!(read().0, Level::None);
        // The group above is closer to its own limit, that of memory.high.
        tree.charge("a", 800, 10)?;
        tree.write("cg/a/memory.high", "900000000\n")?;
        let (level, why) = read();
        assert_eq!(level, Level::Low);
        assert!(
            why.starts_with("/a: 790 MB of 900 MB (memory.high)"),
            "{why}"
        );
        Ok(())
    }

    #[test]
    fn a_kill_is_critical_once() -> std::io::Result<()> {
        let tree = Tree::new()?;
        // Before the source was there: no news.
        tree.write("cg/a/memory.events", "oom 3\noom_kill 3\n")?;
        let mut source = tree.source();
        assert_eq!(source.read().level(), Level::None);
        tree.write("cg/a/memory.events", "oom 4\noom_kill 4\n")?;
        let kill = source.read();
        assert_eq!(kill.level(), Level::Critical);
        assert!(kill.why().starts_with("/a: "), "{kill:?}");
        assert_eq!(source.read().level(), Level::None);
        Ok(())
    }

    #[test]
    fn without_a_group_it_is_absent_with_the_reason() -> std::io::Result<()> {
        let tree = Tree::new()?;
        let mut source = tree.source();
        tree.write("cg/a/memory.max", "none of your business\n")?;
        let odd = source.read();
        assert!(
            matches!(&odd, Reading::Absent { why } if why.contains("memory.max")),
            "{odd:?}"
        );
        tree.write("proc/self/mountinfo", "")?;
        let mut absent = tree.source();
        let why = absent.read();
        assert!(
            matches!(&why, Reading::Absent { why } if why.contains("not mounted")),
            "{why:?}"
        );
        assert!(absent.events().is_empty());
        Ok(())
    }
}
