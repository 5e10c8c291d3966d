//! An 8-bit RGB picture, and what is done with it before a model reads it: each operation gives the bytes that Pillow and
//! NumPy give in Hugging Face's image processors.

use super::pillow::Axis;
use super::pixels::{CHANNELS, Columns, before_turn, upright};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::{Frame, Rotation};
use crate::pack::{At, Resample};

/// A resize makes at most so many pixels, those between its two passes included: more would be a thin picture stretched beyond
/// any model's input.
const MOST_PIXELS: u64 = 1 << 27;

/// An upright picture, R G B interleaved.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rgb {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) data: Vec<u8>,
}

impl Rgb {
    /// The whole of `frame`, upright.
    pub(super) fn new(frame: &Frame<'_>) -> Result<Self> {
        let format = frame.format();
        let (width, height) = (format.width, format.height);
        let mut data = vec![0; bytes(width, height)];
        let columns = Columns {
            frame,
            left: 0,
            width,
        };
        columns.to_rgb(0, height, &mut data)?;
        if format.rotation == Rotation::R0 {
            return Ok(Self {
                width,
                height,
                data,
            });
        }
        let (width, height) = upright(format.rotation, (width, height));
        let mut turned = Vec::with_capacity(data.len());
        let size = (width as usize, height as usize);
        let pixels = data.as_chunks::<CHANNELS>().0;
        for y in 0..size.1 {
            for x in 0..size.0 {
                turned.extend_from_slice(&pixels[before_turn(format.rotation, size, (x, y))]);
            }
        }
        Ok(Self {
            width,
            height,
            data: turned,
        })
    }

    /// One colour everywhere.
    fn plain(width: u32, height: u32, colour: [u8; CHANNELS]) -> Self {
        Self {
            width,
            height,
            data: colour.repeat(width as usize * height as usize),
        }
    }

    /// The picture at another size, as Pillow 13's `Image.resize` makes it: one pass for each side that changes, each rounded
    /// to bytes. The columns go first where they lose more than twice as many pixels as the rows.
    ///
    /// # Errors
    /// [`ErrorKind::BadFrame`] for a size of too many pixels.
    pub(super) fn resized(&self, width: u32, height: u32, resample: Resample) -> Result<Self> {
        check_size(self, width, height)?;
        if (width, height) == (self.width, self.height) {
            return Ok(self.clone());
        }
        Ok(
            match down_first((self.width, self.height), (width, height)) {
                true => self.down(height, resample).across(width, resample),
                false => self.across(width, resample).down(height, resample),
            },
        )
    }

    /// Another width.
    fn across(&self, width: u32, resample: Resample) -> Self {
        if width == self.width {
            return self.clone();
        }
        let axis = axis(resample, self.width, width);
        let reach = axis.reach();
        let reach = reach.start as usize * CHANNELS..reach.end as usize * CHANNELS;
        let mut made = Self::plain(width, self.height, [0; CHANNELS]);
        let rows = self.data.chunks_exact(self.width as usize * CHANNELS);
        let outs = made.data.chunks_exact_mut(width as usize * CHANNELS);
        for (row, out) in rows.zip(outs) {
            axis.along_rows(&row[reach.clone()], out);
        }
        made
    }

    /// Another height.
    fn down(&self, height: u32, resample: Resample) -> Self {
        if height == self.height {
            return self.clone();
        }
        let axis = axis(resample, self.height, height);
        let above = axis.reach().start as usize * self.width as usize * CHANNELS;
        let mut made = Self::plain(self.width, height, [0; CHANNELS]);
        let mut sums = Vec::new();
        axis.along_columns(self.width, &self.data[above..], &mut sums, &mut made.data);
        made
    }

