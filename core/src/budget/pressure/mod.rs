//! Memory pressure: who sees it, how bad it is, and when it counts as over.
//!
//! A [`Source`] is asked for a [`Reading`]; a [`Monitor`] asks all of them, takes the worst, and reports when the level
//! changes. What is done about it is not known here.

mod application;
mod cgroup;
mod config;
mod machine;
mod monitor;
mod psi;
mod systemd;

pub use application::{ApplicationPressure, ApplicationSource};
pub use cgroup::CgroupSource;
pub use config::{CgroupShares, Config, MachineShares, PsiThresholds};
pub use machine::MachineSource;
pub use monitor::{Monitor, Status, Transition};
pub use psi::PsiSource;
pub use systemd::ServiceManagerSource;

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::os::poll::{Interest, Ready};

/// How short memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Level {
    /// Not at all.
    #[default]
    None,
    /// What costs little to bring back should go.
    Low,
    /// Everything that can go should: allocations are about to fail, or the kernel to kill.
    Critical,
}

impl Level {
    /// A stable word for JSON and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Low => "low",
            Self::Critical => "critical",
        }
    }

    /// What a level of Android's `onTrimMemory` (`ComponentCallbacks2`) means here. Running critical (15) and complete
    /// (80, next to be killed) are [`Level::Critical`]; the other levels from 5 on are [`Level::Low`].
    pub const fn from_android_trim(level: i32) -> Self {
        match level {
            15 | 80.. => Self::Critical,
            5.. => Self::Low,
            _ => Self::None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a source says when it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// It sees this much pressure.
    Seen {
        /// How much.
        level: Level,
        /// The figures behind it, for people: `/x: 812 MB of 850 MB (memory.high) cannot be reclaimed`.
        why: String,
    },
    /// It sees nothing on this machine, or no longer.
    Absent {
        /// Why not, and what would change it.
        why: String,
    },
}

impl Reading {
    /// A level and the figures behind it.
    pub fn seen(level: Level, why: impl Into<String>) -> Self {
        let why = why.into();
        Self::Seen { level, why }
    }

    /// Why there is nothing to see.
    pub fn absent(why: impl fmt::Display) -> Self {
        let why = why.to_string();
        Self::Absent { why }
    }

    /// The level; [`Level::None`] where the source is absent.
    pub fn level(&self) -> Level {
        match self {
            Self::Seen { level, .. } => *level,
            Self::Absent { .. } => Level::None,
        }
    }

    /// The sentence.
    pub fn why(&self) -> &str {
        match self {
            Self::Seen { why, .. } | Self::Absent { why } => why,
        }
    }
}

/// Something that sees memory pressure.
pub trait Source: Send {
    /// A stable name, one word: `psi`, `cgroup`.
    fn name(&self) -> &str;

    /// How things stand now. An event that came since the last reading counts as if it lasted until this one; that it
    /// does not end at once is the monitor's business.
    fn read(&mut self) -> Reading;

    /// Descriptors that are ready when a reading is due. None: it is read whenever the monitor wakes.
    fn events(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        Vec::new()
    }

    /// Told what poll(2) said of [`Self::events`], in their order, if one of them is ready. Takes the events, and
    /// closes what is broken: the next wait would not sleep.
    fn acknowledge(&mut self, ready: &[Ready]) {
        let _ = ready;
    }
}

/// Bytes as people read them: `812 MB`. Powers of ten, as everywhere in Atom's messages.
fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}
