//! A fixed random rotation: signs and fast Walsh-Hadamard transforms in turn, n log n operations.

/// For vectors of one dimension. The same dimension gives the same rotation, on every machine.
pub(super) struct Rotation {
    /// ±1 for each coordinate, before each transform: two that meet would all but undo one another.
    signs: [Vec<f32>; 2 * ROUNDS],
    /// The largest power of two that is not more than the dimension.
    span: usize,
}

/// After three, coordinates that were alike are no longer, in dimensions that are no power of two as well.
const ROUNDS: usize = 3;

impl Rotation {
    pub(super) fn new(dim: usize) -> Self {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        let mut state = 0x0041_746f_6d00_u64;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let mut sign = || if next() >> 63 == 0 { 1.0 } else { -1.0 };
        Self {
            signs: std::array::from_fn(|_| (0..dim).map(|_| sign()).collect()),
            span: 1 << dim.max(1).ilog2(),
        }
    }

    /// Turns `vector`; its length stays.
    pub(super) fn apply(&self, vector: &mut [f32]) {
        let rest = vector.len() - self.span;
        for (round, signs) in self.signs.iter().enumerate() {
            // The first and the last coordinates in turn, so that all mix where the span is less than the whole.
            let part = if round % 2 == 0 { 0 } else { rest };
            let part = &mut vector[part..part + self.span];
            for (value, sign) in part.iter_mut().zip(signs) {
                *value *= sign;
            }
            hadamard(part);
        }
    }
}

/// The orthonormal Walsh-Hadamard transform; the length is a power of two.
fn hadamard(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let norm = 1.0 / (values.len() as f32).sqrt();
    for value in values {
        *value *= norm;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_lengths_and_angles_and_spreads_a_peak() {
        for dim in [1, 2, 3, 96, 384, 1000] {
            let rotation = Rotation::new(dim);
            let mut a: Vec<f32> = (0..dim).map(|i| (i % 7) as f32 - 3.0).collect();
            let mut b: Vec<f32> = (0..dim).map(|i| (i % 5) as f32 + 1.0).collect();
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
            let before = [dot(&a, &a), dot(&b, &b), dot(&a, &b)];
            rotation.apply(&mut a);
            rotation.apply(&mut b);
            for (before, after) in before
                .into_iter()
                .zip([dot(&a, &a), dot(&b, &b), dot(&a, &b)])
            {
                assert!(
                    (before - after).abs() <= 1e-3 * (1.0 + before.abs()),
                    "{dim}"
                );
            }
            let mut peak = vec![0.0; dim];
            peak[dim / 2] = 1.0;
            rotation.apply(&mut peak);
            let most = peak.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(
                dim < 96 || most < 6.0 / (dim as f32).sqrt(),
                "{dim}: {most}"
            );
        }
    }
}
