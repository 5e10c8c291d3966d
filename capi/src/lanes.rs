//! Lanes: fixed threads that work requests off and put what comes of them in one queue with one descriptor.
//!
//! A request lives from the call that made it until its last event is taken; that bounds requests and events alike.
//! The descriptor is written and drained under the queue's lock, so it is readable exactly while there are events.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atom_core::Error;
use atom_core::control::CancelToken;

use crate::assemble::atom_storyboard;
use crate::boundary::{Outcome, catch};
use crate::generation::atom_generated;
use crate::search::atom_results;

/// What a finished request hands over.
pub(crate) enum Payload {
    Results(atom_results),
    Generated(atom_generated),
    Storyboard(atom_storyboard),
}

/// What arrives in the queue.
pub(crate) enum Event {
    Text {
        request: u64,
        user: usize,
        text: String,
    },
    Done {
        request: u64,
        user: usize,
        result: Outcome<Payload>,
    },
}

/// Which thread does the work: encoders and decoder run side by side.
#[derive(Clone, Copy)]
pub(crate) enum Lane {
    Encode = 0,
    Generate = 1,
}

const LANES: [&str; 2] = ["atom-encode", "atom-generate"];

/// A request's work; runs on its lane.
pub(crate) type Work = Box<dyn FnOnce(&Emitter<'_>) -> Outcome<Payload> + Send>;

struct Job {
    request: u64,
    user: usize,
    work: Work,
}

/// Passes text of a running request on.
pub(crate) struct Emitter<'a> {
    shared: &'a Shared,
    request: u64,
    user: usize,
}

impl Emitter<'_> {
    pub(crate) fn text(&self, piece: &str) {
        let mut state = self.shared.lock();
        // Pieces nobody has taken yet are joined, so a slow reader costs one event a request.
        for event in &mut state.events {
            if let Event::Text { request, text, .. } = event
                && *request == self.request
            {
                text.push_str(piece);
                return;
            }
        }
        let event = Event::Text {
            request: self.request,
            user: self.user,
            text: piece.to_owned(),
        };
        self.shared.push(&mut state, event);
    }
}

#[derive(Default)]
struct State {
    closed: bool,
    running: usize,
    last_request: u64,
    pending: [VecDeque<Job>; 2],
    /// Requests that have not ended.
    live: HashMap<u64, CancelToken>,
    /// Requests whose last event has not been taken.
    outstanding: usize,
    events: VecDeque<Event>,
}

struct Shared {
    capacity: usize,
    state: Mutex<State>,
    work: Condvar,
    ended: Condvar,
    ready: File,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is whole before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, state: &mut State, event: Event) {
        if state.closed {
            return;
        }
        if state.events.is_empty() {
            // Cannot fail: the counter is 0 here. If it did, `next` would still find the event.
            let _ = (&self.ready).write(&1u64.to_ne_bytes());
        }
        state.events.push_back(event);
    }

    fn run(&self, lane: usize) {
        while let Some(job) = self.next_job(lane) {
            let Job {
                request,
                user,
                work,
            } = job;
            let emitter = Emitter {
                shared: self,
                request,
                user,
            };
            let result = catch(|| work(&emitter));
            let mut state = self.lock();
            state.live.remove(&request);
            let event = Event::Done {
                request,
                user,
                result,
            };
            self.push(&mut state, event);
        }
    }

    fn next_job(&self, lane: usize) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.pending[lane].pop_front() {
                return Some(job);
            }
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lane_ended(&self) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        self.ended.notify_all();
    }
}

/// The lanes and their queue.
pub(crate) struct Lanes {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Lanes {
    pub(crate) fn start(capacity: usize) -> Outcome<Self> {
        // SAFETY: no pointers are involved.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(Error::io("eventfd", &std::io::Error::last_os_error()).into());
        }
        let lanes = Self {
            shared: Arc::new(Shared {
                capacity,
                state: Mutex::default(),
                work: Condvar::new(),
                ended: Condvar::new(),
                // SAFETY: a fresh descriptor that nobody else owns.
                ready: unsafe { File::from_raw_fd(descriptor) },
            }),
            threads: Mutex::default(),
        };
        for (lane, name) in LANES.into_iter().enumerate() {
            let shared = lanes.shared.clone();
            shared.lock().running += 1;
            let started = std::thread::Builder::new()
                .name(name.into())
                .spawn(move || {
                    shared.run(lane);
                    shared.lane_ended();
                });
            match started {
                Ok(thread) => lanes.threads().push(thread),
                Err(error) => {
                    lanes.shared.lane_ended();
                    lanes.stop(Duration::from_secs(1));
                    return Err(Error::io("starting a lane of the queue", &error).into());
                }
            }
        }
        Ok(lanes)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `work`; its request number, or `None` when there is no room.
    pub(crate) fn submit(
        &self,
        lane: Lane,
        user: usize,
        cancel: CancelToken,
        work: Work,
    ) -> Option<u64> {
        let mut state = self.shared.lock();
        if state.outstanding >= self.shared.capacity {
            return None;
        }
        state.last_request += 1;
        let request = state.last_request;
        state.outstanding += 1;
        state.live.insert(request, cancel);
        state.pending[lane as usize].push_back(Job {
            request,
            user,
            work,
        });
        drop(state);
        self.shared.work.notify_all();
        Some(request)
    }

    /// The oldest event.
    pub(crate) fn next(&self) -> Option<Event> {
        let mut state = self.shared.lock();
        let event = state.events.pop_front()?;
        if matches!(event, Event::Done { .. }) {
            state.outstanding -= 1;
        }
        if state.events.is_empty() {
            // Non-blocking; resets the counter.
            let _ = (&self.shared.ready).read(&mut [0; 8]);
        }
        Some(event)
    }

