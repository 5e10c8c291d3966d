//! Pressure as the kernel measures it: time lost waiting for memory.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::config::PsiThresholds;
use super::{Level, Reading, Source};
use crate::os::cgroup::CgroupFs;
use crate::os::memory::{self, MachineMemory};
use crate::os::poll::{Interest, Ready};
use crate::os::psi::{self, Psi, Stall, Threshold, Trigger};

/// While more of the machine's memory than this is available, tasks that stall do so at a limit of their own group, which is
/// not the machine's shortage.
const PLENTY: f64 = 0.5;

/// Watches a PSI file: by triggers where the kernel allows them, and by its averages at every reading.
#[derive(Debug)]
pub struct PsiSource {
    name: &'static str,
    /// The file, or why there is none.
    file: Result<PathBuf, String>,
    thresholds: PsiThresholds,
    triggers: Vec<Armed>,
    /// Why a trigger is missing.
    untriggered: Option<String>,
    /// It is the whole machine's: stalls mean nothing while that has plenty.
    whole: bool,
}

#[derive(Debug)]
struct Armed {
    trigger: Trigger,
    level: Level,
    fired: bool,
}

impl PsiSource {
    /// The whole machine.
    pub fn system(thresholds: PsiThresholds) -> Self {
        Self {
            whole: true,
            ..Self::watch("psi", Ok(PathBuf::from(psi::SYSTEM)), thresholds)
        }
    }

    /// This process's group in the unified hierarchy.
    pub fn cgroup(fs: &CgroupFs, thresholds: PsiThresholds) -> Self {
        let file = fs.memory_pressure().map_err(|e| e.to_string());
        Self::watch("psi-cgroup", file, thresholds)
    }

    fn watch(name: &'static str, file: Result<PathBuf, String>, thresholds: PsiThresholds) -> Self {
        let mut source = Self {
            name,
            file: file.and_then(|file| match psi::read(&file) {
                Ok(_) => Ok(file),
                Err(why) => Err(why.to_string()),
            }),
            thresholds,
            triggers: Vec::new(),
            untriggered: None,
            whole: false,
        };
        if let Ok(file) = source.file.clone() {
            source.arm(&file);
        }
        source
    }

    fn arm(&mut self, file: &Path) {
        let PsiThresholds {
            some_low,
            full_critical,
            window,
        } = self.thresholds;
        for (kind, share, level) in [
            (Stall::Some, some_low, Level::Low),
            (Stall::Full, full_critical, Level::Critical),
        ] {
            // Odd shares are no time at all.
            let stall = Duration::try_from_secs_f64(window.as_secs_f64() * share);
            let threshold = Threshold {
                kind,
                stall: stall.unwrap_or_default(),
                window,
            };
            match Trigger::open(file, threshold) {
                Ok(trigger) => self.triggers.push(Armed {
                    trigger,
                    level,
                    fired: false,
                }),
                Err(why) => self.untriggered = Some(why.to_string()),
            }
        }
    }

    fn judge(&mut self, psi: &Psi) -> Reading {
        let fired = self
            .triggers
            .iter_mut()
            .filter_map(|armed| std::mem::take(&mut armed.fired).then_some(armed.level))
            .max();
        let (some, full) = (psi.some.avg10, psi.full.avg10);
        let average = if full >= self.thresholds.full_critical * 100.0 {
            Level::Critical
        } else if some >= self.thresholds.some_low * 100.0 {
            Level::Low
        } else {
            Level::None
        };
        let level = average.max(fired.unwrap_or_default());
        let mut why = format!(
            "in the last 10 s some tasks waited for memory {some} % of the time, all at once {full} %"
        );
        if let Some(fired) = fired.filter(|fired| *fired > average) {
            let (who, share) = match fired {
                Level::Critical => ("all", self.thresholds.full_critical),
                _ => ("some", self.thresholds.some_low),
            };
            why = format!(
                "{who} tasks waited for memory more than {:.0} % of {:?}",
                share * 100.0,
                self.thresholds.window
            );
        }
        if let Some(reason) = &self.untriggered {
            why = format!("{why}; read only now and then, no trigger: {reason}");
        }
        if self.whole && level > Level::None {
            let MachineMemory { total, available } = memory::machine();
            if available as f64 > total as f64 * PLENTY {
                let (available, total) = (available / 1_000_000, total / 1_000_000);
                why = format!("{why}; but {available} MB of {total} MB are available");
                return Reading::seen(Level::None, why);
            }
        }
        Reading::seen(level, why)
    }
}

