//! Ingest: frames of one stream into a store.

use std::ffi::c_char;
use std::sync::Arc;

use atom_core::control::CancelToken;
use atom_core::engine::{Handles, IngestHandle, IngestInfo, OpenIngest, Operation, Request};
use atom_core::index::Source;
use atom_core::runtime::{IndexReport, Indexing};
use atom_core::task::ingest::IngestOptions;

use crate::boundary::{
    MAX_PATH, Out, OutStruct, borrow, guard, guard_anywhere, handle, optional_text, read_struct,
    sized, take, text,
};
use crate::frame::{atom_frame, with_frame};
use crate::runtime::{atom_runtime, run};
use crate::status::atom_status;
use crate::store::atom_store;

/// A packed 1920x1080 NV12 or I420 picture.
const DEFAULT_FRAME_BYTES: usize = 1920 * 1080 * 3 / 2;

/// Options of an ingest; NULL or zeros are the defaults.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_ingest_options {
    /// sizeof(atom_ingest_options).
    pub struct_size: usize,
    /// Bytes of the largest frame that will be pushed, without row padding; the ring is allocated once, from it. 0:
    /// 3110400, a 1920x1080 NV12 picture.
    pub max_frame_bytes: usize,
    /// Where the frames come from (a path or URI), so that the same source under the same name adds nothing and another
    /// source under the same name is refused; NULL: a camera.
    pub source: *const c_char,
    /// Wall time (nanoseconds since 1970) at timestamp 0 of the stream's clock; 0: not known.
    pub start_wall_ns: i64,
    /// Longest segment in nanoseconds; 0: the runtime's default.
    pub max_segment_ns: i64,
    /// Longer side of a stored thumbnail in pixels, 16 to 1024; 0: 320.
    pub thumbnail_side: u32,
    /// Not 0: segments are captioned as they are stored, and those of the stream that have no caption yet too. One
    /// thread does it for all ingests into the store, behind everything else; pushing and indexing never wait for it.
    pub captions: u32,
}
sized!(atom_ingest_options);

/// What an ingest did.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_ingest_report {
    /// sizeof(atom_ingest_report), set by the caller.
    pub struct_size: usize,
    /// Frames taken.
    pub frames: u64,
    /// Frames refused with ATOM_STATUS_FULL.
    pub dropped: u64,
    /// Segments found.
    pub segments: u64,
    /// Segments among them that the store had already.
    pub known: u64,
    /// Keyframes encoded.
    pub keyframes: u64,
    /// Captions made and stored.
    pub captions: u64,
    /// Segments whose captioning failed; the log says why, and they are indexed all the same.
    pub captions_failed: u64,
}
sized!(atom_ingest_report);

/// A stream being indexed. Close it with atom_ingest_close().
pub struct atom_ingest {
    handles: Arc<Handles>,
    number: IngestHandle,
    /// Held here too, so that a push looks nothing up.
    ingest: Arc<Indexing>,
}
handle!(atom_ingest, b"inge");

impl Drop for atom_ingest {
    fn drop(&mut self) {
        // Cannot fail: nobody else closes it.
        let _ = self.handles.close_ingest(self.number);
    }
}

