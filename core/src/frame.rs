//! Frames: pixels as cameras and decoders deliver them.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// How pixels lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelFormat {
    /// 8-bit Y plane, then one plane of interleaved U and V at half size in both directions.
    Nv12,
    /// 8-bit Y, U and V planes, U and V at half size in both directions.
    I420,
    /// 8-bit R, G, B interleaved.
    Rgb8,
    /// 8-bit B, G, R interleaved.
    Bgr8,
    /// 8-bit luminance only.
    Gray8,
}

impl PixelFormat {
    /// Number of planes.
    pub const fn planes(self) -> usize {
        match self {
            Self::Nv12 => 2,
            Self::I420 => 3,
            Self::Rgb8 | Self::Bgr8 | Self::Gray8 => 1,
        }
    }

    /// Bytes in one row and number of rows of `plane`, for a picture of `width` x `height` pixels.
    /// Chroma of odd sizes is rounded up.
    pub const fn plane_size(self, plane: usize, width: u32, height: u32) -> (usize, usize) {
        let (w, h) = (width as usize, height as usize);
        match (self, plane) {
            (Self::Nv12 | Self::I420 | Self::Gray8, 0) => (w, h),
            (Self::Nv12, _) => (w.div_ceil(2) * 2, h.div_ceil(2)),
            (Self::I420, _) => (w.div_ceil(2), h.div_ceil(2)),
            (Self::Rgb8 | Self::Bgr8, _) => (w * 3, h),
            (Self::Gray8, _) => (0, 0),
        }
    }
}

/// YUV to RGB matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColourMatrix {
    /// ITU-R BT.601 (standard definition).
    #[default]
    Bt601,
    /// ITU-R BT.709 (high definition).
    Bt709,
}

/// Range of YUV sample values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColourRange {
    /// Y 16..=235, chroma 16..=240.
    #[default]
    Limited,
    /// 0..=255.
    Full,
}

/// Clockwise turn that puts the picture upright.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// Already upright.
    #[default]
    R0,
    /// A quarter turn clockwise.
    R90,
    /// A half turn.
    R180,
    /// A quarter turn anticlockwise.
    R270,
}

/// Everything about a frame but its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameFormat {
    /// How pixels lie in memory.
    pub pixels: PixelFormat,
    /// Width in pixels before rotation, 1..=[`MAX_SIDE`].
    pub width: u32,
    /// Height in pixels before rotation, 1..=[`MAX_SIDE`].
    pub height: u32,
    /// YUV matrix; ignored for RGB and grey.
    #[serde(default)]
    pub matrix: ColourMatrix,
    /// YUV range; ignored for RGB; honoured for grey.
    #[serde(default)]
    pub range: ColourRange,
    /// Turn to apply.
    #[serde(default)]
    pub rotation: Rotation,
}

/// The largest width or height accepted, in pixels.
pub const MAX_SIDE: u32 = 16_384;

/// Bytes of the largest frame, tightly packed.
pub const MAX_FRAME_BYTES: usize = MAX_SIDE as usize * MAX_SIDE as usize * 3;

impl FrameFormat {
    /// An upright BT.601 limited-range picture.
    pub const fn new(pixels: PixelFormat, width: u32, height: u32) -> Self {
        Self {
            pixels,
            width,
            height,
            matrix: ColourMatrix::Bt601,
            range: ColourRange::Limited,
            rotation: Rotation::R0,
        }
    }

    /// Width and height after the turn.
    pub fn upright_size(&self) -> (u32, u32) {
        match self.rotation {
            Rotation::R0 | Rotation::R180 => (self.width, self.height),
            Rotation::R90 | Rotation::R270 => (self.height, self.width),
        }
    }

    fn check(&self) -> Result<()> {
        if self.width == 0 || self.height == 0 || self.width > MAX_SIDE || self.height > MAX_SIDE {
            return Err(bad(format!(
                "frame of {}x{} pixels: each side must be 1..={MAX_SIDE}",
                self.width, self.height
            )));
        }
        Ok(())
    }

    /// Bytes of a tightly packed picture of this format.
    pub fn packed_bytes(&self) -> usize {
        (0..self.pixels.planes())
            .map(|plane| {
                let (row, rows) = self.pixels.plane_size(plane, self.width, self.height);
                row * rows
            })
            .sum()
    }
}

/// One plane of a frame: rows `stride` bytes apart.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    /// The bytes; the last row may end without the padding of its stride.
    pub data: &'a [u8],
    /// Distance between the starts of two rows in bytes, at least one row's bytes.
    pub stride: usize,
}

/// A borrowed picture with its capture time. Always valid: [`Frame::new`] checks sizes and strides.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    format: FrameFormat,
    planes: [Plane<'a>; 3],
    timestamp_ns: i64,
}

