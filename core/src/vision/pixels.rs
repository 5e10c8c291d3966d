//! Part of a frame as interleaved R G B, and the turn that puts it upright.

use fast_image_resize::images::{ImageRef, TypedImage};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, IntoImageView, ResizeAlg, ResizeOptions, Resizer};
use yuv::{
    YuvBiPlanarImage, YuvConversionMode, YuvError, YuvGrayImage, YuvPlanarImage, YuvRange,
    YuvStandardMatrix,
};

use crate::error::{Error, ErrorKind, Result};
use crate::frame::{ColourMatrix, ColourRange, Frame, PixelFormat, Plane, Rotation};

/// Bytes of a pixel.
pub(super) const CHANNELS: usize = 3;

/// A rectangle in the pixels of a stored (not yet turned) frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Rect {
    /// With `x` more on the left and right and `y` more above and below.
    pub(super) fn grown(self, x: f64, y: f64) -> Self {
        Self {
            left: self.left - x,
            top: self.top - y,
            width: self.width + 2.0 * x,
            height: self.height + 2.0 * y,
        }
    }

    /// The smallest that holds both.
    pub(super) fn union(self, other: Self) -> Self {
        let (left, top) = (self.left.min(other.left), self.top.min(other.top));
        let right = (self.left + self.width).max(other.left + other.width);
        let bottom = (self.top + self.height).max(other.top + other.height);
        Self {
            left,
            top,
            width: right - left,
            height: bottom - top,
        }
    }
}

/// Width and height after the turn.
pub(super) fn upright(rotation: Rotation, (width, height): (u32, u32)) -> (u32, u32) {
    match rotation {
        Rotation::R0 | Rotation::R180 => (width, height),
        Rotation::R90 | Rotation::R270 => (height, width),
    }
}

/// Where the pixel at (`x`, `y`) of an upright picture of `width` x `height` lies in the picture before the turn,
/// as an index into its pixels.
pub(super) fn before_turn(
    rotation: Rotation,
    (width, height): (usize, usize),
    (x, y): (usize, usize),
) -> usize {
    match rotation {
        Rotation::R0 => y * width + x,
        Rotation::R90 => (width - 1 - x) * height + y,
        Rotation::R180 => (height - 1 - y) * width + (width - 1 - x),
        Rotation::R270 => x * height + (height - 1 - y),
    }
}

/// R G B pixels of part of a frame. Its buffers are reused from frame to frame.
#[derive(Debug, Default)]
pub(super) struct Rgb {
    data: Vec<u8>,
    left: u32,
    top: u32,
    width: u32,
    height: u32,
    resizer: Resizer,
}

impl Rgb {
    /// Converts the pixels of `frame` that `part` touches; it may reach beyond the frame.
    pub(super) fn load(&mut self, frame: &Frame<'_>, part: Rect) -> Result<()> {
        let format = frame.format();
        // Chroma is shared by pairs of pixels, so a part starts at an even pixel.
        let first = |at: f64| (at.max(0.0) as u32) & !1;
        let last = |at: f64, limit: u32| (at.ceil().max(0.0) as u32).next_multiple_of(2).min(limit);
        self.left = first(part.left);
        self.top = first(part.top);
        self.width = last(part.left + part.width, format.width).saturating_sub(self.left);
        self.height = last(part.top + part.height, format.height).saturating_sub(self.top);
        if self.width == 0 || self.height == 0 {
            return Err(Error::new(
                ErrorKind::Internal,
                format!(
                    "an empty part of a {}x{} frame",
                    format.width, format.height
                ),
            ));
        }
        let row = self.width as usize * CHANNELS;
        self.data.resize(row * self.height as usize, 0);
        // The converter leaves out a last row that ends before its stride does, as the last row of a part does. So all
        // rows but the last one or two are converted at once, those one by one.
        let whole = (self.height - 1) & !1;
        let (body, tail) = self.data.split_at_mut(whole as usize * row);
        let source = Source {
            frame,
            left: self.left as usize,
            width: self.width,
        };
        if whole > 0 {
            source.convert(self.top, whole, body)?;
        }
        for (line, y) in tail.chunks_exact_mut(row).zip(self.top + whole..) {
            source.convert(y, 1, line)?;
        }
        Ok(())
    }

