//! One level out of many sources. It rises at once, and falls after it has been lower for a while.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::{
    CgroupSource, Config, Level, MachineSource, PsiSource, Reading, ServiceManagerSource, Source,
};
use crate::error::Result;
use crate::os::cgroup::CgroupFs;
use crate::os::poll::{self, Interest, Ready, Waker};

/// A change of the level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The level before.
    pub from: Level,
    /// The level from now on.
    pub to: Level,
    /// The source that made the level rise, or that had kept it up until it fell.
    pub source: String,
    /// What that source says now.
    pub why: String,
}

/// A source and what it said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The source's name.
    pub source: String,
    /// What it said.
    pub reading: Reading,
}

/// Asks every source; the highest level counts. One thread waits; others can wake it by its [`Waker`].
pub struct Monitor {
    sources: Vec<Box<dyn Source>>,
    readings: Vec<Reading>,
    hysteresis: Hysteresis,
    /// The source that made the level what it is.
    cause: usize,
    rest: Duration,
    read_at: Option<Instant>,
    waker: Waker,
}

impl Monitor {
    /// The sources that `config` names, and `more`, such as the application's own. A source that sees nothing on this
    /// machine stays in the list and says why.
    ///
    /// # Errors
    /// As [`Config::check`], and as [`Waker::new`].
    pub fn new(config: &Config, more: Vec<Box<dyn Source>>) -> Result<Self> {
        config.check()?;
        let fs = CgroupFs::default();
        let mut sources = more;
        if let Some(shares) = config.cgroup {
            sources.push(Box::new(CgroupSource::new(&fs, shares)));
        }
        if let Some(shares) = config.machine {
            sources.push(Box::new(MachineSource::new(shares)));
        }
        if let Some(thresholds) = config.psi {
            sources.push(Box::new(PsiSource::cgroup(&fs, thresholds)));
            sources.push(Box::new(PsiSource::system(thresholds)));
        }
        if config.service_manager {
            sources.push(Box::new(ServiceManagerSource::from_environment()));
        }
        Self::of(sources, config.hold, config.rest)
    }

    /// Exactly these sources; `hold` and `rest` as in [`Config`].
    ///
    /// # Errors
    /// As [`Waker::new`].
    pub fn of(sources: Vec<Box<dyn Source>>, hold: Duration, rest: Duration) -> Result<Self> {
        Ok(Self {
            readings: sources
                .iter()
                .map(|_| Reading::absent("not read yet"))
                .collect(),
            sources,
            hysteresis: Hysteresis::new(hold),
            cause: 0,
            rest,
            read_at: None,
            waker: Waker::new()?,
        })
    }

    /// The level as of the last reading.
    pub fn level(&self) -> Level {
        self.hysteresis.level
    }

    /// What every source said last.
    pub fn status(&self) -> Vec<Status> {
        self.sources
            .iter()
            .zip(&self.readings)
            .map(|(source, reading)| Status {
                source: source.name().to_owned(),
                reading: reading.clone(),
            })
            .collect()
    }

    /// What ends a wait from another thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits until a source has an event, the waker is woken, the level may fall, or `timeout` is over; then reads
    /// every source. Returns the change of level, if there is one; without one call it again.
    ///
    /// Not every source has events: `timeout` is how late a change may be seen. A second is plenty.
    ///
    /// # Errors
    /// What poll(2) gives.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Transition>> {
        let start = Instant::now();
        let rested = self.read_at.map_or(Duration::ZERO, |at| {
            self.rest.saturating_sub(start.duration_since(at))
        });
        let woken = !rested.is_zero()
            && poll::wait(
                &[(self.waker.as_fd(), Interest::Readable)],
                rested.min(timeout),
            )?[0]
                .event;
        let mut left = timeout.saturating_sub(start.elapsed());
        if woken {
            left = Duration::ZERO;
        } else if let Some(due) = self.hysteresis.due(Instant::now()) {
            left = left.min(due);
        }
        self.collect(left)?;
        Ok(self.step(Instant::now()))
    }

    /// Reads every source without waiting, as if it were `now`, and returns the change of level, if there is one.
    ///
    /// # Errors
    /// What poll(2) gives.
    pub fn check(&mut self, now: Instant) -> Result<Option<Transition>> {
        self.collect(Duration::ZERO)?;
        Ok(self.step(now))
    }

    /// Waits for events and hands them to their sources.
    fn collect(&mut self, timeout: Duration) -> Result<()> {
        let counts: Vec<usize>;
        let ready: Vec<Ready>;
        {
            let events: Vec<Vec<(BorrowedFd<'_>, Interest)>> =
                self.sources.iter().map(|source| source.events()).collect();
            counts = events.iter().map(Vec::len).collect();
            let mut fds = events.concat();
            fds.push((self.waker.as_fd(), Interest::Readable));
            ready = poll::wait(&fds, timeout)?;
        }
        let mut rest = ready.as_slice();
        for (source, count) in self.sources.iter_mut().zip(counts) {
            let (own, others) = rest.split_at(count);
            rest = others;
            if own.iter().any(|ready| ready.event || ready.broken) {
                source.acknowledge(own);
            }
        }
        self.waker.reset()
    }

    fn step(&mut self, now: Instant) -> Option<Transition> {
        self.read_at = Some(now);
        self.readings = self
            .sources
            .iter_mut()
            .map(|source| source.read())
            .collect();
        // Of equals the first.
        let (worst, seen) = self
            .readings
            .iter()
            .map(Reading::level)
            .enumerate()
            .rev()
            .max_by_key(|(_, level)| *level)
            .unwrap_or_default();
        let from = self.hysteresis.level;
        let to = self.hysteresis.step(seen, now)?;
        if to > from {
            self.cause = worst;
        }
        let cause = self.cause;
        if to < from {
            self.cause = worst;
        }
        Some(Transition {
            from,
            to,
            source: self.sources.get(cause)?.name().to_owned(),
            why: self.readings.get(cause)?.why().to_owned(),
        })
    }
}

