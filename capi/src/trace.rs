//! Traces: what ran when, on which thread.

use std::ffi::c_char;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use atom_core::trace::{self, TraceFile};

use crate::boundary::{MAX_PATH, guard, text};
use crate::status::{Failure, atom_status};

/// The trace under way; recordings are the process's.
static TRACE: Mutex<Option<TraceFile>> = Mutex::new(None);

fn current() -> MutexGuard<'static, Option<TraceFile>> {
    TRACE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts to record what runs when on which thread, of all runtimes of the process: model steps, waits for them,
/// encoding, storing, captions, searches. The file at `path` is created, or emptied, at once, and written by
/// atom_trace_stop() as Chrome trace JSON, which Perfetto and chrome://tracing open. The newest `max_spans` spans are
/// kept, at about 100 bytes each; 0: 131072. ATOM_STATUS_BUSY while a trace is being recorded.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_trace_start(path: *const c_char, max_spans: u32) -> atom_status {
    guard("atom_trace_start", || {
        // SAFETY: a string as the header asks for, or NULL.
        let path = unsafe { text(path, "path", MAX_PATH) }?;
        if path.is_empty() {
            return Err(Failure::argument("path is empty"));
        }
        let spans = match max_spans {
            0 => trace::SPANS,
            count => count as usize,
        };
        let mut trace = current();
        *trace = Some(TraceFile::create(Path::new(path), spans)?);
        Ok(atom_status::OK)
    })
}

/// Stops recording and writes the file given to atom_trace_start(). ATOM_STATUS_NOT_FOUND when nothing is recorded.
#[unsafe(no_mangle)]
pub extern "C" fn atom_trace_stop() -> atom_status {
    guard("atom_trace_stop", || {
        let trace = current().take();
        let trace = trace.ok_or_else(|| {
            Failure::new(
                atom_status::NOT_FOUND,
                "no trace is being recorded (start one with atom_trace_start)",
            )
        })?;
        trace.finish()?;
        Ok(atom_status::OK)
    })
}
