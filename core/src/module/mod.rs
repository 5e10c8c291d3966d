//! Modules: loaded once, leased by whoever needs them, run one step at a time.

mod cost;
mod evict;
mod lease;
mod load;
mod permit;
mod place;
mod ports;
mod probe;
mod registry;
mod resident;
mod slot;
mod sync;
mod usage;
mod weights;

pub use lease::{Lease, Step};
pub(crate) use registry::patience;
pub use registry::{ModuleState, ModuleStatus, Registry};
pub use usage::Keep;
