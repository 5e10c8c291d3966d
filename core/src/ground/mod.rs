//! What a pack without image–text training may truthfully say of a picture.
//!
//! Class posteriors and detections are added up over a [`Taxonomy`] to an [`Observation`]: things, each with a count and a
//! certainty. Sentences and answers are composed from those and from nothing else, so that a language model, held to
//! them, chooses words but asserts nothing unseen.

mod answer;
mod change;
mod grounding;
mod keyframe;
mod observation;
mod question;
mod rules;
mod sentences;
mod taxonomy;

use serde::{Deserialize, Serialize};

pub use answer::{Answer, AnswerKind, answer};
pub use change::When;
pub use grounding::Grounding;
pub use observation::{Certainty, Count, Observation, Thing};
pub use rules::Rules;
pub use sentences::join;
pub use taxonomy::{Labels, NodeId, Noun, Taxonomy};

/// One thing a sentence rests on, for programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ground {
    /// The noun, singular.
    pub name: String,
    /// How many a detector counted; `None` if only the classifier saw it.
    pub count: Option<u32>,
    /// Whether it is asserted or only thought possible.
    pub certainty: Certainty,
    /// Posterior mass or the best detection's score, 0..=1.
    pub confidence: f32,
}
