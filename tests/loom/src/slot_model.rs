//! What a slot promises, whatever the order.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;

use super::slot::{Held, Slot, View};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::stand_in::slot as stand_in;
use crate::{Model, explore};

pub const MODELS: &[Model] = &[
    ("one_loads", one_loads),
    ("leased_stays", leased_stays),
    (
        "leased_stays_from_the_first_load",
        leased_stays_from_the_first_load,
    ),
    ("old_before_new", old_before_new),
    ("failure_is_shared", failure_is_shared),
    ("drained_is_released_and_lent_again", drained_is_released_and_lent_again),
    ("relenting_wakes", relenting_wakes),
    ("cancelled_leaves_nothing", cancelled_leaves_nothing),
    ("panic_is_a_failure", panic_is_a_failure),
];

/// What really happens, beside the slot's own books; loom sees no choice here.
#[derive(Default)]
struct World {
    loading: AtomicBool,
    /// Values that exist.
    alive: AtomicUsize,
    /// Who uses a value now.
    users: AtomicUsize,
    loads: AtomicUsize,
    /// Loads that are to fail, from the first on.
    failing: AtomicUsize,
    /// What the value is loaded from; another each time it is asked, if it moves.
    source: AtomicUsize,
    moves: bool,
    /// What the first load panics with.
    panics: Option<&'static str>,
}

struct Value {
    world: Arc<World>,
    /// Read by users, written when it is let go of: loom sees whether one is ordered before the other.
    content: UnsafeCell<()>,
}

impl Drop for Value {
    fn drop(&mut self) {
        self.content.with_mut(|_| ());
        self.world.alive.fetch_sub(1, SeqCst);
    }
}

type Shared = loom::sync::Arc<Slot<Value, usize>>;

fn slot() -> Shared {
    loom::sync::Arc::new(Slot::new())
}

fn lease(slot: &Shared, world: &Arc<World>, control: &Control) -> Result<loom::sync::Arc<Held<Value>>> {
    let source = || {
        if world.moves {
            world.source.fetch_add(1, SeqCst)
        } else {
            world.source.load(SeqCst)
        }
    };
    let load = || {
        assert!(!world.loading.swap(true, SeqCst), "two loads at a time");
        assert_eq!(world.alive.load(SeqCst), 0, "loaded beside the old value");
        thread::yield_now();
        world.loading.store(false, SeqCst);
        let earlier = world.loads.fetch_add(1, SeqCst);
        if let Some(message) = world.panics.filter(|_| earlier == 0) {
            std::panic::panic_any(message);
        }
        if earlier < world.failing.load(SeqCst) {
            return Err(Error::new(ErrorKind::BadModel, "as told"));
        }
        world.alive.fetch_add(1, SeqCst);
        Ok(Value {
            world: Arc::clone(world),
            content: UnsafeCell::new(()),
        })
    };
    slot.lease(control, &source, &load)
}

/// Uses what is leased, and ends the lease.
fn use_up(world: &World, held: loom::sync::Arc<Held<Value>>) {
    world.users.fetch_add(1, SeqCst);
    assert_eq!(world.alive.load(SeqCst), 1, "one value is alive");
    held.value.content.with(|_| ());
    assert!(held.leased() > 0, "a lease that is not counted");
    held.value.content.with(|_| ());
    world.users.fetch_sub(1, SeqCst);
    held.release();
}

fn lease_and_use(slot: &Shared, world: &Arc<World>) {
    let held = lease(slot, world, &Control::default()).expect("it loads");
    use_up(world, held);
}

fn release(slot: &Shared, world: &World) -> bool {
    let last = |value: &Value| {
        assert_eq!(world.users.load(SeqCst), 0, "released while leased");
        value.content.with_mut(|_| ());
    };
    let before = world.loads.load(SeqCst);
    let released = slot.release_idle(&last);
    if released && world.loads.load(SeqCst) == before {
        assert_eq!(world.alive.load(SeqCst), 0, "released, but still there");
    }
    released
}

/// All is over: nobody leases it, it can be released, and can be had again.
fn end(slot: &Shared, world: &Arc<World>) {
    if let View::Resident(held) = slot.view() {
        assert_eq!(held.leased(), 0, "leases are left");
        drop(held);
        assert!(release(slot, world), "nobody leases it, yet it stays");
    }
    assert_eq!(world.alive.load(SeqCst), 0, "a value is left");
    lease_and_use(slot, world);
    assert!(release(slot, world), "nobody leases it, yet it stays");
}

fn spawn(
    slot: &Shared,
    world: &Arc<World>,
    work: impl FnOnce(&Shared, &Arc<World>) + 'static,
) -> thread::JoinHandle<()> {
    let (slot, world) = (slot.clone(), Arc::clone(world));
    thread::spawn(move || work(&slot, &world))
}

/// Three want a cold value: one load, for all.
fn one_loads() {
    explore(3, || {
        let (slot, world) = (slot(), Arc::new(World::default()));
        let others = [
            spawn(&slot, &world, lease_and_use),
            spawn(&slot, &world, lease_and_use),
        ];
        lease_and_use(&slot, &world);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(world.loads.load(SeqCst), 1, "loaded once for all");
        end(&slot, &world);
    });
}

