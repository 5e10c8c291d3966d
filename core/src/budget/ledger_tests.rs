//! The ledger's lock, and a budget that follows the system.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::budget::{Action, Charge, Given, Governor, Offer, Reclaim, WaitPolicy};

const MB: u64 = 1 << 20;

/// Longer than anything here takes: a thread that waits so long waits for the reader that waits for it.
const HANG: Duration = Duration::from_secs(20);

/// No more than `limit` in all, of which others use nothing.
fn bound(limit: u64) -> Vec<Bound> {
    vec![Bound {
        limit_bytes: limit,
        used_bytes: 0,
    }]
}

fn charge(ledger: &Ledger, bytes: u64) -> crate::Result<Charge> {
    ledger.charge(Owner::Queue, bytes, 0)
}

/// Longer than figures are good for.
fn until_figures_are_old() {
    thread::sleep(FRESH * 2);
}

/// Holds one charge, and looks at the ledger whenever it is asked.
struct Holder {
    ledger: Ledger,
    held: Mutex<Option<Charge>>,
    asked: AtomicU64,
}

impl Reclaim for Holder {
    fn offers(&self) -> Vec<Offer> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        assert!(!self.ledger.snapshot().is_empty());
        let held = self.held.lock().expect("no panic");
        let offer = |charge: &Charge| Offer {
            owner: Owner::Prefixes,
            action: Action::Release,
            anon_bytes: charge.bytes().0,
            mapped_bytes: 0,
            cost_ms: 1.0,
            uses: 1.0,
            credit: 0.0,
            last_used: Instant::now(),
            weight: 1.0,
            held: false,
        };
        held.iter().map(offer).collect()
    }

    fn give_up(&self, offer: &Offer) -> Option<Given> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        drop(self.held.lock().expect("no panic").take()?);
        Some(Given {
            anon_bytes: offer.anon_bytes,
            mapped_bytes: 0,
        })
    }
}

/// Each of them would panic under the lock: it takes it again.
#[test]
fn everybody_is_called_without_the_lock() {
    let governor = Governor::default();
    let ledger = governor.ledger().clone();
    let holder = Arc::new(Holder {
        ledger: ledger.clone(),
        held: Mutex::new(Some(charge(&ledger, 60 * MB).expect("no bound"))),
        asked: AtomicU64::new(0),
    });
    let weak: Weak<dyn Reclaim> = Arc::<Holder>::downgrade(&holder);
    governor.watch(weak);
    let (read, watched) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let coming = charge(&ledger, 10 * MB).expect("no bound");
    let (its, count) = (ledger.clone(), watched.clone());
    coming.track_resident(move || {
        count.fetch_add(1, Ordering::Relaxed);
        its.total().0 / 7
    });
    let (its, count) = (ledger.clone(), read.clone());
    ledger.follow(move || {
        count.fetch_add(1, Ordering::Relaxed);
        assert!(!its.snapshot().is_empty());
        bound(100 * MB)
    });
    // 70 MB of the 70 held are in memory.
    assert_eq!(ledger.snapshot()[1].pending_bytes, 0);
    let more = charge(&ledger, 80 * MB).expect("the holder's go");
    assert_eq!(ledger.total().0, 90 * MB);
    for called in [&read, &watched, &holder.asked] {
        assert!(called.load(Ordering::Relaxed) > 0);
    }
    drop((coming, more));
    assert_eq!(ledger.total().0, 0);
}

#[test]
fn while_the_systems_figures_are_read_others_go_on() {
    let ledger = Ledger::new();
    let (begun, reading) = mpsc::channel();
    let (go_on, told) = mpsc::channel::<()>();
    let mut first = true;
    ledger.follow(move || {
        // The first is that of `follow` itself.
        if !std::mem::take(&mut first) {
            begun.send(()).expect("waited for");
            told.recv_timeout(HANG).expect("who tells is held up");
        }
        bound(100 * MB)
    });
    let held = charge(&ledger, 10 * MB).expect("fits");
    until_figures_are_old();
    thread::scope(|scope| {
        let slow = scope.spawn(|| charge(&ledger, 50 * MB).map(|charge| charge.bytes().0));
        reading.recv().expect("told");
        // All of this would wait for the reading under one lock.
        let small = charge(&ledger, NOTABLE / 2).expect("fits");
        held.set_pending(0);
        held.set_measured(20 * MB, 0);
        assert_eq!(ledger.total().0, 20 * MB + NOTABLE / 2);
        assert_eq!(ledger.budget(), Some(100 * MB));
        drop(small);
        assert_eq!(ledger.snapshot().len(), 2);
        // What is in memory changed, so it reads once more.
        go_on.send(()).expect("waited for");
        reading.recv().expect("told");
        go_on.send(()).expect("waited for");
        assert_eq!(slow.join().expect("no panic"), Ok(50 * MB));
    });
}

