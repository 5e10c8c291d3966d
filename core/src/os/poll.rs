//! Waits for several descriptors at once, with a timeout and a way to be woken.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::eventfd::EventFd;
use crate::error::{Error, Result};

/// What is waited for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Data to read (POLLIN): an eventfd, a FIFO, a socket.
    Readable,
    /// An exceptional condition (POLLPRI): a PSI trigger, a cgroup file that changed.
    Priority,
}

/// What poll(2) said of one descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready {
    /// What was waited for has happened.
    pub event: bool,
    /// The other side is gone, or the descriptor cannot be polled (POLLERR, POLLHUP, POLLNVAL). Close it: the next wait for it
    /// would return at once.
    pub broken: bool,
}

/// Waits until one of `fds` is ready or `timeout` is over, and returns which are ready, in the order of `fds`. Signals do not end
/// the wait. A timeout of zero checks without waiting.
///
/// # Errors
/// What poll(2) gives: too many descriptors, or no memory.
pub fn wait(fds: &[(BorrowedFd<'_>, Interest)], timeout: Duration) -> Result<Vec<Ready>> {
    let events = |interest: &Interest| match interest {
        Interest::Readable => PollFlags::IN,
        Interest::Priority => PollFlags::PRI,
    };
    let mut polled: Vec<PollFd<'_>> = fds
        .iter()
        .map(|(fd, interest)| PollFd::from_borrowed_fd(*fd, events(interest)))
        .collect();
    let start = Instant::now();
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        // `None`, too long for the kernel's clock: for ever.
        let left = Timespec::try_from(left).ok();
        match poll(&mut polled, left.as_ref()) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(Error::io("poll", &error.into())),
        }
    }
    Ok(polled
        .iter()
        .zip(fds)
        .map(|(fd, (_, interest))| Ready {
            event: fd.revents().intersects(events(interest)),
            broken: fd
                .revents()
                .intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL),
        })
        .collect())
}

/// Ends a wait from another thread. Clones wake the same waiter.
#[derive(Debug, Clone)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A new one.
    ///
    /// # Errors
    /// As [`EventFd::new`].
    pub fn new() -> Result<Self> {
        Ok(Self(Arc::new(EventFd::new()?)))
    }

    /// Ends the wait that is under way, or the next one.
    pub fn wake(&self) {
        if let Err(error) = self.0.signal() {
            log::warn!("a waiting thread could not be woken: {error}");
        }
    }

    /// Forgets that it was woken.
    ///
    /// # Errors
    /// As [`EventFd::drain`].
    pub fn reset(&self) -> Result<()> {
        self.0.drain().map(|_| ())
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any test takes: whoever sees it pass was not woken.
    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn another_thread_ends_the_wait() -> Result<()> {
        let waker = Waker::new()?;
        let silent = EventFd::new()?;
        let fds = [
            (silent.as_fd(), Interest::Readable),
            (waker.as_fd(), Interest::Readable),
        ];
        let ready = std::thread::scope(|scope| {
            let other = waker.clone();
            scope.spawn(move || other.wake());
            wait(&fds, LONG)
        })?;
        assert_eq!(ready[0], Ready::default());
        assert!(ready[1].event && !ready[1].broken);
        waker.reset()?;
        assert_eq!(wait(&fds, Duration::ZERO)?, [Ready::default(); 2]);
        Ok(())
    }

    #[test]
    fn a_closed_pipe_is_broken() -> Result<()> {
        let (read, write) = std::io::pipe().map_err(|e| Error::io("pipe", &e))?;
        drop(write);
        let ready = wait(&[(read.as_fd(), Interest::Readable)], LONG)?;
        assert!(ready[0].broken, "{ready:?}");
        Ok(())
    }
}
