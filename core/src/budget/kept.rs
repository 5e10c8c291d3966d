//! What is read once and kept as long as memory allows: vocabularies, a taxonomy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::charge::Charge;
use super::entry::Owner;
use super::events::What;
use super::governor::Governor;
use super::patience::Patience;
use super::policy::Use;
use super::reclaim::{Action, Given, Offer, Reclaim};
use crate::error::Result;

/// How often who waits for another to make it looks whether it was cancelled.
const POLL: Duration = Duration::from_millis(10);

/// A value that is made by the first who needs it, shared, and given up when memory is short and nobody uses it; the next
/// who needs it makes it again. Clones share it; thread-safe. A failure to make it is not kept.
pub struct Kept<T>(Arc<Shared<T>>);

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> std::fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kept").field(&self.0.owner).finish()
    }
}

struct Shared<T> {
    owner: Owner,
    /// What is asked for: an estimate, or what making it was measured to take at most.
    expected: AtomicU64,
    governor: Governor,
    /// Somebody makes it; whoever else needs it waits.
    making: Mutex<bool>,
    /// Told when that ends.
    made: Condvar,
    /// Never locked while the value is made or dropped: a governor looks in at any time.
    state: Mutex<State<T>>,
}

struct State<T> {
    held: Option<Held<T>>,
    used: Use,
    evicted: Option<Instant>,
}

struct Held<T> {
    value: Arc<T>,
    charge: Charge,
    ms: f64,
}

impl<T: Send + Sync + 'static> Kept<T> {
    /// Nothing yet. It will be `owner`'s on the ledger, and is expected to take `expected` bytes.
    pub fn new(owner: Owner, expected: u64, governor: &Governor) -> Self {
        let shared = Arc::new(Shared {
            owner,
            expected: AtomicU64::new(expected),
            governor: governor.clone(),
            making: Mutex::default(),
            made: Condvar::new(),
            state: Mutex::new(State {
                held: None,
                used: Use::default(),
                evicted: None,
            }),
        });
        let holder: Weak<dyn Reclaim> = Arc::<Shared<T>>::downgrade(&shared);
        governor.watch(holder);
        Self(shared)
    }

    /// The value, made with `make` if there is none. It stays as long as what is returned here lives: drop it when the work
    /// is done.
    ///
    /// # Errors
    /// What `make` gives; [`ErrorKind::OutOfBudget`](crate::error::ErrorKind::OutOfBudget) and what `patience.check`
    /// returns when there is no room for it.
    pub fn get(&self, patience: &Patience<'_>, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let shared = &self.0;
        if let Some(value) = shared.use_held() {
            return Ok(value);
        }
        let _making = shared.begin(patience)?;
        if let Some(value) = shared.use_held() {
            return Ok(value);
        }
        let ledger = shared.governor.ledger();
        let mut ms = 0.0;
        let expected = shared.expected.load(Ordering::Relaxed);
        let (made, charge, grown) =
            ledger.measure(shared.owner.clone(), expected, patience, || {
                let began = Instant::now();
                let made = make();
                ms = began.elapsed().as_secs_f64() * 1e3;
                made
            })?;
        if let Some(meanwhile) = grown.meanwhile_alone() {
            let most = grown.bytes + meanwhile;
            shared.expected.fetch_max(most, Ordering::Relaxed);
        }
        let value = Arc::new(made);
        let anon_bytes = charge.bytes().0;
        let mut state = shared.lock();
        state.used.again(shared.governor.age());
        let evicted_before = state.evicted.take().map(|at| at.elapsed());
        state.held = Some(Held {
            value: value.clone(),
            charge,
            ms,
        });
        drop(state);
        shared.governor.events().add(What::Loaded {
            owner: shared.owner.clone(),
            ms,
            anon_bytes,
            mapped_bytes: 0,
            evicted_before,
        });
        Ok(value)
    }
}

impl<T> Shared<T> {
    fn use_held(&self) -> Option<Arc<T>> {
        let mut state = self.lock();
        let value = state.held.as_ref()?.value.clone();
        state.used.again(self.governor.age());
        Some(value)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        lock(&self.state)
    }

    /// Waits until nobody else makes it.
    fn begin(&self, patience: &Patience<'_>) -> Result<Making<'_, T>> {
        let mut making = lock(&self.making);
        while *making {
            (patience.check)()?;
            let waited = self.made.wait_timeout(making, POLL);
            making = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *making = true;
        Ok(Making(self))
    }

    /// Takes the value out, if nobody uses it.
    fn take_idle(&self) -> Option<Held<T>> {
        let mut state = self.lock();
        // Only under the lock does anybody get hold of it anew.
        if Arc::strong_count(&state.held.as_ref()?.value) > 1 {
            return None;
        }
        state.used.evicted();
        state.evicted = Some(Instant::now());
        state.held.take()
    }
}

/// The right to make it, until this is dropped.
struct Making<'a, T>(&'a Shared<T>);

impl<T> Drop for Making<'_, T> {
    fn drop(&mut self) {
        *lock(&self.0.making) = false;
        self.0.made.notify_all();
    }
}

