//! How a caller steers work under way: cancel, deadline, priority.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Who goes first when several tasks wait for one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Shared>);

#[derive(Default)]
struct Shared {
    cancelled: AtomicBool,
    hooks: Mutex<Hooks>,
}

#[derive(Default)]
struct Hooks {
    next: u64,
    list: Vec<(u64, Box<dyn Fn() + Send>)>,
}

/// Keeps a hook of [`CancelToken::on_cancel`]; dropping it takes the hook away.
pub(crate) struct CancelHook {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for CancelHook {
    fn drop(&mut self) {
        let mut hooks = self
            .shared
            .hooks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        hooks.list.retain(|(id, _)| *id != self.id);
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelToken")
            .field(&self.is_cancelled())
            .finish()
    }
}

impl CancelToken {
    /// A token nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop: a model run under way is ended, anything else stops at its next step. Returns at once;
    /// may be called from any thread and more than once, but not from a signal handler.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        let hooks = self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, hook) in &hooks.list {
            hook();
        }
    }

    /// Has `hook` called by [`cancel`](Self::cancel), or at once if that has been, until the returned guard is dropped.
    /// `hook` must be quick and bear being called twice; it must not use this token.
    pub(crate) fn on_cancel(&self, hook: impl Fn() + Send + 'static) -> CancelHook {
        let mut hooks = self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        // `cancel` sets the flag before it takes the lock, so one of the two sees the other.
        if self.is_cancelled() {
            hook();
        }
        let id = hooks.next;
        hooks.next += 1;
        hooks.list.push((id, Box::new(hook)));
        CancelHook {
            shared: Arc::clone(&self.0),
            id,
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextOptions {
    /// The most tokens to generate, 1 or more.
    pub max_tokens: usize,
    /// When not empty the text is exactly one of these: the one the model finds likeliest.
    pub choices: Vec<String>,
}

impl TextOptions {
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `max_tokens` is 0.
    pub fn check(&self) -> Result<()> {
        if self.max_tokens == 0 {
            let error = Error::new(ErrorKind::InvalidArgument, "max_tokens is 0");
            return Err(error.remedy("give 1 or more"));
        }
        Ok(())
    }
}

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            max_tokens: 48,
            choices: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn hooks_run_on_cancel_and_only_while_kept() {
        let token = CancelToken::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let count = |calls: &Arc<AtomicUsize>| {
            let calls = Arc::clone(calls);
            move || {
                calls.fetch_add(1, Ordering::Relaxed);
            }
        };
        drop(token.on_cancel(count(&calls)));
        let kept = token.on_cancel(count(&calls));
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        token.clone().cancel();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        drop(kept);
        let late = token.on_cancel(count(&calls));
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        drop(late);
    }
}
