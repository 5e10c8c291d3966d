//! A pack's grounding: its taxonomy, and what its detector's labels mean in it.

use crate::error::{Error, ErrorKind, Result};
use crate::features::Features;
use crate::pack::Pack;

use super::{Labels, Observation, Taxonomy};

/// Reads features the way one pack means them. Immutable; may be shared between threads.
#[derive(Debug)]
pub struct Grounding {
    taxonomy: Taxonomy,
    labels: Labels,
}

impl Grounding {
    /// A taxonomy and the labels of the detector, if there is one.
    pub fn new(taxonomy: Taxonomy, labels: &[String]) -> Self {
        let labels = taxonomy.labels(labels);
        Self { taxonomy, labels }
    }

    /// Reads the taxonomy `pack` names.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] when it names none or the file is wrong.
    pub fn of_pack(pack: &Pack) -> Result<Self> {
        let manifest = pack.manifest();
        let Some(spec) = &manifest.grounding else {
            let message = format!("pack {:?} has no [grounding]", manifest.id);
            return Err(Error::new(ErrorKind::BadPack, message)
                .remedy("add one that names a taxonomy, or use mode = \"prefix\""));
        };
        let bytes = pack.read(&spec.taxonomy)?;
        let taxonomy =
            Taxonomy::from_bytes(&bytes).map_err(|error| error.context(&spec.taxonomy.file))?;
        let detector = manifest
            .tasks
            .index
            .as_ref()
            .and_then(|index| index.detector.as_ref());
        let labels = match detector {
            Some(id) => pack
                .module(id)?
                .detector
                .as_ref()
                .map(|spec| spec.labels.clone()),
            None => None,
        };
        Ok(Self::new(taxonomy, &labels.unwrap_or_default()))
    }

    /// What the keyframes of one segment show.
    ///
    /// # Errors
    /// As [`Observation::new`].
    pub fn observe(&self, frames: &[&Features]) -> Result<Observation<'_>> {
        Observation::new(&self.taxonomy, &self.labels, frames)
    }
}
