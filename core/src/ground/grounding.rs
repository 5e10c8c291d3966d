//! A taxonomy, and what the detectors' labels mean in it.

use crate::error::Result;
use crate::features::Features;

use super::{Labels, Observation, Taxonomy};

/// Reads features the way one pack means them. Immutable; may be shared between threads.
#[derive(Debug)]
pub struct Grounding {
    taxonomy: Taxonomy,
    labels: Labels,
}

impl Grounding {
    /// A taxonomy and the labels of the detectors, one after another; none without a detector.
    pub fn new(taxonomy: Taxonomy, labels: &[String]) -> Self {
        let labels = taxonomy.labels(labels);
        Self { taxonomy, labels }
    }

    /// What the keyframes of one segment show.
    ///
    /// # Errors
    /// As [`Observation::new`].
    pub fn observe(&self, frames: &[&Features]) -> Result<Observation<'_>> {
        Observation::new(&self.taxonomy, &self.labels, frames)
    }
}
