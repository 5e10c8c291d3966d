//! Cuts a stream of frames into segments and picks a keyframe for each. No model: luminance only.
//!
//! A segment ends at a shot cut, or when it has grown too long. Each frame is compared with the one before it by a
//! coarse luminance picture and a histogram; a cut is a difference that is large and stands out from those just before,
//! so that fast motion does not cut. The keyframe is the sharpest frame near the middle. As the end is not known
//! beforehand, the best frame of each of the last three windows is kept, windows growing with the segment.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::frame::{ColourRange, Frame, FrameBuf, FrameFormat, PixelFormat};

/// How a stream is cut into segments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerOptions {
    /// A cut earlier than this after the last one is not taken, nanoseconds, not negative.
    pub min_segment_ns: i64,
    /// A segment ends when it is this long, nanoseconds, at least `min_segment_ns` and at least 1.
    pub max_segment_ns: i64,
    /// Difference of two frames that makes a cut, 0..=1: 0 is the same picture.
    pub threshold: f32,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            min_segment_ns: 500_000_000,
            max_segment_ns: 4_000_000_000,
            threshold: 0.22,
        }
    }
}

/// A segment and the frame that stands for it.
#[derive(Debug, Clone)]
pub struct SampledSegment {
    /// Time of its first frame.
    pub start_ns: i64,
    /// Time at which it ends: that of the first frame after it.
    pub end_ns: i64,
    /// Its sharpest frame near the middle, with its own time.
    pub keyframe: FrameBuf,
}

/// Columns and rows of the coarse picture.
const GRID: (usize, usize) = (16, 12);
/// Sample points for each cell of the coarse picture, across and down.
const POINTS: (usize, usize) = (6, 5);
const BINS: usize = 32;
/// Differences remembered to tell a cut from motion.
const RECENT: usize = 8;
/// Keyframe candidates kept.
const CANDIDATES: usize = 3;

/// What is remembered of a frame.
#[derive(Debug, Clone)]
struct Probe {
    grid: [f32; GRID.0 * GRID.1],
    histogram: [f32; BINS],
    sharpness: f32,
}

/// A possible keyframe: the sharpest frame of its window.
#[derive(Debug)]
struct Candidate {
    window: u32,
    time: i64,
    sharpness: f32,
    frame: FrameBuf,
}

/// Cuts one stream. Holds three frames at most; a pure function of the frames pushed, so the same stream always gives
/// the same segments.
#[derive(Debug)]
pub struct Sampler {
    options: SamplerOptions,
    start: Option<i64>,
    last: i64,
    interval: i64,
    format: Option<FrameFormat>,
    previous: Option<Probe>,
    recent: VecDeque<f32>,
    candidates: VecDeque<Candidate>,
    spare: Vec<FrameBuf>,
}

impl Sampler {
    /// A sampler of one stream.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for options out of range.
    pub fn new(options: SamplerOptions) -> Result<Self> {
        let SamplerOptions {
            min_segment_ns,
            max_segment_ns,
            threshold,
        } = options;
        if min_segment_ns < 0 || max_segment_ns < min_segment_ns.max(1) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("segments of {min_segment_ns} to {max_segment_ns} ns"),
            )
            .remedy("the longest must be at least 1 ns and at least the shortest"));
        }
        if !(0.0..=1.0).contains(&threshold) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("cut threshold of {threshold}: 0..=1 is possible"),
            ));
        }
        Ok(Self {
            options,
            start: None,
            last: 0,
            interval: 1,
            format: None,
            previous: None,
            recent: VecDeque::with_capacity(RECENT),
            candidates: VecDeque::with_capacity(CANDIDATES),
            spare: Vec::new(),
        })
    }

    /// Takes the next frame; returns the segment that it ends, if it ends one. The frame itself belongs to the next.
    ///
    /// # Errors
    /// [`ErrorKind::BadFrame`] when its time is not after that of the frame before; that frame is not taken, and the
    /// next one may be.
    pub fn push(&mut self, frame: &Frame<'_>) -> Result<Option<SampledSegment>> {
        let now = frame.timestamp_ns();
        let Some(start) = self.start else {
            let probe = Probe::of(frame);
            self.begin(frame, probe);
            return Ok(None);
        };
        if now <= self.last {
            return Err(Error::new(
                ErrorKind::BadFrame,
                format!("frame at {now} ns follows one at {} ns", self.last),
            )
            .remedy("times must rise from frame to frame within a stream"));
        }
        let probe = Probe::of(frame);
        let changed = self.format.is_some_and(|format| {
            (format.width, format.height) != (frame.format().width, frame.format().height)
        });
        let difference = self.previous.as_ref().map_or(0.0, |p| p.difference(&probe));
        let gap = now - self.last > self.options.max_segment_ns;
        let cut =
            gap || changed || self.is_cut(difference) && now - start >= self.options.min_segment_ns;
        let ended = if cut || now - start >= self.options.max_segment_ns {
            // Nobody knows what happened in a gap: the segment ends where its frames do.
            let end = if gap { self.last + self.interval } else { now };
            self.take(start, end)
        } else {
            None
        };
        self.interval = if gap { self.interval } else { now - self.last };
        if ended.is_some() {
            if cut {
                self.recent.clear();
            }
            self.begin(frame, probe);
        } else {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(difference);
            self.offer(frame, now - start, probe.sharpness);
            self.previous = Some(probe);
            self.last = now;
        }
        Ok(ended)
    }

    /// Ends the last segment, if there is one. The sampler can then take another stream.
    pub fn finish(&mut self) -> Option<SampledSegment> {
        let start = self.start.take()?;
        self.previous = None;
        self.recent.clear();
        self.take(start, self.last + self.interval)
    }

    fn begin(&mut self, frame: &Frame<'_>, probe: Probe) {
        self.start = Some(frame.timestamp_ns());
        self.last = frame.timestamp_ns();
        self.format = Some(frame.format());
        self.offer(frame, 0, probe.sharpness);
        self.previous = Some(probe);
    }

    fn is_cut(&self, difference: f32) -> bool {
        let usual = self.recent.iter().sum::<f32>() / self.recent.len().max(1) as f32;
        difference >= self.options.threshold && difference >= 2.5 * usual
    }

    /// Windows double in length, so that three of them always hold the middle: `[0, u)`, `[u, 2u)`, `[2u, 4u)`, …
    fn window(&self, elapsed: i64) -> u32 {
        let unit = (self.options.max_segment_ns / 8).max(1);
        (elapsed / unit + 1).ilog2()
    }

    fn offer(&mut self, frame: &Frame<'_>, elapsed: i64, sharpness: f32) {
        let window = self.window(elapsed);
        match self.candidates.back_mut() {
            Some(best) if best.window == window => {
                if sharpness > best.sharpness {
                    best.frame.copy_from(frame);
                    best.sharpness = sharpness;
                    best.time = frame.timestamp_ns();
                }
            }
            _ => {
                if self.candidates.len() == CANDIDATES
                    && let Some(old) = self.candidates.pop_front()
                {
                    self.spare.push(old.frame);
                }
                let mut copy = self
                    .spare
                    .pop()
                    .unwrap_or_else(|| FrameBuf::with_capacity(0));
                copy.copy_from(frame);
                self.candidates.push_back(Candidate {
                    window,
                    time: frame.timestamp_ns(),
                    sharpness,
                    frame: copy,
                });
            }
        }
    }

    fn take(&mut self, start: i64, end: i64) -> Option<SampledSegment> {
        let length = (end - start).max(1) as f32;
        // From 1 in the middle to 0.25 at either end.
        let weight = |c: &Candidate| {
            let off = 2.0 * (c.time - start) as f32 / length - 1.0;
            c.sharpness.max(f32::MIN_POSITIVE) * (1.0 - 0.75 * off * off)
        };
        let mut best: Option<Candidate> = None;
        for candidate in self.candidates.drain(..) {
            let better = best.as_ref().is_none_or(|b| weight(&candidate) > weight(b));
            let unused = if better {
                best.replace(candidate)
            } else {
                Some(candidate)
            };
            self.spare.extend(unused.map(|unused| unused.frame));
        }
        let best = best?;
        Some(SampledSegment {
            start_ns: start,
            end_ns: end,
            keyframe: best.frame,
        })
    }
}

