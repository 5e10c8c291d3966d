//! Modules: loaded once, leased by whoever needs them, run one step at a time.

mod accelerate;
mod cost;
mod evict;
mod floors;
mod lease;
mod load;
mod made;
mod make;
mod patience;
mod permit;
mod place;
mod ports;
mod probe;
mod registry;
mod resident;
mod serving;
mod slot;
mod sync;
mod upkeep;
mod usage;
mod weights;

pub use lease::{Lease, Step};
pub(crate) use patience::patience;
pub use registry::{ModuleState, ModuleStatus, Registry};
pub use usage::Keep;
