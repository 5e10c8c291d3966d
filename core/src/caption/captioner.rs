//! What core asks of a captioner, and of a kind of captioners.

use std::fmt::Debug;
use std::sync::Arc;

use super::context::CaptionerContext;
use super::statement::{OnText, Statement};
use crate::control::{Control, DEFAULT_MAX_TOKENS, TextOptions};
use crate::error::Result;
use crate::features::{Features, Parts};
use crate::identity::Digest;
use crate::pack::Task;

/// A kind of captioner that a program links, and how to make one for a pack.
pub trait CaptionerKind: Debug + Send + Sync {
    /// The name that packs write as `kind`: 1 to 64 of a-z, 0-9 and `-`.
    fn name(&self) -> &str;

    /// Makes the captioner of a pack. Called once, when the runtime opens the pack; loads no module and reads no large file.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`](crate::error::ErrorKind::BadPack) naming the key of `pack.toml` that is wrong. The runtime does
    /// not open then.
    fn build(&self, context: &CaptionerContext) -> Result<Arc<dyn Captioner>>;
}

/// Makes captions and answers for one pack.
///
/// The runtime checks the arguments before it calls: there is at least one frame, the question is neither blank nor too long,
/// and neither cancel nor deadline have passed. All frames are of one segment, in the order of time. An error of kind
/// `Cancelled` or `DeadlineExceeded` before the first piece of text becomes an empty statement with that reason.
pub trait Captioner: Debug + Send + Sync {
    /// What captions depend on besides the features. A store keeps it with every caption and serves the caption only to a
    /// captioner of the same identity, so a change that changes captions must change it.
    fn identity(&self) -> Digest;

    /// The parts of the features that captions and answers are made of. Of a picture that is not indexed, no others are made.
    fn reads(&self) -> Parts {
        Parts::ALL
    }

    /// The most tokens of a text for a caller who does not say it.
    fn max_tokens(&self) -> usize {
        DEFAULT_MAX_TOKENS
    }

    /// The modules that `task` usually runs, for loading them ahead of need.
    fn modules(&self, task: Task) -> Vec<&str> {
        let _ = task;
        Vec::new()
    }

    /// One sentence on what the frames show.
    ///
    /// # Errors
    /// What the captioner's modules report.
    fn caption(
        &self,
        frames: &[&Features],
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement>;

    /// An answer to a question about the frames.
    ///
    /// # Errors
    /// As [`caption`](Self::caption).
    fn answer(
        &self,
        frames: &[&Features],
        question: &str,
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement>;
}
