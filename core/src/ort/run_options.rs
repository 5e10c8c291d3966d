//! Options of a run, by which it can be ended from another thread.

use std::ptr::{self, NonNull};

use ::ort::sys;

use super::{api, check, failure};
use crate::error::{Error, ErrorKind, Result};

/// Options of one run; setting its terminate flag ends the run.
pub(super) struct RunOptions(NonNull<sys::OrtRunOptions>);

// SAFETY: the only thing done from other threads is setting the terminate flag, which the API allows during a run.
unsafe impl Send for RunOptions {}
// SAFETY: as for Send.
unsafe impl Sync for RunOptions {}

impl RunOptions {
    pub(super) fn new() -> Result<Self> {
        let api = api()?;
        let mut options = ptr::null_mut();
        // SAFETY: `options` receives an owned pointer.
        check(unsafe { (api.CreateRunOptions)(&mut options) })
            .map_err(|e| failure(ErrorKind::Internal, "making run options", &e))?;
        NonNull::new(options)
            .map(Self)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "ONNX Runtime made no run options"))
    }

    pub(super) fn ptr(&self) -> *const sys::OrtRunOptions {
        self.0.as_ptr()
    }

    pub(super) fn terminate(&self) {
        if let Ok(api) = api() {
            // SAFETY: the options are valid as long as `self`.
            let set = check(unsafe { (api.RunOptionsSetTerminate)(self.0.as_ptr()) });
            if let Err(e) = set {
                log::warn!("a run could not be ended: {e}");
            }
        }
    }
}

impl Drop for RunOptions {
    fn drop(&mut self) {
        if let Ok(api) = api() {
            // SAFETY: owned, and no run uses them any more: `run` keeps its own reference until the run has ended.
            unsafe { (api.ReleaseRunOptions)(self.0.as_ptr()) };
        }
    }
}
