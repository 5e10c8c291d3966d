//! Cancelling, deadlines, priorities of blocking calls.

use atom_core::control::{CancelToken, Priority};
use atom_core::engine::{Operation, Request};

use crate::boundary::{Out, Outcome, borrow, guard, guard_anywhere, handle, take};
use crate::status::{Failure, atom_status};

/// A flag that stops blocking calls; one may serve several calls. Once cancelled it stays so.
pub struct atom_canceller {
    pub(crate) token: CancelToken,
}
handle!(atom_canceller, b"canc");

/// Who goes first when several calls wait for one module (the `priority` of option structs).
#[repr(i32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_priority {
    /// Work nobody waits for.
    BACKGROUND = -1,
    /// The default.
    NORMAL = 0,
    /// Somebody is waiting for the answer.
    INTERACTIVE = 1,
}

/// Makes a canceller. Close it with atom_canceller_close().
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_canceller_create(out: *mut *mut atom_canceller) -> atom_status {
    guard("atom_canceller_create", || {
        // SAFETY: `out` is the caller's to write, or NULL.
        let out = unsafe { Out::new(out, "out") }?;
        out.write_handle(atom_canceller {
            token: CancelToken::new(),
        });
        Ok(atom_status::OK)
    })
}

/// Asks the calls that were given `canceller` to stop at their next step (one token, one batch). Never blocks; any
/// thread, also from a callback; more than once does no harm. Calls that generate text return what they have, with
/// ATOM_STOP_CANCELLED; other calls return ATOM_STATUS_CANCELLED.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_canceller_cancel(canceller: *const atom_canceller) -> atom_status {
    guard_anywhere("atom_canceller_cancel", || {
        // SAFETY: a handle of the caller's, or NULL.
        unsafe { borrow(canceller) }?.token.cancel();
        Ok(atom_status::OK)
    })
}

/// Frees a canceller; calls under way keep what they need of it. NULL is fine.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_canceller_close(canceller: *mut atom_canceller) -> atom_status {
    guard("atom_canceller_close", || {
        // SAFETY: a handle the caller gives up, or NULL.
        drop(unsafe { take(canceller) }?);
        Ok(atom_status::OK)
    })
}

/// What bounds a call, from the fields option structs share.
#[derive(Debug)]
pub(crate) struct Bounds {
    pub(crate) cancel: CancelToken,
    deadline_ms: Option<u64>,
    priority: Priority,
}

/// # Safety
/// `canceller` is NULL or an open canceller.
pub(crate) unsafe fn bounds(
    canceller: *const atom_canceller,
    deadline_ms: u32,
    priority: i32,
) -> Outcome<Bounds> {
    let cancel = if canceller.is_null() {
        CancelToken::new()
    } else {
        // SAFETY: an open canceller by the caller's contract.
        unsafe { borrow(canceller) }?.token.clone()
    };
    let priority = match priority {
        -1 => Priority::Background,
        0 => Priority::Normal,
        1 => Priority::Interactive,
        other => {
            return Err(Failure::argument(format!(
                "priority is {other}: it must be one of ATOM_PRIORITY_* (-1 to 1)"
            )));
        }
    };
    Ok(Bounds {
        cancel,
        deadline_ms: (deadline_ms > 0).then_some(deadline_ms.into()),
        priority,
    })
}

impl Bounds {
    /// The request for `operation` within these bounds.
    pub(crate) fn request(&self, operation: Operation) -> Request {
        Request {
            priority: self.priority,
            deadline_ms: self.deadline_ms,
            ..Request::new(operation)
        }
    }
}
