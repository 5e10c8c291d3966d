//! Rows of bytes made fewer, fast: for planes that are at least halved.
//!
//! The weights are Pillow's, rounded to 14 bits, and sums are kept in 16, so that plain instructions of every processor
//! work on as many bytes at once as its registers hold. What rounding loses is a twentieth of a grey step. fast_image_resize,
//! which the rows of these planes go through (`resize`), took 1.4 times as long for a 1080p frame when it did both directions.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::pillow::Axis;
use crate::frame::Plane;

/// Rows are not made fewer by more than this factor: weights would be too small for their bits.
pub(super) const MOST: f64 = 24.0;
/// Rows that are added at once: sums are then loaded and stored a quarter as often.
const TOGETHER: usize = 4;
/// Bits behind the point of a weight.
const WEIGHT_BITS: u32 = 14;
/// A byte is raised by so many bits, a product of it and a weight lowered by 16.
const BYTE_BITS: u32 = 7;
/// Bits behind the point of a sum.
const SUM_BITS: u32 = BYTE_BITS + WEIGHT_BITS - 16;

/// Resizes rows of planes. Its buffers are reused from plane to plane.
#[derive(Debug, Default)]
pub(super) struct Shrink {
    weights: Vec<i16>,
    /// The last rows, raised: row `r` in place `r` modulo their number. Kept as what is multiplied, since only of a load
    /// of 16-bit numbers compilers see that one instruction has the high half of a product.
    rows: Vec<i16>,
    sums: Vec<i16>,
}

impl Shrink {
    /// Resizes bytes `columns` of every row of `plane` along the columns, as `axis` says.
    pub(super) fn run(
        &mut self,
        axis: &Axis,
        plane: Plane<'_>,
        columns: Range<usize>,
        out: &mut Vec<u8>,
    ) {
        Arch::new().dispatch(Work {
            shrink: self,
            axis,
            plane,
            columns,
            out,
        });
    }

    #[inline(always)]
    fn rows(&mut self, axis: &Axis, plane: Plane<'_>, columns: Range<usize>, out: &mut Vec<u8>) {
        let width = columns.len();
        let most = axis.spans().map(|(_, weights)| weights.len()).max();
        let most = most.unwrap_or(0).max(1);
        // An odd number of cache lines, or for some widths all rows would compete for the same places of the cache.
        let room = (width.div_ceil(32) | 1) * 32;
        self.rows.resize(most * room, 0);
        // Every byte is written below.
        out.resize(axis.spans().count() * width, 0);
        let mut next = 0;
        for ((first, exact), out) in axis.spans().zip(out.chunks_exact_mut(width.max(1))) {
            whole(exact, &mut self.weights);
            for row in next.max(first)..first + exact.len() {
                let bytes = &plane.data[row * plane.stride..][columns.clone()];
                let place = &mut self.rows[row % most * room..][..width];
                for (to, byte) in place.iter_mut().zip(bytes) {
                    *to = i16::from(*byte) << BYTE_BITS;
                }
            }
            next = first + exact.len();
            // Half of a step for rounding at the end, and for every product that lost on average half of its last bit.
            let half = (1 << (SUM_BITS - 1)) + exact.len() as i16 / 2;
            self.sums.clear();
            self.sums.resize(width, half);
            let row = |at: usize| &self.rows[(first + at) % most * room..][..width];
            let (groups, rest) = self.weights.as_chunks::<TOGETHER>();
            for (group, weights) in groups.iter().enumerate() {
                let rows = std::array::from_fn(|at| row(group * TOGETHER + at));
                add(&mut self.sums, rows, *weights);
            }
            let last = |at| row(groups.len() * TOGETHER + at);
            match *rest {
                [a, b, c] => add(&mut self.sums, [last(0), last(1), last(2)], [a, b, c]),
                [a, b] => add(&mut self.sums, [last(0), last(1)], [a, b]),
                [a] => add(&mut self.sums, [last(0)], [a]),
                _ => {}
            }
            for (out, sum) in out.iter_mut().zip(&self.sums) {
                *out = (*sum >> SUM_BITS).clamp(0, 255) as u8;
            }
        }
    }
}

