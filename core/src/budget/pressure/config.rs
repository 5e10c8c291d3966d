//! Where pressure begins.

use std::time::Duration;

use super::Level;
use crate::error::{Error, ErrorKind, Result};
use crate::os::psi;

/// Which sources a [`Monitor`](super::Monitor) asks, and what they call pressure. A source set to `None` is not asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Stalls of the whole machine (`/proc/pressure/memory`) and of this process's cgroup (`memory.pressure`).
    pub psi: Option<PsiThresholds>,
    /// The limits of this process's memory cgroup and of those above it.
    pub cgroup: Option<CgroupShares>,
    /// What the machine has left (`MemAvailable`).
    pub machine: Option<MachineShares>,
    /// The service manager's protocol: `MEMORY_PRESSURE_WATCH` and `MEMORY_PRESSURE_WRITE`. Default: listened to.
    pub service_manager: bool,
    /// How long a level must have been lower before it falls; it rises at once. Default 5 s: longer than the windows
    /// of the triggers, so that pressure that goes on does not seem to come and go.
    pub hold: Duration,
    /// Events that come sooner after a reading wait for this time to be over. Default 100 ms: where page cache fills a
    /// limit the kernel may tell of it all the time.
    pub rest: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            psi: Some(PsiThresholds::default()),
            cgroup: Some(CgroupShares::default()),
            machine: Some(MachineShares::default()),
            service_manager: true,
            hold: Duration::from_secs(5),
            rest: Duration::from_millis(100),
        }
    }
}

impl Config {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] naming the share that is not between 0 and 1, or the pair that is the wrong way
    /// round.
    pub fn check(&self) -> Result<()> {
        let shares = [
            ("psi.some_low", self.psi.map(|psi| psi.some_low)),
            ("psi.full_critical", self.psi.map(|psi| psi.full_critical)),
            ("cgroup.low", self.cgroup.map(|cgroup| cgroup.low)),
            ("cgroup.critical", self.cgroup.map(|cgroup| cgroup.critical)),
            ("machine.low", self.machine.map(|machine| machine.low)),
            (
                "machine.critical",
                self.machine.map(|machine| machine.critical),
            ),
        ];
        for (name, share) in shares {
            if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
                return Err(invalid(format!("pressure: {name} is {share}"))
                    .remedy("give a share between 0 and 1"));
            }
        }
        if let Some(cgroup) = self.cgroup.filter(|own| own.low > own.critical) {
            return Err(invalid(format!(
                "pressure: cgroup.low ({}) is above cgroup.critical ({})",
                cgroup.low, cgroup.critical
            )));
        }
        if let Some(machine) = self.machine.filter(|own| own.low < own.critical) {
            return Err(invalid(format!(
                "pressure: machine.low ({}) is below machine.critical ({}), but both are what is left",
                machine.low, machine.critical
            )));
        }
        Ok(())
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

/// Stalls that count as pressure. Shares of time, 0 to 1, for the averages over 10 s; times in `window` for triggers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PsiThresholds {
    /// From this share of time with some task stalled on: low. Default 0.1, what systemd tells services of.
    pub some_low: f64,
    /// From this share of time with all tasks stalled at once on: critical. Default 0.2.
    pub full_critical: f64,
    /// Window of the triggers, for which the shares hold as well. Default 2 s, the shortest without privileges.
    pub window: Duration,
}

impl Default for PsiThresholds {
    fn default() -> Self {
        Self {
            some_low: 0.1,
            full_critical: 0.2,
            window: psi::UNPRIVILEGED_WINDOW,
        }
    }
}

/// Shares of a cgroup's limit, 0 to 1. What counts is the charge less what the kernel can reclaim by itself: clean page
/// cache fills every limit sooner or later, without harm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CgroupShares {
    /// From here on: low. Default 0.85.
    pub low: f64,
    /// From here on: critical. Default 0.95.
    pub critical: f64,
}

impl Default for CgroupShares {
    fn default() -> Self {
        Self {
            low: 0.85,
            critical: 0.95,
        }
    }
}

impl CgroupShares {
    /// The level at `used` of `limit` bytes.
    pub(super) fn level(&self, used: u64, limit: u64) -> Level {
        let share = used as f64 / limit.max(1) as f64;
        if share >= self.critical {
            Level::Critical
        } else if share >= self.low {
            Level::Low
        } else {
            Level::None
        }
    }
}

/// Shares of the machine's memory that are left, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MachineShares {
    /// Below this: low. Default 0.10.
    pub low: f64,
    /// Below this: critical. Default 0.05.
    pub critical: f64,
}

impl Default for MachineShares {
    fn default() -> Self {
        Self {
            low: 0.10,
            critical: 0.05,
        }
    }
}

impl MachineShares {
    /// The level with `available` of `total` bytes left.
    pub(super) fn level(&self, available: u64, total: u64) -> Level {
        let share = available as f64 / total.max(1) as f64;
        if share < self.critical {
            Level::Critical
        } else if share < self.low {
            Level::Low
        } else {
            Level::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_make_sense_and_nonsense_is_named() {
        Config::default().check().expect("the defaults");
        let wrong = |config: Config| config.check().expect_err("nonsense").to_string();
        let share = wrong(Config {
            psi: Some(PsiThresholds {
                some_low: f64::NAN,
                ..PsiThresholds::default()
            }),
            ..Config::default()
        });
        assert!(share.contains("psi.some_low is NaN"), "{share}");
        let order = wrong(Config {
            cgroup: Some(CgroupShares {
                low: 0.9,
                critical: 0.8,
            }),
            ..Config::default()
        });
        assert!(order.contains("cgroup.low (0.9)"), "{order}");
        let order = wrong(Config {
            machine: Some(MachineShares {
                low: 0.1,
                critical: 0.2,
            }),
            ..Config::default()
        });
        assert!(order.contains("machine.low (0.1)"), "{order}");
    }

    #[test]
    fn levels_begin_where_they_are_said_to() {
        let cgroup = CgroupShares::default();
        let levels: Vec<Level> = [0, 849, 850, 949, 950, 2000]
            .map(|used| cgroup.level(used, 1000))
            .to_vec();
        use Level::{Critical, Low, None};
        assert_eq!(levels, [None, None, Low, Low, Critical, Critical]);
        let machine = MachineShares::default();
        let levels: Vec<Level> = [0, 49, 50, 99, 100, 1000]
            .map(|left| machine.level(left, 1000))
            .to_vec();
        assert_eq!(levels, [Critical, Critical, Low, Low, None, None]);
        // A limit of zero is full.
        assert_eq!(cgroup.level(1, 0), Critical);
    }
}
