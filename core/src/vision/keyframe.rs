//! Keyframes kept as JPEG so that a captioner's encoder can read them later.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::steps::size_after;
use crate::error::{Error, ErrorKind, Result};
use crate::frame::{FrameBuf, FrameFormat, MAX_SIDE, PixelFormat};
use crate::pack::{PreprocessSpec, Source, StepSpec};

/// JPEG quality of such keyframes, 1..=100. From 90 on colours keep their full resolution.
pub const KEYFRAME_QUALITY: u8 = 92;

/// The longer side that a keyframe of `width` x `height` pixels must keep, so that `spec` needs no pixel of it that is not there.
pub fn keyframe_side(spec: &PreprocessSpec, (width, height): (u32, u32)) -> u32 {
    let needed = |source| {
        let (steps, _) = spec.steps_of(source);
        let (mut size, mut least) = ((width, height), (width, height));
        for step in steps {
            size = size_after(step, size);
            // What only cuts off or fills up asks for no fewer pixels of the picture.
            if !matches!(step, StepSpec::CenterCrop(_) | StepSpec::Pad(_)) {
                least = (least.0.min(size.0), least.1.min(size.1));
            }
        }
        least
    };
    let (across, down) = match spec.steps.is_empty() {
        false => {
            let (still, video) = (needed(Source::Still), needed(Source::Video));
            (still.0.max(video.0), still.1.max(video.1))
        }
        // A view of a part is that part at the size of the input.
        true => {
            let most = spec.views.iter().map(|view| 1.0 / view.fraction.max(0.01));
            let most = most.fold(1.0, f32::max);
            let side = (spec.width.max(spec.height) as f32 * most).ceil() as u32;
            (side, side)
        }
    };
    let scale = |needed: u32, side: u32| f64::from(needed) / f64::from(side.max(1));
    let scale = scale(across, width).max(scale(down, height)).min(1.0);
    (f64::from(width.max(height)) * scale).ceil() as u32
}

/// The picture in a keyframe's JPEG.
///
/// # Errors
/// [`ErrorKind::StoreCorrupt`] when it does not decode.
pub fn decode_keyframe(jpeg: &[u8]) -> Result<FrameBuf> {
    let flaw = |what: String| {
        Error::new(
            ErrorKind::StoreCorrupt,
            format!("a stored keyframe does not decode: {what}"),
        )
        .remedy("index the video again: what is damaged is replaced, the rest is kept")
    };
    let options = DecoderOptions::default()
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
    let rgb = decoder.decode().map_err(|error| flaw(error.to_string()))?;
    let info = decoder
        .info()
        .ok_or_else(|| flaw("it has no size".into()))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    let format = FrameFormat::new(PixelFormat::Rgb8, width, height);
    FrameBuf::from_vec(format, rgb, 0).map_err(|error| flaw(error.message().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;
    use crate::pack::{LongestEdgeStep, Manifest, SquashStep, TilesStep, Whole};
    use crate::vision::thumbnail;

    fn spec(steps: Vec<StepSpec>) -> PreprocessSpec {
        let text = include_str!("../../../tests/fixtures/identity/foreign.toml");
        let manifest = Manifest::parse(text).unwrap();
        let module = manifest.modules.into_iter().find_map(|m| m.preprocess);
        PreprocessSpec {
            steps,
            ..module.unwrap()
        }
    }

    #[test]
    fn a_keyframe_keeps_the_pixels_that_the_steps_need_and_no_more() {
        let longest = || {
            StepSpec::LongestEdge(LongestEdgeStep {
                size: 2048,
                even: true,
                most: Some(4096),
                resample: None,
            })
        };
        let squash = StepSpec::Squash(SquashStep {
            width: 512,
            height: 512,
            resample: None,
        });
        let tiles = StepSpec::Tiles(TilesStep {
            size: 512,
            whole: Whole::Last,
            resample: None,
        });
        let single = spec(vec![longest(), squash]);
        // 512 of 1080 rows.
        assert_eq!(keyframe_side(&single, (1920, 1080)), 911);
        assert_eq!(keyframe_side(&single, (1080, 1920)), 911);
        // Never upwards.
        assert_eq!(keyframe_side(&single, (320, 180)), 320);
        let cut = spec(vec![longest(), tiles]);
        assert_eq!(keyframe_side(&cut, (1920, 1080)), 1920);
        assert_eq!(keyframe_side(&cut, (3840, 2160)), 2048);
    }

    #[test]
    fn what_is_kept_comes_back_nearly_the_same() {
        let format = FrameFormat::new(PixelFormat::Rgb8, 64, 48);
        let pixel = |at: usize| [(at % 64 * 4) as u8, (at / 64 * 5) as u8, 90];
        let data: Vec<u8> = (0..64 * 48).flat_map(pixel).collect();
        let frame = Frame::packed(format, &data, 0).unwrap();
        let jpeg = thumbnail(&frame, 64, KEYFRAME_QUALITY).unwrap();
        let back = decode_keyframe(&jpeg).unwrap();
        let back = back.as_frame().unwrap();
        assert_eq!((back.format().width, back.format().height), (64, 48));
        let off = |(a, b): (&u8, &u8)| u32::from(a.abs_diff(*b));
        let sum: u32 = data.iter().zip(back.plane(0).data).map(off).sum();
        assert!(sum < 2 * data.len() as u32, "{sum}");
        for cut in [0, 1, 20, jpeg.len() / 4] {
            let error = decode_keyframe(&jpeg[..cut]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::StoreCorrupt, "{error}");
        }
    }
}
