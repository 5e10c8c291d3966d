//! Asynchronous calls: fixed lanes, one completion queue, one descriptor.
//!
//! A request lives from the call that made it until its last event is taken; that bounds requests and events alike.
//! The descriptor is written and drained under the queue's lock, so it is readable exactly while there are events.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, c_char, c_void};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atom_core::control::CancelToken;
use atom_core::runtime::Runtime;

use crate::boundary::{
    Out, OutStruct, Outcome, borrow, catch, give, guard, guard_anywhere, handle, read_struct,
    sized, take,
};
use crate::generation::atom_generated;
use crate::runtime::atom_runtime;
use crate::search::atom_results;
use crate::status::{Failure, atom_status, to_c_string};

const DEFAULT_CAPACITY: u32 = 64;
const MAX_CAPACITY: u32 = 4096;
const DEFAULT_CLOSE_MS: u32 = 10_000;

/// Options of a completion queue; NULL or zeros are the defaults.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_queue_options {
    /// sizeof(atom_queue_options).
    pub struct_size: usize,
    /// Requests that may be under way or waiting to be taken, 1 to 4096; 0: 64.
    pub capacity: u32,
    /// Milliseconds atom_queue_close() waits for work under way to stop; 0: 10000.
    pub close_timeout_ms: u32,
}
sized!(atom_queue_options);

/// What an event tells.
#[repr(i32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_event_kind {
    /// More text of a caption or an answer; only if asked for with text_events.
    TEXT = 1,
    /// The request has ended; its last event.
    DONE = 2,
}

/// One event, copied out of the queue. What it points to belongs to the caller: free it with atom_event_clear(), or
/// take a pointer over by setting the field to NULL.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_event {
    /// sizeof(atom_event), set by the caller.
    pub struct_size: usize,
    /// The number the asynchronous call gave out.
    pub request: u64,
    /// The pointer given to the asynchronous call.
    pub user: *mut c_void,
    /// An atom_event_kind number.
    pub kind: i32,
    /// With DONE: an atom_status number.
    pub status: i32,
    /// With TEXT: the text since the last event. With DONE and a failure: what atom_last_error() would say. Else NULL.
    pub text: *mut c_char,
    /// With DONE of a search that went well: the results. Else NULL.
    pub results: *mut atom_results,
    /// With DONE of a caption or an answer that went well: the text. Else NULL.
    pub generated: *mut atom_generated,
}
sized!(atom_event, up to generated: *mut atom_generated);

/// Where the results of asynchronous calls arrive. One per main loop.
pub struct atom_queue {
    shared: Arc<Shared>,
    lanes: Mutex<Vec<JoinHandle<()>>>,
    close_timeout: Duration,
}
handle!(atom_queue, b"queu");

/// What a finished request hands over.
pub(crate) enum Payload {
    Results(atom_results),
    Generated(atom_generated),
}

/// Which thread does the work: encoders and decoder run side by side.
#[derive(Clone, Copy)]
pub(crate) enum Lane {
    Encode = 0,
    Generate = 1,
}
const LANES: [&str; 2] = ["atom-encode", "atom-generate"];

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
        self.shared.push(
            &mut state,
            Event::Text {
                request: self.request,
                user: self.user,
                text: piece.to_owned(),
            },
        );
    }
}