/// Rises at once, falls after a time below.
#[derive(Debug)]
struct Hysteresis {
    hold: Duration,
    level: Level,
    /// Since when it has been lower, and the highest it was since.
    lower: Option<(Instant, Level)>,
}

impl Hysteresis {
    fn new(hold: Duration) -> Self {
        Self {
            hold,
            level: Level::None,
            lower: None,
        }
    }

    /// The new level, if it is another.
    fn step(&mut self, seen: Level, now: Instant) -> Option<Level> {
        if seen >= self.level {
            self.lower = None;
            let rises = seen > self.level;
            self.level = seen;
            return rises.then_some(seen);
        }
        let (since, highest) = self
            .lower
            .map_or((now, seen), |(since, highest)| (since, highest.max(seen)));
        if now.saturating_duration_since(since) < self.hold {
            self.lower = Some((since, highest));
            return None;
        }
        self.level = highest;
        self.lower = (seen < highest).then_some((now, seen));
        Some(highest)
    }

    /// How long from `now` until it may fall.
    fn due(&self, now: Instant) -> Option<Duration> {
        let (since, _) = self.lower?;
        // A hold without end.
        let until = since.checked_add(self.hold)?;
        Some(until.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ApplicationPressure;
    use super::*;

    const HOLD: Duration = Duration::from_secs(5);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Two applications: sources whose level a test sets.
    fn two() -> Result<(Monitor, [ApplicationPressure; 2])> {
        let applications = [ApplicationPressure::new()?, ApplicationPressure::new()?];
        let sources = applications
            .each_ref()
            .map(|own| Box::new(own.source()) as Box<dyn Source>);
        let monitor = Monitor::of(sources.into(), HOLD, Duration::ZERO)?;
        Ok((monitor, applications))
    }

    #[test]
    fn it_rises_at_once_and_falls_after_the_hold() -> Result<()> {
        let (mut monitor, [a, b]) = two()?;
        let start = Instant::now();
        let mut at = |seconds: u64| monitor.check(start + Duration::from_secs(seconds));
        let levels = |change: &Option<Transition>| change.as_ref().map(|own| (own.from, own.to));
        assert_eq!(at(0)?, None);
        a.set(Level::Low);
        let rise = at(1)?.expect("low");
        assert_eq!((rise.from, rise.to), (Level::None, Level::Low));
        assert_eq!(rise.source, "application");
        assert_eq!(rise.why, "the application says low");
        b.set(Level::Critical);
        assert_eq!(levels(&at(1)?), Some((Level::Low, Level::Critical)));
        b.set(Level::None);
        // The hold begins with the first lower reading.
        assert_eq!(at(10)?, None);
        assert_eq!(at(14)?, None);
        // Back meanwhile: it begins anew.
        b.set(Level::Critical);
        assert_eq!(at(14)?, None);
        b.set(Level::None);
        assert_eq!(at(16)?, None);
        assert_eq!(at(20)?, None);
        assert_eq!(levels(&at(21)?), Some((Level::Critical, Level::Low)));
        a.set(Level::None);
        assert_eq!(at(22)?, None);
        assert_eq!(levels(&at(27)?), Some((Level::Low, Level::None)));
        assert_eq!(at(100)?, None);
        Ok(())
    }

    #[test]
    fn it_falls_to_the_highest_level_of_the_hold() -> Result<()> {
        let (mut monitor, [a, _]) = two()?;
        let start = Instant::now();
        let mut to = |level, seconds: u64| -> Result<Option<Level>> {
            a.set(level);
            let change = monitor.check(start + Duration::from_secs(seconds))?;
            Ok(change.map(|own| own.to))
        };
        assert_eq!(to(Level::Critical, 0)?, Some(Level::Critical));
        assert_eq!(to(Level::None, 1)?, None);
        assert_eq!(to(Level::Low, 3)?, None);
        assert_eq!(to(Level::None, 4)?, None);
        assert_eq!(to(Level::None, 6)?, Some(Level::Low));
        assert_eq!(to(Level::None, 10)?, None);
        assert_eq!(to(Level::None, 11)?, Some(Level::None));
        Ok(())
    }

    #[test]
    fn a_call_lasts_for_the_hold() -> Result<()> {
        let (mut monitor, [a, _]) = two()?;
        let start = Instant::now();
        a.trim(Level::from_android_trim(15));
        let rise = monitor.check(start)?.map(|own| own.to);
        assert_eq!(rise, Some(Level::Critical));
        assert_eq!(monitor.check(start + seconds(1))?, None);
        assert_eq!(monitor.level(), Level::Critical);
        let fall = monitor.check(start + seconds(6))?.map(|own| own.to);
        assert_eq!(fall, Some(Level::None));
        Ok(())
    }

    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn events_end_the_wait_and_so_does_the_waker() -> Result<()> {
        let (mut monitor, [a, _]) = two()?;
        let change = std::thread::scope(|scope| {
            scope.spawn(|| a.set(Level::Low));
            monitor.wait(LONG)
        })?;
        assert_eq!(change.map(|own| own.to), Some(Level::Low));
        let waker = monitor.waker();
        let nothing = std::thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            monitor.wait(LONG)
        })?;
        assert_eq!(nothing, None);
        // Taken: nothing is left to wake the next wait.
        assert_eq!(monitor.wait(Duration::ZERO)?, None);
        assert_eq!(monitor.status().len(), 2);
        Ok(())
    }