impl Probe {
    /// Looks at a grid of points and the points beside them.
    fn of(frame: &Frame<'_>) -> Self {
        let format = frame.format();
        let plane = frame.plane(0);
        let (width, height) = (format.width as usize, format.height as usize);
        let bytes = match format.pixels {
            PixelFormat::Rgb8 | PixelFormat::Bgr8 => 3,
            PixelFormat::Nv12 | PixelFormat::I420 | PixelFormat::Gray8 => 1,
        };
        // Limited range is stretched, so that one threshold suits both.
        let (black, scale) = match (bytes, format.range) {
            (1, ColourRange::Limited) => (16.0, 255.0 / 219.0),
            _ => (0.0, 1.0),
        };
        let luma = |x: usize, y: usize| -> f32 {
            let at = y * plane.stride + x * bytes;
            match format.pixels {
                PixelFormat::Nv12 | PixelFormat::I420 | PixelFormat::Gray8 => {
                    f32::from(plane.data[at])
                }
                // Green twice: close enough to luminance to compare frames, the same for either order.
                PixelFormat::Rgb8 | PixelFormat::Bgr8 => {
                    let [a, g, b] = [0, 1, 2].map(|c| f32::from(plane.data[at + c]));
                    (a + 2.0 * g + b) / 4.0
                }
            }
        };
        let (columns, rows) = (GRID.0 * POINTS.0, GRID.1 * POINTS.1);
        let mut probe = Self {
            grid: [0.0; GRID.0 * GRID.1],
            histogram: [0.0; BINS],
            sharpness: 0.0,
        };
        let points = (columns * rows) as f32;
        for row in 0..rows {
            let y = (2 * row + 1) * height / (2 * rows);
            for column in 0..columns {
                let x = (2 * column + 1) * width / (2 * columns);
                let value = ((luma(x, y) - black) * scale).clamp(0.0, 255.0);
                let cell = row / POINTS.1 * GRID.0 + column / POINTS.0;
                probe.grid[cell] += value / (255 * POINTS.0 * POINTS.1) as f32;
                probe.histogram[(value as usize * BINS) / 256] += 1.0 / points;
                let right = luma((x + 1).min(width - 1), y);
                let left = luma(x.saturating_sub(1), y);
                let below = luma(x, (y + 1).min(height - 1));
                let above = luma(x, y.saturating_sub(1));
                let edge = 4.0 * luma(x, y) - right - left - below - above;
                probe.sharpness += edge * edge / points;
            }
        }
        probe
    }

    /// 0 for the same picture, up to 1.
    fn difference(&self, other: &Self) -> f32 {
        let absolute =
            |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum() };
        let histogram = absolute(&self.histogram, &other.histogram) / 2.0;
        let grid = absolute(&self.grid, &other.grid) / self.grid.len() as f32;
        // Two unrelated pictures differ by about a quarter in brightness at a place.
        (histogram + (4.0 * grid).min(1.0)) / 2.0
    }
}
