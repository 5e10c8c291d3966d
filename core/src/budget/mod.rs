//! The memory budget: who holds what, how short memory is, what goes then. Knows no module.

mod admission;
mod book;
mod charge;
mod entry;
pub mod events;
pub mod governor;
mod kept;
mod ledger;
mod limit;
mod measure;
mod patience;
pub mod policy;
pub mod pressure;
pub mod reclaim;

pub use charge::Charge;
pub use entry::{Entry, Owner};
pub use events::{Counters, Event, Events, What};
pub use governor::{Governor, Idle};
pub use kept::Kept;
pub use ledger::Ledger;
pub use limit::{Bound, system_bounds};
pub use measure::{AtWork, Grown, Settled};
pub use patience::Patience;
pub use reclaim::{Action, Given, MakeRoom, Need, Offer, Reclaim, Room};
