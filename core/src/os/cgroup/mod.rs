//! The memory cgroup this process is in, version 2 or 1: its limits, what is charged to it, what happened in it.
//!
//! The files are those of the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. A limit of any
//! ancestor binds as well as the group's own, so every level up to the top of what is mounted is read.
//!
//! Not by the crate cgroups-rs (0.5): it is made to create groups, takes a D-Bus client with it (some 60 packages), and looks for
//! version 2 groups below `/sys/fs/cgroup` only, whatever this process's mounts are.

mod find;
mod memory;
mod notify;

pub use find::Version;
pub use memory::{Events, LevelMemory, MemoryCgroup};
pub use notify::{Notifier, PressureLevel};

use std::path::PathBuf;

use crate::error::Result;
use memory::read;

/// Where the kernel's files are looked for.
#[derive(Debug, Clone)]
pub struct CgroupFs {
    proc: PathBuf,
    root: PathBuf,
}

impl Default for CgroupFs {
    fn default() -> Self {
        Self::at("/proc", "/")
    }
}

impl CgroupFs {
    /// `proc` stands for `/proc`, `root` for `/`: below it the mount points are looked for that `proc` names. For
    /// recorded trees in tests; everybody else takes the default.
    pub fn at(proc: impl Into<PathBuf>, root: impl Into<PathBuf>) -> Self {
        Self {
            proc: proc.into(),
            root: root.into(),
        }
    }

    /// The memory cgroup of this process. Reads only where it is; a process that is moved needs a new one.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) with the reason where there is none: no cgroups, no
    /// memory controller, or a mount that does not show this process's group. Else what reading `/proc` gives.
    pub fn memory(&self) -> Result<MemoryCgroup> {
        let own = find::memory(&self.read("cgroup")?, &self.read("mountinfo")?)?;
        MemoryCgroup::open(&self.root, own)
    }

    /// The PSI file of this process's own group in the unified hierarchy. That is there without the memory controller,
    /// too, so on machines where version 1 has it.
    ///
    /// # Errors
    /// As [`Self::memory`]. A process in the root group has none: what is counted there is the whole machine.
    pub fn memory_pressure(&self) -> Result<PathBuf> {
        let own = find::unified(&self.read("cgroup")?, &self.read("mountinfo")?)?;
        own.pressure_file(&self.root)
    }

    fn read(&self, name: &str) -> Result<String> {
        read(&self.proc.join("self").join(name))
    }
}

#[cfg(test)]
mod tests;
