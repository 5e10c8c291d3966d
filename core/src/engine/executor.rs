//! Runs requests on threads of its own and keeps their events in one completion queue.
//!
//! Each lane has one thread. A lane runs the request of the highest priority, of these the oldest; a request overtaken
//! eight times counts as one priority higher ([`WaitList`]), so that none waits for ever. A running request is not
//! interrupted by another. A request lives from the call that submits it until its DONE event is taken; that bounds
//! requests and events alike.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::request::Request;
use super::response::{Event, Response};
use super::run::Engine;
use super::work::{Lane, Work};
use crate::control::CancelToken;
use crate::error::{Error, ErrorKind, Result};
use crate::flow::wait_list::WaitList;
use crate::os::deadline_timer::{self, Deadline};
use crate::os::eventfd::EventFd;

/// How long dropping an executor waits for running work.
const DROP_TIMEOUT: Duration = Duration::from_secs(10);

/// How an [`Executor`] is started.
#[derive(Debug, Clone)]
pub struct ExecutorOptions {
    /// Requests that are not yet collected: waiting, running, or ended with DONE unread. At least 1.
    pub capacity: usize,
    /// The lanes that get a thread; requests of other lanes are refused.
    pub lanes: Vec<Lane>,
}

/// Threads that run requests, and the queue of their events. Thread-safe. Dropping it closes it.
pub struct Executor {
    shared: Arc<Shared>,
    lanes: Vec<Lane>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    capacity: usize,
    queue: Mutex<Queue>,
    /// A request waits, or the executor was closed.
    work: Condvar,
    /// A thread has ended.
    ended: Condvar,
    /// Readable while there are events: written and drained with the queue locked.
    ready: EventFd,
}

#[derive(Default)]
struct Queue {
    closed: bool,
    threads: usize,
    last_request: u64,
    waiting: [WaitList<Waiting>; 3],
    /// Requests whose DONE has not been taken.
    requests: HashMap<u64, Entry>,
    events: VecDeque<Event>,
}

struct Entry {
    user: u64,
    lane: Lane,
    cancel: CancelToken,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Running,
    Ended,
}

struct Waiting {
    request: u64,
    work: Work,
    /// Ends the request should its deadline pass while it waits.
    _deadline: Option<Deadline>,
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor")
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Every change under the lock is whole before anything that could panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, queue: &mut Queue, event: Event) {
        if queue.closed {
            return;
        }
        if queue.events.is_empty()
            && let Err(error) = self.ready.signal()
        {
            // Cannot be: the counter is 0. The event would still be found by `next`.
            log::error!("completion queue: {error}");
        }
        queue.events.push_back(event);
    }

    /// Puts the last event of `request` into the queue.
    fn end(&self, queue: &mut Queue, request: u64, result: Result<Response>) {
        let Some(entry) = queue.requests.get_mut(&request) else {
            return;
        };
        entry.stage = Stage::Ended;
        let user = entry.user;
        let event = Event::Done {
            request,
            user,
            result,
        };
        self.push(queue, event);
    }

    /// Ends `request` with `error` if it still waits; gives what waited, to be dropped without the lock.
    fn withdraw(&self, queue: &mut Queue, request: u64, error: Error) -> Option<Waiting> {
        let entry = queue.requests.get(&request)?;
        if entry.stage != Stage::Waiting {
            return None;
        }
        let lane = entry.lane;
        let waited = queue.waiting[lane as usize].remove(|waiting| waiting.request == request);
        self.end(queue, request, Err(error));
        waited
    }

    fn text(&self, request: u64, piece: &str) {
        let mut queue = self.lock();
        // Pieces that nobody has taken yet are joined, so a slow reader costs one event a request.
        for event in &mut queue.events {
            if let Event::Text {
                request: of, text, ..
            } = event
                && *of == request
            {
                text.push_str(piece);
                return;
            }
        }
        let Some(entry) = queue.requests.get(&request) else {
            return;
        };
        let event = Event::Text {
            request,
            user: entry.user,
            text: piece.to_owned(),
        };
        self.push(&mut queue, event);
    }

    /// The thread of `lane`.
    fn serve(&self, lane: Lane) {
        while let Some((request, work)) = self.next_work(lane) {
            let result = catch_unwind(AssertUnwindSafe(|| {
                work.run(&mut |piece| {
                    self.text(request, piece);
                    ControlFlow::Continue(())
                })
            }));
            let result = result.unwrap_or_else(|panic| Err(defect(&*panic)));
            self.end(&mut self.lock(), request, result);
        }
    }

    /// Waits for the next request of `lane`; `None` when the executor was closed.
    fn next_work(&self, lane: Lane) -> Option<(u64, Work)> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(waiting) = queue.waiting[lane as usize].take() {
                if let Some(entry) = queue.requests.get_mut(&waiting.request) {
                    entry.stage = Stage::Running;
                }
                return Some((waiting.request, waiting.work));
            }
            queue = self
                .work
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn thread_ended(&self) {
        self.lock().threads -= 1;
        self.ended.notify_all();
    }
}

/// What a panic becomes.
fn defect(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::new(
        ErrorKind::Internal,
        format!("a defect of Atom: {}", text.unwrap_or("panic")),
    )
    .remedy("please report it")
}

