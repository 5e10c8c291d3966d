//! Caption: a segment or a picture to a sentence.

use std::ffi::c_void;

use atom_core::engine::{Caption, Operation, Pictures};

use crate::boundary::{Out, borrow, guard};
use crate::frame::{atom_frame, owned_frame};
use crate::generation::{Settings, asynchronous, atom_generate_options, atom_generated, blocking};
use crate::queue::{atom_queue, submit};
use crate::runtime::atom_runtime;
use crate::status::atom_status;
use crate::store::atom_store;

fn operation(pictures: Pictures, settings: &Settings) -> Operation {
    Operation::Caption(Caption {
        pictures,
        options: settings.text.clone(),
        fresh: settings.fresh,
        store_always: false,
    })
}

/// Says what segment number `segment` of `store` shows. A caption stored with it is served without generating
/// (atom_generated_stored()) unless options->fresh; else it is made from the stored features, no picture is encoded
/// again for search, and stored if the store is open for writing. Waits for the text; options->on_text gets it piece by piece. `options` may be NULL. When the deadline passes or the canceller
/// is used, the text so far is the result and atom_generated_stop() says so; before the first token it is a failure.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_caption(
    runtime: *const atom_runtime,
    store: *const atom_store,
    segment: u64,
    options: *const atom_generate_options,
    out: *mut *mut atom_generated,
) -> atom_status {
    guard("atom_caption", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (engine, pictures, (settings, sink), out) = unsafe {
            (
                borrow(runtime)?.engine.clone(),
                borrow(store)?.segment(segment),
                blocking(options)?,
                Out::new(out, "out")?,
            )
        };
        let operation = operation(pictures, &settings);
        out.write_handle(settings.run(&engine, operation, &sink)?);
        Ok(atom_status::OK)
    })
}

/// Says what one picture shows, storing nothing; else as atom_caption().
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_caption_frame(
    runtime: *const atom_runtime,
    frame: *const atom_frame,
    options: *const atom_generate_options,
    out: *mut *mut atom_generated,
) -> atom_status {
    guard("atom_caption_frame", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (engine, (settings, sink), out, frame) = unsafe {
            (
                borrow(runtime)?.engine.clone(),
                blocking(options)?,
                Out::new(out, "out")?,
                owned_frame(frame)?,
            )
        };
        let operation = operation(Pictures::Frames(vec![frame]), &settings);
        out.write_handle(settings.run(&engine, operation, &sink)?);
        Ok(atom_status::OK)
    })
}

/// atom_caption() without waiting: the text arrives with the ATOM_EVENT_KIND_DONE event in `queue`. ATOM_STATUS_FULL
/// when the queue has no room. `user` comes back in every event; `request` (may be NULL) gets the number for
/// atom_cancel().
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_caption_async(
    queue: *const atom_queue,
    store: *const atom_store,
    segment: u64,
    options: *const atom_generate_options,
    user: *mut c_void,
    request: *mut u64,
) -> atom_status {
    guard("atom_caption_async", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (pictures, settings, out) = unsafe {
            (
                borrow(store)?.segment(segment),
                asynchronous(options)?,
                Out::optional(request, "request")?,
            )
        };
        let request = settings.request(operation(pictures, &settings));
        // SAFETY: an open queue, or NULL.
        unsafe { submit(queue, request, user, out) }
    })
}
