//! The numbers a taxonomy brings along.

use serde::Deserialize;

use atom_core::{Error, ErrorKind, Result};

/// The numbers of the grounding recipe.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Pairs (most classes, posterior mass): from that mass on a node of at most so many classes is certain.
    pub mass: Vec<(usize, f32)>,
    /// When a node of many classes counts.
    pub broad: Broad,
    /// When a node is worth a "possibly".
    pub possible: Possible,
    /// Least score of a detection that counts by itself, where its label has none of its own.
    pub detection: f32,
    /// When something makes up for a lower score.
    #[serde(default)]
    pub backed: Option<Backed>,
    /// Least score of a label's further detections once its best one counts; `detection` if absent.
    #[serde(default)]
    pub count: Option<f32>,
    /// Least mass that names a kind of what looks alike.
    #[serde(default)]
    pub alike: f32,
    /// Least posterior mass of all animals for a detected animal, birds excepted, to count.
    pub animal: f32,
    /// Least posterior mass of all animals for the classifier to name a kind of animal.
    pub animal_kind: f32,
    /// The words for one, two, …; the last one stands for any more.
    pub counts: Vec<String>,
}

/// A node of more than `classes` classes counts only if the best single class reaches `top`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broad {
    /// Number of classes.
    pub classes: usize,
    /// Posterior of the best class.
    pub top: f32,
}

/// A node of at most `classes` classes is possible from `share` of the mass that would make it certain.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Possible {
    /// Number of classes.
    pub classes: usize,
    /// Share of the mass, 0..=1.
    pub share: f32,
}

/// A detection of `score` or more counts, where its label has no scores of its own, if the posteriors of the classes that go
/// with its label reach `mass`, or another detector has the same thing in the same place.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backed {
    /// Least score.
    pub score: f32,
    /// Posterior mass.
    pub mass: f32,
}

impl Rules {
    /// Whether the numbers make sense.
    pub(super) fn check(&self) -> Result<()> {
        let shares = [
            self.broad.top,
            self.possible.share,
            self.detection,
            self.animal,
            self.animal_kind,
            self.alike,
            self.count.unwrap_or(0.0),
            self.backed.as_ref().map_or(0.0, |backed| backed.score),
            self.backed.as_ref().map_or(0.0, |backed| backed.mass),
        ];
        let masses = self.mass.iter().map(|(_, mass)| *mass);
        if masses
            .chain(shares)
            .any(|share| !(0.0..=1.0).contains(&share))
        {
            return Err(bad("a number of its rules is outside 0 to 1"));
        }
        if !self.mass.is_sorted_by_key(|(most, _)| *most) {
            return Err(bad("rules.mass is not in ascending order"));
        }
        if self.counts.iter().any(String::is_empty) || self.counts.len() < 2 {
            return Err(bad("rules.counts needs two or more words"));
        }
        Ok(())
    }
}

/// The error of a taxonomy file that makes no sense.
pub(super) fn bad(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadPack, format!("taxonomy: {what}"))
        .remedy("write it with models/reference/taxonomy.py, or fetch the pack again")
}
