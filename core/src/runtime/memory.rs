//! The governing of a runtime's memory: its options, and the thread that watches budget and pressure.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::budget::pressure::{
    ApplicationPressure, Config, Level, Monitor, Source, Status as SourceStatus,
};
use crate::budget::{Governor, HeapTrim, Idle, What, system_bounds};
use crate::error::{Error, ErrorKind, Result};
use crate::os::poll::Waker;

/// How often budget and idle modules are checked when no source reports anything.
const TICK: Duration = Duration::from_secs(1);

/// The most anonymous bytes that modules, generations and caches may hold together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// No bound.
    Unlimited,
    /// A fixed number of bytes.
    Bytes(u64),
    /// What Atom holds now plus what is left below this share (0 to 1) of the memory cgroup's limit and of the machine's memory,
    /// whichever leaves less. It follows what other programs take and free.
    Share(f64),
}

/// How a runtime's memory is governed.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryOptions {
    /// What may be held. Default: a share of 0.9.
    pub budget: Budget,
    /// What counts as pressure. `None`: only the application's own calls count.
    pub pressure: Option<Config>,
    /// When unused modules are evicted without pressure. Default: parked after a minute, released after ten.
    pub idle: Idle,
    /// A file that gets the runtime's [status](super::Status) as JSON once a second, for `atom top`. Replaced by renaming;
    /// it stays when the runtime is closed.
    pub status_file: Option<PathBuf>,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            budget: Budget::Share(0.9),
            pressure: Some(Config::default()),
            idle: Idle {
                park_after: Some(Duration::from_secs(60)),
                release_after: Some(Duration::from_secs(600)),
            },
            status_file: None,
        }
    }
}

impl MemoryOptions {
    /// No budget, no watch on pressure, no eviction of idle modules: what is loaded stays until the runtime is closed.
    pub fn ungoverned() -> Self {
        Self {
            budget: Budget::Unlimited,
            pressure: None,
            idle: Idle::default(),
            status_file: None,
        }
    }

    fn check(&self) -> Result<()> {
        match self.budget {
            Budget::Share(share) if !(share > 0.0 && share <= 1.0) => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("the budget's share is {share}"),
            )
            .remedy("give a share over 0 and at most 1")),
            _ => Ok(()),
        }
    }
}

/// How short memory is, and which source says so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pressure {
    /// The level that is acted on.
    pub level: Level,
    /// Every source that is asked, and what it said last.
    pub sources: Vec<SourceStatus>,
}

/// Called once a second.
type Report = Arc<dyn Fn() + Send + Sync>;

struct KeeperLoop {
    governor: Governor,
    options: Mutex<MemoryOptions>,
    pressure: Mutex<Pressure>,
    ended: Mutex<bool>,
    report: Mutex<Option<Report>>,
}

/// Watches budget, pressure and idle times on a thread of its own, until it is dropped.
pub(super) struct Keeper {
    shared: Arc<KeeperLoop>,
    application: ApplicationPressure,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for options out of range, [`ErrorKind::Io`] when no thread or descriptor can be made.
    pub(super) fn start(governor: &Governor, options: &MemoryOptions) -> Result<Self> {
        options.check()?;
        let application = ApplicationPressure::new()?;
        let own: Box<dyn Source> = Box::new(application.source());
        let mut monitor = match &options.pressure {
            Some(config) => Monitor::new(config, vec![own])?,
            None => {
                let config = Config::default();
                Monitor::of(vec![own], config.hold, config.rest)?
            }
        };
        let waker = monitor.waker();
        let shared = Arc::new(KeeperLoop {
            governor: governor.clone(),
            options: Mutex::new(options.clone()),
            pressure: Mutex::default(),
            ended: Mutex::new(false),
            report: Mutex::new(None),
        });
        shared.set_budget();
        // So that a process that starts under pressure knows.
        if let Some(change) = monitor.check(Instant::now())? {
            shared.changed(change.to, format!("{}: {}", change.source, change.why));
        }
        shared.note(&monitor);
        let its = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("atom-governor".into())
            .spawn(move || its.run(monitor))
            .map_err(|e| Error::io("the governor's thread", &e))?;
        Ok(Self {
            shared,
            application,
            waker,
            thread: Some(thread),
        })
    }

    /// Calls `report` about once a second, on the governor's thread.
    pub(super) fn report_by(&self, report: impl Fn() + Send + Sync + 'static) {
        *lock(&self.shared.report) = Some(Arc::new(report));
        self.waker.wake();
    }

    /// Sets the application's own pressure level from now on. Evicts before it returns.
    pub(super) fn set_pressure(&self, level: Level) {
        self.application.set(level);
        self.shared.governor.relieve(level);
    }

    /// Reports pressure once: the level falls again when no source keeps it up. Evicts before it returns, and returns the bytes
    /// that came back.
    pub(super) fn trim(&self, level: Level) -> u64 {
        self.application.trim(level);
        self.shared.governor.relieve(level)
    }

    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a share out of range; the budget then stays.
    pub(super) fn set_budget(&self, budget: Budget) -> Result<()> {
        let mut options = lock(&self.shared.options);
        let changed = MemoryOptions {
            budget,
            ..options.clone()
        };
        changed.check()?;
        *options = changed;
        drop(options);
        self.shared.set_budget();
        Ok(())
    }

    pub(super) fn set_idle(&self, idle: Idle) {
        lock(&self.shared.options).idle = idle;
        self.waker.wake();
    }

    pub(super) fn pressure(&self) -> Pressure {
        lock(&self.shared.pressure).clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *lock(&self.shared.ended) = true;
        self.waker.wake();
        let Some(thread) = self.thread.take() else {
            return;
        };
        // While it reports it holds the runtime, whose last holder it may be.
        if thread.thread().id() != thread::current().id() {
            // It holds nothing that a panic could leave halfway.
            let _ = thread.join();
        }
    }
}

impl KeeperLoop {
    fn run(&self, mut monitor: Monitor) {
        let mut trim = HeapTrim::default();
        while !*lock(&self.ended) {
            match monitor.wait(TICK) {
                Ok(Some(change)) => {
                    self.changed(change.to, format!("{}: {}", change.source, change.why));
                }
                Ok(None) => {
                    // Pressure that goes on: what has become idle meanwhile.
                    self.governor.relieve_kernel(monitor.level(), true);
                }
                Err(e) => {
                    log::warn!("memory pressure cannot be watched any more: {e}");
                    return;
                }
            }
            self.note(&monitor);
            self.governor.ledger().trim_after_work(&mut trim);
            self.governor.ledger().refresh_budget();
            let idle = lock(&self.options).idle;
            self.governor.tidy(&idle);
            let report = lock(&self.report).clone();
            if let Some(report) = report {
                report();
            }
        }
    }

    fn changed(&self, level: Level, reason: String) {
        self.governor.events().add(What::Pressure {
            level: level.name(),
            reason,
        });
        self.governor.relieve_kernel(level, false);
    }

    fn note(&self, monitor: &Monitor) {
        *lock(&self.pressure) = Pressure {
            level: monitor.level(),
            sources: monitor.status(),
        };
    }

    fn set_budget(&self) {
        let budget = lock(&self.options).budget;
        let ledger = self.governor.ledger();
        match budget {
            Budget::Unlimited => ledger.set_budget(None),
            Budget::Bytes(bytes) => ledger.set_budget(Some(bytes)),
            Budget::Share(share) => ledger.follow(system_bounds(share)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
