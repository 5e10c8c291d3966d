//! What indexing makes of a keyframe: features, and the picture that is kept.

use crate::control::Control;
use crate::error::Result;
use crate::features::{Features, Parts, Source};
use crate::frame::Frame;
use crate::module::Registry;
use crate::pack::{PreprocessSpec, RowsPolicy};
use crate::trace;
use crate::vision::{KEYFRAME_QUALITY, SampledSegment, VisualEncoder, keyframe_side, thumbnail};

/// JPEG quality of stored thumbnails, 1..=100.
const THUMBNAIL_QUALITY: u8 = 80;

/// What is made of a keyframe.
pub(super) struct Wanted {
    parts: Parts,
    thumbnail_side: u32,
    /// How the captioner's encoder prepares pictures, where it reads the kept keyframe later.
    reads_later: Option<PreprocessSpec>,
}

impl Wanted {
    pub(super) fn new(registry: &Registry, thumbnail_side: u32) -> Result<Self> {
        let manifest = registry.pack().manifest();
        let later = manifest.rows_policy() != RowsPolicy::Eager;
        let encoder = manifest.captioner_encoder().filter(|_| later);
        let encoder = encoder.map(|id| manifest.module(id)).transpose()?;
        Ok(Self {
            parts: Parts {
                map: encoder.is_none(),
                ..Parts::ALL
            },
            thumbnail_side,
            reads_later: encoder.and_then(|module| module.preprocess.clone()),
        })
    }

    /// The keyframe as JPEG: a thumbnail, or as large as the captioner's encoder wants it.
    fn keyframe(&self, frame: &Frame<'_>) -> Result<Vec<u8>> {
        let _span = trace::span("index", "thumbnail");
        let side = self.thumbnail_side;
        let Some(spec) = &self.reads_later else {
            return thumbnail(frame, side, THUMBNAIL_QUALITY);
        };
        // Upright, as the encoder sees it.
        let size = frame.format().upright_size();
        let side = side.max(keyframe_side(spec, size));
        thumbnail(frame, side, KEYFRAME_QUALITY)
    }
}

/// A segment ready to be stored.
pub(super) struct Encoded {
    pub(super) start_ns: i64,
    pub(super) end_ns: i64,
    pub(super) keyframe_ns: i64,
    pub(super) features: Features,
    pub(super) thumbnail: Vec<u8>,
}

impl Encoded {
    pub(super) fn new(
        segment: SampledSegment,
        encoder: &mut VisualEncoder,
        wanted: &Wanted,
        control: &Control,
    ) -> Result<Self> {
        let keyframe = segment.keyframe.as_frame()?;
        Ok(Self {
            start_ns: segment.start_ns,
            end_ns: segment.end_ns,
            keyframe_ns: keyframe.timestamp_ns(),
            features: encoder.encode_parts(&keyframe, Source::Still, wanted.parts, control)?,
            thumbnail: wanted.keyframe(&keyframe)?,
        })
    }
}
