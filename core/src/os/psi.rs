//! Pressure stall information: the share of time in which tasks waited for memory, and triggers on it.
//!
//! The kernel's Documentation/accounting/psi.rst describes both. A stall is time spent in reclaim, in waiting for a
//! page that was there a moment ago (a refault), or in swapping: allocating alone is none.
//!
//! Not by a crate: procfs takes `avg10=nan` and negative shares for figures and knows no triggers; psi (2019) knows no cgroups.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::leaf;
use crate::error::{Error, ErrorKind, Result};

/// The whole machine's file.
pub const SYSTEM: &str = "/proc/pressure/memory";

/// Windows of triggers without `CAP_SYS_RESOURCE` are whole multiples of this.
pub const UNPRIVILEGED_WINDOW: Duration = Duration::from_secs(2);

/// Shares of time, in percent, and their sum.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Averages {
    /// Over the last ten seconds, percent.
    pub avg10: f64,
    /// Over the last minute, percent.
    pub avg60: f64,
    /// Over the last five minutes, percent.
    pub avg300: f64,
    /// All of it since boot (or since the cgroup was made), microseconds.
    pub total_us: u64,
}

/// One reading of a PSI file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Psi {
    /// Time in which some task was stalled.
    pub some: Averages,
    /// Time in which all tasks that were not idle were stalled at once.
    pub full: Averages,
}

/// Reads a PSI file: [`SYSTEM`], or a cgroup's `memory.pressure`.
///
/// # Errors
/// What reading gives (a kernel without `CONFIG_PSI`, or booted with `psi=0`, has no file or gives `EOPNOTSUPP`), and
/// [`ErrorKind::Unsupported`] when the text is not what psi.rst describes.
pub fn read(path: &Path) -> Result<Psi> {
    leaf::assert_free("a PSI file is read");
    let text =
        std::fs::read_to_string(path).map_err(|e| absent(&path.display().to_string(), &e))?;
    parse(&text).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "{}: not pressure stall information: {:?}",
                path.display(),
                text.chars().take(80).collect::<String>()
            ),
        )
    })
}

fn parse(text: &str) -> Option<Psi> {
    let line = |kind: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))
    };
    Some(Psi {
        some: averages(line("some")?)?,
        full: averages(line("full")?)?,
    })
}

fn averages(line: &str) -> Option<Averages> {
    let field = |name: &str| {
        line.split_ascii_whitespace()
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    let percent = |name: &str| -> Option<f64> {
        let value: f64 = field(name)?.parse().ok()?;
        (0.0..=1000.0).contains(&value).then_some(value)
    };
    Some(Averages {
        avg10: percent("avg10")?,
        avg60: percent("avg60")?,
        avg300: percent("avg300")?,
        total_us: field("total")?.parse().ok()?,
    })
}

/// Which stalls a trigger counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stall {
    /// Those of some task.
    Some,
    /// Those of all tasks at once.
    Full,
}

/// When a trigger fires: `stall` of stalled time within any `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// Which stalls count.
    pub kind: Stall,
    /// Stalled time, at most `window`.
    pub stall: Duration,
    /// 500 ms (kernels since 6.5: any) to 10 s; without `CAP_SYS_RESOURCE` a multiple of [`UNPRIVILEGED_WINDOW`], and
    /// before Linux 6.4 not at all.
    pub window: Duration,
}

impl Threshold {
    /// The text the kernel takes; a NUL ends it.
    fn text(&self) -> String {
        let kind = match self.kind {
            Stall::Some => "some",
            Stall::Full => "full",
        };
        format!(
            "{kind} {} {}",
            self.stall.as_micros(),
            self.window.as_micros()
        )
    }
}

/// A trigger the kernel holds for this process: its descriptor is ready with
/// [`Interest::Priority`](super::poll::Interest::Priority), at most once a window. Asking with poll(2) takes the event.
/// Ends when dropped.
#[derive(Debug)]
pub struct Trigger(File);

impl Trigger {
    /// Sets a trigger on the PSI file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] with the reason, when the kernel, the file's mode or the process's privileges do not
    /// allow it: the averages can then still be read.
    pub fn open(path: &Path, threshold: Threshold) -> Result<Self> {
        let text = threshold.text();
        Self::write(path, format!("{text}\0").as_bytes())
            .map_err(|e| absent(&format!("{}: trigger {text:?}", path.display()), &e))
    }

