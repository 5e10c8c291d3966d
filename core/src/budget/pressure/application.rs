//! Pressure that the application reports, because it may know what the kernel does not show.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{Level, Reading, Source};
use crate::error::Result;
use crate::os::eventfd::EventFd;
use crate::os::poll::{Interest, Ready};

/// The level that the application reports, from any thread. Clones share it. A report wakes the monitor, at the latest when its
/// rest is over. Not for signal handlers.
#[derive(Debug, Clone)]
pub struct ApplicationPressure(Arc<Reported>);

#[derive(Debug)]
struct Reported {
    /// The level that holds until the next one is set.
    standing: AtomicU8,
    /// The highest level that [`trim`](ApplicationPressure::trim) called for since the last reading.
    called: AtomicU8,
    event: EventFd,
}

impl ApplicationPressure {
    /// Nothing reported yet.
    ///
    /// # Errors
    /// As [`EventFd::new`].
    pub fn new() -> Result<Self> {
        Ok(Self(Arc::new(Reported {
            standing: AtomicU8::new(0),
            called: AtomicU8::new(0),
            event: EventFd::new()?,
        })))
    }

    /// `level` holds from now on, until another is set.
    pub fn set(&self, level: Level) {
        self.0.standing.store(level as u8, Ordering::Release);
        self.wake();
    }

    /// `level` holds now and ends by itself when the monitor's hold is over. Android's
    /// `onTrimMemory` is such a call: see [`Level::from_android_trim`].
    pub fn trim(&self, level: Level) {
        self.0.called.fetch_max(level as u8, Ordering::AcqRel);
        self.wake();
    }

    /// The source for a monitor. Use one: each call is seen only by the source that reads first.
    pub fn source(&self) -> ApplicationSource {
        ApplicationSource(self.clone())
    }

    fn wake(&self) {
        if let Err(error) = self.0.event.signal() {
            log::warn!("memory pressure is seen at the next reading only: {error}");
        }
    }
}

/// [`ApplicationPressure`] as a source.
#[derive(Debug)]
pub struct ApplicationSource(ApplicationPressure);

impl Source for ApplicationSource {
    fn name(&self) -> &str {
        "application"
    }

    fn read(&mut self) -> Reading {
        let shared = &self.0.0;
        let called = level(shared.called.swap(0, Ordering::AcqRel));
        let standing = level(shared.standing.load(Ordering::Acquire));
        if called > standing {
            return Reading::seen(called, format!("the application called for {called}"));
        }
        Reading::seen(standing, format!("the application says {standing}"))
    }

    fn events(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        vec![(self.0.0.event.as_fd(), Interest::Readable)]
    }

    fn acknowledge(&mut self, _ready: &[Ready]) {
        if let Err(error) = self.0.0.event.drain() {
            log::warn!("memory pressure from the application: {error}");
        }
    }
}

fn level(number: u8) -> Level {
    match number {
        0 => Level::None,
        1 => Level::Low,
        _ => Level::Critical,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_stands_and_what_is_called_is_seen_once() -> Result<()> {
        let application = ApplicationPressure::new()?;
        let mut source = application.source();
        assert_eq!(source.read().level(), Level::None);
        application.set(Level::Low);
        application.trim(Level::Critical);
        application.trim(Level::Low);
        let called = source.read();
        assert_eq!(called.level(), Level::Critical);
        assert_eq!(called.why(), "the application called for critical");
        assert_eq!(source.read().level(), Level::Low);
        assert_eq!(source.read().level(), Level::Low);
        application.set(Level::None);
        assert_eq!(source.read().level(), Level::None);
        Ok(())
    }

    #[test]
    fn levels_survive_their_numbers() {
        for own in [Level::None, Level::Low, Level::Critical] {
            assert_eq!(level(own as u8), own);
        }
    }
}