impl Executor {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a capacity of 0, [`ErrorKind::Io`] when the process has no descriptor or
    /// thread left.
    pub fn start(options: &ExecutorOptions) -> Result<Self> {
        if options.capacity == 0 {
            let what = "an executor for no requests";
            return Err(Error::new(ErrorKind::InvalidArgument, what));
        }
        let executor = Self {
            shared: Arc::new(Shared {
                capacity: options.capacity,
                queue: Mutex::default(),
                work: Condvar::new(),
                ended: Condvar::new(),
                ready: EventFd::new()?,
            }),
            lanes: options.lanes.clone(),
            threads: Mutex::default(),
        };
        for lane in &executor.lanes {
            let (lane, shared) = (*lane, Arc::clone(&executor.shared));
            shared.lock().threads += 1;
            let started = std::thread::Builder::new()
                .name(lane.thread_name().into())
                .spawn(move || {
                    shared.serve(lane);
                    shared.thread_ended();
                });
            match started {
                Ok(thread) => executor.threads().push(thread),
                Err(error) => {
                    executor.shared.thread_ended();
                    return Err(Error::io("starting a thread for requests", &error));
                }
            }
        }
        Ok(executor)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `request` run by `engine`; its number, or `None` when there is no room. Its events carry `user`. The deadline
    /// counts from here; a request whose deadline passes while it waits ends without having run.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a store or an ingest that is not open, [`ErrorKind::InvalidArgument`] for options out
    /// of range, [`ErrorKind::Unsupported`] when this executor does not have the operation's lane.
    pub fn submit(&self, engine: &Engine, request: Request, user: u64) -> Result<Option<u64>> {
        self.queue(engine.prepare(request, CancelToken::new())?, user)
    }

    fn queue(&self, work: Work, user: u64) -> Result<Option<u64>> {
        let (lane, priority, cancel) = (work.lane, work.control.priority, &work.control.cancel);
        if !self.lanes.contains(&lane) {
            let what = format!("this executor has no thread for the lane {lane:?}");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let mut queue = self.shared.lock();
        if queue.closed {
            let what = "the executor is closed";
            return Err(Error::new(ErrorKind::InvalidArgument, what));
        }
        if queue.requests.len() >= self.shared.capacity {
            return Ok(None);
        }
        queue.last_request += 1;
        let request = queue.last_request;
        let entry = Entry {
            user,
            lane,
            cancel: cancel.clone(),
            stage: Stage::Waiting,
        };
        queue.requests.insert(request, entry);
        // The timer calls back without its lock, and then waits for ours.
        let deadline = work.control.deadline.map(|at| {
            let shared = Arc::downgrade(&self.shared);
            deadline_timer::at(at, Arc::new(move || expire(&shared, request)))
        });
        let waiting = Waiting {
            request,
            work,
            _deadline: deadline,
        };
        queue.waiting[lane as usize].push(waiting, priority);
        drop(queue);
        self.shared.work.notify_all();
        Ok(Some(request))
    }

    /// Takes the oldest event, if there is one. Never waits.
    pub fn next(&self) -> Option<Event> {
        let mut queue = self.shared.lock();
        let event = queue.events.pop_front()?;
        if let Event::Done { request, .. } = &event {
            queue.requests.remove(request);
        }
        if queue.events.is_empty()
            && let Err(error) = self.shared.ready.drain()
        {
            log::error!("completion queue: {error}");
        }
        Some(event)
    }

    /// Cancels a request. One that waits ends at once, without having run; one that runs ends at its next step. Either
    /// ends with its DONE event. `false` when no such request waits or runs, unless it was cancelled before and its DONE is
    /// unread: cancelling again does no harm.
    pub fn cancel(&self, request: u64) -> bool {
        let mut queue = self.shared.lock();
        let Some(entry) = queue.requests.get(&request) else {
            return false;
        };
        let (token, stage) = (entry.cancel.clone(), entry.stage);
        if stage == Stage::Ended {
            return token.is_cancelled();
        }
        let waited = self.shared.withdraw(
            &mut queue,
            request,
            Error::new(ErrorKind::Cancelled, "cancelled before it had begun"),
        );
        drop(queue);
        drop(waited);
        // Without the lock: it calls what the running work has registered.
        token.cancel();
        true
    }

    /// Cancels every request and ends the threads; waits for them at most for `timeout`. `false` when one did not end in
    /// time: it is left behind with what it uses, and ends when its work returns. Events are dropped.
    pub fn close(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut queue = self.shared.lock();
        queue.closed = true;
        let cancelled: Vec<_> = queue
            .requests
            .values()
            .map(|it| it.cancel.clone())
            .collect();
        let dropped = (
            std::mem::take(&mut queue.waiting),
            std::mem::take(&mut queue.events),
        );
        drop(queue);
        self.shared.work.notify_all();
        drop(dropped);
        cancelled.iter().for_each(CancelToken::cancel);
        let mut queue = self.shared.lock();
        while queue.threads > 0 {
            let now = Instant::now();
            // A timeout that cannot be counted has no end.
            let left = deadline.map_or(timeout, |at| at.saturating_duration_since(now));
            if left.is_zero() {
                return false;
            }
            let woken = self.shared.ended.wait_timeout(queue, left);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(queue);
        for thread in std::mem::take(&mut *self.threads()) {
            // Panics of the work were caught and delivered as results.
            let _ = thread.join();
        }
        true
    }
}

/// The deadline of a request has passed.
fn expire(shared: &Weak<Shared>, request: u64) {
    let Some(shared) = shared.upgrade() else {
        return;
    };
    let error = Error::new(
        ErrorKind::DeadlineExceeded,
        "the deadline passed before it had begun",
    );
    let waited = shared.withdraw(&mut shared.lock(), request, error);
    drop(waited);
}

/// Readable while there are events: for poll(2), not to be read or written.
impl AsFd for Executor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.ready.as_fd()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let closed = self.shared.lock().closed;
        if !closed && !self.close(DROP_TIMEOUT) {
            log::error!("requests did not end; their threads are left behind");
        }
    }
}

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
