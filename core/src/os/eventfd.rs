//! A counter that threads wait for as they wait for a file: eventfd(2).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, retry_on_intr, write};

use crate::error::{Error, Result};

/// An eventfd(2): readable while its count is not zero. Never blocks, closed on exec. Thread-safe.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, its count zero.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when the process has no descriptor left.
    pub fn new() -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        eventfd(0, flags).map(Self).map_err(failed)
    }

    /// Adds one to the count, which makes it readable. A full counter is left as it is: it is readable anyway.
    ///
    /// # Errors
    /// What write(2) gives.
    pub fn signal(&self) -> Result<()> {
        let one = 1u64.to_ne_bytes();
        match retry_on_intr(|| write(&self.0, &one)) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Takes the count and leaves zero; 0 if nobody had signalled.
    ///
    /// # Errors
    /// What read(2) gives.
    pub fn drain(&self) -> Result<u64> {
        let mut count = [0u8; 8];
        match retry_on_intr(|| read(&self.0, &mut count)) {
            Ok(_) => Ok(u64::from_ne_bytes(count)),
            Err(Errno::AGAIN) => Ok(0),
            Err(error) => Err(failed(error)),
        }
    }
}

fn failed(error: Errno) -> Error {
    Error::io("eventfd", &error.into())
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_until_drained() -> Result<()> {
        let event = EventFd::new()?;
        assert_eq!(event.drain()?, 0);
        event.signal()?;
        event.signal()?;
        assert_eq!(event.drain()?, 2);
        assert_eq!(event.drain()?, 0);
        Ok(())
    }
}
