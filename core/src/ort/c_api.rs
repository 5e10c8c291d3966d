//! What every call of the C API needs: its status, its paths.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ::ort::sys;

use crate::error::{Error, ErrorKind, Result};

/// Turns a status of the C API into a `Result`, releasing it.
pub(super) fn check(status: sys::OrtStatusPtr) -> std::result::Result<(), ::ort::Error> {
    // SAFETY: every caller passes a status just returned by the C API, which nobody else holds.
    unsafe { ::ort::Error::result_from_status(status) }
}

/// An error of class `kind` about `what`, with ONNX Runtime's words.
pub(super) fn failure(
    kind: ErrorKind,
    what: impl std::fmt::Display,
    source: &::ort::Error,
) -> Error {
    Error::new(kind, format!("{what}: {}", source.message()))
}

/// `path` as the C API takes it.
pub(super) fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("the path {} contains a NUL", path.display()),
        )
    })
}
