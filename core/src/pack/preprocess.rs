//! `[module.preprocess]`: how pixels become what a module reads.

use serde::Deserialize;

use crate::features::Source;

/// Filter of a resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resample {
    /// The pixel below the centre, not antialiased.
    Nearest,
    /// The mean of an area.
    Box,
    /// Triangle.
    Bilinear,
    /// A windowed sinc as wide as the triangle.
    Hamming,
    /// Cubic convolution, a = -0.5.
    Bicubic,
    /// Lanczos with three lobes.
    Lanczos3,
}

/// How a view fills the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// The centred square of `fraction` of the shorter side.
    Crop,
    /// The centred rectangle of `fraction` of both sides, proportions changed.
    Stretch,
    /// The same rectangle, with bars.
    Pad,
}

/// What one batch row sees of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewSpec {
    /// How it fills the input.
    pub fit: Fit,
    /// How much of the frame, above 0 and up to 1.
    pub fraction: f32,
}

/// Order of the axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Planes of channels.
    #[default]
    Nchw,
    /// Interleaved channels.
    Nhwc,
}

/// Order of the channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Red first.
    #[default]
    Rgb,
    /// Blue first.
    Bgr,
}

/// How pixels become a module's input: `(x * rescale - mean) / std` after `steps`, or after cropping and resizing to `views`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreprocessSpec {
    /// Width in pixels of one picture the graph reads.
    pub width: u32,
    /// Height in pixels of one picture the graph reads.
    pub height: u32,
    /// Filter of the resizes; a step may name its own.
    pub resample: Resample,
    /// One batch row for each: what is seen of the frame. Embeddings of several are averaged. Not together with `steps`.
    #[serde(default = "whole_view")]
    pub views: Vec<ViewSpec>,
    /// What is done with the 8-bit RGB picture, in this order.
    #[serde(default)]
    pub steps: Vec<StepSpec>,
    /// Multiplied with, before `mean` and `std`.
    #[serde(default = "per_byte")]
    pub rescale: f64,
    /// Subtracted, per channel R G B.
    pub mean: [f32; 3],
    /// Divided by, per channel R G B.
    pub std: [f32; 3],
    /// Order of the axes.
    #[serde(default)]
    pub layout: Layout,
    /// Order of the channels.
    #[serde(default)]
    pub order: Order,
    /// The input that says where the picture is: 1 there, 0 where `pad` filled up.
    #[serde(default)]
    pub pixel_mask: Option<String>,
    /// What is done with frames of a video instead of `steps`.
    #[serde(default)]
    pub video: Option<VideoSteps>,
}

impl PreprocessSpec {
    /// The steps of `source`, and their filter.
    pub fn steps_of(&self, source: Source) -> (&[StepSpec], Resample) {
        match (&self.video, source) {
            (Some(video), Source::Video) => (&video.steps, video.resample.unwrap_or(self.resample)),
            _ => (&self.steps, self.resample),
        }
    }

    /// Whether a picture of `source` may be cut into tiles.
    pub fn cuts(&self, source: Source) -> bool {
        let (steps, _) = self.steps_of(source);
        steps.iter().any(|step| matches!(step, StepSpec::Tiles(_)))
    }
}

/// `[module.preprocess.video]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoSteps {
    /// What is done with the 8-bit RGB picture, in this order.
    pub steps: Vec<StepSpec>,
    /// Filter of the resizes; that of stills when absent.
    #[serde(default)]
    pub resample: Option<Resample>,
}

/// One step on an 8-bit RGB picture. Each resize rounds to 8 bits, as Pillow does.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum StepSpec {
    /// Resizes both sides; proportions change.
    Squash(SquashStep),
    /// Resizes the shorter side to a length; the other follows.
    ShortestEdge(ShortestEdgeStep),
    /// Resizes the longer side to a length, also upwards; the other follows.
    LongestEdge(LongestEdgeStep),
    /// Keeps the middle; black where the picture is smaller.
    CenterCrop(CropStep),
    /// Fills up to a size.
    Pad(PadStep),
    /// Cuts into tiles. The last step.
    Tiles(TilesStep),
}

/// Resizes both sides; proportions change.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SquashStep {
    /// Width afterwards.
    pub width: u32,
    /// Height afterwards.
    pub height: u32,
    /// Filter, if not the module's.
    #[serde(default)]
    pub resample: Option<Resample>,
}

/// Resizes the shorter side to `size`; the other follows, rounded down.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShortestEdgeStep {
    /// Length of the shorter side afterwards.
    pub size: u32,
    /// The longer side is at most so long; the shorter is then shorter than `size`.
    #[serde(default)]
    pub longest: Option<u32>,
    /// Filter, if not the module's.
    #[serde(default)]
    pub resample: Option<Resample>,
}

/// Resizes the longer side to `size`, also upwards; the other follows, rounded down.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongestEdgeStep {
    /// Length of the longer side afterwards.
    pub size: u32,
    /// An odd other side gets one pixel more.
    #[serde(default)]
    pub even: bool,
    /// The longer side is at most so long, whatever `size` says.
    #[serde(default)]
    pub most: Option<u32>,
    /// Filter, if not the module's.
    #[serde(default)]
    pub resample: Option<Resample>,
}

/// Keeps the middle; black where the picture is smaller.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CropStep {
    /// Width afterwards.
    pub width: u32,
    /// Height afterwards.
    pub height: u32,
}

/// Fills up to a size with one colour. A larger picture is an error.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PadStep {
    /// Width afterwards; without `width` and `height`, both are the picture's longer side.
    #[serde(default)]
    pub width: Option<u32>,
    /// Height afterwards.
    #[serde(default)]
    pub height: Option<u32>,
    /// R, G and B of what is added.
    #[serde(default)]
    pub colour: [u8; 3],
    /// Where the picture goes.
    #[serde(default)]
    pub at: At,
}

/// Where a padded picture goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum At {
    /// In the middle.
    #[default]
    Center,
    /// In the corner.
    TopLeft,
}

/// Cuts into tiles of `size` x `size`. The picture is resized to whole tiles first: the longer side up to a multiple of
/// `size`, the other as its proportions say, rounded down, and then up to a multiple. If neither side exceeds `size`, that is
/// the only picture and nothing is cut.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TilesStep {
    /// Length of a tile's sides.
    pub size: u32,
    /// Where the whole picture goes, squashed to one tile.
    #[serde(default)]
    pub whole: Whole,
    /// Filter, if not the module's.
    #[serde(default)]
    pub resample: Option<Resample>,
}

/// Where the whole picture goes among its tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whole {
    /// Before them.
    First,
    /// Behind them.
    #[default]
    Last,
    /// It is left out.
    None,
}

pub(super) fn whole_view() -> Vec<ViewSpec> {
    vec![ViewSpec {
        fit: Fit::Crop,
        fraction: 1.0,
    }]
}

pub(super) fn per_byte() -> f64 {
    1.0 / 255.0
}
