//! Execution providers: what runs a graph. One file each, behind one interface.

mod backend;
mod cpu;
mod floor;
mod kind;
mod nnapi;
mod options;
mod plugin;
mod qnn;
mod qnn_library;
mod xnnpack;

use super::Environment;
use super::options::SessionOptions;
use crate::error::Result;
use backend::{Backend, absent, refused, usable};
use floor::Floor;
pub use kind::{Device, Presence, Provider};
pub use options::{ProviderOptions, Setting, Target};

impl Provider {
    /// Whether `options` are legal: ONNX Runtime lets unknown ones and nonsense pass.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) naming the option and what it may be.
    pub(crate) fn check_options(self, options: &ProviderOptions) -> Result<()> {
        let backend = self.backend();
        options::check(self, backend.rules(), options)?;
        backend.check(options)
    }

    /// Whether it is here. For a plug-in the first call loads its library; thread-safe.
    pub fn presence(self, environment: &Environment) -> Presence {
        self.backend().presence(environment)
    }

    /// As [`presence`](Self::presence), without loading anything: of a plug-in that nobody has loaded yet it is only told
    /// whether its library is there.
    pub fn known(self, environment: &Environment) -> Presence {
        self.backend().known(environment)
    }

    /// What decides whether a form compiled by it can be used: its version, the device it is for, and `options`. `None` for a
    /// provider that compiles nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when it is not here.
    pub fn compiler(
        self,
        environment: &Environment,
        options: &ProviderOptions,
    ) -> Result<Option<String>> {
        self.backend().compiler(environment, options)
    }

    /// Makes a session of it with `make`; the anonymous bytes that took, where the provider is watched.
    pub(super) fn load<T, E>(self, make: impl FnOnce() -> Result<T, E>) -> Result<(T, u64), E> {
        match self {
            Self::Qnn => qnn::FLOOR.load(make),
            _ => Ok((make()?, 0)),
        }
    }

    /// Runs a session of it for the first time with `run`; the bytes that took, as above.
    pub(super) fn first_run<T>(self, run: impl FnOnce() -> T) -> (T, u64) {
        match self {
            Self::Qnn => Floor::first_run(run),
            _ => (run(), 0),
        }
    }

    /// Releases with `release` a session of it, which took `taken` bytes.
    pub(super) fn release(self, taken: u64, release: impl FnOnce()) {
        match self {
            Self::Qnn => qnn::FLOOR.release(taken, release),
            _ => release(),
        }
    }

    /// The most that can have stayed of what its sessions took; `None` while there are any.
    pub(crate) fn left_bytes(self) -> Option<u64> {
        match self {
            Self::Qnn => qnn::FLOOR.most(),
            _ => Some(0),
        }
    }

    /// `bytes` were seen to stay.
    pub(crate) fn seen_floor(self, bytes: u64) {
        if self == Self::Qnn {
            qnn::FLOOR.seen(bytes);
        }
    }

    /// Bytes that stay in memory after the provider's last session is gone, as measured in this process; 0 before.
    pub fn floor_bytes(self) -> u64 {
        match self {
            Self::Qnn => qnn::FLOOR.bytes(),
            _ => 0,
        }
    }

    fn backend(self) -> &'static dyn Backend {
        match self {
            Self::Cpu => &cpu::Cpu,
            Self::Qnn => &qnn::Qnn,
            Self::Nnapi => &nnapi::Nnapi,
            Self::Xnnpack => &xnnpack::Xnnpack,
        }
    }
}

/// Has a session that is made with `session` use `target`, ahead of the processor.
pub(super) fn append(
    environment: &Environment,
    target: &Target,
    session: &SessionOptions,
) -> Result<()> {
    target.provider.check_options(&target.options)?;
    let backend = target.provider.backend();
    backend.append(environment, &target.options, session)
}
