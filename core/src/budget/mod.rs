//! The memory budget. Knows no module.

pub mod ledger;
pub mod pressure;

pub use ledger::{Charge, Entry, Ledger, Owner};
