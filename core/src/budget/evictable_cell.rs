//! Values that are read once and kept as long as memory allows: vocabularies, a taxonomy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::charge::Charge;
use super::entry::Owner;
use super::events::What;
use super::governor::Governor;
use super::policy::Use;
use super::reclaim::{Action, Given, Offer, Reclaim};
use super::wait_policy::WaitPolicy;
use crate::error::Result;

/// How often a thread that waits for another one's value checks for cancellation.
const POLL: Duration = Duration::from_millis(10);

/// A value that is made when it is first needed and shared from then on. When memory is short and nobody uses it, the governor
/// drops it; the next [`get`](Self::get) makes it again. A failure to make it is not kept. Clones share it; thread-safe.
pub struct EvictableCell<T>(Arc<EvictableValue<T>>);

impl<T> Clone for EvictableCell<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> std::fmt::Debug for EvictableCell<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EvictableCell").field(&self.0.owner).finish()
    }
}

struct EvictableValue<T> {
    owner: Owner,
    /// Bytes to ask for: an estimate, or the most that making it was measured to take.
    expected: AtomicU64,
    governor: Governor,
    /// A thread is making it; others that need it wait.
    making: Mutex<bool>,
    /// Notified when that ends.
    made: Condvar,
    /// Not locked while the value is made or dropped, because the governor may ask for offers at any time.
    contents: Mutex<Contents<T>>,
}

struct Contents<T> {
    held: Option<Held<T>>,
    used: Use,
    evicted: Option<Instant>,
}

struct Held<T> {
    value: Arc<T>,
    charge: Charge,
    ms: f64,
}

impl<T: Send + Sync + 'static> EvictableCell<T> {
    /// An empty cell. Its value will be charged to `owner` and is expected to take `expected` bytes.
    pub fn new(owner: Owner, expected: u64, governor: &Governor) -> Self {
        let inner = Arc::new(EvictableValue {
            owner,
            expected: AtomicU64::new(expected),
            governor: governor.clone(),
            making: Mutex::default(),
            made: Condvar::new(),
            contents: Mutex::new(Contents {
                held: None,
                used: Use::default(),
                evicted: None,
            }),
        });
        let holder: Weak<dyn Reclaim> = Arc::<EvictableValue<T>>::downgrade(&inner);
        governor.watch(holder);
        Self(inner)
    }

    /// The value; if there is none, `make` makes it. It cannot be evicted while the returned reference lives: drop it when the
    /// work is done.
    ///
    /// # Errors
    /// What `make` returns; [`ErrorKind::OutOfBudget`](crate::error::ErrorKind::OutOfBudget), or the error of `wait.check`, when
    /// there is no room for it.
    pub fn get(&self, wait: &WaitPolicy<'_>, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let inner = &self.0;
        if let Some(value) = inner.use_held() {
            return Ok(value);
        }
        let _making = inner.begin(wait)?;
        if let Some(value) = inner.use_held() {
            return Ok(value);
        }
        let ledger = inner.governor.ledger();
        let mut ms = 0.0;
        let expected = inner.expected.load(Ordering::Relaxed);
        let (made, charge, grown) = ledger.measure(inner.owner.clone(), expected, wait, || {
            let began = Instant::now();
            let made = make();
            ms = began.elapsed().as_secs_f64() * 1e3;
            made
        })?;
        if let Some(meanwhile) = grown.meanwhile_alone() {
            let most = grown.bytes + meanwhile;
            inner.expected.fetch_max(most, Ordering::Relaxed);
        }
        let value = Arc::new(made);
        let anon_bytes = charge.bytes().0;
        let mut contents = inner.lock();
        contents.used.again(inner.governor.age());
        let evicted_before = contents.evicted.take().map(|at| at.elapsed());
        contents.held = Some(Held {
            value: value.clone(),
            charge,
            ms,
        });
        drop(contents);
        inner.governor.events().add(What::Loaded {
            owner: inner.owner.clone(),
            ms,
            anon_bytes,
            mapped_bytes: 0,
            evicted_before,
        });
        Ok(value)
    }
}

impl<T> EvictableValue<T> {
    fn use_held(&self) -> Option<Arc<T>> {
        let mut contents = self.lock();
        let value = contents.held.as_ref()?.value.clone();
        contents.used.again(self.governor.age());
        Some(value)
    }

    fn lock(&self) -> MutexGuard<'_, Contents<T>> {
        lock(&self.contents)
    }

    /// Waits until no other thread is making it.
    fn begin(&self, wait: &WaitPolicy<'_>) -> Result<Making<'_, T>> {
        let mut making = lock(&self.making);
        while *making {
            (wait.check)()?;
            let waited = self.made.wait_timeout(making, POLL);
            making = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *making = true;
        Ok(Making(self))
    }

    /// Takes the value out, if nobody uses it.
    fn take_idle(&self) -> Option<Held<T>> {
        let mut contents = self.lock();
        // Only under the lock does anybody get hold of it anew.
        if Arc::strong_count(&contents.held.as_ref()?.value) > 1 {
            return None;
        }
        contents.used.evicted();
        contents.evicted = Some(Instant::now());
        contents.held.take()
    }
}

/// The right to make it, until this is dropped.
struct Making<'a, T>(&'a EvictableValue<T>);