impl<'a> Frame<'a> {
    /// A frame over `planes` (as many as the format has), captured at `timestamp_ns`
    /// (nanoseconds on the stream's own clock, not negative).
    ///
    /// # Errors
    /// [`ErrorKind::BadFrame`] when a side is zero or above [`MAX_SIDE`], a stride is shorter than its row, a plane
    /// is too short, or the number of planes is wrong.
    pub fn new(format: FrameFormat, planes: &[Plane<'a>], timestamp_ns: i64) -> Result<Self> {
        format.check()?;
        if timestamp_ns < 0 {
            return Err(bad(format!("frame time of {timestamp_ns} ns is negative")));
        }
        let want = format.pixels.planes();
        if planes.len() != want {
            return Err(bad(format!(
                "{:?} frame with {} planes, {want} needed",
                format.pixels,
                planes.len()
            )));
        }
        let empty = Plane {
            data: &[],
            stride: 0,
        };
        let mut kept = [empty; 3];
        for (index, plane) in planes.iter().enumerate() {
            let (row, rows) = format.pixels.plane_size(index, format.width, format.height);
            if plane.stride < row {
                return Err(bad(format!(
                    "plane {index}: stride of {} bytes is shorter than its row of {row} bytes",
                    plane.stride
                )));
            }
            let need = plane
                .stride
                .checked_mul(rows - 1)
                .and_then(|all| all.checked_add(row))
                .ok_or_else(|| {
                    bad(format!(
                        "plane {index}: stride of {} bytes overflows",
                        plane.stride
                    ))
                })?;
            if plane.data.len() < need {
                return Err(bad(format!(
                    "plane {index}: {} bytes given, {need} needed for {}x{} with stride {}",
                    plane.data.len(),
                    format.width,
                    format.height,
                    plane.stride
                )));
            }
            kept[index] = *plane;
        }
        Ok(Self {
            format,
            planes: kept,
            timestamp_ns,
        })
    }

    /// A frame over one tightly packed buffer, planes one after another.
    ///
    /// # Errors
    /// As [`Frame::new`].
    pub fn packed(format: FrameFormat, data: &'a [u8], timestamp_ns: i64) -> Result<Self> {
        format.check()?;
        if data.len() < format.packed_bytes() {
            return Err(bad(format!(
                "{} bytes given, {} needed for a packed {:?} frame of {}x{}",
                data.len(),
                format.packed_bytes(),
                format.pixels,
                format.width,
                format.height
            )));
        }
        let mut planes = [Plane {
            data: &[][..],
            stride: 0,
        }; 3];
        let mut rest = data;
        let count = format.pixels.planes();
        for (index, plane) in planes.iter_mut().enumerate().take(count) {
            let (row, rows) = format.pixels.plane_size(index, format.width, format.height);
            let (head, tail) = rest.split_at(row * rows);
            *plane = Plane {
                data: head,
                stride: row,
            };
            rest = tail;
        }
        Self::new(format, &planes[..count], timestamp_ns)
    }

    /// The frame's format.
    pub fn format(&self) -> FrameFormat {
        self.format
    }

    /// Plane `index`; empty when the format has fewer planes.
    pub fn plane(&self, index: usize) -> Plane<'a> {
        self.planes.get(index).copied().unwrap_or(Plane {
            data: &[],
            stride: 0,
        })
    }

    /// Capture time in nanoseconds on the stream's own clock.
    pub fn timestamp_ns(&self) -> i64 {
        self.timestamp_ns
    }
}

/// An owned picture, tightly packed. Its allocation is reused by [`FrameBuf::copy_from`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedFrame")]
pub struct FrameBuf {
    format: FrameFormat,
    data: Vec<u8>,
    timestamp_ns: i64,
}

/// A [`FrameBuf`] as it was received: its bytes may not fit its format.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedFrame {
    format: FrameFormat,
    data: Vec<u8>,
    timestamp_ns: i64,
}

impl TryFrom<UncheckedFrame> for FrameBuf {
    type Error = Error;

    fn try_from(frame: UncheckedFrame) -> Result<Self> {
        Self::from_vec(frame.format, frame.data, frame.timestamp_ns)
    }
}

impl From<&Frame<'_>> for FrameBuf {
    fn from(frame: &Frame<'_>) -> Self {
        let mut copy = Self::with_capacity(frame.format.packed_bytes());
        copy.copy_from(frame);
        copy
    }
}

impl FrameBuf {
    /// An empty grey pixel with room for `bytes` bytes, to be filled by [`copy_from`](Self::copy_from).
    pub fn with_capacity(bytes: usize) -> Self {
        let mut data = Vec::with_capacity(bytes.max(1));
        data.push(0);
        Self {
            format: FrameFormat::new(PixelFormat::Gray8, 1, 1),
            data,
            timestamp_ns: 0,
        }
    }