impl Source for PsiSource {
    fn name(&self) -> &str {
        self.name
    }

    fn read(&mut self) -> Reading {
        let file = match &self.file {
            Ok(file) => file,
            Err(why) => return Reading::absent(why),
        };
        match psi::read(file) {
            Ok(psi) => self.judge(&psi),
            Err(why) => Reading::absent(why),
        }
    }

    fn events(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        self.triggers
            .iter()
            .map(|armed| (armed.trigger.as_fd(), Interest::Priority))
            .collect()
    }

    fn acknowledge(&mut self, ready: &[Ready]) {
        // Asking poll(2) took the event. A broken trigger is one of a group that was removed.
        let mut ready = ready.iter();
        let mut lost = false;
        self.triggers.retain_mut(|armed| {
            let ready = ready.next().copied().unwrap_or_default();
            armed.fired |= ready.event && !ready.broken;
            lost |= ready.broken;
            !ready.broken
        });
        if lost {
            self.untriggered = Some("the kernel took it back".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, some: f64, full: f64) -> std::io::Result<PathBuf> {
        let path = dir.join("memory.pressure");
        std::fs::write(
            &path,
            format!(
                "some avg10={some:.2} avg60=0.00 avg300=0.00 total=1\n\
                 full avg10={full:.2} avg60=0.00 avg300=0.00 total=1\n"
            ),
        )?;
        Ok(path)
    }

    #[test]
    fn averages_and_triggers_count() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = file(dir.path(), 0.0, 0.0)?;
        let thresholds = PsiThresholds::default();
        let mut source = PsiSource::watch("psi", Ok(path), thresholds);
        // An ordinary file takes what is written to it, and is spoilt by it.
        assert_eq!(source.events().len(), 2);
        let mut read = |some, full, fired: &[usize]| -> std::io::Result<Reading> {
            file(dir.path(), some, full)?;
            let mut ready = [Ready::default(); 2];
            for at in fired {
                ready[*at].event = true;
            }
            source.acknowledge(&ready);
            Ok(source.read())
        };
        assert_eq!(read(9.99, 9.0, &[])?.level(), Level::None);
        let low = read(10.0, 9.0, &[])?;
        assert_eq!(low.level(), Level::Low);
        assert_eq!(
            low.why(),
            "in the last 10 s some tasks waited for memory 10 % of the time, all at once 9 %"
        );
        assert_eq!(read(30.0, 20.0, &[])?.level(), Level::Critical);
        let fired = read(0.0, 0.0, &[0])?;
        assert_eq!(fired.level(), Level::Low);
        assert_eq!(
            fired.why(),
            "some tasks waited for memory more than 10 % of 2s"
        );
        assert_eq!(read(50.0, 0.0, &[0, 1])?.level(), Level::Critical);
        assert_eq!(read(0.0, 0.0, &[])?.level(), Level::None);
        // The kernel takes one back: the averages are left.
        source.acknowledge(&[
            Ready {
                event: true,
                broken: true,
            },
            Ready::default(),
        ]);
        assert_eq!(source.events().len(), 1);
        let after = source.read();
        assert_eq!(after.level(), Level::None);
        assert!(
            after.why().contains("no trigger: the kernel took it back"),
            "{after:?}"
        );
        Ok(())
    }

    #[test]
    fn odd_shares_are_refused_by_the_kernel_not_here() {
        for share in [f64::NAN, f64::INFINITY, -1.0, 7.0] {
            let mut source = PsiSource::system(PsiThresholds {
                some_low: share,
                full_critical: share,
                ..PsiThresholds::default()
            });
            assert!(source.events().is_empty(), "{share}");
            assert!(!source.read().why().is_empty());
        }
    }

    #[test]
    fn without_the_file_it_is_absent_with_the_reason() {
        let nowhere = PathBuf::from("/nowhere/memory.pressure");
        let mut source = PsiSource::watch("psi", Ok(nowhere), PsiThresholds::default());
        let reading = source.read();
        assert!(
            matches!(&reading, Reading::Absent { why } if why.contains("CONFIG_PSI")),
            "{reading:?}"
        );
        assert!(source.events().is_empty());
    }
}
