//! Things in a picture: what they are, how many, how sure, and when.

use serde::{Deserialize, Serialize, Serializer};

use super::taxonomy::NodeId;

/// Whether a thing is asserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// Only with "possibly".
    Possible,
    /// Plainly.
    Certain,
}

impl Certainty {
    /// A stable lower-case word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Certain => "certain",
        }
    }
}

/// How many of a thing the keyframes show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// The classifier saw it; it does not count.
    Unknown,
    /// The detector counted from `least` to `most` in the keyframes that show it.
    Counted {
        /// Fewest.
        least: u32,
        /// Most.
        most: u32,
    },
}

/// One thing in the picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Thing {
    /// Its node.
    pub node: NodeId,
    /// How many.
    pub count: Count,
    /// Whether it is asserted.
    pub certainty: Certainty,
    /// Posterior mass or the best detection's score, 0..=1.
    pub confidence: f32,
    /// When in the segment it is seen.
    pub when: When,
}

/// When in a segment a thing is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// No change was seen.
    Throughout,
    /// In the first keyframes, and surely no more in the last.
    AtFirst,
    /// In the last keyframes, and surely not yet in the first.
    Later,
}

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
    #[serde(serialize_with = "shortest")]
    pub confidence: f32,
}

/// Writes the shortest decimal that reads back as `value`: 0.9, where its double would be 0.8999999761581421.
fn shortest<S: Serializer>(value: &f32, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(value.to_string().parse().unwrap_or(f64::from(*value)))
}

/// Both counts together.
pub(super) fn add(a: Count, b: Count) -> Count {
    match (a, b) {
        (
            Count::Counted { least, most },
            Count::Counted {
                least: other_least,
                most: other_most,
            },
        ) => Count::Counted {
            least: least.saturating_add(other_least),
            most: most.saturating_add(other_most),
        },
        (counted @ Count::Counted { .. }, Count::Unknown) => counted,
        (Count::Unknown, other) => other,
    }
}