/// Two use it while one releases it whenever it can.
fn leased_stays() {
    explore(4, || {
        let (slot, world) = (slot(), Arc::new(World::default()));
        lease_and_use(&slot, &world);
        let others = [
            spawn(&slot, &world, lease_and_use),
            spawn(&slot, &world, lease_and_use),
        ];
        release(&slot, &world);
        for other in others {
            other.join().unwrap();
        }
        end(&slot, &world);
    });
}

/// The same from before its first load, with two attempts to release it.
fn leased_stays_from_the_first_load() {
    explore(3, || {
        let (slot, world) = (slot(), Arc::new(World::default()));
        let others = [
            spawn(&slot, &world, lease_and_use),
            spawn(&slot, &world, lease_and_use),
        ];
        let released = usize::from(release(&slot, &world)) + usize::from(release(&slot, &world));
        for other in others {
            other.join().unwrap();
        }
        let loads = world.loads.load(SeqCst);
        assert!((1..=1 + released).contains(&loads), "{loads} loads, {released} releases");
        end(&slot, &world);
    });
}

/// One reports on it while it is released and wanted again: the new one comes after the old has gone.
fn old_before_new() {
    explore(3, || {
        let (slot, world) = (slot(), Arc::new(World::default()));
        lease_and_use(&slot, &world);
        let others = [
            spawn(&slot, &world, |slot, _| drop(slot.peek())),
            spawn(&slot, &world, lease_and_use),
        ];
        release(&slot, &world);
        for other in others {
            other.join().unwrap();
        }
        end(&slot, &world);
    });
}

/// The first load fails, and what it was loaded from seems to change all the time: who came later tries again, who waited
/// for that load has its failure.
fn failure_is_shared() {
    explore(4, || {
        let world = World {
            failing: AtomicUsize::new(1),
            moves: true,
            ..World::default()
        };
        let (slot, world) = (slot(), Arc::new(world));
        let failures = Arc::new(AtomicUsize::new(0));
        let shared = Arc::clone(&failures);
        let want = move |slot: &Shared, world: &Arc<World>| {
            let slept = stand_in::slept();
            let failed = world.loads.load(SeqCst) == 0;
            match lease(slot, world, &Control::default()) {
                Ok(held) => {
                    let waited = failed && stand_in::slept() > slept;
                    assert!(!waited || world.loads.load(SeqCst) > 2, "who waited did not share the failure");
                    use_up(world, held);
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::BadModel);
                    shared.fetch_add(1, SeqCst);
                }
            }
        };
        let other = spawn(&slot, &world, want.clone());
        want(&slot, &world);
        other.join().unwrap();
        assert!(failures.load(SeqCst) > 0, "a failure was lost");
        end(&slot, &world);
    });
}

/// While it is drained nobody new gets it, so that it comes free however many want it; then it is lent again.
fn drained_is_released_and_lent_again() {
    explore(4, || {
        let (slot, world) = (slot(), Arc::new(World::default()));
        let held = lease(&slot, &world, &Control::default()).expect("it loads");
        slot.drain();
        let other = spawn(&slot, &world, lease_and_use);
        use_up(&world, held);
        assert!(release(&slot, &world), "drained, with no lease, and not released");
        other.join().unwrap();
        assert_eq!(world.loads.load(SeqCst), 2, "lent again after one more load");
        end(&slot, &world);
    });
}

/// Who waits for a drained value gets it when nobody needs its room any more.
fn relenting_wakes() {
    explore(4, || {
        let (slot, world) = (slot(), Arc::new(World::default()));
        lease_and_use(&slot, &world);
        let other = spawn(&slot, &world, lease_and_use);
        slot.drain();
        slot.relent();
        other.join().unwrap();
        assert_eq!(world.loads.load(SeqCst), 1, "it was never released");
        end(&slot, &world);
    });
}

/// One of two who want it is cancelled at some time.
fn cancelled_leaves_nothing() {
    explore(4, || {
        let (slot, world) = (slot(), Arc::new(World::default()));
        let control = Control::default();
        let token = control.cancel.clone();
        let others = [
            spawn(&slot, &world, lease_and_use),
            spawn(&slot, &world, move |slot, world| match lease(slot, world, &control) {
                Ok(held) => use_up(world, held),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Cancelled),
            }),
        ];
        thread::yield_now();
        token.cancel();
        for other in others {
            other.join().unwrap();
        }
        end(&slot, &world);
    });
}

/// A load that panics is a failure, for who waited too; forgotten, it is tried again.
fn panic_is_a_failure() {
    const LOAD: &str = "the load panics";
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str() != Some(LOAD) {
            usual(panic);
        }
    }));
    explore(4, || {
        let world = World {
            panics: Some(LOAD),
            ..World::default()
        };
        let (slot, world) = (slot(), Arc::new(world));
        let want = |slot: &Shared, world: &Arc<World>| {
            let all = || lease(slot, world, &Control::default());
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(all)) {
                Ok(Ok(_)) => panic!("a failure was lost"),
                Ok(Err(e)) => assert_eq!(e.kind(), ErrorKind::Internal),
                Err(_) => {}
            }
        };
        let other = spawn(&slot, &world, want);
        want(&slot, &world);
        other.join().unwrap();
        assert_eq!(world.loads.load(SeqCst), 1, "one load panicked");
        slot.reset();
        end(&slot, &world);
    });
}
