//! Stores: what was indexed, on disk.

use std::ffi::c_char;
use std::sync::Arc;

use atom_core::control::CancelToken;
use atom_core::engine::{
    Handles, OpenStore, Operation, Pictures, Request, Response, StoreHandle, StoreInfo, StoreRead,
};
use atom_core::index::{Access, Segment, SegmentId, StoreStats};

use crate::boundary::{
    MAX_PATH, Out, OutStruct, Outcome, borrow, guard, handle, read_struct, sized, take, text,
};
use crate::runtime::{atom_runtime, run};
use crate::status::{Failure, atom_status};

/// Whether a store is opened to be changed (atom_store_options.access).
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_access {
    /// Made if absent; one process at a time. The default.
    READ_WRITE = 0,
    /// Any number, also beside a writer; the store must exist.
    READ_ONLY = 1,
}

/// Options of a store; NULL or zeros are the defaults.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_store_options {
    /// sizeof(atom_store_options).
    pub struct_size: usize,
    /// An atom_access number.
    pub access: u32,
}
sized!(atom_store_options);

/// A segment: a stretch of a stream that one keyframe stands for.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_segment {
    /// sizeof(atom_segment), set by the caller.
    pub struct_size: usize,
    /// Its number in the store; never reused.
    pub segment: u64,
    /// Start in nanoseconds on the stream's clock.
    pub start_ns: i64,
    /// End.
    pub end_ns: i64,
    /// Time of the keyframe.
    pub keyframe_ns: i64,
}
sized!(atom_segment);

/// An open store. Close it with atom_store_close().
pub struct atom_store {
    handles: Arc<Handles>,
    number: StoreHandle,
}
handle!(atom_store, b"stor");

impl atom_store {
    /// Its number in requests.
    pub(crate) fn number(&self) -> StoreHandle {
        self.number
    }

    /// One of its segments.
    pub(crate) fn segment(&self, segment: u64) -> Pictures {
        Pictures::Segments {
            store: self.number,
            segments: vec![SegmentId(segment)],
        }
    }

    /// Reads from it; needs no runtime.
    fn read(&self, read: &StoreRead) -> Outcome<Response> {
        Ok(read.read(&self.handles.store(self.number)?)?)
    }
}

impl Drop for atom_store {
    fn drop(&mut self) {
        // Cannot fail: nobody else closes it.
        let _ = self.handles.close_store(self.number);
    }
}

/// Opens the store in folder `path` for vectors of `runtime`'s pack. `options` may be NULL.
/// ATOM_STATUS_STORE_FOREIGN when another pack made it, ATOM_STATUS_STORE_LOCKED when another process writes to it.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_store_open(
    runtime: *const atom_runtime,
    path: *const c_char,
    options: *const atom_store_options,
    out: *mut *mut atom_store,
) -> atom_status {
    guard("atom_store_open", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (engine, path, options, out) = unsafe {
            (
                borrow(runtime)?.engine.clone(),
                text(path, "path", MAX_PATH)?,
                read_struct(options)?,
                Out::new(out, "out")?,
            )
        };
        let access = match options.map_or(0, |options| options.access) {
            0 => Access::ReadWrite,
            1 => Access::ReadOnly,
            other => {
                return Err(Failure::argument(format!(
                    "access is {other}: it must be one of ATOM_ACCESS_* (0 or 1)"
                )));
            }
        };
        if path.is_empty() {
            return Err(Failure::argument("path is empty"));
        }
        let open = Operation::OpenStore(OpenStore {
            path: path.to_owned(),
            access,
        });
        let opened: StoreInfo = run(&engine, Request::new(open), &CancelToken::new())?;
        out.write_handle(atom_store {
            handles: engine.handles().clone(),
            number: opened.store,
        });
        Ok(atom_status::OK)
    })
}

fn write_segment(out: OutStruct<atom_segment>, segment: &Segment) {
    out.write(&atom_segment {
        struct_size: size_of::<atom_segment>(),
        segment: segment.id.0,
        start_ns: segment.start_ns,
        end_ns: segment.end_ns,
        keyframe_ns: segment.keyframe_ns,
    });
}

/// The segment of stream `stream` at time `at_ns` (nanoseconds on the stream's clock). Set out->struct_size first.
/// ATOM_STATUS_NOT_FOUND when there is no such stream or nothing at that time.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_store_segment_at(
    store: *const atom_store,
    stream: *const c_char,
    at_ns: i64,
    out: *mut atom_segment,
) -> atom_status {
    guard("atom_store_segment_at", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (store, stream, out) = unsafe {
            (
                borrow(store)?,
                text(stream, "stream", MAX_PATH)?.to_owned(),
                OutStruct::new(out, "out")?,
            )
        };
        let segment = store.read(&StoreRead::SegmentAt { stream, at_ns })?;
        write_segment(out, &segment.try_into()?);
        Ok(atom_status::OK)
    })
}

/// Number of segments in the store.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_store_segment_count(
    store: *const atom_store,
    out: *mut u64,
) -> atom_status {
    guard("atom_store_segment_count", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (store, out) = unsafe { (borrow(store)?, Out::new(out, "out")?) };
        let stats: StoreStats = store.read(&StoreRead::Stats)?.try_into()?;
        out.write(stats.segments);
        Ok(atom_status::OK)
    })
}

/// The keyframe of segment number `segment` as a JPEG: `data` and `size` get the bytes, to be freed with
/// atom_bytes_free().
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_store_thumbnail(
    store: *const atom_store,
    segment: u64,
    data: *mut *mut u8,
    size: *mut usize,
) -> atom_status {
    guard("atom_store_thumbnail", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (store, data, size) = unsafe {
            (
                borrow(store)?,
                Out::new(data, "data")?,
                Out::new(size, "size")?,
            )
        };
        let segment = SegmentId(segment);
        let bytes: Vec<u8> = store.read(&StoreRead::Thumbnail { segment })?.try_into()?;
        let bytes = bytes.into_boxed_slice();
        size.write(bytes.len());
        data.write(Box::into_raw(bytes).cast());
        Ok(atom_status::OK)
    })
}

/// Frees `size` bytes Atom gave out. NULL is fine.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_bytes_free(data: *mut u8, size: usize) {
    if !data.is_null() {
        // SAFETY: made by Box::into_raw of a slice of this size, by the caller's contract.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, size)) });
    }
}

/// Closes a store; what was acknowledged is on disk. Ingests and requests that use it keep it open until they end. NULL
/// is fine.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_store_close(store: *mut atom_store) -> atom_status {
    guard("atom_store_close", || {
        // SAFETY: a handle the caller gives up, or NULL.
        drop(unsafe { take(store) }?);
        Ok(atom_status::OK)
    })
}
