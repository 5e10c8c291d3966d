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

/// What a caller may ask of a text. What is left out is as the pack says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextOptions {
    /// The most tokens to generate, 1 or more; [`DEFAULT_MAX_TOKENS`] if the pack does not say either.
    pub max_tokens: Option<usize>,
    /// When not empty the text is exactly one of these: the one the model finds likeliest.
    pub choices: Vec<String>,
    /// Captions only: the name of one of the pack's further prompts.
    pub prompt: Option<String>,
    /// How many texts a beam search follows at once, 1 to [`MOST_BEAMS`]; 1 is greedy.
    pub beams: Option<usize>,
    /// 0 takes the likeliest token at each step; above 0 a token is drawn at random, from logits divided by this.
    pub temperature: Option<f32>,
    /// Draws among so many of the likeliest tokens; 0: among all.
    pub top_k: Option<usize>,
    /// Draws among the likeliest tokens whose probabilities together reach this, above 0 and up to 1.
    pub top_p: Option<f32>,
    /// Start of the random sequence. The same seed draws the same text.
    pub seed: Option<u64>,
}

/// The most tokens of a text for which neither caller nor pack says it.
pub const DEFAULT_MAX_TOKENS: usize = 48;

/// The most texts that a beam search follows at once.
pub const MOST_BEAMS: usize = 64;

impl Eq for TextOptions {}

impl TextOptions {
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] naming the option that is out of its range.
    pub fn check(&self) -> Result<()> {
        let bad = |what: String, remedy: &str| {
            Err(Error::new(ErrorKind::InvalidArgument, what).remedy(remedy))
        };
        if self.max_tokens == Some(0) {
            return bad("max_tokens is 0".to_owned(), "give 1 or more");
        }
        if let Some(beams) = self.beams
            && !(1..=MOST_BEAMS).contains(&beams)
        {
            let remedy = format!("give 1 to {MOST_BEAMS}; 1 is greedy");
            return bad(format!("beams is {beams}"), &remedy);
        }
        if let Some(temperature) = self.temperature
            && !(temperature >= 0.0 && temperature.is_finite())
        {
            return bad(
                format!("temperature is {temperature}"),
                "give 0 (greedy) or more",
            );
        }
        if let Some(top_p) = self.top_p
            && !(top_p > 0.0 && top_p <= 1.0)
        {
            return bad(
                format!("top_p is {top_p}"),
                "give a number above 0, up to 1",
            );
        }
        let draws = self.temperature.is_some_and(|t| t > 0.0)
            || self.top_k.is_some()
            || self.top_p.is_some()
            || self.seed.is_some();
        if draws && self.beams.is_some_and(|beams| beams > 1) {
            return bad(
                "beams are given together with temperature, top_k, top_p or seed".to_owned(),
                "a beam search draws nothing at random: leave one of them out",
            );
        }
        Ok(())
    }

    /// Whether a text made with these options is the one that every caller gets who asks for none but `max_tokens`. Only such a
    /// text is stored with its segment, and served from there.
    pub fn is_plain(&self) -> bool {
        let Self {
            max_tokens: _,
            choices,
            prompt,
            beams,
            temperature,
            top_k,
            top_p,
            seed,
        } = self;
        let how = beams.is_none() && temperature.is_none() && seed.is_none();
        choices.is_empty() && prompt.is_none() && how && top_k.is_none() && top_p.is_none()
    }

    /// Refuses options that say how tokens are chosen, for a captioner of kind `kind` that chooses none freely.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] naming the option.
    pub fn refuse_free(&self, kind: &str) -> Result<()> {
        let given = [
            ("prompt", self.prompt.is_some()),
            ("beams", self.beams.is_some()),
            ("temperature", self.temperature.is_some()),
            ("top_k", self.top_k.is_some()),
            ("top_p", self.top_p.is_some()),
            ("seed", self.seed.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((name, _)) => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("{name} has no meaning for a captioner of kind {kind:?}"),
            )
            .remedy("leave it out, or use a pack whose captioner is a \"vlm\"")),
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
