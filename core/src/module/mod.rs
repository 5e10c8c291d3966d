//! Modules: loaded once, leased by whoever needs them, run one step at a time.

mod accelerate;
mod build;
mod built;
mod cost;
mod entry;
mod evict;
mod lease;
mod load;
mod memory_account;
mod permit;
mod ports;
mod probe;
mod provider_residue;
mod registry;
mod resident;
mod serving;
mod slot;
mod sync;
mod trial;
mod usage;
mod weights;

pub use lease::{Lease, Step};
pub use registry::{ModuleState, ModuleStatus, Registry};
pub use usage::Keep;
