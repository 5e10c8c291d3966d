//! What comes or goes between the keyframes of one segment.

use atom_core::features::Features;

use super::keyframe;
use super::taxonomy::{Labels, NodeId, Taxonomy};
use super::thing::{Certainty, Thing, When};

/// Keyframes that must agree before a change, and after it.
const AGREEING: usize = 2;
/// Mass from which something not asserted is not ruled out either.
const DOUBT: f32 = 0.1;

/// What one keyframe says of a thing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sight {
    Present,
    Absent,
    Unclear,
}

/// The keyframes of one segment, in the order of time.
pub(super) struct Changes<'a> {
    taxonomy: &'a Taxonomy,
    frames: Vec<Frame<'a>>,
}

struct Frame<'a> {
    things: &'a [Thing],
    hints: Vec<NodeId>,
    /// Of every node; empty without posteriors.
    masses: Vec<f32>,
}

impl<'a> Changes<'a> {
    /// `seen` are the things of each of the `frames`.
    pub fn new(
        taxonomy: &'a Taxonomy,
        labels: &'a Labels,
        frames: &[&'a Features],
        seen: &'a [Vec<Thing>],
    ) -> Self {
        let frame = |(features, things): (&&'a Features, &'a Vec<Thing>)| Frame {
            things,
            hints: keyframe::hints(taxonomy, labels, features).collect(),
            masses: match features.posteriors.as_slice() {
                [] => Vec::new(),
                posteriors => taxonomy.masses(posteriors),
            },
        };
        // Fewer cannot show a change.
        let enough = frames.len() >= 2 * AGREEING;
        let frames = frames.iter().zip(seen).filter(|_| enough);
        Self {
            taxonomy,
            frames: frames.map(frame).collect(),
        }
    }

    /// When `node` is seen. A change counts only if every keyframe before it says one thing and every one after it the
    /// other, two or more each: what a detector missed has not gone.
    pub fn when(&self, node: NodeId) -> When {
        let sights: Vec<Sight> = self.frames.iter().map(|f| self.sight(f, node)).collect();
        let Some(first) = sights.first() else {
            return When::Throughout;
        };
        let turn = sights.iter().take_while(|sight| *sight == first).count();
        let (before, after) = sights.split_at(turn);
        let last = match after {
            [last, rest @ ..] if rest.iter().all(|sight| sight == last) => last,
            _ => return When::Throughout,
        };
        if before.len() < AGREEING || after.len() < AGREEING {
            return When::Throughout;
        }
        match (first, last) {
            (Sight::Present, Sight::Absent) => When::AtFirst,
            (Sight::Absent, Sight::Present) => When::Later,
            _ => When::Throughout,
        }
    }

    fn sight(&self, frame: &Frame<'_>, node: NodeId) -> Sight {
        let taxonomy = self.taxonomy;
        let related = |other: NodeId| taxonomy.is_a(other, node) || taxonomy.is_a(node, other);
        let certain = frame
            .things
            .iter()
            .any(|thing| thing.certainty == Certainty::Certain && taxonomy.is_a(thing.node, node));
        let mass = frame.masses.get(node as usize).copied().unwrap_or(0.0);
        if certain {
            Sight::Present
        } else if mass >= DOUBT
            || frame.things.iter().any(|thing| related(thing.node))
            || frame.hints.iter().any(|hint| related(*hint))
        {
            Sight::Unclear
        } else {
            Sight::Absent
        }
    }
}
