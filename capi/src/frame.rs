//! Frames as C callers describe them.

use atom_core::frame::{
    ColourMatrix, ColourRange, Frame, FrameBuf, FrameFormat, PixelFormat, Plane, Rotation,
};

use crate::boundary::{Outcome, read_struct, sized};
use crate::status::{Failure, atom_status};

/// How pixels lie in memory (atom_frame.pixels).
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_pixels {
    /// Two planes: 8-bit Y; U and V interleaved, at half size in both directions (odd sizes round up).
    NV12 = 1,
    /// Three planes: 8-bit Y, U, V; U and V at half size in both directions (odd sizes round up).
    I420 = 2,
    /// One plane: 8-bit R, G, B interleaved.
    RGB8 = 3,
    /// One plane: 8-bit B, G, R interleaved.
    BGR8 = 4,
    /// One plane: 8-bit luminance.
    GRAY8 = 5,
}

/// YUV to RGB matrix (atom_frame.matrix); ignored for RGB8, BGR8 and GRAY8.
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_matrix {
    /// ITU-R BT.601 (standard definition); the default.
    BT601 = 0,
    /// ITU-R BT.709 (high definition).
    BT709 = 1,
}

/// Range of the samples (atom_frame.range); ignored for RGB8 and BGR8.
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_range {
    /// Y 16 to 235, chroma 16 to 240; the default.
    LIMITED = 0,
    /// 0 to 255.
    FULL = 1,
}

/// One plane of a frame.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_plane {
    /// The first row. Read during the call only.
    pub data: *const u8,
    /// Readable bytes at `data`: at least stride * (rows - 1) + the bytes of one row.
    pub size: usize,
    /// Bytes from the start of a row to the start of the next: at least the bytes of one row.
    pub stride: usize,
}

/// A picture as a camera or decoder delivers it. Set everything; the planes the format does not have may be zero.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_frame {
    /// sizeof(atom_frame).
    pub struct_size: usize,
    /// Capture time in nanoseconds on the stream's own clock; not negative, growing within a stream.
    pub timestamp_ns: i64,
    /// An atom_pixels number; zero is not one.
    pub pixels: u32,
    /// Width in pixels before rotation, 1 to 16384; odd is fine.
    pub width: u32,
    /// Height in pixels before rotation, 1 to 16384; odd is fine.
    pub height: u32,
    /// An atom_matrix number.
    pub matrix: u32,
    /// An atom_range number.
    pub range: u32,
    /// Degrees to turn the picture clockwise to be upright: 0, 90, 180 or 270.
    pub rotation: u32,
    /// The planes, in the order of the format.
    pub planes: [atom_plane; 3],
}
sized!(atom_frame, up to planes: [atom_plane; 3]);

fn format(frame: &atom_frame) -> Outcome<FrameFormat> {
    let unknown = |what: &str, number: u32, one_of: &str| {
        Failure::argument(format!(
            "atom_frame.{what} is {number}: it must be {one_of}"
        ))
    };
    let pixels = match frame.pixels {
        1 => PixelFormat::Nv12,
        2 => PixelFormat::I420,
        3 => PixelFormat::Rgb8,
        4 => PixelFormat::Bgr8,
        5 => PixelFormat::Gray8,
        other => return Err(unknown("pixels", other, "one of ATOM_PIXELS_* (1 to 5)")),
    };
    let matrix = match frame.matrix {
        0 => ColourMatrix::Bt601,
        1 => ColourMatrix::Bt709,
        other => return Err(unknown("matrix", other, "one of ATOM_MATRIX_* (0 or 1)")),
    };
    let range = match frame.range {
        0 => ColourRange::Limited,
        1 => ColourRange::Full,
        other => return Err(unknown("range", other, "one of ATOM_RANGE_* (0 or 1)")),
    };
    let rotation = match frame.rotation {
        0 => Rotation::R0,
        90 => Rotation::R90,
        180 => Rotation::R180,
        270 => Rotation::R270,
        other => return Err(unknown("rotation", other, "0, 90, 180 or 270 degrees")),
    };
    Ok(FrameFormat {
        pixels,
        width: frame.width,
        height: frame.height,
        matrix,
        range,
        rotation,
    })
}

/// A copy of the frame behind a pointer, checked.
///
/// # Safety
/// As [`with_frame`] asks for.
pub(crate) unsafe fn owned_frame(pointer: *const atom_frame) -> Outcome<FrameBuf> {
    // SAFETY: passed on.
    unsafe { with_frame(pointer, |frame| Ok(FrameBuf::from(frame))) }
}

/// The frame behind a pointer, checked; gives it to `with`, as the pixels are borrowed for the call only.
///
/// # Safety
/// `pointer` is NULL or an `atom_frame` whose planes have the readable bytes they state.
pub(crate) unsafe fn with_frame<T>(
    pointer: *const atom_frame,
    with: impl FnOnce(&Frame<'_>) -> Outcome<T>,
) -> Outcome<T> {
    // SAFETY: passed on.
    let frame = unsafe { read_struct(pointer) }?
        .ok_or_else(|| Failure::argument("the atom_frame is NULL"))?;
    let format = format(&frame)?;
    let mut planes = [Plane {
        data: &[][..],
        stride: 0,
    }; 3];
    let count = format.pixels.planes();
    for (index, (plane, given)) in planes.iter_mut().zip(&frame.planes).take(count).enumerate() {
        let bad = |message: String| {
            Failure::new(atom_status::BAD_FRAME, format!("plane {index}: {message}"))
        };
        if given.data.is_null() {
            return Err(bad("data is NULL".into()));
        }
        if given.size > isize::MAX as usize {
            return Err(bad(format!("size of {} bytes is impossible", given.size)));
        }
        *plane = Plane {
            // SAFETY: non-null, of `size` readable bytes by the caller's contract, and not beyond isize::MAX.
            data: unsafe { std::slice::from_raw_parts(given.data, given.size) },
            stride: given.stride,
        };
    }
    with(&Frame::new(format, &planes[..count], frame.timestamp_ns)?)
}
