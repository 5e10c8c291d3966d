//! Pressure that a service manager reports: systemd's protocol for services (systemd.io/PRESSURE).
//!
//! The crate sd-notify (0.5) has the other half of what a service manager and a service say to each other, not this one.

use std::env;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Level, Reading, Source};
use crate::os::poll::{Interest, Ready};
use crate::os::psi::Trigger;

/// Names the file to watch.
const WATCH: &str = "MEMORY_PRESSURE_WATCH";
/// What to write to it first, in Base64.
const WRITE: &str = "MEMORY_PRESSURE_WRITE";

/// Watches what `MEMORY_PRESSURE_WATCH` names: a PSI file, a FIFO or a socket. The protocol knows one degree of
/// pressure: every event is [`Level::Low`], until the monitor's hold is over.
#[derive(Debug)]
pub struct ServiceManagerSource {
    /// What is watched, or why nothing is.
    watched: Result<Watched, String>,
    fired: bool,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    stream: Stream,
    /// What was written to a FIFO comes back, if nobody reads it first; it is no event.
    echo: Vec<u8>,
}

#[derive(Debug)]
enum Stream {
    /// A kernel file: never read, ready with POLLPRI.
    Psi(Trigger),
    Fifo(File),
    Socket(UnixStream),
}

impl ServiceManagerSource {
    /// As the environment says; it is looked at once.
    pub fn from_environment() -> Self {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        match set(WATCH) {
            Some(watch) => Self::open(&watch, set(WRITE).as_deref()),
            None => Self::absent(format!(
                "{WATCH} is not set: no service manager asks for it"
            )),
        }
    }

    /// `watch` and `write` are what the two variables hold.
    pub fn open(watch: &OsStr, write: Option<&OsStr>) -> Self {
        if watch == "/dev/null" {
            return Self::absent(format!("{WATCH} is /dev/null: switched off"));
        }
        match Watched::open(Path::new(watch), write) {
            Ok(watched) => Self {
                watched: Ok(watched),
                fired: false,
            },
            Err(why) => Self::absent(why),
        }
    }

    fn absent(why: String) -> Self {
        Self {
            watched: Err(why),
            fired: false,
        }
    }
}

impl Watched {
    fn open(path: &Path, write: Option<&OsStr>) -> Result<Self, String> {
        let failed = |e: io::Error| format!("{WATCH}={}: {e}", path.display());
        if !path.is_absolute() {
            return Err(format!("{WATCH}={}: not an absolute path", path.display()));
        }
        let payload = match write {
            Some(text) => STANDARD
                .decode(text.as_encoded_bytes())
                .map_err(|e| format!("{WRITE}={}: not Base64: {e}", text.display()))?,
            None => Vec::new(),
        };
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        let mut echo = Vec::new();
        let stream = if kind.is_socket() {
            let mut socket = UnixStream::connect(path).map_err(failed)?;
            socket.set_nonblocking(true).map_err(failed)?;
            socket.write_all(&payload).map_err(failed)?;
            Stream::Socket(socket)
        } else if kind.is_fifo() {
            let mut fifo = open_fifo(path, !payload.is_empty()).map_err(failed)?;
            fifo.write_all(&payload).map_err(failed)?;
            echo = payload;
            Stream::Fifo(fifo)
        } else if kind.is_file() {
            Stream::Psi(Trigger::open_raw(path, &payload).map_err(|e| e.to_string())?)
        } else {
            return Err(format!(
                "{WATCH}={}: neither a file, a FIFO nor a socket",
                path.display()
            ));
        };
        Ok(Self {
            path: path.to_owned(),
            stream,
            echo,
        })
    }

    /// Takes what is there to read. True: there was an event. An error: there will be none any more.
    fn take(&mut self) -> io::Result<bool> {
        let mut data = Vec::new();
        let ended = match &mut self.stream {
            Stream::Psi(_) => return Ok(true),
            Stream::Fifo(fifo) => drain(fifo, &mut data)?,
            Stream::Socket(socket) => drain(socket, &mut data)?,
        };
        let echoed = !self.echo.is_empty() && data.starts_with(&self.echo);
        let own = if echoed { self.echo.len() } else { 0 };
        if !data.is_empty() {
            self.echo.clear();
        }
        if ended {
            match &mut self.stream {
                // The last writer left; another may come.
                Stream::Fifo(fifo) => *fifo = open_fifo(&self.path, false)?,
                _ if data.len() > own => {}
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "it was closed",
                    ));
                }
            }
        }
        Ok(data.len() > own)
    }
}

/// Open for writing as well, a FIFO does not end when its writers leave.
fn open_fifo(path: &Path, must_write: bool) -> io::Result<File> {
    let open = |write| {
        OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
    };
    match open(true) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !must_write => open(false),
        opened => opened,
    }
}

