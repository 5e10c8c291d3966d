//! A counter that threads wait for as they wait for a file: eventfd(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(Error::io("eventfd", &io::Error::last_os_error()));
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds one to the count, which makes it readable. A full counter is left as it is: it is readable anyway.
    ///
    /// # Errors
    /// What write(2) gives.
    pub fn signal(&self) -> Result<()> {
        let one = 1u64.to_ne_bytes();
        loop {
            // SAFETY: `one` is readable for its 8 bytes; the descriptor is open while `self` lives.
            let written =
                unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
            if written >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(()),
                _ => return Err(Error::io("eventfd", &error)),
            }
        }
    }

    /// Takes the count and leaves zero; 0 if nobody had signalled.
    ///
    /// # Errors
    /// What read(2) gives.
    pub fn drain(&self) -> Result<u64> {
        let mut count = [0u8; 8];
        loop {
            // SAFETY: `count` is writable for its 8 bytes; the descriptor is open while `self` lives.
            let read =
                unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
            if read >= 0 {
                return Ok(u64::from_ne_bytes(count));
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(0),
                _ => return Err(Error::io("eventfd", &error)),
            }
        }
    }
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
