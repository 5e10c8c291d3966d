//! Which providers there are.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
