//! From numbers to things.

use atom_core::features::Features;
use atom_core::{Error, ErrorKind, Result};

use super::change::Changes;
use super::keyframe;
use super::taxonomy::{Labels, NodeId, Noun, Taxonomy};
use super::thing::{Certainty, Count, Ground, Thing, When, add};

/// What one or more keyframes show.
#[derive(Debug)]
pub struct Observation<'t> {
    pub(super) taxonomy: &'t Taxonomy,
    pub(super) labels: &'t Labels,
    things: Vec<Thing>,
    /// Posterior mass of every node, the mean over the keyframes; empty without posteriors.
    pub(super) masses: Vec<f32>,
    pub(super) posteriors: Vec<f32>,
    /// What the detector thought it saw, too unsure to count, but enough not to deny it.
    pub(super) hints: Vec<NodeId>,
}

impl<'t> Observation<'t> {
    /// Grounds the features of one segment's keyframes, in the order of time. What they disagree about is only possible,
    /// unless they show it come or go.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] without features, [`ErrorKind::BadPack`] when the posteriors are not those the
    /// taxonomy is about, [`ErrorKind::Inference`] when they are not finite.
    pub fn new(taxonomy: &'t Taxonomy, labels: &'t Labels, frames: &[&Features]) -> Result<Self> {
        if frames.is_empty() {
            let message = "no features to describe: the segment has no keyframe";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let mut posteriors: Vec<f32> = Vec::new();
        for frame in frames {
            check(taxonomy, frame)?;
            if posteriors.is_empty() {
                posteriors = vec![0.0; frame.posteriors.len()];
            }
            for (sum, value) in posteriors.iter_mut().zip(&frame.posteriors) {
                *sum += value / frames.len() as f32;
            }
        }
        let masses = if posteriors.is_empty() {
            Vec::new()
        } else {
            taxonomy.masses(&posteriors)
        };
        let hints = frames.iter();
        let hints = hints
            .flat_map(|frame| keyframe::hints(taxonomy, labels, frame))
            .collect();
        let seen: Vec<Vec<Thing>> = frames
            .iter()
            .map(|frame| keyframe::things(taxonomy, labels, frame))
            .collect();
        Ok(Self {
            taxonomy,
            labels,
            things: agree(
                taxonomy,
                &seen,
                &Changes::new(taxonomy, labels, frames, &seen),
            ),
            masses,
            posteriors,
            hints,
        })
    }

    /// The things, certain ones first, then by number and confidence.
    pub fn things(&self) -> &[Thing] {
        &self.things
    }

    /// The certain things.
    pub fn certain(&self) -> impl Iterator<Item = &Thing> {
        self.things
            .iter()
            .filter(|thing| thing.certainty == Certainty::Certain)
    }

    /// The things that are only possible.
    pub fn possible(&self) -> impl Iterator<Item = &Thing> {
        self.things
            .iter()
            .filter(|thing| thing.certainty == Certainty::Possible)
    }

    /// Whether `words` (a noun, with or without article) name something that is certainly there.
    pub fn names(&self, words: &str) -> bool {
        let words = words.trim().trim_end_matches('.').to_lowercase();
        let noun = ["a ", "an ", "the ", "some "]
            .iter()
            .find_map(|article| words.strip_prefix(article))
            .unwrap_or(&words);
        let meant = self.taxonomy.find(noun);
        self.certain().any(|thing| {
            meant
                .iter()
                .any(|kind| self.taxonomy.is_a(thing.node, *kind))
        })
    }

    /// The thing for programs.
    pub fn ground(&self, thing: &Thing) -> Ground {
        Ground {
            name: self.noun(thing).one.clone(),
            count: match thing.count {
                Count::Unknown => None,
                Count::Counted { least, .. } => Some(least),
            },
            certainty: thing.certainty,
            confidence: thing.confidence,
        }
    }

    /// All things for programs.
    pub fn grounds(&self) -> Vec<Ground> {
        self.things.iter().map(|thing| self.ground(thing)).collect()
    }

    pub(super) fn noun(&self, thing: &Thing) -> &'t Noun {
        static NONE: std::sync::LazyLock<Noun> = std::sync::LazyLock::new(|| Noun {
            article: "some".into(),
            one: "thing".into(),
            many: "things".into(),
        });
        // Only nodes with a noun become things.
        self.taxonomy.noun(thing.node).unwrap_or(&NONE)
    }
}

