//! What encoding one keyframe leaves behind; every later task reads this and never the pixels.

use std::sync::Arc;

use crate::identity::Digest;

/// A module's own form or one of its variants: another graph, so other numbers for the same picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Hash of its graph and weights.
    pub hash: [u8; 32],
    /// For people: the module, the graph's file and its precision.
    pub name: String,
}

/// What made the parts of [`Features`] besides the embedding. Each part has an identity of its own, so that a pack with
/// another detector keeps the rest; absent where nothing makes the part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FeatureSources {
    /// Of the posteriors.
    pub posteriors: Option<Digest>,
    /// Of the feature map.
    pub map: Option<Digest>,
    /// Of the detections.
    pub detections: Option<Digest>,
}

/// One thing the detector found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Index into the labels of the pack's detectors, one detector's after another's ([`Pack::labels`](crate::pack::Pack::labels)).
    pub label: u32,
    /// Confidence, 0..=1.
    pub score: f32,
    /// x0, y0, x1, y1 as fractions of the upright frame, 0..=1.
    pub bbox: [f32; 4],
}

impl Detection {
    /// Area of its box, as a share of the frame.
    pub fn area(&self) -> f32 {
        area(self.bbox)
    }

    /// Area that its box shares with another's.
    pub fn shared_area(&self, other: &Self) -> f32 {
        let (a, b) = (self.bbox, other.bbox);
        area([
            a[0].max(b[0]),
            a[1].max(b[1]),
            a[2].min(b[2]),
            a[3].min(b[3]),
        ])
    }

    /// Intersection over union of its box and another's; zero if neither has an area.
    pub fn iou(&self, other: &Self) -> f32 {
        let shared = self.shared_area(other);
        let all = self.area() + other.area() - shared;
        if all > 0.0 { shared / all } else { 0.0 }
    }
}

fn area([x0, y0, x1, y1]: [f32; 4]) -> f32 {
    (x1 - x0).max(0.0) * (y1 - y0).max(0.0)
}

/// What a picture is one of: models prepare the frames of a video in another way than stills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Source {
    /// A picture by itself.
    #[default]
    Still,
    /// One of several frames of a video.
    Video,
}

/// How a picture was cut into tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Grid {
    /// Tiles from top to bottom; 0: it was not cut.
    pub rows: u32,
    /// Tiles from left to right; 0: it was not cut.
    pub cols: u32,
}

/// A sequence of feature vectors for a captioner, row-major.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FeatureMap {
    /// Number of vectors, those of all pictures.
    pub rows: usize,
    /// Length of each vector.
    pub dim: usize,
    /// `rows * dim` values.
    pub data: Vec<f32>,
    /// How the picture was cut: its tiles come first, row by row, and the whole picture where the pack puts it.
    pub grid: Grid,
    /// Pictures that the encoder read: the tiles and the whole one. `rows / pictures` vectors are of each. 0 in an empty map.
    pub pictures: usize,
}

impl FeatureMap {
    /// The vectors of one picture that was not cut.
    pub fn of_one(rows: usize, dim: usize, data: Vec<f32>) -> Self {
        Self {
            rows,
            dim,
            data,
            grid: Grid::default(),
            pictures: 1,
        }
    }
}

/// Parts of [`Features`], as they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Parts {
    /// The search vector.
    pub embedding: bool,
    /// Class probabilities.
    pub posteriors: bool,
    /// What the captioner reads.
    pub map: bool,
    /// What the detectors find.
    pub detections: bool,
}

impl Parts {
    /// Every part.
    pub const ALL: Self = Self {
        embedding: true,
        posteriors: true,
        map: true,
        detections: true,
    };
    /// The search vector alone.
    pub const EMBEDDING: Self = Self {
        embedding: true,
        ..Self::NONE
    };
    /// The captioner's rows alone.
    pub const MAP: Self = Self {
        map: true,
        ..Self::NONE
    };
    /// No part.
    pub const NONE: Self = Self {
        embedding: false,
        posteriors: false,
        map: false,
        detections: false,
    };
}

/// The features of one keyframe. A part the pack's modules do not produce is empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Features {
    /// The search vector, L2-normalised.
    pub embedding: Vec<f32>,
    /// Class probabilities, in the order of the pack's classes.
    pub posteriors: Vec<f32>,
    /// Detections, best first.
    pub detections: Vec<Detection>,
    /// What the captioner reads.
    pub map: FeatureMap,
    /// Time of the frame among others of one video, in nanoseconds; absent for a picture by itself.
    pub time_ns: Option<i64>,
    /// What made them; absent where that is not known, as in features read back from a store, which says it of all it holds.
    pub made_by: Option<Arc<Variant>>,
}