impl<T> Drop for Making<'_, T> {
    fn drop(&mut self) {
        *lock(&self.0.making) = false;
        self.0.made.notify_all();
    }
}

impl<T: Send + Sync> Reclaim for EvictableValue<T> {
    /// Nothing while it is in use: its user may be the one that asks for room.
    fn offers(&self) -> Vec<Offer> {
        let contents = self.lock();
        let idle = contents.held.as_ref();
        let idle = idle.filter(|held| Arc::strong_count(&held.value) == 1);
        let offer = |held: &Held<T>| Offer {
            owner: self.owner.clone(),
            action: Action::Release,
            anon_bytes: held.charge.bytes().0,
            mapped_bytes: 0,
            cost_ms: held.ms,
            uses: contents.used.uses,
            credit: contents.used.credit,
            last_used: contents.used.last,
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

    fn cell(governor: &Governor) -> EvictableCell<Vec<u8>> {
        EvictableCell::new(Owner::Tables("words".into()), 1 << 20, governor)
    }

    #[test]
    fn it_goes_when_idle_and_comes_back() {
        let governor = Governor::default();
        let table_of_words = cell(&governor);
        let first = table_of_words.get(&WaitPolicy::NONE, table).expect("made");
        let again = table_of_words.get(&WaitPolicy::NONE, || unreachable!("kept"));
        assert!(Arc::ptr_eq(&first, &again.expect("kept")));
        let held = governor.ledger().total().0;
        governor.relieve(Level::Critical);
        assert_eq!(governor.ledger().total().0, held, "it is in use");
        drop(first);
        governor.relieve(Level::Low);
        assert_eq!(governor.ledger().total().0, held, "low pressure leaves it");
        governor.relieve(Level::Critical);
        assert_eq!(governor.ledger().total().0, 0);
        let made = table_of_words.get(&WaitPolicy::NONE, table).expect("again");
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
        let words = cell(&governor);
        let costly = || {
            let parsed = std::hint::black_box(vec![1_u8; MORE]);
            // Long enough to be seen.
            std::thread::sleep(Duration::from_millis(20));
            Ok(parsed[..BYTES].to_vec())
        };
        drop(words.get(&WaitPolicy::NONE, costly).expect("made"));
        governor.relieve(Level::Critical);
        // Enough for what stays, but not for the making.
        governor.ledger().set_budget(Some(2 * BYTES as u64));
        let again = words.get(&WaitPolicy::NONE, || unreachable!("no room"));
        assert_eq!(again.expect_err("no room").kind(), ErrorKind::OutOfBudget);
        governor.ledger().set_budget(Some(2 * MORE as u64));
        assert!(words.get(&WaitPolicy::NONE, costly).is_ok());
    }

    #[test]
    fn who_waits_for_another_can_be_cancelled() {
        let words = cell(&Governor::default());
        let (begun, under_way) = std::sync::mpsc::channel();
        let (go_on, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let slow = move || {
                begun.send(()).expect("waited for");
                told.recv().expect("told");
                table()
            };
            let its = words.clone();
            let maker =
                scope.spawn(move || its.get(&WaitPolicy::NONE, slow).map(|made| made.len()));
            under_way.recv().expect("told");
            let looks = AtomicU64::new(0);
            let check = || match looks.fetch_add(1, Ordering::Relaxed) {
                0..3 => Ok(()),
                _ => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
            };
            let wait = WaitPolicy {
                check: &check,
                ..WaitPolicy::NONE
            };
            let waited = words.get(&wait, || unreachable!("another makes it"));
            assert_eq!(waited.expect_err("cancelled").kind(), ErrorKind::Cancelled);
            go_on.send(()).expect("waited for");
            assert_eq!(maker.join().expect("no panic"), Ok(BYTES));
        });
        assert!(
            words
                .get(&WaitPolicy::NONE, || unreachable!("kept"))
                .is_ok()
        );
    }

    #[test]
    fn a_failure_is_not_kept() {
        let governor = Governor::default();
        let words = cell(&governor);
        let unreadable = || Err(Error::new(ErrorKind::BadPack, "unreadable"));
        let error = words.get(&WaitPolicy::NONE, unreadable);
        assert_eq!(error.expect_err("unreadable").kind(), ErrorKind::BadPack);
        assert_eq!(governor.ledger().total().0, 0);
        assert!(words.get(&WaitPolicy::NONE, table).is_ok());
    }

    #[test]
    fn it_is_asked_for_before_it_is_made() {
        let governor = Governor::default();
        governor.ledger().set_budget(Some(1000));
        let made = cell(&governor).get(&WaitPolicy::NONE, || unreachable!("no room"));
        assert_eq!(made.expect_err("no room").kind(), ErrorKind::OutOfBudget);
    }
}
