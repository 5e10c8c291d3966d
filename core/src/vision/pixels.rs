//! Rows of a frame as interleaved R G B, and the turn that puts a picture upright.

use yuv::{
    YuvBiPlanarImage, YuvConversionMode, YuvError, YuvGrayImage, YuvPlanarImage, YuvRange,
    YuvStandardMatrix,
};

use crate::error::{Error, ErrorKind, Result};
use crate::frame::{ColourMatrix, ColourRange, Frame, FrameFormat, PixelFormat, Plane, Rotation};

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

/// Columns of a frame: `width` of them from the even column `left` on.
pub(super) struct Columns<'a> {
    pub(super) frame: &'a Frame<'a>,
    pub(super) left: usize,
    pub(super) width: u32,
}

impl Columns<'_> {
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

    /// Rows `y..y + rows` as R G B; `y` is even.
    pub(super) fn to_rgb(&self, y: u32, rows: u32, out: &mut [u8]) -> Result<()> {
        let row = self.width as usize * CHANNELS;
        // The converter leaves out a last row that ends before its stride does, as the last row of a frame does. So the
        // last one or two rows are converted one by one.
        let whole = match y + rows < self.frame.format().height {
            true if rows.is_multiple_of(2) => rows,
            _ => (rows.max(1) - 1) & !1,
        };
        let (body, tail) = out.split_at_mut(whole as usize * row);
        if whole > 0 {
            self.convert(y, whole, body)?;
        }
        for (line, y) in tail.chunks_exact_mut(row).zip(y + whole..y + rows) {
            self.convert(y, 1, line)?;
        }
        Ok(())
    }

    /// Converts rows `y..y + rows`; `y` is even or `rows` is 1, and if `rows` is not 1, more rows follow them.
    fn convert(&self, y: u32, rows: u32, out: &mut [u8]) -> Result<()> {
        let format = self.frame.format();
        let (width, height) = (self.width, rows);
        let stride = width * CHANNELS as u32;
        let (range, matrix) = colours(format);
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
        done.map_err(|e| not_converted(format, &e))
    }
}

/// Luma and chroma of the same size, packed, as R G B. `chroma` is one plane of pairs or two planes.
pub(super) fn planes_to_rgb(
    format: FrameFormat,
    (width, height): (u32, u32),
    luma: &[u8],
    chroma: &[Vec<u8>; 2],
    out: &mut [u8],
) -> Result<()> {
    let (range, matrix) = colours(format);
    let stride = width * CHANNELS as u32;
    let [first, second] = chroma;
    let done = if format.pixels == PixelFormat::Nv12 {
        let image = YuvBiPlanarImage {
            y_plane: luma,
            y_stride: width,
            uv_plane: first,
            uv_stride: width * 2,
            width,
            height,
        };
        let mode = YuvConversionMode::Balanced;
        yuv::yuv_nv24_to_rgb(&image, out, stride, range, matrix, mode)
    } else {
        let image = YuvPlanarImage {
            y_plane: luma,
            y_stride: width,
            u_plane: first,
            u_stride: width,
            v_plane: second,
            v_stride: width,
            width,
            height,
        };
        yuv::yuv444_to_rgb(&image, out, stride, range, matrix)
    };
    done.map_err(|e| not_converted(format, &e))
}

fn colours(format: FrameFormat) -> (YuvRange, YuvStandardMatrix) {
    let range = match format.range {
        ColourRange::Limited => YuvRange::Limited,
        ColourRange::Full => YuvRange::Full,
    };
    let matrix = match format.matrix {
        ColourMatrix::Bt601 => YuvStandardMatrix::Bt601,
        ColourMatrix::Bt709 => YuvStandardMatrix::Bt709,
    };
    (range, matrix)
}

fn not_converted(format: FrameFormat, error: &YuvError) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("{:?} to RGB: {error}", format.pixels),
    )
}
