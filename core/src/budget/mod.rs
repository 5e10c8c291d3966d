//! The memory budget. Knows no module.

pub mod ledger;

pub use ledger::{Charge, Entry, Ledger, Owner};