    /// Resizes `part` (in pixels of the frame, inside what was loaded) to `width` x `height` pixels in `out`, which is
    /// made as large as needed, antialiased as Pillow does it.
    pub(super) fn resize(
        &mut self,
        part: Rect,
        filter: FilterType,
        (width, height): (u32, u32),
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| {
            Error::new(
                ErrorKind::Internal,
                format!("resizing to {width}x{height}: {e}"),
            )
        };
        out.resize(width as usize * height as usize * CHANNELS, 0);
        let source = ImageRef::new(
            self.width,
            self.height,
            &self.data,
            fast_image_resize::PixelType::U8x3,
        )
        .map_err(|e| failed(&e))?;
        let mut target =
            TypedImage::<U8x3>::from_buffer(width, height, out).map_err(|e| failed(&e))?;
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(filter))
            .crop(
                part.left - f64::from(self.left),
                part.top - f64::from(self.top),
                part.width,
                part.height,
            );
        let source = source
            .image_view::<U8x3>()
            .ok_or_else(|| failed(&"pixel types differ"))?;
        self.resizer
            .resize_typed(&source, &mut target, &options)
            .map_err(|e| failed(&e))
    }
}

/// A band of a frame, `width` pixels from `left`.
struct Source<'a> {
    frame: &'a Frame<'a>,
    left: usize,
    width: u32,
}

impl Source<'_> {
    /// Rows `y..y + rows` of a plane from byte `left` on: whole strides for several rows, `bytes` for one.
    fn band(&self, plane: usize, left: usize, y: u32, rows: u32, bytes: usize) -> (&[u8], u32) {
        let Plane { data, stride } = self.frame.plane(plane);
        let start = y as usize * stride + left;
        if rows == 1 {
            (&data[start..start + bytes], bytes as u32)
        } else {
            (&data[start..start + rows as usize * stride], stride as u32)
        }
    }

    /// Converts rows `y..y + rows`; `y` is even or `rows` is 1, and if `rows` is not 1, more rows follow them.
    fn convert(&self, y: u32, rows: u32, out: &mut [u8]) -> Result<()> {
        let format = self.frame.format();
        let (width, height) = (self.width, rows);
        let stride = width * CHANNELS as u32;
        let range = match format.range {
            ColourRange::Limited => YuvRange::Limited,
            ColourRange::Full => YuvRange::Full,
        };
        let matrix = match format.matrix {
            ColourMatrix::Bt601 => YuvStandardMatrix::Bt601,
            ColourMatrix::Bt709 => YuvStandardMatrix::Bt709,
        };
        let luma = || self.band(0, self.left, y, rows, width as usize);
        let half = rows.div_ceil(2);
        let chroma = width.div_ceil(2) as usize;
        let packed = || {
            let bytes = width as usize * CHANNELS;
            self.band(0, self.left * CHANNELS, y, rows, bytes)
        };
        let done = match format.pixels {
            PixelFormat::Nv12 => {
                let (y_plane, y_stride) = luma();
                let (uv_plane, uv_stride) = self.band(1, self.left, y / 2, half, chroma * 2);
                let image = YuvBiPlanarImage {
                    y_plane,
                    y_stride,
                    uv_plane,
                    uv_stride,
                    width,
                    height,
                };
                let mode = YuvConversionMode::Balanced;
                yuv::yuv_nv12_to_rgb(&image, out, stride, range, matrix, mode)
            }
            PixelFormat::I420 => {
                let (y_plane, y_stride) = luma();
                let (u_plane, u_stride) = self.band(1, self.left / 2, y / 2, half, chroma);
                let (v_plane, v_stride) = self.band(2, self.left / 2, y / 2, half, chroma);
                let image = YuvPlanarImage {
                    y_plane,
                    y_stride,
                    u_plane,
                    u_stride,
                    v_plane,
                    v_stride,
                    width,
                    height,
                };
                yuv::yuv420_to_rgb(&image, out, stride, range, matrix)
            }
            PixelFormat::Gray8 => {
                let (y_plane, y_stride) = luma();
                let image = YuvGrayImage {
                    y_plane,
                    y_stride,
                    width,
                    height,
                };
                yuv::yuv400_to_rgb(&image, out, stride, range, matrix)
            }
            PixelFormat::Bgr8 => {
                let (data, from) = packed();
                yuv::bgr_to_rgb(data, from, out, stride, width, height)
            }
            PixelFormat::Rgb8 => {
                let (data, from) = packed();
                let bytes = stride as usize;
                let rows = data.chunks(from as usize).zip(out.chunks_exact_mut(bytes));
                rows.for_each(|(from, to)| to.copy_from_slice(&from[..bytes]));
                Ok(())
            }
        };
        done.map_err(|e: YuvError| {
            Error::new(
                ErrorKind::Internal,
                format!("{:?} to RGB: {e}", format.pixels),
            )
        })
    }
}
