//! Events of a completion queue, as C takes them out.

use std::ffi::{CString, c_char, c_void};

use atom_core::Result;
use atom_core::engine::{Event, Response};

use crate::assemble::atom_storyboard;
use crate::boundary::{OutStruct, borrow, give, guard, read_struct, sized, take};
use crate::generation::atom_generated;
use crate::queue::atom_queue;
use crate::search::atom_results;
use crate::status::{atom_status, to_c_string};

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
        let Some(event) = queue.next() else {
            return Ok(atom_status::EMPTY);
        };
        out.write(&translated(event));
        Ok(atom_status::OK)
    })
}

/// The event with its response as a handle that the caller owns.
fn translated(event: Event) -> atom_event {
    let mut to = atom_event {
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
    let (request, user) = match event {
        Event::Text {
            request,
            user,
            text,
        } => {
            to.kind = atom_event_kind::TEXT as i32;
            to.text = to_c_string(&text).into_raw();
            (request, user)
        }
        Event::Done {
            request,
            user,
            result,
        } => {
            outcome(result, &mut to);
            (request, user)
        }
    };
    to.request = request;
    // What the caller gave to the asynchronous call, a pointer of this process.
    to.user = user as usize as *mut c_void;
    to
}

fn outcome(result: Result<Response>, to: &mut atom_event) {
    match result {
        Ok(Response::Hits(hits)) => to.results = give(atom_results::new(hits)),
        Ok(Response::Text(text)) => to.generated = give(atom_generated::new(&text)),
        Ok(Response::Storyboard(board)) => to.storyboard = give(atom_storyboard::new(board)),
        // No asynchronous call asks for anything else.
        Ok(_) => to.status = atom_status::INTERNAL as i32,
        Err(error) => {
            to.status = atom_status::from(error.kind()) as i32;
            to.text = to_c_string(&error.to_string()).into_raw();
        }
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
