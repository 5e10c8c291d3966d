//! What is said of a task that a pack does not serve.

use crate::error::{Error, ErrorKind};
use crate::pack::Task;

/// The error of a pack without what `task` needs.
pub(super) fn lacks(pack: &str, task: Task) -> Error {
    let table = match task {
        // The same modules serve both.
        Task::Assemble => Task::Search.name(),
        _ => task.name(),
    };
    let message = format!("pack {pack:?} cannot {}", verb(task));
    Error::new(ErrorKind::Unsupported, message).remedy(format!("use a pack with a [tasks.{table}]"))
}

/// What a pack that serves `task` does.
pub(super) fn verb(task: Task) -> &'static str {
    match task {
        Task::Ask => "answer questions",
        task => task.name(),
    }
}