    /// Sets a trigger described by `payload`, as a service manager hands it over.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_raw(path: &Path, payload: &[u8]) -> Result<Self> {
        Self::write(path, payload).map_err(|e| absent(&path.display().to_string(), &e))
    }

    fn write(path: &Path, payload: &[u8]) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        if !payload.is_empty() {
            file.write_all(payload)?;
        }
        Ok(Self(file))
    }
}

impl AsFd for Trigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why there is no pressure information, in words.
fn absent(what: &str, error: &io::Error) -> Error {
    let (kind, why) = match error.raw_os_error() {
        Some(libc::ENOENT) => (
            ErrorKind::Unsupported,
            "no such file: the kernel was built without CONFIG_PSI or booted with psi=0",
        ),
        Some(libc::EOPNOTSUPP) => (
            ErrorKind::Unsupported,
            "pressure stall information is switched off (boot with psi=1)",
        ),
        Some(libc::EPERM | libc::EACCES | libc::EROFS) => (
            ErrorKind::Unsupported,
            "not permitted: before Linux 6.4 triggers need CAP_SYS_RESOURCE, and a cgroup's file must be writable",
        ),
        Some(libc::EINVAL) => (
            ErrorKind::Unsupported,
            "refused: the stall must be above 0 and at most the window, the window 0.5 to 10 s, and without \
             CAP_SYS_RESOURCE whole multiples of 2 s",
        ),
        _ => return Error::io(what, error),
    };
    Error::new(kind, format!("{what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::super::poll::{self, Interest};
    use super::*;

    const TEXT: &str = "some avg10=0.22 avg60=0.17 avg300=1.11 total=58761459\n\
                        full avg10=0.23 avg60=0.16 avg300=1.08 total=58464525\n";

    #[test]
    fn both_lines_are_read() {
        let psi = parse(TEXT).expect("the kernel's own example");
        assert_eq!((psi.some.avg10, psi.some.avg300), (0.22, 1.11));
        assert_eq!((psi.full.avg60, psi.full.total_us), (0.16, 58_464_525));
    }

    #[test]
    fn garbage_is_refused() {
        for at in 0..TEXT.len() {
            // A text cut short never reads as something else: either both lines are whole or there is none.
            if let Some(psi) = parse(&TEXT[..at]) {
                assert_eq!(psi.some, parse(TEXT).expect("whole").some);
            }
        }
        for text in [
            "",
            "some",
            "some \nfull \n",
            "some avg10=nan avg60=0 avg300=0 total=0\nfull avg10=0 avg60=0 avg300=0 total=0",
            "some avg10=-1 avg60=0 avg300=0 total=0\nfull avg10=0 avg60=0 avg300=0 total=0",
            "some avg10=1 avg60=0 avg300=0 total=99999999999999999999\nfull avg10=0 avg60=0 avg300=0 total=0",
            "some avg10=1 avg60=0 avg300=0 total=1\n",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        let missing = read(Path::new("/nowhere/memory.pressure")).map_err(|e| e.kind());
        assert_eq!(missing, Err(ErrorKind::Unsupported));
    }

    #[test]
    fn the_kernel_takes_triggers_or_says_why_not() {
        let path = Path::new(SYSTEM);
        if let Err(why) = read(path) {
            eprintln!("SKIPPED: {why}");
            return;
        }
        let good = Threshold {
            kind: Stall::Some,
            stall: Duration::from_millis(200),
            window: UNPRIVILEGED_WINDOW,
        };
        match Trigger::open(path, good) {
            Ok(trigger) => {
                let ready = poll::wait(&[(trigger.as_fd(), Interest::Priority)], Duration::ZERO)
                    .expect("poll");
                assert!(!ready[0].broken, "{ready:?}");
            }
            Err(why) => {
                eprintln!("SKIPPED: {why}");
                return;
            }
        }
        // More stall than there is time.
        let bad = Threshold {
            stall: Duration::from_secs(3),
            ..good
        };
        let refused = Trigger::open(path, bad).expect_err("not possible");
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        assert!(
            refused.message().contains("some 3000000 2000000"),
            "{refused}"
        );
    }
}
