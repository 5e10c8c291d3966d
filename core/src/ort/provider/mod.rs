//! Execution providers: what runs a graph. One file each, behind one interface.

mod cpu;
mod floor;
mod nnapi;
mod options;
mod plugin;
mod qnn;
mod qnn_library;
mod xnnpack;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Environment;
use super::failure;
use super::options::SessionOptions;
use crate::error::{Error, ErrorKind, Result};
use floor::Floor;
use options::Rule;
pub use options::{ProviderOptions, Setting};

/// Something that runs graphs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The processor.
    #[default]
    Cpu,
    /// Qualcomm's NPU.
    Qnn,
    /// Android's neural networks API.
    Nnapi,
    /// XNNPACK on the processor.
    Xnnpack,
}

/// Whether a provider can be used in this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Which.
    pub provider: Provider,
    /// The library it lives in; ONNX Runtime's own for what is built into it.
    pub library: Option<PathBuf>,
    /// Its version, or that of what it drives.
    pub version: Option<String>,
    /// What it can run on.
    pub devices: Vec<Device>,
    /// Why it cannot be used; absent: it can.
    pub missing: Option<String>,
}

/// What a provider runs graphs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// cpu, gpu or npu.
    pub kind: String,
    /// Who made it.
    pub vendor: String,
    /// Whether the processor plays it: the numbers are real, the speed is not.
    pub emulated: bool,
}

/// A provider and how it is set up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Which.
    pub provider: Provider,
    /// Its options.
    pub options: ProviderOptions,
}

impl Provider {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Qnn, Self::Nnapi, Self::Xnnpack];

    /// The name in manifests and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Qnn => "qnn",
            Self::Nnapi => "nnapi",
            Self::Xnnpack => "xnnpack",
        }
    }

    /// Whether `options` are legal: ONNX Runtime lets unknown ones and nonsense pass.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] naming the option and what it may be.
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
    /// [`ErrorKind::Unsupported`] when it is not here.
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

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the file of a provider says of it.
trait Backend: Sync {
    /// The options it takes.
    fn rules(&self) -> &'static [Rule];

    /// Which of them do not go together.
    fn check(&self, _options: &ProviderOptions) -> Result<()> {
        Ok(())
    }

    /// Whether it is here.
    fn presence(&self, environment: &Environment) -> Presence;

    /// See [`Provider::known`].
    fn known(&self, environment: &Environment) -> Presence {
        self.presence(environment)
    }

    /// See [`Provider::compiler`].
    fn compiler(
        &self,
        _environment: &Environment,
        _options: &ProviderOptions,
    ) -> Result<Option<String>> {
        Ok(None)
    }

    /// Has a session that is made with `session` use it. The options were checked.
    fn append(
        &self,
        environment: &Environment,
        options: &ProviderOptions,
        session: &SessionOptions,
    ) -> Result<()>;
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

/// Errors when a provider is not there to be used.
fn usable(presence: &Presence) -> Result<()> {
    match &presence.missing {
        None => Ok(()),
        Some(why) => Err(absent(presence.provider, why)),
    }
}

/// An error that says why `provider` cannot be used.
fn absent(provider: Provider, why: impl fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("provider {provider} cannot be used here: {why}"),
    )
    .remedy("`atom doctor` shows what is here; list \"cpu\" in providers with policy = \"prefer\", or use policy = \"allow\"")
}

/// ONNX Runtime refused to have a session use `provider`.
fn refused(provider: Provider, source: &::ort::Error) -> Error {
    failure(
        ErrorKind::Unsupported,
        format_args!("provider {provider}"),
        source,
    )
}