    /// As [`with_capacity`](Self::with_capacity), with its memory already in place: the first copy meets no page fault.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfBudget`] when there is not so much memory.
    pub(crate) fn preallocated(bytes: usize) -> Result<Self> {
        let mut frame = Self::with_capacity(0);
        frame.data.clear();
        frame.data.try_reserve_exact(bytes.max(1)).map_err(|_| {
            Error::new(
                ErrorKind::OutOfBudget,
                format!("no memory for a frame of {bytes} bytes"),
            )
            .remedy("say the size of the largest frame that will come, not more")
        })?;
        // Not zero: zeroed memory would be handed out by the kernel page by page, later.
        frame.data.resize(bytes.max(1), 1);
        frame.data.truncate(1);
        Ok(frame)
    }

    /// Takes over a tightly packed buffer.
    ///
    /// # Errors
    /// As [`Frame::packed`].
    pub fn from_vec(format: FrameFormat, mut data: Vec<u8>, timestamp_ns: i64) -> Result<Self> {
        Frame::packed(format, &data, timestamp_ns)?;
        data.truncate(format.packed_bytes());
        Ok(Self {
            format,
            data,
            timestamp_ns,
        })
    }

    /// Bytes this buffer can hold without allocating.
    pub fn capacity(&self) -> usize {
        self.data.capacity()
    }

    /// Copies `frame` in, dropping row padding. Allocates only when the frame is larger than every one before.
    pub fn copy_from(&mut self, frame: &Frame<'_>) {
        self.format = frame.format;
        self.timestamp_ns = frame.timestamp_ns;
        self.data.clear();
        for index in 0..frame.format.pixels.planes() {
            let (row, rows) =
                frame
                    .format
                    .pixels
                    .plane_size(index, frame.format.width, frame.format.height);
            let plane = frame.planes[index];
            for y in 0..rows {
                let start = y * plane.stride;
                self.data.extend_from_slice(&plane.data[start..start + row]);
            }
        }
    }

    /// The picture, borrowed.
    ///
    /// # Errors
    /// Never for a buffer made by this module; the checks of [`Frame::packed`] are run again.
    pub fn as_frame(&self) -> Result<Frame<'_>> {
        Frame::packed(self.format, &self.data, self.timestamp_ns)
    }

    /// Capture time in nanoseconds on the stream's own clock.
    pub fn timestamp_ns(&self) -> i64 {
        self.timestamp_ns
    }
}

impl Default for FrameBuf {
    /// One grey pixel without memory of its own to speak of.
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

fn bad(message: String) -> Error {
    Error::new(ErrorKind::BadFrame, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_oversized_frames_are_refused() {
        for (w, h) in [(0, 4), (4, 0), (MAX_SIDE + 1, 4), (4, u32::MAX)] {
            let format = FrameFormat::new(PixelFormat::Gray8, w, h);
            let error = Frame::packed(format, &[0; 64], 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadFrame, "{w}x{h}");
        }
    }

    #[test]
    fn short_stride_and_short_plane_are_named() {
        let format = FrameFormat::new(PixelFormat::Nv12, 5, 3);
        let y = [0; 15];
        let plane = |data, stride| Plane { data, stride };
        let uv = [0; 12];
        assert!(Frame::new(format, &[plane(&y, 5), plane(&uv, 6)], 0).is_ok());
        let error = Frame::new(format, &[plane(&y, 4), plane(&uv, 6)], 0).unwrap_err();
        assert!(error.message().contains("stride of 4"), "{error}");
        let error = Frame::new(format, &[plane(&y, 5), plane(&uv[..11], 6)], 0).unwrap_err();
        assert!(
            error.message().contains("11 bytes given, 12 needed"),
            "{error}"
        );
        assert!(Frame::new(format, &[plane(&y, 5)], 0).is_err());
        assert!(Frame::new(format, &[plane(&y, usize::MAX), plane(&uv, 6)], 0).is_err());
    }

    #[test]
    fn copy_drops_padding_and_keeps_odd_chroma() {
        let format = FrameFormat::new(PixelFormat::I420, 3, 3);
        let y: Vec<u8> = (0..12).collect();
        let u: Vec<u8> = (20..26).collect();
        let v: Vec<u8> = (30..36).collect();
        let planes = [(&y, 4), (&u, 3), (&v, 3)].map(|(data, stride)| Plane { data, stride });
        let frame = Frame::new(format, &planes, 7).unwrap();
        let mut copy = FrameBuf::with_capacity(0);
        copy.copy_from(&frame);
        assert_eq!(
            copy.data,
            [0, 1, 2, 4, 5, 6, 8, 9, 10, 20, 21, 23, 24, 30, 31, 33, 34]
        );
        assert_eq!(copy.as_frame().unwrap().timestamp_ns(), 7);
    }
}
