//! The captioner `grounded`: sentences and answers that name only what classifiers and detectors found.
//!
//! It serves packs whose models never saw a picture together with a sentence. Class posteriors and detections are summed
//! over a taxonomy into an [`Observation`]: things, each with a count and a certainty. Sentences and answers are composed
//! from these things alone. A language decoder may choose among equally true sentences, but it can add nothing.
//!
//! Atom's core does not know this crate. A program that wants it hands [`Grounded`] to the runtime it opens.

mod answer;
mod captioner;
mod change;
mod evidence;
mod grounding;
mod keyframe;
mod observation;
mod question;
mod rules;
mod sentences;
mod taxonomy;
mod thing;
mod verdict;

pub use captioner::Grounded;
pub use grounding::Grounding;
pub use observation::Observation;
pub use thing::{Certainty, Ground};
