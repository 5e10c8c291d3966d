//! The process's threads as the scheduler sees them.

use std::cell::Cell;
use std::fs;

use rustix::time::ClockId;

use super::{clock, leaf};

/// The kernel's number of the calling thread.
pub fn id() -> u32 {
    thread_local! {
        static ID: Cell<u32> = const { Cell::new(0) };
    }
    ID.with(|id| {
        if id.get() == 0 {
            id.set(rustix::thread::gettid().as_raw_pid() as u32);
        }
        id.get()
    })
}

/// The calling thread's name, as Rust or the kernel knows it.
pub fn name() -> String {
    let named = std::thread::current().name().map(str::to_owned);
    let kernel = || fs::read_to_string("/proc/thread-self/comm");
    named.unwrap_or_else(|| kernel().map_or_else(|_| String::new(), |name| name.trim().to_owned()))
}

/// Processor time of all the process's threads, ended ones too, in nanoseconds.
pub fn process_cpu_ns() -> u64 {
    clock::nanoseconds(ClockId::ProcessCPUTime)
}

/// A thread at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadStat {
    /// The kernel's number.
    pub id: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Whether it runs or waits for a core (the kernel's state `R`).
    pub runnable: bool,
    /// Nanoseconds on a core since it started.
    pub run_ns: u64,
    /// Nanoseconds it was ready to run and waited for a core; 0 where the kernel keeps no such count.
    pub wait_ns: u64,
}

/// The process's threads. One that ends meanwhile may be missing; empty without /proc.
pub fn all() -> Vec<ThreadStat> {
    leaf::assert_free("threads are listed");
    let Ok(entries) = fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| stat(&entry.path()))
        .collect()
}

fn stat(task: &std::path::Path) -> Option<ThreadStat> {
    let stat = fs::read_to_string(task.join("stat")).ok()?;
    // `1234 (name) S …`: the name may hold blanks and brackets.
    let (head, rest) = stat.rsplit_once(')')?;
    let (id, name) = head.split_once(" (")?;
    let schedstat = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    let mut numbers = schedstat.split_whitespace().map_while(|n| n.parse().ok());
    Some(ThreadStat {
        id: id.parse().ok()?,
        name: name.to_owned(),
        runnable: rest.trim_start().starts_with('R'),
        run_ns: numbers.next().unwrap_or(0),
        wait_ns: numbers.next().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_told_apart() {
        let (own, other) = (id(), std::thread::Builder::new().name("odd ) name".into()));
        let ready = std::sync::Barrier::new(2);
        let seen = std::thread::scope(|scope| {
            let other = other.spawn_scoped(scope, || {
                ready.wait();
                ready.wait();
                (id(), name())
            });
            ready.wait();
            let seen = all();
            ready.wait();
            let (id, name) = other.expect("started").join().expect("ended");
            assert_ne!(id, own);
            assert_eq!(name, "odd ) name");
            assert!(
                seen.iter().any(|t| t.id == id && t.name == name),
                "{seen:?}"
            );
            seen
        });
        let own = seen.iter().find(|t| t.id == own).expect("this thread");
        assert!(own.runnable);
        assert!(own.run_ns > 0 && process_cpu_ns() > 0);
    }
}
