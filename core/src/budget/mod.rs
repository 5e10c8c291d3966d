//! The memory budget: who holds what, how short memory is, what goes then. Knows no module.

pub mod events;
pub mod governor;
pub mod ledger;
pub mod policy;
pub mod pressure;
pub mod reclaim;

pub use events::{Counters, Event, Events, What};
pub use governor::{Governor, Idle};
pub use ledger::{Charge, Entry, Ledger, Owner, Patience, Totals};
pub use reclaim::{Action, Given, MakeRoom, Need, Offer, Reclaim, Room};
