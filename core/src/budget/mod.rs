//! The memory budget: who holds how much, how short memory is, and what is evicted. Knows no module.

mod admission;
mod book;
mod charge;
mod entry;
pub mod events;
mod evictable_cell;
pub mod governor;
mod ledger;
mod limit;
mod measure;
pub mod policy;
pub mod pressure;
pub mod reclaim;
mod wait_policy;

pub use charge::Charge;
pub use entry::{Entry, Owner};
pub use events::{Counters, Event, Events, What};
pub use evictable_cell::EvictableCell;
pub use governor::{Governor, Idle};
pub use ledger::Ledger;
pub use limit::{Bound, system_bounds};
pub use measure::{AtWork, Grown, HeapTrim};
pub use reclaim::{Action, Given, MakeRoom, Need, Offer, Reclaim, Room};
pub use wait_policy::WaitPolicy;
