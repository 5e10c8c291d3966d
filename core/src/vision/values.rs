//! Bytes of pictures to the values that a module reads.

use super::pixels::CHANNELS;
use super::rgb::{Area, Rgb};
use crate::error::{Error, ErrorKind, Result};
use crate::pack::{Layout, Order, PreprocessSpec};

/// The value of each byte, for R, G, B.
pub(super) type Table<T> = [[T; 256]; CHANNELS];

/// `(byte * rescale - mean) / std`, with the roundings of NumPy in Hugging Face's processors: the product in double precision,
/// the rest in single.
///
/// # Errors
/// [`ErrorKind::BadPack`] for a number that is not finite, or a `std` of 0.
pub(super) fn table(spec: &PreprocessSpec) -> Result<Box<Table<f32>>> {
    let mut table = Box::new([[0.0; 256]; CHANNELS]);
    for (channel, values) in table.iter_mut().enumerate() {
        let (mean, std) = (spec.mean[channel], spec.std[channel]);
        if !mean.is_finite() || !std.is_finite() || std == 0.0 || !spec.rescale.is_finite() {
            let what = format!(
                "preprocess: mean {mean}, std {std}, rescale {}",
                spec.rescale
            );
            return Err(Error::new(ErrorKind::BadPack, what));
        }
        for (byte, value) in values.iter_mut().enumerate() {
            *value = ((byte as f64 * spec.rescale) as f32 - mean) / std;
        }
    }
    Ok(table)
}

/// Where each R, G, B goes among the channels.
pub(super) fn channels(order: Order) -> [usize; CHANNELS] {
    match order {
        Order::Rgb => [0, 1, 2],
        Order::Bgr => [2, 1, 0],
    }
}

/// Writes `picture` into `out`, which has room for its values.
pub(super) fn write<T: Copy>(
    picture: &Rgb,
    layout: Layout,
    order: Order,
    table: &Table<T>,
    out: &mut [T],
) {
    let pixels = picture.data.as_chunks::<CHANNELS>().0;
    let places = channels(order);
    match layout {
        Layout::Nchw => {
            let planes = out.chunks_exact_mut(pixels.len().max(1));
            for (place, plane) in planes.enumerate().take(CHANNELS) {
                // R and B change places or none does, so the order is its own inverse.
                let (colour, values) = (places[place], &table[places[place]]);
                for (value, rgb) in plane.iter_mut().zip(pixels) {
                    *value = values[usize::from(rgb[colour])];
                }
            }
        }
        Layout::Nhwc => {
            for (values, rgb) in out.chunks_exact_mut(CHANNELS).zip(pixels) {
                for (colour, byte) in rgb.iter().enumerate() {
                    values[places[colour]] = table[colour][usize::from(*byte)];
                }
            }
        }
    }
}

/// Ones in `area` of a picture of `width` pixels a row, zeros elsewhere; ones everywhere without an area.
pub(super) fn mask<T: Copy>(area: Option<Area>, width: usize, (zero, one): (T, T), out: &mut [T]) {
    let Some(area) = area else {
        out.fill(one);
        return;
    };
    out.fill(zero);
    let rows = out.chunks_exact_mut(width.max(1));
    for row in rows.skip(area.top as usize).take(area.height as usize) {
        row[area.left as usize..][..area.width as usize].fill(one);
    }
}
