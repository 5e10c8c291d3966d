//! Everything at once: modules leased and run, cancelled, evicted, parked, loaded ahead, under a budget that comes and goes.
//! Also what ThreadSanitizer watches (`make tsan`).

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use atom_core::budget::{Governor, Idle, pressure::Level};
use atom_core::control::{CancelToken, Control, Priority};
use atom_core::module::{Keep, ModuleState, Registry};
use atom_core::ort::{RunArgs, Tensor};
use atom_core::pack::{ArtifactCache, Pack};
use atom_core::{ErrorKind, Result};
use tempfile::TempDir;

use crate::support::{LINEAR_PORTS, Test, X, environment, expected_linear, file_ref, fixture};

const WORKERS: u64 = 4;
/// Each worker does at least so many rounds, and the evictor so many evictions.
const ROUNDS: usize = 120;
const EVICTIONS: usize = 300;
/// A budget that nobody gets on with is lifted after so long.
const SHORT: Duration = Duration::from_millis(20);
/// Rows of a run: its intermediate values make the arena grow by a third of a megabyte.
const ROWS: usize = 4096;
const MODULES: [&str; 3] = ["plain", "packed", "spare"];

/// splitmix64, Steele and others, "Fast Splittable Pseudorandom Number Generators", 2014.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Three modules of one graph, one of them with a prepacked form.
fn pack() -> std::io::Result<TempDir> {
    let dir = tempfile::tempdir()?;
    for file in ["linear.onnx", "linear.onnx.data"] {
        fs::copy(fixture(file), dir.path().join(file))?;
    }
    let (model, data) = (
        file_ref(dir.path(), "linear.onnx")?,
        file_ref(dir.path(), "linear.onnx.data")?,
    );
    let mut text =
        "schema = 1\nid = \"three\"\nversion = \"1\"\nlicence = \"Apache-2.0\"\n".to_owned();
    for id in MODULES {
        let load = if id == "packed" { "prepacked" } else { "plain" };
        text += &format!(
            "\n[[module]]\nid = \"{id}\"\nkind = \"connector\"\nprecision = \"fp32\"\nload = \"{load}\"\n\
             model = {model}\ndata = [ {data} ]\n{LINEAR_PORTS}"
        );
    }
    fs::write(dir.path().join("pack.toml"), text)?;
    Ok(dir)
}

struct Stage {
    registry: Registry,
    governor: Governor,
    /// What each worker can be cancelled by just now.
    tokens: Vec<Mutex<CancelToken>>,
    /// Rounds of all workers.
    rounds: AtomicUsize,
    evicted: AtomicBool,
    over: AtomicBool,
}

/// How the rounds of one worker ended.
#[derive(Default)]
struct Ends {
    good: usize,
    cancelled: usize,
    refused: usize,
}

impl Stage {
    /// Leases a module and runs it, some steps to a lease; what comes out is what this scale of the input gives.
    fn round(&self, control: &Control, random: &mut Random) -> Result<()> {
        let id = MODULES[random.below(MODULES.len() as u64) as usize];
        let lease = self.registry.lease_with(id, control)?;
        for _ in 0..=random.below(3) {
            let scale = random.below(8) as f32;
            let row = X.map(|x| x * scale);
            let x = Tensor::from_vec(&[ROWS, 16], row.repeat(ROWS))?;
            let mut step = lease.step(control)?;
            let y = step.run(RunArgs {
                inputs: vec![("x", &x)],
                outputs: vec!["y"],
                cancel: Some(&control.cancel),
                ..RunArgs::default()
            })?;
            drop(step);
            let expected = expected_linear(&row);
            let same = y[0].as_slice::<f32>()?.chunks(24).all(|y| y == expected);
            assert!(same, "{id} computed something else");
        }
        Ok(())
    }

    fn work(&self, worker: u64) -> Ends {
        let mut random = Random(worker);
        let mut ends = Ends::default();
        let mut rounds = 0;
        // On until the evictor is through, so that neither works alone.
        while rounds < ROUNDS || !self.evicted.load(Ordering::Acquire) {
            let control = Control {
                priority: [Priority::Background, Priority::Normal][random.below(2) as usize],
                ..Control::default()
            };
            *lock(&self.tokens[worker as usize]) = control.cancel.clone();
            match self.round(&control, &mut random) {
                Ok(()) => ends.good += 1,
                Err(e) if e.kind() == ErrorKind::Cancelled => ends.cancelled += 1,
                Err(e) if e.kind() == ErrorKind::OutOfBudget => ends.refused += 1,
                Err(e) => panic!("{e:?}"),
            }
            rounds += 1;
            self.rounds.fetch_add(1, Ordering::Release);
        }
        ends
    }