type Work = Box<dyn FnOnce(&Runtime, &Emitter<'_>) -> Outcome<Payload> + Send>;

struct Job {
    request: u64,
    user: usize,
    work: Work,
}

enum Event {
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

#[derive(Default)]
struct State {
    closed: bool,
    running_lanes: usize,
    last_request: u64,
    pending: [VecDeque<Job>; 2],
    /// Requests that have not ended.
    live: HashMap<u64, CancelToken>,
    /// Requests whose last event has not been taken.
    outstanding: usize,
    events: VecDeque<Event>,
}

struct Shared {
    runtime: Runtime,
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
            // Cannot fail: the counter is 0 here. If it did, `next` still finds the event.
            let _ = (&self.ready).write(&1u64.to_ne_bytes());
        }
        state.events.push_back(event);
    }

    fn run_lane(&self, lane: usize) {
        while let Some(job) = self.next_job(lane) {
            let emitter = Emitter {
                shared: self,
                request: job.request,
                user: job.user,
            };
            let work = job.work;
            let result = catch(|| work(&self.runtime, &emitter));
            let mut state = self.lock();
            state.live.remove(&job.request);
            self.push(
                &mut state,
                Event::Done {
                    request: job.request,
                    user: job.user,
                    result,
                },
            );
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
        state.running_lanes = state.running_lanes.saturating_sub(1);
        self.ended.notify_all();
    }
}

/// Queues `work`; its request number, or `None` when the queue is full.
///
/// # Safety
/// `queue` is an open queue or NULL.
pub(crate) unsafe fn submit(
    queue: *const atom_queue,
    lane: Lane,
    user: *mut c_void,
    cancel: CancelToken,
    work: Work,
) -> Outcome<Option<u64>> {
    // SAFETY: passed on.
    let shared = &unsafe { borrow(queue) }?.shared;
    let mut state = shared.lock();
    if state.outstanding >= shared.capacity {
        return Ok(None);
    }
    state.last_request += 1;
    let request = state.last_request;
    state.outstanding += 1;
    state.live.insert(request, cancel);
    state.pending[lane as usize].push_back(Job {
        request,
        user: user as usize,
        work,
    });
    drop(state);
    shared.work.notify_all();
    Ok(Some(request))
}

/// What the asynchronous calls do with [`submit`]'s answer.
pub(crate) fn submitted(request: Option<u64>, out: Option<Out<u64>>) -> atom_status {
    match request {
        None => atom_status::FULL,
        Some(number) => {
            if let Some(out) = out {
                out.write(number);
            }
            atom_status::OK
        }
    }
}

/// Makes a completion queue for asynchronous calls on `runtime`: two threads (one runs encoders, one generates text)
/// and one descriptor. `options` may be NULL. Close it with atom_queue_close().
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_queue_create(
    runtime: *const atom_runtime,
    options: *const atom_queue_options,
    out: *mut *mut atom_queue,
) -> atom_status {
    guard("atom_queue_create", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (runtime, options, out) = unsafe {
            (
                borrow(runtime)?,
                read_struct(options)?,
                Out::new(out, "out")?,
            )
        };
        let capacity = match options.map_or(0, |options| options.capacity) {
            0 => DEFAULT_CAPACITY,
            capacity if capacity <= MAX_CAPACITY => capacity,
            capacity => {
                return Err(Failure::argument(format!(
                    "capacity of {capacity} requests: the limit is {MAX_CAPACITY}"
                )));
            }
        };
        let close_ms = match options.map_or(0, |options| options.close_timeout_ms) {
            0 => DEFAULT_CLOSE_MS,
            ms => ms,
        };
        let system =
            |what: &str, error: &std::io::Error| Failure::from(atom_core::Error::io(what, error));
        // SAFETY: no pointers are involved.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(system("eventfd", &std::io::Error::last_os_error()));
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let ready = unsafe { File::from_raw_fd(descriptor) };
        let shared = Arc::new(Shared {
            runtime: runtime.runtime.clone(),
            capacity: capacity as usize,
            state: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
            ready,
        });
        let queue = atom_queue {
            shared,
            lanes: Mutex::default(),
            close_timeout: Duration::from_millis(close_ms.into()),
        };
        for (lane, name) in LANES.into_iter().enumerate() {
            let shared = queue.shared.clone();
            shared.lock().running_lanes += 1;
            let started = std::thread::Builder::new()
                .name(name.into())
                .spawn(move || {
                    shared.run_lane(lane);
                    shared.lane_ended();
                });
            match started {
                Ok(thread) => queue
                    .lanes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(thread),
                Err(error) => {
                    queue.shared.lane_ended();
                    queue.stop();
                    return Err(system("starting a lane of the queue", &error));
                }
            }
        }
        out.write_handle(queue);
        Ok(atom_status::OK)
    })
}

impl atom_queue {
    /// Cancels everything and joins the lanes; `false` when one did not stop in time and was left behind (it holds the
    /// shared state, so nothing dangles).
    fn stop(&self) -> bool {
        let mut state = self.shared.lock();
        state.closed = true;
        for token in state.live.values() {
            token.cancel();
        }
        let dropped = std::mem::take(&mut state.pending);
        let events = std::mem::take(&mut state.events);
        self.shared.work.notify_all();
        let deadline = Instant::now() + self.close_timeout;
        while state.running_lanes > 0 {
            let Some(left) = deadline
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            else {
                return false;
            };
            state = self
                .shared
                .ended
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(state);
        drop((dropped, events));
        let lanes = std::mem::take(&mut *self.lanes.lock().unwrap_or_else(PoisonError::into_inner));
        for lane in lanes {
            // Its panics were caught and delivered as results.
            let _ = lane.join();
        }
        true
    }
}

/// Writes to `out` the queue's descriptor (an eventfd): readable while there are events. It belongs to the queue: poll
/// it, do not read, write or close it.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_queue_fd(queue: *const atom_queue, out: *mut i32) -> atom_status {
    guard("atom_queue_fd", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (queue, out) = unsafe { (borrow(queue)?, Out::new(out, "out")?) };
        out.write(queue.shared.ready.as_raw_fd());
        Ok(atom_status::OK)
    })
}

