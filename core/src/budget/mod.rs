//! The memory budget: who holds what, how short memory is, what goes then. Knows no module.

mod admission;
mod entry;
pub mod events;
pub mod governor;
mod kept;
pub mod ledger;
mod measure;
pub mod policy;
pub mod pressure;
pub mod reclaim;

pub use entry::{Entry, Owner, Totals};
pub use events::{Counters, Event, Events, What};
pub use governor::{Governor, Idle};
pub use kept::Kept;
pub use ledger::{Charge, Ledger, Patience};
pub use measure::{AtWork, Grown, Settled};
pub use reclaim::{Action, Given, MakeRoom, Need, Offer, Reclaim, Room};
