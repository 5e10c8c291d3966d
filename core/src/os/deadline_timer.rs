//! Calls back when a deadline passes: one sleeping thread for the whole process, started by the first deadline.
//!
//! Not by the crate timer (0.2): it goes by the wall clock, which may be set, and a deadline that is dropped stays in its heap until
//! it is due: one for each token, for as long as the deadline is away.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What is called when a deadline passes: quick, on the timer's thread.
pub(crate) type Action = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct State {
    next: u64,
    /// The number tells apart what ends at the same moment.
    waiting: BTreeMap<(Instant, u64), Action>,
    running: bool,
    /// When the thread wakes by itself; `None` while it waits for work.
    wakes: Option<Instant>,
}

struct Timer {
    state: Mutex<State>,
    changed: Condvar,
}

static TIMER: Timer = Timer {
    state: Mutex::new(State {
        next: 0,
        waiting: BTreeMap::new(),
        running: false,
        wakes: None,
    }),
    changed: Condvar::new(),
};

/// Keeps an action waiting. Dropping it takes the action away, unless it is just being called.
#[derive(Debug)]
pub(crate) struct Deadline((Instant, u64));

impl Drop for Deadline {
    fn drop(&mut self) {
        // The thread is left asleep: the next deadline of the same operation finds it so.
        TIMER.lock().waiting.remove(&self.0);
    }
}

/// Calls `action` at `deadline`, unless what this returns is dropped first. No lock is held meanwhile. If no thread can be
/// started the action is never called: the work then ends by itself and its caller sees the deadline afterwards.
pub(crate) fn at(deadline: Instant, action: Action) -> Deadline {
    let mut state = TIMER.lock();
    let key = (deadline, state.next);
    state.next += 1;
    state.waiting.insert(key, action);
    if !state.running {
        state.running = std::thread::Builder::new()
            .name("atom-deadline".into())
            .spawn(|| TIMER.run())
            .is_ok();
    } else if state.wakes.is_none_or(|wakes| wakes > deadline) {
        TIMER.changed.notify_one();
    }
    Deadline(key)
}

impl Timer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if let Some(entry) = state.waiting.first_entry()
                && entry.key().0 <= now
            {
                let action = entry.remove();
                drop(state);
                action();
                drop(action);
                state = self.lock();
                continue;
            }
            state.wakes = state.waiting.first_key_value().map(|((at, _), _)| *at);
            state = match state.wakes {
                Some(at) => {
                    self.changed
                        .wait_timeout(state, at.saturating_duration_since(now))
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn fires_in_order_and_forgets_what_is_dropped() {
        let (sender, fired) = mpsc::channel();
        let action = |name: &'static str| {
            let sender = sender.clone();
            Arc::new(move || {
                let _ = sender.send(name);
            }) as Action
        };
        let now = Instant::now();
        let kept = [
            at(now + Duration::from_millis(60), action("second")),
            at(now + Duration::from_millis(20), action("first")),
        ];
        drop(at(now + Duration::from_millis(30), action("dropped")));
        assert_eq!(fired.recv(), Ok("first"));
        assert_eq!(fired.recv(), Ok("second"));
        drop(kept);
        assert!(fired.try_recv().is_err());
    }
}
