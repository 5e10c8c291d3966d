//! Modules: loaded once, leased by whoever needs them, run one step at a time.

mod accelerate;
mod cost;
mod evict;
mod lease;
mod load;
mod made;
mod make;
mod memory_account;
mod permit;
mod place;
mod ports;
mod probe;
mod provider_residue;
mod registry;
mod resident;
mod serving;
mod slot;
mod sync;
mod usage;
mod weights;

pub use lease::{Lease, Step};
pub use registry::{ModuleState, ModuleStatus, Registry};
pub use usage::Keep;
