//! Ask: a segment or a picture and a question to an answer.

use std::ffi::{c_char, c_void};

use atom_core::engine::{Ask, Operation, Pictures};

use crate::boundary::{MAX_TEXT, Out, borrow, guard, text};
use crate::frame::{atom_frame, owned_frame};
use crate::generation::{Settings, asynchronous, atom_generate_options, atom_generated, blocking};
use crate::queue::{atom_queue, submit};
use crate::runtime::atom_runtime;
use crate::status::atom_status;
use crate::store::atom_store;

fn operation(pictures: Pictures, question: &str, settings: &Settings) -> Operation {
    Operation::Ask(Ask {
        store_always: false,
        pictures,
        question: question.to_owned(),
        options: settings.text.clone(),
    })
}

/// Answers `question` (at most 16 kB) about segment number `segment` of `store`, from its stored features. Waits for the
/// answer; options->on_text gets it piece by piece. `options` may be NULL. When the deadline passes or the canceller
/// is used, the text so far is the result and atom_generated_stop() says so; before the first token it is a failure.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_ask(
    runtime: *const atom_runtime,
    store: *const atom_store,
    segment: u64,
    question: *const c_char,
    options: *const atom_generate_options,
    out: *mut *mut atom_generated,
) -> atom_status {
    guard("atom_ask", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (engine, pictures, question, (settings, sink), out) = unsafe {
            (
                borrow(runtime)?.engine.clone(),
                borrow(store)?.segment(segment),
                text(question, "question", MAX_TEXT)?,
                blocking(options)?,
                Out::new(out, "out")?,
            )
        };
        let operation = operation(pictures, question, &settings);
        out.write_handle(settings.run(&engine, operation, &sink)?);
        Ok(atom_status::OK)
    })
}

/// Answers `question` about one picture, storing nothing; else as atom_ask().
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_ask_frame(
    runtime: *const atom_runtime,
    frame: *const atom_frame,
    question: *const c_char,
    options: *const atom_generate_options,
    out: *mut *mut atom_generated,
) -> atom_status {
    guard("atom_ask_frame", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (engine, question, (settings, sink), out, frame) = unsafe {
            (
                borrow(runtime)?.engine.clone(),
                text(question, "question", MAX_TEXT)?,
                blocking(options)?,
                Out::new(out, "out")?,
                owned_frame(frame)?,
            )
        };
        let operation = operation(Pictures::Frames(vec![frame]), question, &settings);
        out.write_handle(settings.run(&engine, operation, &sink)?);
        Ok(atom_status::OK)
    })
}

/// atom_ask() without waiting: the answer arrives with the ATOM_EVENT_KIND_DONE event in `queue`. ATOM_STATUS_FULL
/// when the queue has no room. `user` comes back in every event; `request` (may be NULL) gets the number for
/// atom_cancel().
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_ask_async(
    queue: *const atom_queue,
    store: *const atom_store,
    segment: u64,
    question: *const c_char,
    options: *const atom_generate_options,
    user: *mut c_void,
    request: *mut u64,
) -> atom_status {
    guard("atom_ask_async", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (pictures, question, settings, out) = unsafe {
            (
                borrow(store)?.segment(segment),
                text(question, "question", MAX_TEXT)?,
                asynchronous(options)?,
                Out::optional(request, "request")?,
            )
        };
        let request = settings.request(operation(pictures, question, &settings));
        // SAFETY: an open queue, or NULL.
        unsafe { submit(queue, request, user, out) }
    })
}