/// Reads until there is no more, at most some kilobytes. True: the other side is gone.
fn drain(stream: &mut impl Read, data: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0u8; 4096];
    // Whoever writes without end does not keep the monitor here.
    for _ in 0..16 {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(read) => data.extend_from_slice(&buffer[..read]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

impl Source for ServiceManagerSource {
    fn name(&self) -> &str {
        "service-manager"
    }

    fn read(&mut self) -> Reading {
        let watched = match &self.watched {
            Ok(watched) => watched,
            Err(why) => return Reading::absent(why),
        };
        let path = watched.path.display();
        if std::mem::take(&mut self.fired) {
            Reading::seen(
                Level::Low,
                format!("{path}: the service manager reports pressure"),
            )
        } else {
            Reading::seen(Level::None, format!("{path}: no pressure reported"))
        }
    }

    fn events(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        let Ok(watched) = &self.watched else {
            return Vec::new();
        };
        vec![match &watched.stream {
            Stream::Psi(trigger) => (trigger.as_fd(), Interest::Priority),
            Stream::Fifo(fifo) => (fifo.as_fd(), Interest::Readable),
            Stream::Socket(socket) => (socket.as_fd(), Interest::Readable),
        }]
    }

    fn acknowledge(&mut self, ready: &[Ready]) {
        let Ok(watched) = &mut self.watched else {
            return;
        };
        let ready = ready.first().copied().unwrap_or_default();
        let taken = match &watched.stream {
            // No trigger was set, or its group was removed.
            Stream::Psi(_) if ready.broken => Err(io::Error::other("it has no trigger")),
            _ if ready.event || ready.broken => watched.take(),
            _ => return,
        };
        match taken {
            Ok(event) => self.fired |= event,
            Err(e) => self.watched = Err(format!("{WATCH}={}: {e}", watched.path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::os::poll;

    /// What systemd gives with its default threshold: "some 200000 2000000" and a NUL.
    const PAYLOAD: &str = "c29tZSAyMDAwMDAgMjAwMDAwMAA=";
    const DECODED: &[u8] = b"some 200000 2000000\0";

    fn open(path: &Path, write: Option<&str>) -> ServiceManagerSource {
        ServiceManagerSource::open(path.as_os_str(), write.map(OsStr::new))
    }

    /// Polls, hands over what it found, reads.
    fn turn(source: &mut ServiceManagerSource) -> Reading {
        let ready = poll::wait(&source.events(), Duration::ZERO).expect("poll");
        if ready.iter().any(|ready| ready.event || ready.broken) {
            source.acknowledge(&ready);
        }
        source.read()
    }

    fn why(reading: &Reading) -> &str {
        match reading {
            Reading::Absent { why } => why,
            Reading::Seen { .. } => panic!("not absent: {reading:?}"),
        }
    }

    #[test]
    fn a_socket_gets_the_payload_and_reports_pressure() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path)?;
        let mut source = open(&path, Some(PAYLOAD));
        let (mut manager, _) = listener.accept()?;
        let mut payload = [0u8; DECODED.len()];
        manager.read_exact(&mut payload)?;
        assert_eq!(payload, DECODED);
        assert_eq!(turn(&mut source).level(), Level::None);
        manager.write_all(b"xyz")?;
        assert_eq!(turn(&mut source).level(), Level::Low);
        assert_eq!(turn(&mut source).level(), Level::None);
        // A last word, then the end.
        manager.write_all(b"x")?;
        drop(manager);
        assert_eq!(turn(&mut source).level(), Level::Low);
        let end = turn(&mut source);
        assert!(why(&end).contains("closed"), "{end:?}");
        assert!(source.events().is_empty());
        Ok(())
    }

    #[test]
    fn a_fifo_reports_pressure_and_the_payload_is_none() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("fifo");
        let made = Command::new("mkfifo").arg(&path).status()?;
        assert!(made.success());
        let mut source = open(&path, Some(PAYLOAD));
        // Nobody read the payload; it comes back.
        assert_eq!(turn(&mut source).level(), Level::None);
        for _ in 0..2 {
            // Each writer leaves: that is no end.
            std::fs::write(&path, "x")?;
            assert_eq!(turn(&mut source).level(), Level::Low);
            assert_eq!(turn(&mut source).level(), Level::None);
        }
        Ok(())
    }

    #[test]
    fn a_kernel_file_gets_the_payload() -> io::Result<()> {
        let path = Path::new(crate::os::psi::SYSTEM);
        let mut source = open(path, Some(PAYLOAD));
        match turn(&mut source) {
            Reading::Seen { .. } => assert_eq!(source.events()[0].1, Interest::Priority),
            Reading::Absent { why } => eprintln!("SKIPPED: {why}"),
        }
        // Without a trigger the kernel's file is always ready; it is left alone.
        let mut bare = open(path, None);
        if !bare.events().is_empty() {
            let reading = turn(&mut bare);
            assert!(why(&reading).contains("no trigger"), "{reading:?}");
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_watched_is_absent_with_the_reason() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("file");
        std::fs::write(&file, "")?;
        let missing = dir.path().join("missing");
        for (path, write, reason) in [
            (Path::new("/dev/null"), None, "switched off"),
            (Path::new("relative"), None, "not an absolute path"),
            (
                Path::new("/dev/zero"),
                None,
                "neither a file, a FIFO nor a socket",
            ),
            (missing.as_path(), None, "No such file"),
            (file.as_path(), Some("not base64!"), "not Base64"),
        ] {
            let reading = open(path, write).read();
            assert!(why(&reading).contains(reason), "{reading:?}");
        }
        Ok(())
    }
}
