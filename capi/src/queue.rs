//! Asynchronous calls and the queue where their results arrive.

use std::ffi::{CString, c_char, c_void};
use std::time::Duration;

use atom_core::control::CancelToken;
use atom_core::runtime::Runtime;

use crate::assemble::atom_storyboard;
use crate::boundary::{
    Out, OutStruct, Outcome, borrow, give, guard, guard_anywhere, handle, read_struct, sized, take,
};
use crate::generation::atom_generated;
use crate::lanes::{Emitter, Event, Lane, Lanes, Payload};
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
    /// With DONE of an assembly that went well: the storyboard. Else NULL.
    pub storyboard: *mut atom_storyboard,
}
sized!(atom_event, up to storyboard: *mut atom_storyboard);

/// Where the results of asynchronous calls arrive. One per main loop.
pub struct atom_queue {
    runtime: Runtime,
    lanes: Lanes,
    close_timeout: Duration,
}
handle!(atom_queue, b"queu");

/// Queues `work` for a lane and answers the asynchronous call.
///
/// # Safety
/// `queue` is an open queue or NULL.
pub(crate) unsafe fn submit(
    queue: *const atom_queue,
    lane: Lane,
    user: *mut c_void,
    cancel: CancelToken,
    request: Option<Out<u64>>,
    work: impl FnOnce(&Runtime, &Emitter<'_>) -> Outcome<Payload> + Send + 'static,
) -> Outcome {
    // SAFETY: passed on.
    let queue = unsafe { borrow(queue) }?;
    let runtime = queue.runtime.clone();
    let work = Box::new(move |emitter: &Emitter<'_>| work(&runtime, emitter));
    match queue.lanes.submit(lane, user as usize, cancel, work) {
        None => Ok(atom_status::FULL),
        Some(number) => {
            if let Some(request) = request {
                request.write(number);
            }
            Ok(atom_status::OK)
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
        out.write_handle(atom_queue {
            runtime: runtime.runtime.clone(),
            lanes: Lanes::start(capacity as usize)?,
            close_timeout: Duration::from_millis(close_ms.into()),
        });
        Ok(atom_status::OK)
    })
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
        out.write(queue.lanes.descriptor());
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
        let Some(event) = queue.lanes.next() else {
            return Ok(atom_status::EMPTY);
        };
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
            storyboard: std::ptr::null_mut(),
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
                    Ok(Payload::Storyboard(storyboard)) => {
                        event.storyboard = give(storyboard);
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
            drop(take(given.storyboard)?);
            if !given.text.is_null() {
                drop(CString::from_raw(given.text));
            }
            (*event).results = std::ptr::null_mut();
            (*event).generated = std::ptr::null_mut();
            (*event).storyboard = std::ptr::null_mut();
            (*event).text = std::ptr::null_mut();
        }
        Ok(atom_status::OK)
    })
}

/// Asks an asynchronous request to stop at its next step. Never blocks; any thread; more than once does no harm. The
/// request still ends with its DONE event: searches and assemblies with
/// ATOM_STATUS_CANCELLED, captions and answers with the text so
/// far and ATOM_STOP_CANCELLED, or ATOM_STATUS_CANCELLED if they had not begun. ATOM_STATUS_NOT_FOUND when no request of
/// that number is under way (it has ended, or never was).
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_cancel(queue: *const atom_queue, request: u64) -> atom_status {
    guard_anywhere("atom_cancel", || {
        // SAFETY: an open queue, or NULL.
        if unsafe { borrow(queue) }?.lanes.cancel(request) {
            return Ok(atom_status::OK);
        }
        Err(Failure::new(
            atom_status::NOT_FOUND,
            format!("no request {request} is under way"),
        ))
    })
}

/// Cancels what is under way, waits for it (close_timeout_ms at most) and frees the queue with its events and its
/// descriptor. NULL is fine. ATOM_STATUS_DEADLINE_EXCEEDED when work hangs in a provider: the queue is closed all the
/// same, and the hanging thread is left behind with what it uses.
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
        if queue.lanes.stop(queue.close_timeout) {
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
