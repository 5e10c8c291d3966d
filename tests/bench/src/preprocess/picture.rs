//! A picture to make small, in every format, and the plain way of making it small.

use atom_core::Result;
use atom_core::frame::{Frame, FrameFormat, PixelFormat};

/// Bytes of a pixel.
const CHANNELS: usize = 3;

/// A picture and its pixels as RGB, as the exact formulas convert them.
pub struct Picture {
    pub format: FrameFormat,
    /// Planes one behind the other, without padding.
    pub data: Vec<u8>,
    pub rgb: Vec<u8>,
}

impl Picture {
    /// Detail down to single pixels, where a photograph has it too: waves that grow finer to the right and downwards,
    /// hard edges every few pixels, all on a slow change of colours. The same each time.
    pub fn new(pixels: PixelFormat, width: u32, height: u32) -> Self {
        let colour = |x: u32, y: u32| -> [f64; CHANNELS] {
            let (u, v) = (
                f64::from(x) / f64::from(width),
                f64::from(y) / f64::from(height),
            );
            // Two pixels a wave at the far corner.
            let phase = (u * f64::from(x) + v * f64::from(y)) * std::f64::consts::FRAC_PI_2;
            let edges = (x / 3).wrapping_mul(2_654_435_761) ^ (y / 5).wrapping_mul(2_246_822_519);
            let edge = f64::from((edges >> 13) % 3) - 1.0;
            [(0.0, u), (0.2, v), (0.4, 1.0 - u)].map(|(shift, slow)| {
                let value = 55.0 * (phase + shift).cos() + 30.0 * edge + 80.0 * (slow - 0.5);
                (128.0 + value).clamp(0.0, 255.0)
            })
        };
        let format = FrameFormat::new(pixels, width, height);
        let all = || (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let byte = |value: f64| value.round().clamp(0.0, 255.0) as u8;
        let data: Vec<u8> = match pixels {
            PixelFormat::Nv12 | PixelFormat::I420 => {
                let luma = |[r, g, b]: [f64; CHANNELS]| 0.299 * r + 0.587 * g + 0.114 * b;
                let mut data: Vec<u8> = all()
                    .map(|(x, y)| byte(16.0 + luma(colour(x, y)) * 219.0 / 255.0))
                    .collect();
                let half = || {
                    (0..height.div_ceil(2))
                        .flat_map(|y| (0..width.div_ceil(2)).map(move |x| (x, y)))
                };
                let chroma = |(x, y): (u32, u32), index: usize, span: f64| {
                    let rgb = colour(2 * x, 2 * y);
                    byte(128.0 + (rgb[index] - luma(rgb)) / span * 224.0 / 255.0)
                };
                let u = |place| chroma(place, 2, 1.772);
                let v = |place| chroma(place, 0, 1.402);
                if pixels == PixelFormat::Nv12 {
                    data.extend(half().flat_map(|place| [u(place), v(place)]));
                } else {
                    data.extend(half().map(u));
                    data.extend(half().map(v));
                }
                data
            }
            _ => all().flat_map(|(x, y)| colour(x, y).map(byte)).collect(),
        };
        let mut picture = Self {
            format,
            data,
            rgb: Vec::new(),
        };
        picture.rgb = match pixels {
            PixelFormat::Nv12 | PixelFormat::I420 => {
                let planes = picture.planes();
                all()
                    .flat_map(|(x, y)| {
                        planes
                            .colour(|plane, channel| plane.at(x, y, channel))
                            .map(byte)
                    })
                    .collect()
            }
            _ => picture.data.clone(),
        };
        picture
    }

    pub fn frame(&self) -> Result<Frame<'_>> {
        Frame::packed(self.format, &self.data, 0)
    }

    /// The same pixels as RGB.
    pub fn as_rgb(&self) -> Result<Frame<'_>> {
        let format = FrameFormat::new(PixelFormat::Rgb8, self.format.width, self.format.height);
        Frame::packed(format, &self.rgb, 0)
    }

    fn planes(&self) -> Planes<'_> {
        Planes::of(self.format, &self.data)
    }
}

/// The planes of Y, U and V, or of R, G and B.
struct Planes<'a> {
    parts: [Part<'a>; CHANNELS],
    yuv: bool,
}

/// One channel of a plane.
struct Part<'a> {
    data: &'a [u8],
    width: usize,
    height: usize,
    /// Bytes from pixel to pixel, and the channel among them.
    step: usize,
    offset: usize,
    /// Pixels of the picture that one of this plane covers, in each direction.
    cover: u32,
}

impl<'a> Planes<'a> {
    fn of(format: FrameFormat, data: &'a [u8]) -> Self {
        let (width, height) = (format.width as usize, format.height as usize);
        let half = (width.div_ceil(2), height.div_ceil(2));
        let part = |start: usize, (width, height): (usize, usize), step, offset, cover| Part {
            data: &data[start..],
            width,
            height,
            step,
            offset,
            cover,
        };
        let (luma, quarter) = (width * height, half.0 * half.1);
        let whole = (width, height);
        match format.pixels {
            PixelFormat::Nv12 => Self {
                parts: [
                    part(0, whole, 1, 0, 1),
                    part(luma, half, 2, 0, 2),
                    part(luma, half, 2, 1, 2),
                ],
                yuv: true,
            },
            PixelFormat::I420 => Self {
                parts: [
                    part(0, whole, 1, 0, 1),
                    part(luma, half, 1, 0, 2),
                    part(luma + quarter, half, 1, 0, 2),
                ],
                yuv: true,
            },
            _ => Self {
                parts: [0, 1, 2].map(|channel| part(0, whole, CHANNELS, channel, 1)),
                yuv: false,
            },
        }
    }

