//! Antialiased resizing of interleaved bytes, value for value that of Pillow's `Image.resize`: what models were trained
//! and checked with.
//!
//! Libraries that follow Pillow, fast_image_resize among them, keep finer or coarser weights. Ties between two greys then fall
//! differently, and one grey step was enough to swap places in the reference ranking.

use super::pixels::CHANNELS;
use crate::pack::Resample;

/// Bits of a weight behind the point: a sum of weights times a byte, with overshoot, fits in 32 bits.
const BITS: u32 = 22;

/// The weights of one axis of a resize.
#[derive(Debug, Default)]
pub(super) struct Axis {
    /// What they were made for.
    made_for: Option<(Resample, u32, f64, f64, u32)>,
    /// First source pixel, and where in `weights` its weights begin, for every pixel made.
    starts: Vec<(usize, usize)>,
    weights: Vec<i32>,
}

impl Axis {
    /// Bits of a weight behind the point.
    pub(super) const BITS: u32 = BITS;

    /// Weights that make `size` pixels of `length` source pixels from `start` on (fractions count), of `whole`. They are
    /// kept as long as the next call asks for the same.
    pub(super) fn set(
        &mut self,
        resample: Resample,
        whole: u32,
        start: f64,
        length: f64,
        size: u32,
    ) {
        let wanted = Some((resample, whole, start, length, size));
        if self.made_for == wanted {
            return;
        }
        self.made_for = wanted;
        if resample == Resample::Nearest {
            return self.nearest(whole, start as f32, (start + length) as f32, size);
        }
        let (support, filter): (f64, fn(f64) -> f64) = match resample {
            Resample::Nearest | Resample::Box => (0.5, area),
            Resample::Hamming => (1.0, hamming),
            Resample::Bilinear => (1.0, triangle),
            Resample::Bicubic => (2.0, cubic),
            Resample::Lanczos3 => (3.0, lanczos3),
        };
        // Pillow takes the box in single precision.
        let (start, end) = (start as f32, (start + length) as f32);
        let scale = f64::from(end - start) / f64::from(size);
        let stretch = scale.max(1.0);
        let support = support * stretch;
        self.starts.clear();
        self.weights.clear();
        let mut exact = Vec::new();
        for pixel in 0..size {
            let centre = f64::from(start) + (f64::from(pixel) + 0.5) * scale;
            let first = ((centre - support + 0.5).max(0.0) as u32).min(whole.saturating_sub(1));
            let last = ((centre + support + 0.5) as u32).clamp(first + 1, whole.max(first + 1));
            exact.clear();
            exact.extend(
                (first..last).map(|at| filter((f64::from(at) - centre + 0.5) * (1.0 / stretch))),
            );
            let sum: f64 = exact.iter().sum();
            let sum = if sum == 0.0 { 1.0 } else { sum };
            self.starts.push((first as usize, self.weights.len()));
            let fixed = |weight: &f64| (weight / sum * f64::from(1 << BITS)).round() as i32;
            self.weights.extend(exact.iter().map(fixed));
        }
    }

    /// One source pixel for each pixel made: where Pillow's affine transform lands, sums and all.
    fn nearest(&mut self, whole: u32, start: f32, end: f32, size: u32) {
        let step = f64::from(end - start) / f64::from(size);
        let mut at = f64::from(start) + step * 0.5;
        self.weights = vec![1 << BITS; size as usize];
        self.starts.clear();
        for pixel in 0..size as usize {
            let place = (at.max(0.0) as usize).min(whole.saturating_sub(1) as usize);
            self.starts.push((place, pixel));
            at += step;
        }
    }

    /// The source pixels that count.
    pub(super) fn reach(&self) -> std::ops::Range<u32> {
        let first = self.starts.first().map_or(0, |(first, _)| *first);
        let last = self.spans().map(|(first, weights)| first + weights.len());
        first as u32..last.max().unwrap_or(first) as u32
    }

    /// Resizes every row of `source`, which holds the pixels of [`reach`](Self::reach) only.
    pub(super) fn along_rows(&self, source: &[u8], out: &mut [u8]) {
        let reach = self.reach();
        let (made, pixels) = (self.starts.len(), reach.len());
        let rows = source.as_chunks::<CHANNELS>().0.chunks_exact(pixels.max(1));
        let outs = out
            .as_chunks_mut::<CHANNELS>()
            .0
            .chunks_exact_mut(made.max(1));
        for (row, out) in rows.zip(outs) {
            for ((first, weights), out) in self.spans().zip(out) {
                let mut sums = [1_i32 << (BITS - 1); CHANNELS];
                for (rgb, weight) in row[first - reach.start as usize..].iter().zip(weights) {
                    for (sum, value) in sums.iter_mut().zip(rgb) {
                        *sum = sum.wrapping_add(i32::from(*value).wrapping_mul(*weight));
                    }
                }
                *out = sums.map(byte);
            }
        }
    }

    /// Resizes every column of `source`, rows of `width` pixels, which holds the rows of [`reach`](Self::reach) only.
    pub(super) fn along_columns(
        &self,
        width: u32,
        source: &[u8],
        sums: &mut Vec<i32>,
        out: &mut [u8],
    ) {
        let reach = self.reach();
        let row = width as usize * CHANNELS;
        for ((first, weights), out) in self.spans().zip(out.chunks_exact_mut(row)) {
            sums.clear();
            sums.resize(row, 1 << (BITS - 1));
            let rows = source[(first - reach.start as usize) * row..].chunks_exact(row);
            for (line, weight) in rows.zip(weights) {
                for (sum, value) in sums.iter_mut().zip(line) {
                    *sum = sum.wrapping_add(i32::from(*value).wrapping_mul(*weight));
                }
            }
            for (to, sum) in out.iter_mut().zip(&*sums) {
                *to = byte(*sum);
            }
        }
    }

    /// For every pixel made, the first source pixel and the weights from there on.
    pub(super) fn spans(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let ends = self.starts.iter().skip(1).map(|(_, at)| *at);
        let ends = ends.chain(std::iter::once(self.weights.len()));
        let spans = self.starts.iter().zip(ends);
        spans.map(|((first, at), end)| (*first, &self.weights[*at..end]))
    }
}

fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

fn area(x: f64) -> f64 {
    if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }
}

fn hamming(x: f64) -> f64 {
    let x = x.abs();
    if x == 0.0 {
        1.0
    } else if x >= 1.0 {
        0.0
    } else {
        let x = x * std::f64::consts::PI;
        x.sin() / x * (0.54 + 0.46 * x.cos())
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos3(x: f64) -> f64 {
    let sinc = |x: f64| match x {
        0.0 => 1.0,
        _ => (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI),
    };
    if (-3.0..3.0).contains(&x) {
        sinc(x) * sinc(x / 3.0)
    } else {
        0.0
    }
}