    /// Readable while there are events.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.shared.ready.as_raw_fd()
    }

    /// Cancels a request that has not ended; `false` when there is none of that number.
    pub(crate) fn cancel(&self, request: u64) -> bool {
        let state = self.shared.lock();
        state.live.get(&request).map(CancelToken::cancel).is_some()
    }

    /// Cancels everything and joins the lanes; fails when one did not stop in time and was left behind. It holds the
    /// shared state, so nothing dangles.
    pub(crate) fn stop(&self, timeout: Duration) -> bool {
        let mut state = self.shared.lock();
        state.closed = true;
        for token in state.live.values() {
            token.cancel();
        }
        // Dropped below, without the lock.
        let left = (
            std::mem::take(&mut state.pending),
            std::mem::take(&mut state.events),
        );
        self.shared.work.notify_all();
        let deadline = Instant::now() + timeout;
        while state.running > 0 {
            let now = Instant::now();
            if now >= deadline {
                break;
            }
            state = self
                .shared
                .ended
                .wait_timeout(state, deadline - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let all = state.running == 0;
        drop(state);
        drop(left);
        let threads = std::mem::take(&mut *self.threads());
        if all {
            for thread in threads {
                // Panics of the work were caught and delivered as results.
                let _ = thread.join();
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::status::{Failure, atom_status};

    fn fail(status: atom_status) -> Outcome<Payload> {
        Err(Failure::new(status, "as asked"))
    }

    fn readable(lanes: &Lanes) -> bool {
        let mut poll = libc::pollfd {
            fd: lanes.descriptor(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd that lives through the call.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    }

    fn wait(lanes: &Lanes) -> Event {
        loop {
            if let Some(event) = lanes.next() {
                return event;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn capacity_counts_requests_until_their_last_event_is_taken() {
        let lanes = Lanes::start(1).unwrap();
        let submit = || {
            let work: Work = Box::new(|_| fail(atom_status::IO));
            lanes.submit(Lane::Encode, 5, CancelToken::new(), work)
        };
        let first = submit().unwrap();
        // Whether it has ended by now or not.
        assert_eq!(submit(), None);
        while !readable(&lanes) {
            std::thread::yield_now();
        }
        assert_eq!(submit(), None);
        let Some(Event::Done {
            request,
            user: 5,
            result: Err(failure),
        }) = lanes.next()
        else {
            panic!("no event");
        };
        assert_eq!((request, failure.status), (first, atom_status::IO));
        assert!(!readable(&lanes));
        assert!(!lanes.cancel(first));
        assert!(submit().is_some());
        assert!(lanes.stop(Duration::from_secs(60)));
    }

    #[test]
    fn untaken_text_is_joined_into_one_event() {
        let lanes = Lanes::start(4).unwrap();
        let work: Work = Box::new(|emitter| {
            for piece in ["a ", "red ", "car"] {
                emitter.text(piece);
            }
            fail(atom_status::CANCELLED)
        });
        // Lanes work in order: when the second ends, the first has said everything.
        lanes.submit(Lane::Generate, 0, CancelToken::new(), work);
        let (ended, end) = mpsc::channel();
        let work: Work = Box::new(move |_| {
            let _ = ended.send(());
            fail(atom_status::IO)
        });
        lanes.submit(Lane::Generate, 0, CancelToken::new(), work);
        end.recv().unwrap();
        let Some(Event::Text { text, .. }) = lanes.next() else {
            panic!("no text");
        };
        assert_eq!(text, "a red car");
        assert!(matches!(lanes.next(), Some(Event::Done { .. })));
        assert!(lanes.stop(Duration::from_secs(60)));
    }

    #[test]
    fn a_panic_is_a_result_and_the_lane_goes_on() {
        let lanes = Lanes::start(4).unwrap();
        for _ in 0..2 {
            let work: Work = Box::new(|_| panic!("boom"));
            lanes.submit(Lane::Encode, 0, CancelToken::new(), work);
            let Event::Done {
                result: Err(failure),
                ..
            } = wait(&lanes)
            else {
                panic!("no failure");
            };
            assert_eq!(failure.status, atom_status::INTERNAL);
            assert!(failure.message.contains("boom"), "{}", failure.message);
        }
        assert!(lanes.stop(Duration::from_secs(60)));
    }

    #[test]
    fn stopping_cancels_what_runs_and_leaves_a_hung_lane_behind() {
        let lanes = Lanes::start(4).unwrap();
        let cancel = CancelToken::new();
        let seen = cancel.clone();
        let work: Work = Box::new(move |_| {
            while !seen.is_cancelled() {
                std::thread::yield_now();
            }
            fail(atom_status::CANCELLED)
        });
        lanes.submit(Lane::Encode, 0, cancel, work);
        assert!(lanes.stop(Duration::from_secs(60)));

        let lanes = Lanes::start(4).unwrap();
        let (began, begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let work: Work = Box::new(move |emitter| {
            let _ = began.send(());
            let _ = released.recv();
            // The queue is closed by now; this must go nowhere.
            emitter.text("late");
            fail(atom_status::IO)
        });
        lanes.submit(Lane::Encode, 0, CancelToken::new(), work);
        begun.recv().unwrap();
        assert!(!lanes.stop(Duration::from_millis(20)));
        let shared = lanes.shared.clone();
        drop(lanes);
        drop(release);
        while shared.lock().running > 0 {
            std::thread::yield_now();
        }
        assert!(shared.lock().events.is_empty());
    }
}