impl<T: Send + Sync> Reclaim for Shared<T> {
    /// Nothing while it is used: who uses it may be the one who asks for room.
    fn offers(&self) -> Vec<Offer> {
        let state = self.lock();
        let idle = state.held.as_ref();
        let idle = idle.filter(|held| Arc::strong_count(&held.value) == 1);
        let offer = |held: &Held<T>| Offer {
            owner: self.owner.clone(),
            action: Action::Release,
            anon_bytes: held.charge.bytes().0,
            mapped_bytes: 0,
            cost_ms: held.ms,
            uses: state.used.uses,
            credit: state.used.credit,
            last_used: state.used.last,
            weight: 1.0,
            held: false,
        };
        idle.map(offer).into_iter().collect()
    }

    fn give_up(&self, offer: &Offer) -> Option<Given> {
        if offer.owner != self.owner || offer.action != Action::Release {
            return None;
        }
        let anon_bytes = self.governor.ledger().measure_return(|| {
            let held = self.take_idle()?;
            Some(held.charge.bytes().0)
        })?;
        Some(Given {
            anon_bytes,
            mapped_bytes: 0,
        })
    }
}

/// A panic elsewhere leaves these values usable: they are only ever replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::pressure::Level;
    use crate::error::{Error, ErrorKind};

    const BYTES: usize = 8 << 20;

    fn table() -> Result<Vec<u8>> {
        Ok(vec![1; BYTES])
    }

    fn kept(governor: &Governor) -> Kept<Vec<u8>> {
        Kept::new(Owner::Tables("words".into()), 1 << 20, governor)
    }

    #[test]
    fn it_goes_when_idle_and_comes_back() {
        let governor = Governor::default();
        let table_of_words = kept(&governor);
        let first = table_of_words.get(&Patience::NONE, table).expect("made");
        let again = table_of_words.get(&Patience::NONE, || unreachable!("kept"));
        assert!(Arc::ptr_eq(&first, &again.expect("kept")));
        let held = governor.ledger().total().0;
        governor.relieve(Level::Critical);
        assert_eq!(governor.ledger().total().0, held, "it is in use");
        drop(first);
        governor.relieve(Level::Low);
        assert_eq!(governor.ledger().total().0, held, "low pressure leaves it");
        governor.relieve(Level::Critical);
        assert_eq!(governor.ledger().total().0, 0);
        let made = table_of_words.get(&Patience::NONE, table).expect("again");
        assert_eq!(made.len(), BYTES);
        let events = governor.events().since(0);
        let names: Vec<_> = events.iter().map(|event| event.what.name()).collect();
        assert_eq!(names, ["loaded", "released", "loaded"]);
        // They tell of modules.
        let counters = governor.events().counters();
        assert_eq!((counters.loaded, counters.released), (0, 0));
    }

    #[test]
    fn what_making_it_takes_for_a_moment_is_asked_for_the_next_time() {
        // Far more than what tests beside it take and give back.
        const MORE: usize = 8 * BYTES;
        let governor = Governor::default();
        let words = kept(&governor);
        let costly = || {
            let parsed = std::hint::black_box(vec![1_u8; MORE]);
            // Long enough to be seen.
            std::thread::sleep(Duration::from_millis(20));
            Ok(parsed[..BYTES].to_vec())
        };
        drop(words.get(&Patience::NONE, costly).expect("made"));
        governor.relieve(Level::Critical);
        // Enough for what stays, but not for the making.
        governor.ledger().set_budget(Some(2 * BYTES as u64));
        let again = words.get(&Patience::NONE, || unreachable!("no room"));
        assert_eq!(again.expect_err("no room").kind(), ErrorKind::OutOfBudget);
        governor.ledger().set_budget(Some(2 * MORE as u64));
        assert!(words.get(&Patience::NONE, costly).is_ok());
    }

    #[test]
    fn who_waits_for_another_can_be_cancelled() {
        let words = kept(&Governor::default());
        let (begun, under_way) = std::sync::mpsc::channel();
        let (go_on, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let slow = move || {
                begun.send(()).expect("waited for");
                told.recv().expect("told");
                table()
            };
            let its = words.clone();
            let maker = scope.spawn(move || its.get(&Patience::NONE, slow).map(|made| made.len()));
            under_way.recv().expect("told");
            let looks = AtomicU64::new(0);
            let check = || match looks.fetch_add(1, Ordering::Relaxed) {
                0..3 => Ok(()),
                _ => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
            };
            let patience = Patience {
                check: &check,
                ..Patience::NONE
            };
            let waited = words.get(&patience, || unreachable!("another makes it"));
            assert_eq!(waited.expect_err("cancelled").kind(), ErrorKind::Cancelled);
            go_on.send(()).expect("waited for");
            assert_eq!(maker.join().expect("no panic"), Ok(BYTES));
        });
        assert!(words.get(&Patience::NONE, || unreachable!("kept")).is_ok());
    }

    #[test]
    fn a_failure_is_not_kept() {
        let governor = Governor::default();
        let words = kept(&governor);
        let unreadable = || Err(Error::new(ErrorKind::BadPack, "unreadable"));
        let error = words.get(&Patience::NONE, unreadable);
        assert_eq!(error.expect_err("unreadable").kind(), ErrorKind::BadPack);
        assert_eq!(governor.ledger().total().0, 0);
        assert!(words.get(&Patience::NONE, table).is_ok());
    }

    #[test]
    fn it_is_asked_for_before_it_is_made() {
        let governor = Governor::default();
        governor.ledger().set_budget(Some(1000));
        let made = kept(&governor).get(&Patience::NONE, || unreachable!("no room"));
        assert_eq!(made.expect_err("no room").kind(), ErrorKind::OutOfBudget);
    }
}
