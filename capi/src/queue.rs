//! Asynchronous calls and the queue where their events arrive; what the events hold is in `event`.

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use atom_core::engine::{Engine, Event, Executor, ExecutorOptions, Lane, Request};

use crate::boundary::{
    Out, Outcome, borrow, guard, guard_anywhere, handle, read_struct, sized, take,
};
use crate::runtime::atom_runtime;
use crate::status::{Failure, atom_status};

const DEFAULT_CAPACITY: u32 = 64;
const MAX_CAPACITY: u32 = 4096;
const DEFAULT_CLOSE_MS: u32 = 10_000;

/// Options of a completion queue; NULL or zeros are the defaults.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_queue_options {
    /// sizeof(atom_queue_options).
    pub struct_size: usize,
    /// Requests not yet collected: waiting, running, or finished with DONE unread. 1 to 4096; 0: 64.
    pub capacity: u32,
    /// Milliseconds atom_queue_close() waits for work under way to stop; 0: 10000.
    pub close_timeout_ms: u32,
}
sized!(atom_queue_options);

/// Where the results of asynchronous calls arrive. One per main loop.
pub struct atom_queue {
    engine: Engine,
    executor: Executor,
    close_timeout: Duration,
}
handle!(atom_queue, b"queu");

impl atom_queue {
    /// Takes the oldest event.
    pub(crate) fn next(&self) -> Option<Event> {
        self.executor.next()
    }
}

/// Queues `request` and answers the asynchronous call.
///
/// # Safety
/// `queue` is an open queue or NULL.
pub(crate) unsafe fn submit(
    queue: *const atom_queue,
    request: Request,
    user: *mut c_void,
    number: Option<Out<u64>>,
) -> Outcome {
    // SAFETY: passed on.
    let queue = unsafe { borrow(queue) }?;
    let user = user as usize as u64;
    match queue.executor.submit(&queue.engine, request, user)? {
        None => Ok(atom_status::FULL),
        Some(given) => {
            if let Some(number) = number {
                number.write(given);
            }
            Ok(atom_status::OK)
        }
    }
}

/// Makes a completion queue for asynchronous calls on `runtime`: two threads (one runs encoders, one generates text)
/// and one descriptor. Each thread runs the waiting request of the highest priority, of these the oldest. A request that
/// was overtaken eight times counts as one priority higher, so that none waits for ever. `options` may be NULL. Close it
/// with atom_queue_close().
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
            engine: runtime.engine.clone(),
            executor: Executor::start(&ExecutorOptions {
                capacity: capacity as usize,
                lanes: vec![Lane::Encode, Lane::Generate],
            })?,
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
        out.write(queue.executor.as_fd().as_raw_fd());
        Ok(atom_status::OK)
    })
}

/// Cancels an asynchronous request. One that still waits ends at once, one that runs ends at its next step. Never blocks;
/// any thread; more than once does no harm. The request still ends with its DONE event: searches and assemblies with
/// ATOM_STATUS_CANCELLED, captions and answers with the text so far and ATOM_STOP_CANCELLED, or with ATOM_STATUS_CANCELLED
/// before the first token. ATOM_STATUS_NOT_FOUND when no request of that number is under way (it has ended, or never was).
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_cancel(queue: *const atom_queue, request: u64) -> atom_status {
    guard_anywhere("atom_cancel", || {
        // SAFETY: an open queue, or NULL.
        if unsafe { borrow(queue) }?.executor.cancel(request) {
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
        if queue.executor.close(queue.close_timeout) {
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
