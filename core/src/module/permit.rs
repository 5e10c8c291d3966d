//! Who may use a session next: one at a time, by priority, first come first served within one, and nobody passed over
//! for ever.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::control::Control;
use crate::error::Result;
use crate::flow::wait_list::WaitList;
use crate::trace;

/// How often a waiter looks whether it was cancelled.
const POLL: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Whose session it is, for traces.
    module: Arc<str>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Ticket of the holder, or of the waiter it was handed to.
    holder: Option<u64>,
    next: u64,
    /// Tickets.
    waiting: WaitList<u64>,
}

/// The right to use the session; given on when dropped.
#[derive(Debug)]
pub(super) struct Permit<'a>(&'a Gate);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.hand_on(&mut self.0.lock());
    }
}

impl Gate {
    pub(super) fn new(module: &str) -> Self {
        Self {
            module: module.into(),
            ..Self::default()
        }
    }

    /// Waits for the right. Errors when `control` says so.
    pub(super) fn enter(&self, control: &Control) -> Result<Permit<'_>> {
        control.check()?;
        let mut state = self.lock();
        let ticket = state.next;
        state.next += 1;
        if state.holder.is_none() {
            state.holder = Some(ticket);
            return Ok(Permit(self));
        }
        let _span = trace::span("module", "wait")
            .what(&self.module)
            .arg("waiting", state.waiting.len() as u64);
        state.waiting.push(ticket, control.priority);
        loop {
            if state.holder == Some(ticket) {
                // From here the permit's drop gives it on, also when the operation was cancelled meanwhile.
                drop(state);
                let permit = Permit(self);
                control.check()?;
                return Ok(permit);
            }
            if let Err(e) = control.check() {
                state.waiting.remove(|waiting| *waiting == ticket);
                return Err(e);
            }
            let until_deadline = control
                .deadline
                .map(|at| at.saturating_duration_since(Instant::now()));
            let wait = until_deadline.map_or(POLL, |left| left.min(POLL));
            state = self
                .changed
                .wait_timeout(state, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Gives the right to the waiter whose turn it is; nobody can slip in between.
    fn hand_on(&self, state: &mut State) {
        state.holder = state.waiting.take();
        if state.holder.is_some() {
            self.changed.notify_all();
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::control::{CancelToken, Priority};
    use crate::error::ErrorKind;

    fn control(priority: Priority) -> Control {
        Control {
            priority,
            ..Control::default()
        }
    }

    /// Queues one waiter after the other while the gate is held, then lets go; the order in which they got through.
    fn order(arrivals: &[(&'static str, Priority)]) -> Result<Vec<&'static str>> {
        let gate = Arc::new(Gate::default());
        let through = Arc::new(Mutex::new(Vec::new()));
        let held = gate.enter(&Control::default())?;
        let threads: Vec<_> = arrivals
            .iter()
            .enumerate()
            .map(|(i, &(name, priority))| {
                let (its_gate, through) = (Arc::clone(&gate), Arc::clone(&through));
                let thread = thread::spawn(move || {
                    let _permit = its_gate.enter(&control(priority)).ok()?;
                    through.lock().ok()?.push(name);
                    Some(())
                });
                while gate.waiting() <= i {
                    thread::yield_now();
                }
                thread
            })
            .collect();
        drop(held);
        for thread in threads {
            assert!(matches!(thread.join(), Ok(Some(()))));
        }
        let through = through.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(through.clone())
    }

    #[test]
    fn priority_first_then_arrival() -> Result<()> {
        use Priority::{Background, Interactive, Normal};
        let got = order(&[
            ("b1", Background),
            ("n1", Normal),
            ("n2", Normal),
            ("i1", Interactive),
            ("b2", Background),
            ("i2", Interactive),
        ])?;
        assert_eq!(got, ["i1", "i2", "n1", "n2", "b1", "b2"]);
        Ok(())
    }

    #[test]
    fn background_is_not_starved() -> Result<()> {
        let mut arrivals = vec![("b", Priority::Background)];
        arrivals.extend([("i", Priority::Interactive); 40]);
        let got = order(&arrivals)?;
        let entry = got.iter().position(|name| *name == "b");
        // Passed over 8 times for each of two levels; then it is level, and came first.
        assert_eq!(entry, Some(16));
        Ok(())
    }

    #[test]
    fn a_cancelled_waiter_leaves_the_queue() -> Result<()> {
        let gate = Gate::default();
        let held = gate.enter(&Control::default())?;
        let waiting = Control {
            cancel: CancelToken::new(),
            deadline: Some(Instant::now() + Duration::from_millis(30)),
            priority: Priority::Normal,
        };
        let late = gate.enter(&waiting).map(drop).map_err(|e| e.kind());
        assert_eq!(late, Err(ErrorKind::DeadlineExceeded));
        waiting.cancel.cancel();
        let cancelled = gate.enter(&waiting).map(drop).map_err(|e| e.kind());
        assert_eq!(cancelled, Err(ErrorKind::Cancelled));
        assert_eq!(gate.waiting(), 0);
        drop(held);
        assert!(gate.enter(&Control::default()).is_ok());
        Ok(())
    }
}
