//! Modules: loaded once, leased by whoever needs them, run one step at a time.

mod lease;
mod load;
mod permit;
mod ports;
mod probe;
mod registry;
mod slot;

pub use lease::{Lease, Step};
pub use registry::{ModuleState, ModuleStatus, Registry};