/// Compiled for each kind of vector registers; the best that this processor has is taken.
struct Work<'a> {
    shrink: &'a mut Shrink,
    axis: &'a Axis,
    plane: Plane<'a>,
    columns: Range<usize>,
    out: &'a mut Vec<u8>,
}

impl WithSimd for Work<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.shrink
            .rows(self.axis, self.plane, self.columns, self.out);
    }
}

/// `exact`, of 22 bits behind the point, in 14; their sum is exactly one, so that a plain area stays as it is.
fn whole(exact: &[i32], weights: &mut Vec<i16>) {
    let shift = Axis::BITS - WEIGHT_BITS;
    weights.clear();
    weights.extend(
        exact
            .iter()
            .map(|w| ((w + (1 << (shift - 1))) >> shift) as i16),
    );
    let sum: i32 = weights.iter().map(|w| i32::from(*w)).sum();
    if let Some(largest) = weights.iter_mut().max() {
        *largest += ((1 << WEIGHT_BITS) - sum) as i16;
    }
}

/// Adds rows times their weights.
#[inline(always)]
fn add<const N: usize>(sums: &mut [i16], rows: [&[i16]; N], weights: [i16; N]) {
    // All of one length, so that no access needs a check.
    let rows = rows.map(|row| &row[..sums.len()]);
    for (at, sum) in sums.iter_mut().enumerate() {
        for (row, weight) in rows.iter().zip(weights) {
            let product = i32::from(row[at]).wrapping_mul(i32::from(weight));
            *sum = sum.wrapping_add((product >> 16) as i16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::Resample;

    #[test]
    fn rows_are_what_exact_weights_make_of_them() {
        let mut axis = Axis::default();
        let (mut shrink, mut out) = (Shrink::default(), Vec::new());
        for resample in [Resample::Bilinear, Resample::Bicubic, Resample::Lanczos3] {
            for (height, size) in [
                (1080, 224),
                (540, 224),
                (97, 40),
                (64, 64),
                (1500, 63),
                (2, 1),
            ] {
                let (stride, columns) = (203, 3..200);
                // The last row ends without its padding.
                let data: Vec<u8> = (0..stride * (height - 1) + 200)
                    .map(|at| (at * at / 7 % 251 + at % 5) as u8)
                    .collect();
                axis.set(resample, height as u32, 0.0, height as f64, size as u32);
                let plane = Plane {
                    data: &data,
                    stride,
                };
                shrink.run(&axis, plane, columns.clone(), &mut out);
                assert_eq!(out.len(), size * columns.len());
                let mut worst = 0.0_f64;
                for (row, (first, exact)) in axis.spans().enumerate() {
                    for (column, got) in out[row * columns.len()..][..columns.len()]
                        .iter()
                        .enumerate()
                    {
                        let values = exact.iter().enumerate().map(|(at, weight)| {
                            let value = data[(first + at) * stride + columns.start + column];
                            f64::from(value) * f64::from(*weight) / f64::from(1 << Axis::BITS)
                        });
                        let off = values.sum::<f64>().clamp(0.0, 255.0) - f64::from(*got);
                        worst = worst.max(off.abs());
                    }
                }
                println!("{resample:?} {height} to {size}: {worst:.3}");
                assert!(
                    worst < 1.0,
                    "{resample:?} {height} to {size}: off by {worst}"
                );
            }
            for value in [0, 1, 128, 255] {
                let data = vec![value; 1080 * 100];
                axis.set(resample, 1080, 0.0, 1080.0, 224);
                let plane = Plane {
                    data: &data,
                    stride: 100,
                };
                shrink.run(&axis, plane, 0..100, &mut out);
                assert!(out.iter().all(|out| *out == value), "{resample:?} {value}");
            }
        }
    }
}
