//! What the scheduler made of the process's threads while some work was done.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use atom_core::Result;
use atom_core::os::thread::{self, ThreadStat};
use serde::Serialize;

/// How often the threads are looked at.
const EVERY: Duration = Duration::from_millis(5);

/// The thread that looks; left out of everything. Not the name of the process, which its main thread has.
const OWN: &str = "bench-look";

/// Threads of one name.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Role {
    pub name: String,
    /// Most of them at once.
    pub threads: usize,
    /// Seconds on a core.
    pub run_s: f64,
    /// Seconds ready to run without a core.
    pub wait_s: f64,
}

/// What some work took.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    pub wall_s: f64,
    pub cpu_s: f64,
    /// Threads that ran or waited for a core, on average over the looks at them.
    pub runnable_mean: f64,
    pub runnable_max: usize,
    /// Part of the looks at which more were runnable than there are cores.
    pub over_share: f64,
    /// Waiting for a core, as a part of running and waiting.
    pub wait_share: f64,
    /// Busiest first.
    pub roles: Vec<Role>,
}

#[derive(Default)]
struct Seen {
    looks: usize,
    runnable: usize,
    most: usize,
    over: usize,
    /// First and last look at each thread.
    threads: BTreeMap<u32, (ThreadStat, ThreadStat)>,
    /// Most threads of a name at once.
    counts: BTreeMap<String, usize>,
}

impl Seen {
    fn look(&mut self, cores: usize) {
        let all: Vec<_> = thread::all()
            .into_iter()
            .filter(|t| t.name != OWN)
            .collect();
        let runnable = all.iter().filter(|t| t.runnable).count();
        self.looks += 1;
        self.runnable += runnable;
        self.most = self.most.max(runnable);
        self.over += usize::from(runnable > cores);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for stat in all {
            *counts.entry(stat.name.clone()).or_default() += 1;
            // A thread first seen later began later: all its time counts.
            let new = ThreadStat {
                run_ns: 0,
                wait_ns: 0,
                ..stat.clone()
            };
            let first = if self.looks == 1 { stat.clone() } else { new };
            let last = stat.clone();
            let entry = self.threads.entry(stat.id);
            entry.or_insert_with(|| (first, stat)).1 = last;
        }
        for (name, count) in counts {
            let most = self.counts.entry(name).or_default();
            *most = count.max(*most);
        }
    }
}

/// Does `work` and watches the process's threads meanwhile.
///
/// # Errors
/// What `work` gives.
pub fn watch<T>(cores: usize, work: impl FnOnce() -> Result<T>) -> Result<(T, Usage)> {
    let done = AtomicBool::new(false);
    let mut seen = Seen::default();
    std::thread::scope(|scope| {
        seen.look(cores);
        let looker = std::thread::Builder::new()
            .name(OWN.into())
            .spawn_scoped(scope, || {
                let mut seen = seen;
                while !done.load(Ordering::Acquire) {
                    std::thread::sleep(EVERY);
                    seen.look(cores);
                }
                seen
            });
        let (started, cpu) = (Instant::now(), thread::process_cpu_ns());
        let result = work();
        let wall_s = started.elapsed().as_secs_f64();
        let cpu_s = (thread::process_cpu_ns() - cpu) as f64 / 1e9;
        done.store(true, Ordering::Release);
        let looker =
            looker.map_err(|e| atom_core::Error::io("starting the watching thread", &e))?;
        let seen = looker.join().unwrap_or_default();
        Ok((result?, usage(seen, wall_s, cpu_s)))
    })
}

fn usage(seen: Seen, wall_s: f64, cpu_s: f64) -> Usage {
    let mut roles: BTreeMap<String, Role> = BTreeMap::new();
    for (first, last) in seen.threads.into_values() {
        let role = roles.entry(last.name.clone()).or_default();
        role.run_s += last.run_ns.saturating_sub(first.run_ns) as f64 / 1e9;
        role.wait_s += last.wait_ns.saturating_sub(first.wait_ns) as f64 / 1e9;
        role.threads = seen.counts.get(&last.name).copied().unwrap_or(0);
        role.name = last.name;
    }
    let mut roles: Vec<Role> = roles.into_values().collect();
    roles.retain(|role| role.run_s >= 0.001);
    roles.sort_by(|a, b| b.run_s.total_cmp(&a.run_s));
    let sum = |of: fn(&Role) -> f64| roles.iter().map(of).sum::<f64>();
    let (run, wait) = (sum(|r| r.run_s), sum(|r| r.wait_s));
    let looks = seen.looks.max(1) as f64;
    Usage {
        wall_s,
        cpu_s,
        runnable_mean: seen.runnable as f64 / looks,
        runnable_max: seen.most,
        over_share: seen.over as f64 / looks,
        wait_share: wait / (run + wait).max(f64::MIN_POSITIVE),
        roles,
    }
}