    /// The middle of the picture; black where the picture is smaller. An odd rest is rounded as Hugging Face's `center_crop`
    /// does.
    pub(super) fn cropped(&self, width: u32, height: u32) -> Self {
        let place = |have: u32, want: u32| match have >= want {
            true => ((have - want) / 2, 0),
            false => (0, (want - have).div_ceil(2)),
        };
        let ((left, to_left), (top, to_top)) =
            (place(self.width, width), place(self.height, height));
        let mut made = Self::plain(width, height, [0; CHANNELS]);
        let part = self.part(left, top, width.min(self.width), height.min(self.height));
        made.put(&part, to_left, to_top);
        made
    }

    /// The picture in a larger one of `colour`, and where it lies there.
    ///
    /// # Errors
    /// [`ErrorKind::BadFrame`] for a picture that is larger.
    pub(super) fn padded(
        &self,
        width: u32,
        height: u32,
        colour: [u8; CHANNELS],
        at: At,
    ) -> Result<(Self, Area)> {
        if self.width > width || self.height > height {
            return Err(Error::new(
                ErrorKind::BadFrame,
                format!(
                    "a picture of {}x{} pixels cannot be padded to {width}x{height}",
                    self.width, self.height
                ),
            )
            .remedy("put a step before `pad` that makes every picture small enough, such as longest-edge"));
        }
        check_size(self, width, height)?;
        let (left, top) = match at {
            At::Center => ((width - self.width) / 2, (height - self.height) / 2),
            At::TopLeft => (0, 0),
        };
        let mut made = Self::plain(width, height, colour);
        made.put(self, left, top);
        let area = Area {
            left,
            top,
            width: self.width,
            height: self.height,
        };
        Ok((made, area))
    }

    /// A rectangle of the picture, inside it.
    pub(super) fn part(&self, left: u32, top: u32, width: u32, height: u32) -> Self {
        let row = self.width as usize * CHANNELS;
        let columns = left as usize * CHANNELS..(left + width) as usize * CHANNELS;
        let mut data = Vec::with_capacity(bytes(width, height));
        let rows = self.data.chunks_exact(row);
        for row in rows.skip(top as usize).take(height as usize) {
            data.extend_from_slice(&row[columns.clone()]);
        }
        Self {
            width,
            height,
            data,
        }
    }

    /// Writes `part` over this picture.
    fn put(&mut self, part: &Self, left: u32, top: u32) {
        let row = self.width as usize * CHANNELS;
        let columns = left as usize * CHANNELS..(left + part.width) as usize * CHANNELS;
        let rows = self.data.chunks_exact_mut(row).skip(top as usize);
        let parts = part.data.chunks_exact(part.width as usize * CHANNELS);
        for (row, part) in rows.zip(parts) {
            row[columns.clone()].copy_from_slice(part);
        }
    }
}

/// A rectangle of whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

fn bytes(width: u32, height: u32) -> usize {
    width as usize * height as usize * CHANNELS
}

fn axis(resample: Resample, from: u32, to: u32) -> Axis {
    let mut axis = Axis::default();
    axis.set(resample, from, 0.0, from.into(), to);
    axis
}

/// Whether Pillow 13 resizes the columns before the rows.
fn down_first(from: (u32, u32), to: (u32, u32)) -> bool {
    let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let (across, down) = (lost(from.0, to.0), lost(from.1, to.1));
    down > 0 && down > 2 * across
}

/// Bytes of the picture between the two passes of a resize and of the one that comes out.
pub(super) fn resize_bytes(from: (u32, u32), to: (u32, u32)) -> u64 {
    let between = match down_first(from, to) {
        true => (from.0, to.1),
        false => (to.0, from.1),
    };
    let bytes = |(w, h): (u32, u32)| u64::from(w) * u64::from(h) * CHANNELS as u64;
    bytes(between) + bytes(to)
}

fn check_size(from: &Rgb, width: u32, height: u32) -> Result<()> {
    let bytes = resize_bytes((from.width, from.height), (width, height));
    if width > 0 && height > 0 && bytes <= MOST_PIXELS * CHANNELS as u64 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::BadFrame,
        format!(
            "a picture of {}x{} pixels would be made {width}x{height}",
            from.width, from.height
        ),
    )
    .remedy("it is too thin or too large for the pack's preprocessing: crop it first"))
}
