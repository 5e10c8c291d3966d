//! How a caller steers work under way: cancel, deadline, priority.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};

/// Who goes first when several tasks wait for one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Work nobody waits for: indexing a backlog, captions ahead of need.
    Background,
    /// The default.
    #[default]
    Normal,
    /// Somebody is waiting: a search or a question.
    Interactive,
}

/// A flag that stops work; cheap to clone, all clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop at its next step. Never blocks; may be called from any thread, or more than once.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What bounds one operation. The default is unbounded, of normal priority.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// Stops the operation when cancelled.
    pub cancel: CancelToken,
    /// When the operation must have ended.
    pub deadline: Option<Instant>,
    /// Its place in the queue for each session.
    pub priority: Priority,
}

impl Control {
    /// `Err` when the work should stop now, else `Ok`.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] or [`ErrorKind::DeadlineExceeded`].
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled by the caller"));
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(Error::new(
                ErrorKind::DeadlineExceeded,
                "the deadline passed before the operation ended",
            )),
            _ => Ok(()),
        }
    }
}

/// What a caller may ask of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextOptions {
    /// The most tokens to generate, 1 or more.
    pub max_tokens: usize,
    /// When not empty the text is exactly one of these: the one the model finds likeliest.
    pub choices: Vec<String>,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            max_tokens: 48,
            choices: Vec::new(),
        }
    }
}