/// Starts indexing frames into stream `stream` (1 to 1024 bytes) of `store`; a stream of that name is continued. `options` may
/// be NULL. Three threads are started, one more with captions; the visual encoder is loaded when the first keyframe is found.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_ingest_open(
    runtime: *const atom_runtime,
    store: *const atom_store,
    stream: *const c_char,
    options: *const atom_ingest_options,
    out: *mut *mut atom_ingest,
) -> atom_status {
    guard("atom_ingest_open", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (engine, store, stream, given, out) = unsafe {
            (
                borrow(runtime)?.engine.clone(),
                borrow(store)?.number(),
                text(stream, "stream", MAX_PATH)?,
                read_struct(options)?,
                Out::new(out, "out")?,
            )
        };
        let mut options = IngestOptions::new(stream, DEFAULT_FRAME_BYTES);
        let captions = given.is_some_and(|given| given.captions != 0);
        if let Some(given) = given {
            if given.max_frame_bytes > 0 {
                options.max_frame_bytes = given.max_frame_bytes;
            }
            if given.thumbnail_side > 0 {
                options.thumbnail_side = given.thumbnail_side;
            }
            if given.start_wall_ns != 0 {
                options.stream.start_wall_ns = Some(given.start_wall_ns);
            }
            if given.max_segment_ns != 0 {
                options.sampler.max_segment_ns = given.max_segment_ns;
                let shortest = &mut options.sampler.min_segment_ns;
                *shortest = given.max_segment_ns.min(*shortest);
            }
            // SAFETY: a string as the header asks for, or NULL.
            let source = unsafe { optional_text(given.source, "source", MAX_PATH) }?;
            options.stream.source = source.map(|uri| Source {
                uri: uri.to_owned(),
                sha256: None,
                bytes: None,
            });
        }
        let open = Operation::OpenIngest(OpenIngest {
            store,
            options,
            captions,
        });
        let opened: IngestInfo = run(&engine, Request::new(open), &CancelToken::new())?;
        out.write_handle(atom_ingest {
            handles: engine.handles().clone(),
            number: opened.ingest,
            ingest: engine.handles().ingest(opened.ingest)?,
        });
        Ok(atom_status::OK)
    })
}

/// Offers a frame. Never waits and never allocates: the pixels are copied into the ring, or the answer is
/// ATOM_STATUS_FULL and the frame is dropped and counted. ATOM_STATUS_BUSY when another thread is pushing into `ingest`
/// (one thread captures); no other call makes a push fail or wait. ATOM_STATUS_INVALID_ARGUMENT once atom_ingest_finish()
/// was called. A failure of the indexing behind (a full disk, for example) is returned by the next push.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_ingest_push(
    ingest: *const atom_ingest,
    frame: *const atom_frame,
) -> atom_status {
    guard_anywhere("atom_ingest_push", || {
        // SAFETY: a handle of the caller's, or NULL.
        let ingest = &unsafe { borrow(ingest) }?.ingest;
        // SAFETY: a frame as the header asks for, or NULL.
        let taken = unsafe { with_frame(frame, |frame| Ok(ingest.push(frame)?)) }?;
        Ok(if taken {
            atom_status::OK
        } else {
            atom_status::FULL
        })
    })
}

fn write_report(out: OutStruct<atom_ingest_report>, report: &IndexReport) {
    out.write(&atom_ingest_report {
        struct_size: size_of::<atom_ingest_report>(),
        frames: report.frames,
        dropped: report.dropped,
        segments: report.segments,
        known: report.known,
        keyframes: report.keyframes,
        captions: report.captions,
        captions_failed: report.captions_failed,
    });
}

/// What was done so far. Never waits, also while other threads push or finish. Set out->struct_size first.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_ingest_stats(
    ingest: *const atom_ingest,
    out: *mut atom_ingest_report,
) -> atom_status {
    guard("atom_ingest_stats", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (ingest, out) = unsafe { (borrow(ingest)?, OutStruct::new(out, "out")?) };
        write_report(out, &ingest.ingest.report());
        Ok(atom_status::OK)
    })
}

/// Ends the stream: takes no more frames, waits until every frame taken is indexed, the last segment is stored and, if that
/// was asked for, every segment is captioned, and marks the stream complete. `report` (may be NULL) gets what was done; set
/// report->struct_size first. Calling it again, also from another thread, returns the same. The ingest must still be closed.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_ingest_finish(
    ingest: *const atom_ingest,
    report: *mut atom_ingest_report,
) -> atom_status {
    guard("atom_ingest_finish", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (ingest, out) = unsafe {
            let out = match report.is_null() {
                true => None,
                false => Some(OutStruct::new(report, "report")?),
            };
            (borrow(ingest)?, out)
        };
        let report = ingest.ingest.finish()?;
        if let Some(out) = out {
            write_report(out, &report);
        }
        Ok(atom_status::OK)
    })
}

/// Closes an ingest. If it was not finished, indexing stops after the frame at hand, and what is not stored yet is
/// dropped, what is not captioned yet stays without; the stream can be continued later. NULL is fine.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_ingest_close(ingest: *mut atom_ingest) -> atom_status {
    guard("atom_ingest_close", || {
        // SAFETY: a handle the caller gives up, or NULL.
        drop(unsafe { take(ingest) }?);
        Ok(atom_status::OK)
    })
}
