//! Pixels to a module's input: crop, colour, antialiased resize, turn, normalise.

use super::pixels::{CHANNELS, Rect, before_turn, upright};
use super::resize::Resizer;
use super::values::{Table, channels, table};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::{Frame, Rotation};
use crate::pack::{Fit, Layout, Order, PreprocessSpec, Resample, ViewSpec};
use crate::trace;

/// Turns frames of any format and size into what one module reads. Its buffers are reused from frame to frame.
///
/// The result is that of Pillow's `Image.resize` with `box` on the RGB picture. For an NV12 or I420 frame at least twice
/// the size of the input it is so but for rounding and clipped colours, and the turn is made last, on few pixels, which
/// changes rounding only.
#[derive(Debug)]
pub struct Preprocessor {
    size: (u32, u32),
    resample: Resample,
    views: Vec<ViewSpec>,
    layout: Layout,
    order: Order,
    /// Normalised value of each byte, for R, G, B.
    table: Box<Table<f32>>,
    /// One for each view, so that weights are made once as long as frames have the same size.
    resizers: Vec<Resizer>,
    small: Vec<u8>,
}

/// Where a view lies.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    /// What is seen, in pixels of the upright frame.
    seen: Rect,
    /// Where it goes in the input. What is outside stays black.
    target: Target,
}

/// Left, top, width, height, in pixels.
type Target = (u32, u32, u32, u32);

impl Preprocessor {
    /// Prepares for a module.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] when a size is zero, there is no view or a number is not finite.
    pub fn new(spec: &PreprocessSpec) -> Result<Self> {
        let bad = |what: String| Error::new(ErrorKind::BadPack, format!("preprocess: {what}"));
        if spec.width == 0 || spec.height == 0 || spec.views.is_empty() {
            return Err(bad(format!(
                "{} views of {}x{} pixels",
                spec.views.len(),
                spec.width,
                spec.height
            )));
        }
        if let Some(view) = spec
            .views
            .iter()
            .find(|view| !(view.fraction > 0.0 && view.fraction <= 1.0))
        {
            return Err(bad(format!("a view of {} of the frame", view.fraction)));
        }
        Ok(Self {
            size: (spec.width, spec.height),
            resample: spec.resample,
            views: spec.views.clone(),
            layout: spec.layout,
            order: spec.order,
            table: table(spec)?,
            resizers: spec.views.iter().map(|_| Resizer::default()).collect(),
            small: Vec::new(),
        })
    }

    /// Shape of the input: `[views, 3, height, width]` or `[views, height, width, 3]`.
    pub fn shape(&self) -> [usize; 4] {
        let (views, width, height) = (self.views.len(), self.size.0 as usize, self.size.1 as usize);
        match self.layout {
            Layout::Nchw => [views, CHANNELS, height, width],
            Layout::Nhwc => [views, height, width, CHANNELS],
        }
    }

    /// About how many bytes of buffers it takes to make an input of `frame`.
    pub(super) fn buffer_bytes(&self, frame: &Frame<'_>) -> u64 {
        let small = u64::from(self.size.0) * u64::from(self.size.1) * CHANNELS as u64;
        let view = |view| {
            let (part, size, _) = self.resized(view, frame);
            Resizer::buffer_bytes(frame, part, size)
        };
        small + (0..self.views.len()).map(view).sum::<u64>()
    }

    /// Gives its buffers up, until they are needed again.
    pub(super) fn give_back(&mut self) {
        self.small = Vec::new();
        self.resizers.iter_mut().for_each(Resizer::give_back);
    }

    /// Fills `out`, of as many values as [`shape`](Self::shape) says, with all views of `frame`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `out` has another length.
    pub fn run(&mut self, frame: &Frame<'_>, out: &mut [f32]) -> Result<()> {
        self.run_as(frame, out, |value| value)
    }

