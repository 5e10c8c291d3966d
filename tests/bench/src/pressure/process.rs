//! Worker processes and the memory cgroups they are put in.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use atom_core::os::cgroup::{CgroupFs, Version};
use atom_core::{Error, ErrorKind, Result};

use super::job::Job;
use crate::worker;

/// How often the processes are looked at.
pub const LOOK: Duration = Duration::from_millis(50);
/// The runtime works alone for so long, and again once the hog is full.
pub const ALONE: Duration = Duration::from_secs(3);
pub const MB: f64 = 1e6;
use atom_cli::session::Session;

/// A memory cgroup below this process's own, gone with the value.
pub struct Group(pub PathBuf);

impl Group {
    /// # Errors
    /// [`ErrorKind::Unsupported`] where none can be made.
    pub fn new(name: &str, limit: u64) -> Result<Self> {
        let refused = |why: String| {
            Error::new(
                ErrorKind::Unsupported,
                format!("no memory cgroup can be made here: {why}"),
            )
            .remedy("run it as root in a version 1 memory cgroup")
        };
        let own = CgroupFs::default().memory()?;
        if own.version() != Version::V1 {
            return Err(refused(
                "in version 2 a group with processes has no children".into(),
            ));
        }
        let name = format!("atom-{name}-{}", std::process::id());
        let group = Self(own.path().join(name));
        fs::create_dir(&group.0).map_err(|e| refused(e.to_string()))?;
        let file = group.0.join("memory.limit_in_bytes");
        fs::write(&file, limit.to_string()).map_err(|e| Error::io(file.display(), &e))?;
        // Where swap is counted, none.
        let _ = fs::write(
            group.0.join("memory.memsw.limit_in_bytes"),
            limit.to_string(),
        );
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last of its processes may be on its way out.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        log::warn!("{} is left over", self.0.display());
    }
}

/// A worker under way, killed with the value.
pub struct Running(Child);

impl Running {
    /// # Errors
    /// When it cannot be started.
    pub fn start(session: &Session, job: &Job) -> Result<Self> {
        let child = worker::command(session, "pressure", job)?
            .stdout(Stdio::piped())
            .spawn();
        child
            .map(Self)
            .map_err(|e| Error::io("starting a worker for pressure", &e))
    }

    /// What it prints, line by line.
    pub fn lines(&mut self) -> mpsc::Receiver<String> {
        let (send, receive) = mpsc::channel();
        if let Some(out) = self.0.stdout.take() {
            thread::spawn(move || {
                let lines = BufReader::new(out).lines().map_while(|line| line.ok());
                for line in lines {
                    if send.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        receive
    }

    pub fn anon_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
        let kilobytes = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse().ok());
        kilobytes.map_or(0, |kb: u64| kb * 1024)
    }

    /// Whether the kernel has killed it.
    ///
    /// # Errors
    /// When it ended in another way.
    pub fn killed(&mut self) -> Result<bool> {
        let ended = self.0.try_wait();
        match ended.map_err(|e| Error::io("a worker", &e))? {
            None => Ok(false),
            Some(status) if status.signal() == Some(9) => Ok(true),
            Some(status) => Err(Error::new(
                ErrorKind::Internal,
                format!("a worker of atom-bench pressure failed: {status}"),
            )),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
