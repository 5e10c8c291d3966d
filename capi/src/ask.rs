//! Ask: a segment or a picture and a question to an answer.

use std::ffi::{c_char, c_void};

use atom_core::index::SegmentId;
use atom_core::runtime::{Runtime, Task};

use crate::boundary::{MAX_TEXT, Out, borrow, guard, text};
use crate::frame::{atom_frame, with_frame};
use crate::generation::{asynchronous, atom_generate_options, atom_generated, blocking};
use crate::lanes::{Emitter, Lane};
use crate::queue::{atom_queue, submit};
use crate::runtime::atom_runtime;
use crate::status::atom_status;
use crate::store::atom_store;

/// Answers `question` (at most 64 kB) about segment number `segment` of `store`, from its stored features. Waits for the
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
        let (runtime, store, question, (settings, sink), out) = unsafe {
            (
                borrow(runtime)?.runtime.clone(),
                borrow(store)?.store.clone(),
                text(question, "question", MAX_TEXT)?,
                blocking(options)?,
                Out::new(out, "out")?,
            )
        };
        settings.control.check()?;
        let features = store.features(SegmentId(segment))?;
        let (options, control) = (&settings.text, &settings.control);
        let answer = runtime.ask(&[&features], question, options, control, &mut |piece| {
            sink.deliver(piece)
        })?;
        out.write_handle(atom_generated::new(answer));
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
        let (runtime, question, (settings, sink), out) = unsafe {
            (
                borrow(runtime)?.runtime.clone(),
                text(question, "question", MAX_TEXT)?,
                blocking(options)?,
                Out::new(out, "out")?,
            )
        };
        let (options, control) = (&settings.text, &settings.control);
        // Loaded while the encoders run.
        runtime.prefetch(Task::Ask);
        // SAFETY: a frame as the header asks for, or NULL.
        let features = unsafe { with_frame(frame, |frame| Ok(runtime.observe(frame, control)?)) }?;
        let answer = runtime.ask(&[&features], question, options, control, &mut |piece| {
            sink.deliver(piece)
        })?;
        out.write_handle(atom_generated::new(answer));
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
        let (store, question, settings, out) = unsafe {
            (
                borrow(store)?.store.clone(),
                text(question, "question", MAX_TEXT)?.to_owned(),
                asynchronous(options)?,
                Out::optional(request, "request")?,
            )
        };
        let cancel = settings.control.cancel.clone();
        let work = move |runtime: &Runtime, emitter: &Emitter<'_>| {
            settings.on_lane(emitter, |settings, on_text| {
                let features = store.features(SegmentId(segment))?;
                let (options, control) = (&settings.text, &settings.control);
                Ok(runtime.ask(&[&features], &question, options, control, on_text)?)
            })
        };
        // SAFETY: an open queue, or NULL.
        unsafe { submit(queue, Lane::Generate, user, cancel, out, work) }
    })
}
