//! Being told of what happens in a memory cgroup, instead of asking again and again.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use super::find::unsupported;
use super::{MemoryCgroup, Version};
use crate::error::{Error, Result};
use crate::os::eventfd::EventFd;
use crate::os::poll::Interest;

/// How hard the kernel reclaims in a version 1 group (`memory.pressure_level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PressureLevel {
    /// It reclaims for new allocations: ordinary where page cache fills the limit.
    Low,
    /// It finds less and less to reclaim: active page cache goes.
    Medium,
    /// It finds next to nothing; the killer is close.
    Critical,
}

impl PressureLevel {
    fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::Critical => "critical",
        }
    }
}

/// A descriptor that becomes ready when something happened. Ends when dropped.
#[derive(Debug)]
pub struct Notifier(Kind);

#[derive(Debug)]
enum Kind {
    /// Version 1: registered with `cgroup.event_control`.
    Event(EventFd),
    /// Version 2: `memory.events` itself.
    File(File),
}

impl Notifier {
    /// What to wait for on the descriptor.
    pub fn interest(&self) -> Interest {
        match self.0 {
            Kind::Event(_) => Interest::Readable,
            Kind::File(_) => Interest::Priority,
        }
    }

    /// Takes the event, so that the next wait sleeps.
    ///
    /// # Errors
    /// What reading gives: the group is gone, and there will be no further event.
    pub fn acknowledge(&mut self) -> Result<()> {
        match &mut self.0 {
            Kind::Event(event) => event.drain().map(|_| ()),
            Kind::File(file) => rearm(file).map_err(|e| Error::io("memory.events", &e)),
        }
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::Event(event) => event.as_fd(),
            Kind::File(file) => file.as_fd(),
        }
    }
}

/// A kernel file is ready until it has been read anew.
fn rearm(file: &mut File) -> std::io::Result<()> {
    file.rewind()?;
    file.read_to_end(&mut Vec::new()).map(|_| ())
}

impl MemoryCgroup {
    /// Ready when the charge of level `index` (0: own group) crosses `bytes`, up or down. Version 1 only.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) with the reason in version 2 and where
    /// `cgroup.event_control` may not be written (it is the group's owner's).
    pub fn notify_usage(&self, index: usize, bytes: u64) -> Result<Notifier> {
        let dir = self.v1(index)?;
        register(dir, "memory.usage_in_bytes", &bytes.to_string())
    }

    /// Ready when the kernel reclaims at `level` or harder because of level `index`'s own limit. Version 1 only.
    ///
    /// # Errors
    /// As [`Self::notify_usage`].
    pub fn notify_pressure(&self, index: usize, level: PressureLevel) -> Result<Notifier> {
        let dir = self.v1(index)?;
        // Of this group's own, whoever else listens; kernels before 4.13 know no such mode.
        let word = level.word();
        register(dir, "memory.pressure_level", &format!("{word},local"))
            .or_else(|_| register(dir, "memory.pressure_level", word))
    }

    /// Ready when one of the counts in `memory.events` of level `index` rises. Version 2 only.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) in version 1; else what opening the file gives.
    pub fn notify_events(&self, index: usize) -> Result<Notifier> {
        if self.version() != Version::V2 {
            return Err(unsupported("version 1 groups have no memory.events"));
        }
        watch_file(&self.dir(index)?.join("memory.events"))
    }

    fn v1(&self, index: usize) -> Result<&Path> {
        if self.version() != Version::V1 {
            return Err(unsupported("version 2 groups have no cgroup.event_control"));
        }
        self.dir(index)
    }
}

/// A kernel file that tells of changes by POLLPRI.
pub(super) fn watch_file(path: &Path) -> Result<Notifier> {
    File::open(path)
        .and_then(|mut file| rearm(&mut file).map(|()| Notifier(Kind::File(file))))
        .map_err(|e| Error::io(path.display(), &e))
}

fn register(dir: &Path, file: &str, argument: &str) -> Result<Notifier> {
    let event = EventFd::new()?;
    let control = dir.join("cgroup.event_control");
    let registered = File::open(dir.join(file)).and_then(|watched| {
        // The kernel takes what it needs of both descriptors; `watched` may be closed after this.
        let line = format!(
            "{} {} {argument}",
            event.as_fd().as_raw_fd(),
            watched.as_raw_fd()
        );
        OpenOptions::new()
            .write(true)
            .open(&control)?
            .write_all(line.as_bytes())
    });
    registered
        .map_err(|e| unsupported(format!("{}: {file} {argument}: {e}", control.display())))?;
    Ok(Notifier(Kind::Event(event)))
}
