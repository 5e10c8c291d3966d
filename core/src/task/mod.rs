//! Tasks: paths through modules. Tasks own no module and never import each other; what several of them share is here.

pub mod ask;
pub mod assemble;
pub mod caption;
pub mod ingest;
pub mod search;

use crate::error::{Error, ErrorKind, Result};
use crate::ground::{Ground, Grounding, Taxonomy};
use crate::language::{Generated, StopReason};
use crate::pack::Pack;

/// A caption or an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Exactly what was streamed.
    pub text: String,
    /// Its length in tokens.
    pub tokens: usize,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// What it rests on; empty when the text was generated freely from visual features.
    pub grounds: Vec<Ground>,
    /// It was kept with the segment and not generated anew.
    pub stored: bool,
}

impl Statement {
    fn new(generated: Generated, grounds: Vec<Ground>) -> Self {
        Self {
            text: generated.text,
            tokens: generated.tokens,
            stop_reason: generated.stop_reason,
            grounds,
            stored: false,
        }
    }
}

/// The grounding `pack` declares.
fn grounding(pack: &Pack) -> Result<Grounding> {
    let manifest = pack.manifest();
    let Some(spec) = &manifest.grounding else {
        let message = format!("pack {:?} has no [grounding]", manifest.id);
        return Err(Error::new(ErrorKind::BadPack, message)
            .remedy("add one that names a taxonomy, or use mode = \"prefix\""));
    };
    let taxonomy = Taxonomy::from_bytes(&pack.read(&spec.taxonomy)?)
        .map_err(|error| error.context(&spec.taxonomy.file))?;
    let index = manifest.tasks.index.as_ref();
    let detector = match index.and_then(|index| index.detector.as_ref()) {
        Some(id) => pack.module(id)?.detector.as_ref(),
        None => None,
    };
    let labels = detector.map_or(&[][..], |spec| &spec.labels);
    Ok(Grounding::new(taxonomy, labels))
}