/// Takes the oldest event out of the queue. Never waits: ATOM_STATUS_EMPTY when there is none. Set event->struct_size
/// first. Events of one request come in order. Any thread; each event is given out once.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_queue_next(
    queue: *const atom_queue,
    event: *mut atom_event,
) -> atom_status {
    guard("atom_queue_next", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (queue, out) = unsafe { (borrow(queue)?, OutStruct::new(event, "event")?) };
        let shared = &queue.shared;
        let mut state = shared.lock();
        let Some(event) = state.events.pop_front() else {
            return Ok(atom_status::EMPTY);
        };
        if matches!(event, Event::Done { .. }) {
            state.outstanding -= 1;
        }
        if state.events.is_empty() {
            // Non-blocking; resets the counter.
            let _ = (&shared.ready).read(&mut [0; 8]);
        }
        drop(state);
        out.write(&event.into_c());
        Ok(atom_status::OK)
    })
}

impl Event {
    fn into_c(self) -> atom_event {
        let mut event = atom_event {
            struct_size: size_of::<atom_event>(),
            request: 0,
            user: std::ptr::null_mut(),
            kind: atom_event_kind::DONE as i32,
            status: atom_status::OK as i32,
            text: std::ptr::null_mut(),
            results: std::ptr::null_mut(),
            generated: std::ptr::null_mut(),
        };
        match self {
            Self::Text {
                request,
                user,
                text,
            } => {
                event.kind = atom_event_kind::TEXT as i32;
                event.request = request;
                event.user = user as *mut c_void;
                event.text = to_c_string(&text).into_raw();
            }
            Self::Done {
                request,
                user,
                result,
            } => {
                event.request = request;
                event.user = user as *mut c_void;
                match result {
                    Ok(Payload::Results(results)) => {
                        event.results = give(results);
                    }
                    Ok(Payload::Generated(text)) => {
                        event.generated = give(text);
                    }
                    Err(failure) => {
                        event.status = failure.status as i32;
                        event.text = to_c_string(&failure.message).into_raw();
                    }
                }
            }
        }
        event
    }
}

/// Frees what an event points to and sets those fields to NULL. NULL is fine.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_event_clear(event: *mut atom_event) -> atom_status {
    guard("atom_event_clear", || {
        // SAFETY: NULL or an event of the caller's.
        let Some(given) = (unsafe { read_struct(event.cast_const()) })? else {
            return Ok(atom_status::OK);
        };
        // SAFETY: handles that atom_queue_next() gave to the caller, or NULL.
        unsafe {
            drop(take(given.results)?);
            drop(take(given.generated)?);
            if !given.text.is_null() {
                drop(CString::from_raw(given.text));
            }
            (*event).results = std::ptr::null_mut();
            (*event).generated = std::ptr::null_mut();
            (*event).text = std::ptr::null_mut();
        }
        Ok(atom_status::OK)
    })
}

/// Asks an asynchronous request to stop at its next step. Never blocks; any thread; more than once does no harm. The
/// request still ends with its DONE event: searches with ATOM_STATUS_CANCELLED, captions and answers with the text so
/// far and ATOM_STOP_CANCELLED, or ATOM_STATUS_CANCELLED if they had not begun. ATOM_STATUS_NOT_FOUND when no request of
/// that number is under way (it has ended, or never was).
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_cancel(queue: *const atom_queue, request: u64) -> atom_status {
    guard_anywhere("atom_cancel", || {
        // SAFETY: an open queue, or NULL.
        let state = unsafe { borrow(queue) }?.shared.lock();
        match state.live.get(&request) {
            Some(token) => {
                token.cancel();
                Ok(atom_status::OK)
            }
            None => Err(Failure::new(
                atom_status::NOT_FOUND,
                format!("no request {request} is under way"),
            )),
        }
    })
}

/// Cancels what is under way, waits for it (close_timeout_ms at most) and frees the queue with its events and its
/// descriptor. NULL is fine. ATOM_STATUS_DEADLINE_EXCEEDED when work hangs in a provider: the queue is closed all the
/// same, the hanging thread and what it uses are left behind, and the library must then not be unloaded.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_queue_close(queue: *mut atom_queue) -> atom_status {
    guard("atom_queue_close", || {
        // SAFETY: a handle the caller gives up, or NULL.
        let Some(queue) = (unsafe { take(queue) })? else {
            return Ok(atom_status::OK);
        };
        if queue.stop() {
            Ok(atom_status::OK)
        } else {
            Err(Failure::new(
                atom_status::DEADLINE_EXCEEDED,
                format!(
                    "work did not stop within {} ms; its thread is left behind",
                    queue.close_timeout.as_millis()
                ),
            ))
        }
    })
}