fn check(taxonomy: &Taxonomy, frame: &Features) -> Result<()> {
    let found = frame.posteriors.len();
    if found != 0 && found != taxonomy.classes() {
        let message = format!(
            "the visual encoder gives {found} posteriors, the pack's taxonomy is about {}",
            taxonomy.classes()
        );
        return Err(Error::new(ErrorKind::BadPack, message)
            .remedy("use the taxonomy that belongs to the encoder"));
    }
    let scores = frame.detections.iter().map(|found| found.score);
    if frame
        .posteriors
        .iter()
        .copied()
        .chain(scores)
        .any(|value| !value.is_finite())
    {
        let message = "a keyframe's posteriors or detections hold a value that is not a number";
        return Err(Error::new(ErrorKind::Inference, message).remedy("index the video again"));
    }
    Ok(())
}

/// One list from the things of several keyframes: certain is what most of them are certain of, as narrow as
/// that allows, and what was seen to come or go; the rest is possible.
fn agree(taxonomy: &Taxonomy, frames: &[Vec<Thing>], changes: &Changes<'_>) -> Vec<Thing> {
    let mut kept: Vec<Thing> = Vec::new();
    let mut candidates: Vec<&Thing> = frames.iter().flatten().collect();
    // Narrow nouns first, so that a broader one is kept only for what it adds.
    candidates.sort_by_key(|thing| taxonomy.breadth(thing.node));
    for wanted in [Certainty::Certain, Certainty::Possible] {
        for candidate in &candidates {
            if kept.iter().any(|old| {
                taxonomy.is_a(old.node, candidate.node) || taxonomy.is_a(candidate.node, old.node)
            }) {
                continue;
            }
            let is_such = |thing: &&Thing| taxonomy.is_a(thing.node, candidate.node);
            let mut supporting = 0;
            let mut count: Option<Count> = None;
            let mut confidence: f32 = 0.0;
            for frame in frames {
                let such: Vec<&Thing> = frame.iter().filter(is_such).collect();
                if such
                    .iter()
                    .any(|thing| thing.certainty == Certainty::Certain)
                {
                    supporting += 1;
                    let here = such
                        .iter()
                        .fold(Count::Unknown, |sum, thing| add(sum, thing.count));
                    count = Some(range(count, here));
                }
                confidence = such.iter().map(|t| t.confidence).fold(confidence, f32::max);
            }
            let when = changes.when(candidate.node);
            let certain = supporting * 2 > frames.len() || when != When::Throughout;
            if wanted == Certainty::Certain && !certain {
                continue;
            }
            kept.push(Thing {
                node: candidate.node,
                count: count.unwrap_or(Count::Unknown),
                certainty: wanted,
                confidence,
                when,
            });
        }
    }
    kept.sort_by(|a, b| {
        let order = b.certainty.cmp(&a.certainty);
        order.then(b.confidence.total_cmp(&a.confidence))
    });
    kept
}

fn range(seen: Option<Count>, here: Count) -> Count {
    match (seen, here) {
        (
            Some(Count::Counted { least, most }),
            Count::Counted {
                least: other_least,
                most: other_most,
            },
        ) => Count::Counted {
            least: least.min(other_least),
            most: most.max(other_most),
        },
        (Some(counted @ Count::Counted { .. }), Count::Unknown) => counted,
        (_, here) => here,
    }
}

#[cfg(test)]
#[path = "observation_tests.rs"]
pub(super) mod tests;
