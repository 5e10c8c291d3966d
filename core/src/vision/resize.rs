//! Part of a frame at another size, antialiased, as interleaved R G B.

use std::fmt::Display;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x2};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer as Convolution};

use super::pillow::Axis;
use super::pixels::{CHANNELS, Columns, Rect, planes_to_rgb};
use super::shrink::{self, Shrink};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::{Frame, PixelFormat, Plane};
use crate::pack::Resample;
use crate::trace;

/// Rows converted at a time, even: what a band needs stays in the processor's cache.
const BAND: u32 = 32;

/// Resizes parts of frames. Its buffers are reused from frame to frame.
///
/// RGB becomes what Pillow makes of it, value for value. A frame with subsampled chroma that is at least halved is
/// resized plane by plane and only the small picture is converted, which costs a fraction; values then differ from
/// Pillow's on the converted frame by rounding and at clipped colours.
#[derive(Debug, Default)]
pub(super) struct Resizer {
    convolution: Convolution,
    /// Across and down, of the picture or its luma, then of its chroma.
    axes: [[Axis; 2]; 2],
    band: Vec<u8>,
    narrow: Vec<u8>,
    sums: Vec<i32>,
    /// A plane with its final number of rows.
    short: Vec<u8>,
    shrink: Shrink,
    luma: Vec<u8>,
    chroma: [Vec<u8>; 2],
}

impl Resizer {
    /// Resizes `part` of `frame`, in pixels as stored, to `size` pixels in `out`, which is made as large as needed. Pixels
    /// just outside of `part` count as far as the filter reaches, as with Pillow's `box`.
    pub(super) fn run(
        &mut self,
        frame: &Frame<'_>,
        part: Rect,
        resample: Resample,
        size: (u32, u32),
        out: &mut Vec<u8>,
    ) -> Result<()> {
        out.resize(size.0 as usize * size.1 as usize * CHANNELS, 0);
        if by_planes(frame, part, size) && resample != Resample::Nearest {
            self.planes(frame, part, resample, size, out)
        } else {
            self.rgb(frame, part, resample, size, out)
        }
    }

    /// About how many bytes of buffers resizing `part` of `frame` to `size` pixels takes.
    pub(super) fn buffer_bytes(frame: &Frame<'_>, part: Rect, size: (u32, u32)) -> u64 {
        let (width, height) = (part.width.ceil() as u64, part.height.ceil() as u64);
        let (to_width, to_height) = (u64::from(size.0), u64::from(size.1));
        if by_planes(frame, part, size) {
            // One plane at a time at its full width, the small ones, and what resizing along the rows needs.
            (width + to_width * 5 / 2) * to_height
        } else {
            (height * to_width + u64::from(BAND) * width) * CHANNELS as u64
        }
    }

    /// Gives its buffers up.
    pub(super) fn give_back(&mut self) {
        *self = Self {
            axes: std::mem::take(&mut self.axes),
            ..Self::default()
        };
    }

    /// Converts band by band and resizes each along its rows, then all of them along the columns.
    fn rgb(
        &mut self,
        frame: &Frame<'_>,
        part: Rect,
        resample: Resample,
        (width, height): (u32, u32),
        out: &mut [u8],
    ) -> Result<()> {
        let format = frame.format();
        let [across, down] = &mut self.axes[0];
        across.set(resample, format.width, part.left, part.width, width);
        down.set(resample, format.height, part.top, part.height, height);
        let (columns, lines) = (across.reach(), down.reach());
        // Chroma is shared by pairs of pixels, so conversion starts at even ones.
        let (left, top) = (columns.start & !1, lines.start & !1);
        let extra = (columns.start - left) as usize * CHANNELS;
        let source = Columns {
            frame,
            left: left as usize,
            width: columns.end - left,
        };
        let row = source.width as usize * CHANNELS;
        let made = width as usize * CHANNELS;
        let span = trace::span("vision", "rows");
        self.narrow.resize((lines.end - top) as usize * made, 0);
        let mut done = self.narrow.chunks_exact_mut(made);
        for y in (top..lines.end).step_by(BAND as usize) {
            let rows = BAND.min(lines.end - y);
            self.band.resize(row * rows as usize, 0);
            source.to_rgb(y, rows, &mut self.band)?;
            for (line, out) in self.band.chunks_exact(row).zip(&mut done) {
                across.along_rows(&line[extra..], out);
            }
        }
        drop(span);
        let _span = trace::span("vision", "columns");
        let above = (lines.start - top) as usize * made;
        down.along_columns(width, &self.narrow[above..], &mut self.sums, out);
        Ok(())
    }

    /// Resizes every plane and converts the small ones.
    fn planes(
        &mut self,
        frame: &Frame<'_>,
        part: Rect,
        resample: Resample,
        size: (u32, u32),
        out: &mut [u8],
    ) -> Result<()> {
        let format = frame.format();
        let (width, height) = (format.width, format.height);
        let half = (width.div_ceil(2), height.div_ceil(2));
        let chroma = Rect {
            left: part.left / 2.0,
            top: part.top / 2.0,
            width: part.width / 2.0,
            height: part.height / 2.0,
        };
        let Self {
            convolution,
            axes: [of_luma, of_chroma],
            short,
            shrink,
            luma,
            chroma: [first, second],
            ..
        } = self;
        let mut plane = Planes {
            convolution,
            short,
            shrink,
            resample,
            size,
        };
        let span = trace::span("vision", "luma");
        plane.resize::<U8>(frame.plane(0), (width, height), part, of_luma, luma)?;
        drop(span);
        let span = trace::span("vision", "chroma");
        if format.pixels == PixelFormat::Nv12 {
            plane.resize::<U8x2>(frame.plane(1), half, chroma, of_chroma, first)?;
        } else {
            plane.resize::<U8>(frame.plane(1), half, chroma, of_chroma, first)?;
            plane.resize::<U8>(frame.plane(2), half, chroma, of_chroma, second)?;
        }
        drop(span);
        let _span = trace::span("vision", "colour");
        planes_to_rgb(format, size, luma, &self.chroma, out)
    }
}

