//! Tasks: paths through modules. Tasks own no module and never import each other; what several of them share is here.

pub mod ask;
pub mod assemble;
pub mod caption;
pub mod ingest;
pub mod search;

pub use crate::caption::Statement;

use crate::control::{Control, TextOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::features::{FeatureMap, Features, Parts, Source};
use crate::index::{Access, SegmentId, Store};
use crate::module::Registry;
use crate::pack::RowsPolicy;
use crate::vision::{VisualEncoder, decode_keyframe};

/// Runs a captioner within the limits that captions and answers have in common: at least one frame and one token, and an empty
/// statement if cancel or deadline came before the first piece of text.
fn within_limits(
    frames: &[&Features],
    options: &TextOptions,
    control: &Control,
    run: impl FnOnce() -> Result<Statement>,
) -> Result<Statement> {
    options.check()?;
    if frames.is_empty() {
        let message = "no features to describe: the segment has no keyframe";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let said = control.check().and_then(|()| run());
    said.or_else(Statement::ended_early)
}

/// What to do with rows for a captioner that were just made of a stored keyframe.
pub type OnMade<'a> = &'a dyn Fn(&Store, SegmentId, Source, &FeatureMap);

/// Keeps rows with their segment if the store is open for writing. That they cannot be kept is told in the log.
pub fn keep_in_store(store: &Store, segment: SegmentId, source: Source, map: &FeatureMap) {
    if store.access() == Access::ReadWrite
        && let Err(error) = store.set_map(segment, source, map)
    {
        log::warn!("the rows of segment {segment} are not kept: {error}");
    }
}

/// Stored segments as a captioner reads them. Rows that are not stored are made of the keyframe's JPEG, if the pack says so.
#[derive(Debug, Clone)]
pub struct Keyframes {
    registry: Registry,
    parts: Parts,
    policy: RowsPolicy,
    remakes: bool,
    /// Frames of a video are prepared in another way than stills.
    video: bool,
}

impl Keyframes {
    /// For a captioner that reads `parts`. Loads no module.
    pub fn new(registry: &Registry, parts: Parts) -> Self {
        let manifest = registry.pack().manifest();
        let spec = manifest.captioner_encoder().map(|id| manifest.module(id));
        let spec = spec.and_then(Result::ok);
        let spec = spec.and_then(|module| module.preprocess.as_ref());
        Self {
            registry: registry.clone(),
            parts,
            policy: manifest.rows_policy(),
            remakes: parts.map && manifest.remakes_rows(),
            video: spec.is_some_and(|s| s.steps_of(Source::Still) != s.steps_of(Source::Video)),
        }
    }

    /// The features of a segment, as a frame of `source`. Rows that had to be made are given to `on_made`, unless the pack says
    /// that they are never kept.
    ///
    /// # Errors
    /// What the store reports on reading, and what the captioner's encoder reports.
    pub fn features(
        &self,
        store: &Store,
        segment: SegmentId,
        source: Source,
        on_made: OnMade<'_>,
        control: &Control,
    ) -> Result<Features> {
        let mut features = store.features(segment)?;
        if !self.parts.map {
            return Ok(features);
        }
        let source = if self.video { source } else { Source::Still };
        if source == Source::Video {
            features.map = store.map(segment, source)?.unwrap_or_default();
        }
        if features.map.rows > 0 || !self.remakes {
            return Ok(features);
        }
        let jpeg = store.thumbnail(segment)?;
        if jpeg.is_empty() {
            return Ok(features);
        }
        let keyframe = decode_keyframe(&jpeg)?;
        let mut encoder = VisualEncoder::for_pictures(&self.registry)?;
        let frame = keyframe.as_frame()?;
        features.map = encoder
            .encode_parts(&frame, source, Parts::MAP, control)?
            .map;
        if self.policy != RowsPolicy::Never {
            on_made(store, segment, source, &features.map);
        }
        Ok(features)
    }
}
