//! Keyframes as small JPEG pictures.

use jpeg_encoder::{ColorType, Encoder};

use super::pixels::{CHANNELS, Rect, before_turn, upright};
use super::resize::Resizer;
use crate::error::{Error, ErrorKind, Result};
use crate::frame::Frame;
use crate::pack::Resample;

/// `frame` as an upright JPEG whose longer side has at most `max_side` pixels (a smaller frame keeps its size), of
/// `quality` 1..=100.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when `max_side` is zero or `quality` out of range.
pub fn thumbnail(frame: &Frame<'_>, max_side: u32, quality: u8) -> Result<Vec<u8>> {
    if max_side == 0 || !(1..=100).contains(&quality) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("thumbnail of {max_side} pixels at quality {quality}"),
        )
        .remedy("give at least 1 pixel and a quality of 1..=100"));
    }
    let format = frame.format();
    let (width, height) = (format.width, format.height);
    let scale = (f64::from(max_side) / f64::from(width.max(height))).min(1.0);
    let shrink = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    let stored = (shrink(width), shrink(height));

    let whole = Rect {
        left: 0.0,
        top: 0.0,
        width: width.into(),
        height: height.into(),
    };
    let mut small = Vec::new();
    Resizer::default().run(frame, whole, Resample::Bilinear, stored, &mut small)?;

    let turned = upright(format.rotation, stored);
    let (w, h) = (turned.0 as usize, turned.1 as usize);
    let mut pixels = Vec::with_capacity(small.len());
    for y in 0..h {
        for x in 0..w {
            let at = before_turn(format.rotation, (w, h), (x, y)) * CHANNELS;
            pixels.extend_from_slice(&small[at..at + CHANNELS]);
        }
    }
    let mut jpeg = Vec::new();
    // Sides are at most MAX_SIDE, which fits.
    Encoder::new(&mut jpeg, quality)
        .encode(&pixels, w as u16, h as u16, ColorType::Rgb)
        .map_err(|e| Error::new(ErrorKind::Internal, format!("JPEG of {w}x{h}: {e}")))?;
    Ok(jpeg)
}
