//! How a request for memory waits.

use std::time::Duration;

use super::entry::Owner;
use crate::error::Result;

/// How a request for memory waits when evicting idle memory is not enough.
#[derive(Clone, Copy)]
pub struct WaitPolicy<'a> {
    /// Called again and again; an error (cancelled, deadline passed) ends the wait and is returned.
    pub check: &'a (dyn Fn() -> Result<()> + Sync),
    /// The longest wait.
    pub at_most: Duration,
    /// Whether idle memory of others may be evicted; if not, the request takes only what is free.
    pub evict: bool,
    /// What the caller itself keeps in use, so that the wait does not count on it.
    pub holds: Option<&'a Owner>,
}

/// The longest that work waits for memory that others are using.
const LONGEST: Duration = Duration::from_secs(30);

impl<'a> WaitPolicy<'a> {
    /// Evicts, and waits until `check` returns an error, for half a minute at most. For `holds` see [the field](Self::holds).
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
    /// Evicts, but does not wait.
    pub const NONE: WaitPolicy<'static> = WaitPolicy {
        check: &|| Ok(()),
        at_most: Duration::ZERO,
        evict: true,
        holds: None,
    };
}
