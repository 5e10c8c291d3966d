//! Tasks: paths through modules. Tasks own no module and never import each other; what several of them share is here.

pub mod ask;
pub mod assemble;
pub mod caption;
pub mod ingest;
pub mod search;

pub use crate::caption::Statement;

use crate::control::{Control, TextOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::features::Features;

/// Runs a captioner within the limits that captions and answers have in common: at least one frame and one token, and an empty
/// statement if cancel or deadline came before the first piece of text.
fn within_limits(
    frames: &[&Features],
    options: &TextOptions,
    control: &Control,
    run: impl FnOnce() -> Result<Statement>,
) -> Result<Statement> {
    options.check()?;
    if frames.is_empty() {
        let message = "no features to describe: the segment has no keyframe";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let said = control.check().and_then(|()| run());
    said.or_else(Statement::ended_early)
}