#[test]
fn a_thousand_charges_share_few_readings() {
    let ledger = Ledger::new();
    let readings = Arc::new(AtomicU64::new(0));
    let count = readings.clone();
    ledger.follow(move || {
        count.fetch_add(1, Ordering::Relaxed);
        bound(100 * MB)
    });
    let began = Instant::now();
    for _ in 0..1000 {
        drop(charge(&ledger, 10 * MB).expect("fits"));
    }
    let due = began.elapsed().as_millis() / FRESH.as_millis();
    let seen = readings.load(Ordering::Relaxed);
    assert!(u128::from(seen) <= due + 2, "{seen} in {due} periods");
}

#[test]
fn old_figures_neither_admit_nor_refuse() {
    let ledger = Ledger::new();
    let limit = Arc::new(AtomicU64::new(100 * MB));
    let its = limit.clone();
    ledger.follow(move || bound(its.load(Ordering::Relaxed)));
    limit.store(10 * MB, Ordering::Relaxed);
    until_figures_are_old();
    assert!(charge(&ledger, 50 * MB).is_err(), "admitted by old figures");
    let small = charge(&ledger, 9 * MB).expect("fits");
    limit.store(100 * MB, Ordering::Relaxed);
    thread::sleep(FRESH_TO_REFUSE * 2);
    let free = ledger.charge_free(Owner::Prefixes, 50 * MB, 0);
    assert!(free.is_ok(), "refused by old figures");
    drop((small, free));
    // Those who wait see it too.
    limit.store(10 * MB, Ordering::Relaxed);
    until_figures_are_old();
    let wait = WaitPolicy {
        at_most: Duration::from_secs(60),
        ..WaitPolicy::NONE
    };
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let charge = ledger.charge_with(Owner::Queue, 50 * MB, 0, &wait);
            charge.map(|charge| charge.bytes().0)
        });
        thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        limit.store(100 * MB, Ordering::Relaxed);
        assert_eq!(waiting.join().expect("no panic"), Ok(50 * MB));
    });
}

/// The system's figures contain what is in memory of Atom's own: a reading during which that changes fits neither.
#[test]
fn figures_are_read_again_when_own_memory_came_meanwhile() {
    let ledger = Ledger::new();
    let coming = Arc::new(Mutex::new(None::<Charge>));
    let its = coming.clone();
    let mut used = 0;
    ledger.follow(move || {
        let seen = Bound {
            limit_bytes: 100 * MB,
            used_bytes: used,
        };
        if let Some(charge) = its.lock().expect("no panic").take() {
            charge.set_measured(40 * MB, 0);
            used = 40 * MB;
            std::mem::forget(charge);
        }
        vec![seen]
    });
    *coming.lock().expect("no panic") = Some(charge(&ledger, 40 * MB).expect("fits"));
    ledger.refresh_budget();
    // By the first figures alone 140 MB would be left, or 60.
    assert_eq!(ledger.budget(), Some(100 * MB));
}

#[test]
fn a_fixed_budget_is_not_replaced_by_a_reading_under_way() {
    let ledger = Ledger::new();
    let (begun, reading) = mpsc::channel();
    let (go_on, told) = mpsc::channel::<()>();
    let mut first = true;
    ledger.follow(move || {
        if !std::mem::take(&mut first) {
            begun.send(()).expect("waited for");
            told.recv_timeout(HANG).expect("who tells is held up");
        }
        bound(100 * MB)
    });
    thread::scope(|scope| {
        scope.spawn(|| ledger.refresh_budget());
        reading.recv().expect("told");
        let fixed = scope.spawn(|| ledger.set_budget(Some(5 * MB)));
        go_on.send(()).expect("waited for");
        fixed.join().expect("no panic");
    });
    assert_eq!(ledger.budget(), Some(5 * MB));
    until_figures_are_old();
    assert!(charge(&ledger, 50 * MB).is_err());
}
