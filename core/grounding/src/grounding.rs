//! A taxonomy, and what the detectors' labels mean in it.

use atom_core::features::Features;
use atom_core::pack::Pack;
use atom_core::{Error, ErrorKind, Result};

use super::observation::Observation;
use super::taxonomy::{Labels, Taxonomy};

/// Reads features the way one pack means them. Immutable; may be shared between threads.
#[derive(Debug)]
pub struct Grounding {
    taxonomy: Taxonomy,
    labels: Labels,
}

impl Grounding {
    /// The grounding of `pack`: the file `taxonomy` of its captioner, and the labels of its detectors.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] if the pack names no taxonomy or it makes no sense, [`ErrorKind::Io`] if it cannot be read.
    pub fn of(pack: &Pack) -> Result<Self> {
        let captioner = pack.manifest().captioner.as_ref();
        let Some(file) = captioner.and_then(|spec| spec.files.get("taxonomy")) else {
            let message = "captioner.files.taxonomy is missing";
            return Err(Error::new(ErrorKind::BadPack, message)
                .remedy("a captioner of kind = \"grounded\" needs it"));
        };
        let taxonomy =
            Taxonomy::from_bytes(&pack.read(file)?).map_err(|error| error.context(&file.file))?;
        let labels = taxonomy.labels(&pack.labels()?);
        Ok(Self { taxonomy, labels })
    }

    /// What the keyframes of one segment show, in the order of time.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] without features, [`ErrorKind::BadPack`] when the posteriors are not those the
    /// taxonomy is about, [`ErrorKind::Inference`] when they are not finite.
    pub fn observe(&self, frames: &[&Features]) -> Result<Observation<'_>> {
        Observation::new(&self.taxonomy, &self.labels, frames)
    }
}