    #[test]
    fn a_wait_ends_when_the_level_may_fall() -> Result<()> {
        let application = ApplicationPressure::new()?;
        let source: Box<dyn Source> = Box::new(application.source());
        let mut monitor = Monitor::of(vec![source], Duration::from_millis(20), Duration::ZERO)?;
        application.trim(Level::Low);
        assert!(monitor.wait(LONG)?.is_some());
        // Not a word from anybody: the first reading begins the hold, the second ends it.
        monitor.waker().wake();
        assert_eq!(monitor.wait(LONG)?, None);
        let fall = monitor.wait(LONG)?.map(|own| own.to);
        assert_eq!(fall, Some(Level::None));
        Ok(())
    }

    #[test]
    fn a_hold_without_end_never_falls() -> Result<()> {
        let application = ApplicationPressure::new()?;
        let source: Box<dyn Source> = Box::new(application.source());
        let mut monitor = Monitor::of(vec![source], Duration::MAX, Duration::ZERO)?;
        application.trim(Level::Low);
        assert!(monitor.wait(Duration::ZERO)?.is_some());
        for _ in 0..3 {
            assert_eq!(monitor.wait(Duration::ZERO)?, None);
        }
        assert_eq!(monitor.level(), Level::Low);
        Ok(())
    }

    #[test]
    fn rest_keeps_events_back_but_not_the_waker() -> Result<()> {
        let application = ApplicationPressure::new()?;
        let source: Box<dyn Source> = Box::new(application.source());
        let mut monitor = Monitor::of(vec![source], HOLD, LONG)?;
        assert_eq!(monitor.wait(Duration::ZERO)?, None);
        application.set(Level::Low);
        monitor.waker().wake();
        assert_eq!(monitor.wait(LONG)?.map(|own| own.to), Some(Level::Low));
        Ok(())
    }

    #[test]
    fn every_source_of_this_machine_sees_or_says_why_not() -> Result<()> {
        let mut monitor = Monitor::new(&Config::default(), Vec::new())?;
        monitor.check(Instant::now())?;
        let status = monitor.status();
        let names: Vec<&str> = status.iter().map(|own| own.source.as_str()).collect();
        assert_eq!(
            names,
            ["cgroup", "machine", "psi-cgroup", "psi", "service-manager"]
        );
        for Status { source, reading } in status {
            println!("{source}: {reading:?}");
            assert!(!reading.why().is_empty());
        }
        let none = Config {
            psi: None,
            cgroup: None,
            machine: None,
            service_manager: false,
            ..Config::default()
        };
        let mut nobody = Monitor::new(&none, Vec::new())?;
        assert_eq!(nobody.wait(Duration::ZERO)?, None);
        assert_eq!(nobody.level(), Level::None);
        Ok(())
    }
}