    fn evict(&self) {
        let mut random = Random(1000);
        for _ in 0..EVICTIONS {
            let (seen, id) = (
                self.rounds.load(Ordering::Acquire),
                MODULES[random.below(MODULES.len() as u64) as usize],
            );
            let (held, _) = self.governor.ledger().total();
            let budget = |bytes| self.governor.ledger().set_budget(bytes);
            match random.below(9) {
                0 => drop(self.governor.relieve(Level::Low)),
                1 => drop(self.governor.relieve(Level::Critical)),
                2 => drop(self.governor.relieve_kernel(Level::Critical, false)),
                3 => budget(Some(held / 2 + (1 << 20))),
                4 => budget(Some(held + (2 << 20))),
                5 => budget(None),
                6 => drop(self.registry.release_idle(id)),
                7 => drop(self.registry.prefetch(id)),
                _ => self.governor.tidy(&Idle {
                    park_after: Some(Default::default()),
                    release_after: None,
                }),
            }
            drop(self.registry.status());
            let since = Instant::now();
            while self.rounds.load(Ordering::Acquire) == seen && !self.over.load(Ordering::Acquire)
            {
                thread::yield_now();
                // All may be waiting for memory.
                if since.elapsed() > SHORT {
                    budget(None);
                }
            }
        }
        self.governor.ledger().set_budget(None);
        self.evicted.store(true, Ordering::Release);
    }

    fn cancel(&self) {
        let mut random = Random(2000);
        while !self.over.load(Ordering::Acquire) {
            let seen = self.rounds.load(Ordering::Acquire);
            lock(&self.tokens[random.below(WORKERS) as usize]).cancel();
            // One for a few rounds: most are to end well.
            while self.rounds.load(Ordering::Acquire) < seen + 5
                && !self.over.load(Ordering::Acquire)
            {
                thread::yield_now();
            }
        }
    }
}

#[test]
fn everything_at_once_leaves_nothing() -> Test {
    let (dir, cache) = (pack()?, tempfile::tempdir()?);
    let governor = Governor::default();
    let registry = Registry::new(
        Arc::new(Pack::open(dir.path())?),
        environment()?,
        &governor,
        ArtifactCache::new(cache.path()),
    );
    registry.set_keep("plain", Keep::More)?;
    let stage = Stage {
        registry,
        governor,
        tokens: (0..WORKERS).map(|_| Mutex::default()).collect(),
        rounds: AtomicUsize::new(0),
        evicted: AtomicBool::new(false),
        over: AtomicBool::new(false),
    };
    let ends: Vec<Ends> = thread::scope(|scope| {
        let stage = &stage;
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| scope.spawn(move || stage.work(worker)))
            .collect();
        let evictor = scope.spawn(|| stage.evict());
        let canceller = scope.spawn(|| stage.cancel());
        let ends = workers.into_iter().map(thread::ScopedJoinHandle::join);
        let ends: thread::Result<Vec<_>> = ends.collect();
        stage.over.store(true, Ordering::Release);
        let others = [evictor.join(), canceller.join()];
        others.into_iter().collect::<thread::Result<Vec<_>>>()?;
        ends
    })
    .map_err(|_| "a thread panicked")?;

    let good: usize = ends.iter().map(|ends| ends.good).sum();
    let (cancelled, refused) = ends.iter().fold((0, 0), |(c, r), ends| {
        (c + ends.cancelled, r + ends.refused)
    });
    let events = stage.governor.events().counters();
    let modules = stage.registry.status();
    let loads: u64 = modules.iter().map(|module| module.loads).sum();
    println!("{good} good, {cancelled} cancelled, {refused} refused; {loads} loads; {events:?}");
    assert!(ends.iter().all(|ends| ends.good > 0), "one worker starved");
    assert!(loads > MODULES.len() as u64, "nothing was evicted");
    assert!(modules.iter().all(|module| module.leases == 0));
    stage.registry.settle();
    stage.governor.relieve(Level::Critical);
    let modules = stage.registry.status();
    assert!(modules.iter().all(|m| m.state == ModuleState::Cold));
    assert_eq!(stage.governor.ledger().total(), (0, 0));
    assert_eq!(stage.governor.ledger().snapshot(), []);
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What shows that ThreadSanitizer is awake: run by tests/tsan/run.sh alone, which expects it to fail there.
#[test]
#[ignore = "a data race, on purpose"]
fn a_race_on_purpose() {
    struct Shared(std::cell::UnsafeCell<u64>);
    // SAFETY: none: two threads write without any order, which is what is to be found.
    unsafe impl Sync for Shared {}
    impl Shared {
        fn add(&self) {
            // SAFETY: none, as above. Volatile, or the compiler makes one write of all.
            unsafe {
                self.0
                    .get()
                    .write_volatile(self.0.get().read_volatile() + 1)
            };
        }
    }
    let (shared, ready) = (Shared(std::cell::UnsafeCell::new(0)), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // Both at once: of a thread that has ended nothing may be remembered. Relaxed, which orders nothing.
                ready.fetch_add(1, Ordering::Relaxed);
                while ready.load(Ordering::Relaxed) < 2 {
                    thread::yield_now();
                }
                (0..1000).for_each(|_| shared.add());
            });
        }
    });
    assert!(shared.0.into_inner() > 0);
}
