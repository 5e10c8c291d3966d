//! How a request for memory waits.

use std::time::Duration;

use super::entry::Owner;
use crate::error::Result;

/// How long, and for whom, to wait for room that evicting alone does not make.
#[derive(Clone, Copy)]
pub struct WaitPolicy<'a> {
    /// An error ends the waiting: cancelled, too late.
    pub check: &'a (dyn Fn() -> Result<()> + Sync),
    /// At most this long.
    pub at_most: Duration,
    /// Whether others may be evicted; else only what is free is had.
    pub evict: bool,
    /// What the caller itself keeps from being evicted meanwhile: waiting for that to go would be in vain.
    pub holds: Option<&'a Owner>,
}

/// The longest that work waits for memory that others are using.
const LONGEST: Duration = Duration::from_secs(30);

impl<'a> WaitPolicy<'a> {
    /// Evicts, and waits until `check` fails, for half a minute at most. `holds`: see [the field](Self::holds).
    pub fn until(check: &'a (dyn Fn() -> Result<()> + Sync), holds: Option<&'a Owner>) -> Self {
        Self {
            check,
            at_most: LONGEST,
            evict: true,
            holds,
        }
    }
}

impl WaitPolicy<'_> {
    /// Evicts, but waits for nobody.
    pub const NONE: WaitPolicy<'static> = WaitPolicy {
        check: &|| Ok(()),
        at_most: Duration::ZERO,
        evict: true,
        holds: None,
    };
}
