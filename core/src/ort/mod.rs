//! ONNX Runtime. The only room that names the `ort` crate.
//!
//! Sessions, tensors and runs go through the C API directly: the crate's own session type panics on port types it does
//! not know, and cannot bind one buffer as input and output.

mod arena;
mod c_api;
mod config;
mod describe;
mod env;
mod options;
pub mod provider;
mod run_options;
mod session;
mod tensor;

pub use arena::ArenaUse;
pub use config::{GraphForm, SessionConfig, Threads};
pub use describe::{Operator, Placement, Share};
pub use env::{Environment, EnvironmentOptions};
pub use provider::{Device, Presence, Provider, ProviderOptions, Setting, Target};
pub use session::{Rescue, RunArgs, Session};
pub use tensor::{DType, Dim, Element, Port, Tensor};

use c_api::{check, failure};
use env::api;
