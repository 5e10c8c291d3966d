//! Pictures prepared for an encoder, without running it: for importers that make golden inputs, and for comparisons.

use super::pixels::CHANNELS;
use super::rgb::Rgb;
use super::steps::Cut;
use super::values;
use crate::error::Result;
use crate::features::Grid;
use crate::frame::Frame;
use crate::pack::{PreprocessSpec, Source};

/// What a module with `preprocess.steps` reads of one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedPictures {
    /// Tiles, and the whole picture.
    pub pictures: usize,
    /// How the frame was cut.
    pub grid: Grid,
    /// `pictures` times 3 x height x width values, or height x width x 3, as the module's layout is.
    pub values: Vec<f32>,
    /// `pictures` times height x width: 1 where there is picture, 0 where it was padded.
    pub mask: Vec<u8>,
}

/// Does the steps that `spec` has for frames of `source`, rescales and normalises.
///
/// # Errors
/// [`ErrorKind::BadPack`](crate::ErrorKind::BadPack) for numbers that are not finite,
/// [`ErrorKind::BadFrame`](crate::ErrorKind::BadFrame) for a frame that the steps cannot prepare.
pub fn prepare(
    spec: &PreprocessSpec,
    source: Source,
    frame: &Frame<'_>,
) -> Result<PreparedPictures> {
    let table = values::table(spec)?;
    let cut = Cut::new(spec, source, &Rgb::new(frame)?)?;
    let (width, pixels) = (
        spec.width as usize,
        spec.width as usize * spec.height as usize,
    );
    let pictures = cut.pictures.len();
    let mut made = PreparedPictures {
        pictures,
        grid: cut.grid,
        values: vec![0.0; pictures * pixels * CHANNELS],
        mask: vec![0; pictures * pixels],
    };
    let outs = made.values.chunks_exact_mut(pixels * CHANNELS);
    for (picture, out) in cut.pictures.iter().zip(outs) {
        values::write(picture, spec.layout, spec.order, &table, out);
    }
    for out in made.mask.chunks_exact_mut(pixels) {
        values::mask(cut.filled, width, (0, 1), out);
    }
    Ok(made)
}
