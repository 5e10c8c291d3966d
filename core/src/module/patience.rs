//! How long work waits for memory.

use std::time::Duration;

use crate::budget::{Owner, Patience};
use crate::error::Result;

/// The longest that anybody waits for memory that others are using.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait for memory: until `check` fails, and not for ever. `holds`: see [`Patience::holds`].
pub(crate) fn patience<'a>(
    check: &'a (dyn Fn() -> Result<()> + Sync),
    holds: Option<&'a Owner>,
) -> Patience<'a> {
    Patience {
        check,
        at_most: PATIENCE,
        evict: true,
        holds,
    }
}