    /// R, G, B of what `read` gives of each plane, by BT.601 of limited range.
    fn colour(&self, read: impl Fn(&Part<'_>, usize) -> f64) -> [f64; CHANNELS] {
        let [a, b, c] = [0, 1, 2].map(|channel| read(&self.parts[channel], channel));
        if !self.yuv {
            return [a, b, c];
        }
        let luma = (a - 16.0) / 219.0;
        let (u, v) = ((b - 128.0) / 224.0, (c - 128.0) / 224.0);
        let (red, blue) = (luma + 1.402 * v, luma + 1.772 * u);
        let green = (luma - 0.299 * red - 0.114 * blue) / 0.587;
        [red, green, blue].map(|value| (value * 255.0).clamp(0.0, 255.0))
    }
}

impl Part<'_> {
    fn get(&self, x: usize, y: usize) -> f64 {
        let (x, y) = (x.min(self.width - 1), y.min(self.height - 1));
        f64::from(self.data[(y * self.width + x) * self.step + self.offset])
    }

    /// What covers pixel (`x`, `y`) of the picture.
    fn at(&self, x: u32, y: u32, _channel: usize) -> f64 {
        self.get((x / self.cover) as usize, (y / self.cover) as usize)
    }

    /// Between the four pixels around (`x`, `y`), in pixels of the picture from its corner.
    fn between(&self, x: f64, y: f64) -> f64 {
        let cover = f64::from(self.cover);
        let (x, y) = ((x / cover - 0.5).max(0.0), (y / cover - 0.5).max(0.0));
        let (left, top) = (x.floor(), y.floor());
        let (across, down) = (x - left, y - top);
        let (left, top) = (left as usize, top as usize);
        let row = |y: usize| self.get(left, y) * (1.0 - across) + self.get(left + 1, y) * across;
        row(top) * (1.0 - down) + row(top + 1) * down
    }
}

/// The whole picture as `width` x `height` pixels of R, G, B, each from the four source pixels around its centre: what
/// a plain bilinear resize does. Beyond a halving it leaves pixels out, and what they held comes back as patterns that
/// were never there.
pub fn bilinear(format: FrameFormat, data: &[u8], (width, height): (u32, u32), out: &mut Vec<u8>) {
    let planes = Planes::of(format, data);
    let scale = |full: u32, small: u32| f64::from(full) / f64::from(small);
    let (across, down) = (scale(format.width, width), scale(format.height, height));
    out.clear();
    for y in 0..height {
        let from_y = (f64::from(y) + 0.5) * down;
        for x in 0..width {
            let from_x = (f64::from(x) + 0.5) * across;
            let rgb = planes.colour(|part, _| part.between(from_x, from_y));
            out.extend(rgb.map(|value| value.round() as u8));
        }
    }
}

/// Peak signal to noise ratio of bytes against bytes, in decibels; `None` when they are the same.
pub fn psnr(values: &[f32], reference: &[f32]) -> Option<f64> {
    let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    let error = values.iter().zip(reference).map(square).sum::<f64>() / values.len() as f64;
    // Less than a rounding of single precision.
    (error > 1e-6).then(|| 10.0 * (255.0 * 255.0 / error).log10())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_shows_the_same_picture() {
        let rgb = Picture::new(PixelFormat::Rgb8, 64, 40);
        for pixels in [PixelFormat::Nv12, PixelFormat::I420] {
            let picture = Picture::new(pixels, 64, 40);
            assert_eq!(picture.data.len(), picture.format.packed_bytes());
            let floats = |bytes: &[u8]| bytes.iter().map(|b| f32::from(*b)).collect::<Vec<_>>();
            let near = psnr(&floats(&picture.rgb), &floats(&rgb.rgb)).unwrap();
            // Chroma is of every fourth pixel only.
            assert!(near > 20.0, "{pixels:?}: {near} dB");
            picture.frame().unwrap();
            picture.as_rgb().unwrap();
        }
    }

    #[test]
    fn plain_bilinear_keeps_the_size_and_averages_four() {
        for pixels in [PixelFormat::Rgb8, PixelFormat::Nv12, PixelFormat::I420] {
            let picture = Picture::new(pixels, 32, 16);
            let mut out = Vec::new();
            bilinear(picture.format, &picture.data, (32, 16), &mut out);
            let same = out.iter().zip(&picture.rgb);
            let off = same.map(|(a, b)| a.abs_diff(*b)).max();
            // Chroma is taken between its pixels, not of the nearest.
            assert!(pixels != PixelFormat::Rgb8 || off == Some(0), "{off:?}");
        }
        let format = FrameFormat::new(PixelFormat::Rgb8, 2, 2);
        let data = [0, 0, 0, 100, 0, 0, 0, 80, 0, 100, 80, 40];
        let mut out = Vec::new();
        bilinear(format, &data, (1, 1), &mut out);
        assert_eq!(out, [50, 40, 10]);
    }

    #[test]
    fn decibels() {
        assert_eq!(psnr(&[1.0, 2.0], &[1.0, 2.0]), None);
        let ten = psnr(&[25.5; 4], &[0.0; 4]).unwrap();
        assert!((ten - 20.0).abs() < 1e-6, "{ten}");
    }
}