/// Whether the planes are resized, and only the small picture is converted.
fn by_planes(frame: &Frame<'_>, part: Rect, size: (u32, u32)) -> bool {
    let subsampled = matches!(frame.format().pixels, PixelFormat::Nv12 | PixelFormat::I420);
    let halved = part.width >= f64::from(size.0) * 2.0 && part.height >= f64::from(size.1) * 2.0;
    let possible = part.height <= f64::from(size.1) * shrink::MOST;
    subsampled && halved && possible
}

/// What resizing any plane of one frame needs.
struct Planes<'a> {
    convolution: &'a mut Convolution,
    short: &'a mut Vec<u8>,
    shrink: &'a mut Shrink,
    resample: Resample,
    size: (u32, u32),
}

impl Planes<'_> {
    /// Resizes `part` of a plane of `width` x `height` pixels of type `P`: first along the columns, where most is left out
    /// and neighbours lie side by side.
    fn resize<P: PixelTrait>(
        &mut self,
        plane: Plane<'_>,
        (width, height): (u32, u32),
        part: Rect,
        [across, down]: &mut [Axis; 2],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let pixel = P::size();
        across.set(self.resample, width, part.left, part.width, self.size.0);
        down.set(self.resample, height, part.top, part.height, self.size.1);
        // One more on each side: the other library may round a boundary differently.
        let reach = across.reach();
        let (left, right) = (reach.start.saturating_sub(1), (reach.end + 1).min(width));
        let columns = left as usize * pixel..right as usize * pixel;
        self.shrink.run(down, plane, columns, self.short);
        let source = TypedImageRef::<P>::from_buffer(right - left, self.size.1, self.short);
        out.resize(self.size.0 as usize * self.size.1 as usize * pixel, 0);
        let mut target = TypedImage::<P>::from_buffer(self.size.0, self.size.1, out)
            .map_err(|e| failed(self.size, &e))?;
        let filter = match self.resample {
            Resample::Nearest | Resample::Box => FilterType::Box,
            Resample::Hamming => FilterType::Hamming,
            Resample::Bilinear => FilterType::Bilinear,
            Resample::Bicubic => FilterType::CatmullRom,
            Resample::Lanczos3 => FilterType::Lanczos3,
        };
        // Rounding must not leave the picture.
        let start = (part.left - f64::from(left)).max(0.0);
        let length = part.width.min(f64::from(right - left) - start);
        let options = ResizeOptions::new()
            // Two channels are U and V, not grey and opacity.
            .use_alpha(false)
            .resize_alg(ResizeAlg::Convolution(filter))
            .crop(start, 0.0, length, f64::from(self.size.1));
        self.convolution
            .resize_typed(&view(source)?, &mut target, &options)
            .map_err(|e| failed(self.size, &e))
    }
}

fn view<V>(view: std::result::Result<V, impl Display>) -> Result<V> {
    view.map_err(|e| Error::new(ErrorKind::Internal, format!("a picture to resize: {e}")))
}

fn failed((width, height): (u32, u32), error: &dyn Display) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("resizing to {width}x{height}: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameFormat;

    #[test]
    fn what_buffers_take_is_known_before() -> Result<()> {
        let cases = [
            (PixelFormat::Rgb8, (640, 360), (512, 288)),
            (PixelFormat::Rgb8, (360, 640), (90, 160)),
            (PixelFormat::Nv12, (1920, 1080), (512, 288)),
            (PixelFormat::I420, (4000, 3000), (256, 192)),
            // Of a very tall frame little is seen.
            (PixelFormat::Rgb8, (64, 16_384), (512, 512)),
        ];
        for (pixels, (width, height), size) in cases {
            let format = FrameFormat::new(pixels, width, height);
            let data = vec![0; format.packed_bytes()];
            let frame = Frame::packed(format, &data, 0)?;
            let part = Rect {
                left: 0.0,
                top: 0.0,
                width: f64::from(width),
                height: f64::from(height.min(width * 2)),
            };
            let (mut resizer, mut out) = (Resizer::default(), Vec::new());
            resizer.run(&frame, part, Resample::Bicubic, size, &mut out)?;
            let bytes = [&resizer.band, &resizer.narrow, &resizer.short];
            let planes = [&resizer.luma, &resizer.chroma[0], &resizer.chroma[1]];
            let bytes = bytes
                .into_iter()
                .chain(planes)
                .map(Vec::capacity)
                .sum::<usize>();
            let sums = resizer.sums.capacity() * size_of::<i32>();
            let convolution = resizer.convolution.size_of_internal_buffers();
            let held = (bytes + sums + convolution) as f64;
            let told = Resizer::buffer_bytes(&frame, part, size) as f64;
            let near = told >= held * 0.8 && told <= held * 2.0;
            assert!(
                near,
                "{pixels:?} {width}x{height}: {told} told, {held} held"
            );
            resizer.give_back();
            assert_eq!(resizer.narrow.capacity() + resizer.short.capacity(), 0);
        }
        Ok(())
    }
}
