//! ONNX Runtime. The only room that names the `ort` crate.
//!
//! Sessions, tensors and runs go through the C API directly: the crate's own session type panics on port types it does
//! not know, and cannot bind one buffer as input and output.

mod arena;
mod describe;
mod env;
mod options;
pub mod provider;
mod run_options;
mod session;
mod tensor;

pub use arena::ArenaUse;
pub use describe::{Operator, Placement, Share};
pub use env::{Environment, EnvironmentOptions};
pub use provider::{Device, Presence, Provider, ProviderOptions, Setting, Target};
pub use session::{GraphForm, Rescue, RunArgs, Session, SessionConfig, Threads};
pub use tensor::{DType, Dim, Element, Port, Tensor};

use ::ort::sys;

use crate::error::{Error, ErrorKind, Result};

/// The API table, once an [`Environment`] is open.
fn api() -> Result<&'static sys::OrtApi> {
    // Asking the crate for its table before it has a library makes it look for one itself, and panic without.
    Environment::current().map(|_| ::ort::api()).ok_or_else(|| {
        Error::new(
            ErrorKind::NativeLibrary,
            "ONNX Runtime has not been opened in this process",
        )
        .remedy("call Environment::open first")
    })
}

/// Turns a status of the C API into a `Result`, releasing it.
fn check(status: sys::OrtStatusPtr) -> std::result::Result<(), ::ort::Error> {
    // SAFETY: every caller passes a status just returned by the C API, which nobody else holds.
    unsafe { ::ort::Error::result_from_status(status) }
}

/// An error of class `kind` about `what`, with ONNX Runtime's words.
fn failure(kind: ErrorKind, what: impl std::fmt::Display, source: &::ort::Error) -> Error {
    Error::new(kind, format!("{what}: {}", source.message()))
}