    /// As [`run`](Self::run), with `convert` of each value.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn run_as<T: Copy>(
        &mut self,
        frame: &Frame<'_>,
        out: &mut [T],
        convert: impl Fn(f32) -> T,
    ) -> Result<()> {
        let wanted: usize = self.shape().iter().product();
        if out.len() != wanted {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{} values of room for an input of {:?}",
                    out.len(),
                    self.shape()
                ),
            ));
        }
        let table = self.table.map(|values| values.map(&convert));
        let rotation = frame.format().rotation;
        let view_values = wanted / self.views.len();
        for (view, out) in out.chunks_exact_mut(view_values).enumerate() {
            let (part, size, target) = self.resized(view, frame);
            self.resizers[view].run(frame, part, self.resample, size, &mut self.small)?;
            let _span = trace::span("vision", "normalise");
            self.normalise(target, rotation, &table, out);
        }
        Ok(())
    }

    /// Which part of `frame` view `view` shows, to which size it is made, both as stored, and its place in the input.
    fn resized(&self, view: usize, frame: &Frame<'_>) -> (Rect, (u32, u32), Target) {
        let Place { seen, target } = self.place(view, frame);
        // The turn comes after the resize, so that is to the size before the turn.
        let size = upright(frame.format().rotation, (target.2, target.3));
        (turn_back(seen, frame), size, target)
    }

    /// The region that view `view` shows of `frame`: x0, y0, x1, y1 as fractions of the upright frame. A letterboxed
    /// view reaches beyond it.
    pub(super) fn region(&self, view: usize, frame: &Frame<'_>) -> [f32; 4] {
        let format = frame.format();
        let (width, height) = upright(format.rotation, (format.width, format.height));
        let Place { seen, target } = self.place(view, frame);
        let (left, top, target_width, target_height) = target;
        let span = |first: f64, seen: f64, at: u32, of: u32, all: u32, frame: u32| {
            let scale = seen / f64::from(of);
            let start = first - f64::from(at) * scale;
            let end = start + f64::from(all) * scale;
            [
                (start / f64::from(frame)) as f32,
                (end / f64::from(frame)) as f32,
            ]
        };
        let [x0, x1] = span(
            seen.left,
            seen.width,
            left,
            target_width,
            self.size.0,
            width,
        );
        let [y0, y1] = span(
            seen.top,
            seen.height,
            top,
            target_height,
            self.size.1,
            height,
        );
        [x0, y0, x1, y1]
    }

    fn place(&self, view: usize, frame: &Frame<'_>) -> Place {
        let format = frame.format();
        let (width, height) = upright(format.rotation, (format.width, format.height));
        let (width, height) = (f64::from(width), f64::from(height));
        let ViewSpec { fit, fraction } = self.views[view];
        // Through the shortest decimal: 0.875 of the manifest is 0.875 here, and 0.9 is 0.9.
        let fraction = fraction.to_string().parse().unwrap_or(f64::from(fraction));
        let (seen_width, seen_height) = match fit {
            Fit::Crop => [width.min(height) * fraction; 2].into(),
            Fit::Stretch | Fit::Pad => (width * fraction, height * fraction),
        };
        let seen = Rect {
            left: (width - seen_width) / 2.0,
            top: (height - seen_height) / 2.0,
            width: seen_width,
            height: seen_height,
        };
        let target = match fit {
            Fit::Crop | Fit::Stretch => (0, 0, self.size.0, self.size.1),
            Fit::Pad => {
                let (full_width, full_height) = self.size;
                let scale =
                    (f64::from(full_width) / seen.width).min(f64::from(full_height) / seen.height);
                let side = |seen: f64, full: u32| ((seen * scale).round() as u32).clamp(1, full);
                let width = side(seen.width, full_width);
                let height = side(seen.height, full_height);
                (
                    (full_width - width) / 2,
                    (full_height - height) / 2,
                    width,
                    height,
                )
            }
        };
        Place { seen, target }
    }

    /// Writes the small picture into its place in one view of the input, upright.
    fn normalise<T: Copy>(
        &self,
        target: Target,
        rotation: Rotation,
        table: &Table<T>,
        out: &mut [T],
    ) {
        let (full_width, full_height) = (self.size.0 as usize, self.size.1 as usize);
        let (left, top, width, height) = target;
        let (left, top) = (left as usize, top as usize);
        let (width, height) = (width as usize, height as usize);
        // Position of R, G, B among the channels of the input.
        let channel = channels(self.order);
        let (pixel_step, channel_step) = match self.layout {
            Layout::Nchw => (1, full_width * full_height),
            Layout::Nhwc => (CHANNELS, 1),
        };
        if (width, height) != (full_width, full_height) {
            for (colour, place) in channel.into_iter().enumerate() {
                let black = table[colour][0];
                for pixel in 0..full_width * full_height {
                    out[pixel * pixel_step + place * channel_step] = black;
                }
            }
        }
        // Walking along a row of the input is a fixed step in the picture before the turn.
        let start = |y| before_turn(rotation, (width, height), (0, y));
        let step = match width {
            1 => 0,
            _ => before_turn(rotation, (width, height), (1, 0)) as isize - start(0) as isize,
        };
        for (colour, place) in channel.into_iter().enumerate() {
            let table = &table[colour];
            for y in 0..height {
                let first = ((top + y) * full_width + left) * pixel_step + place * channel_step;
                if (pixel_step, step) == (1, 1) {
                    // The usual case, in which nothing needs a check.
                    let pixels = &self.small.as_chunks::<CHANNELS>().0[start(y)..];
                    for (value, rgb) in out[first..][..width].iter_mut().zip(pixels) {
                        *value = table[usize::from(rgb[colour])];
                    }
                    continue;
                }
                let mut from = start(y) as isize;
                let row = out[first..].iter_mut().step_by(pixel_step).take(width);
                for value in row {
                    *value = table[usize::from(self.small[from as usize * CHANNELS + colour])];
                    from += step;
                }
            }
        }
    }
}

/// A rectangle of the upright frame in the frame as stored.
fn turn_back(rect: Rect, frame: &Frame<'_>) -> Rect {
    let format = frame.format();
    let (width, height) = (f64::from(format.width), f64::from(format.height));
    let Rect {
        left,
        top,
        width: w,
        height: h,
    } = rect;
    let (left, top, w, h) = match format.rotation {
        Rotation::R0 => (left, top, w, h),
        Rotation::R90 => (top, height - left - w, h, w),
        Rotation::R180 => (width - left - w, height - top - h, w, h),
        Rotation::R270 => (width - top - h, left, h, w),
    };
    // Rounding must not leave the frame.
    let (left, top) = (left.max(0.0), top.max(0.0));
    Rect {
        left,
        top,
        width: w.min(width - left),
        height: h.min(height - top),
    }
}
