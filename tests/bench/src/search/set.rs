//! Vectors to search, and the exact answer.
//!
//! A set that is easy says nothing: of tight, well separated clusters any index finds the right one. Here every other
//! batch holds **strangers**, directions drawn evenly from the sphere, of which the nearest ten of a query are hardly
//! nearer than the next thousand; and every other one **scenes**, as a camera leaves them: all share a mean (a model's
//! embeddings lie in a cone), their spread falls as 1/√rank over the principal axes (some 26 dimensions' worth of 384), which
//! lie at random in space, and each scene is a run of 1 to 31 keyframes around one such point, each its own noise away
//! (cosine about 0.9 to one another). Queries in turn: a new stranger; **words**, a new point of the scenes' kind that no
//! stored scene was made from, with as much noise of its own again, as texts lie apart from pictures; and **again**, a
//! stored keyframe of a scene with noise of its own length, whose neighbours are the whole scene.
//!
//! All of it comes from one fixed seed.

use pulp::{Arch, Simd, WithSimd};

/// The parts of the set, and of the queries on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Stranger,
    Words,
    Again,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Stranger, Kind::Words, Kind::Again];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Stranger => "strangers",
            Kind::Words => "words",
            Kind::Again => "again",
        }
    }
}

/// Vectors that come together, before the kind changes.
pub const BATCH: usize = 2048;
/// Keyframes of the longest scene.
const LONGEST: u64 = 31;
/// Length of the scenes' mean, next to the spread's 1: two scenes have a cosine of about 0.2.
const MEAN: f32 = 0.5;
/// Length of a keyframe's own noise, next to its scene's point.
const NOISE: f32 = 0.35;

/// Makes the set, vector by vector.
pub struct Maker {
    dim: usize,
    random: Random,
    mean: Vec<f32>,
    /// Columns are the principal axes, each as long as the spread along it.
    axes: Vec<f32>,
    scene: Vec<f32>,
    left: u64,
    made: usize,
}

impl Maker {
    pub fn new(dim: usize) -> Self {
        let mut random = Random::new(20_260_924);
        let mut mean = random.direction(dim);
        mean.iter_mut().for_each(|value| *value *= MEAN);
        let spread: f32 = (1..=dim).map(|rank| 1.0 / rank as f32).sum();
        let mut axes = vec![0.0; dim * dim];
        for (rank, axis) in axes.chunks_exact_mut(dim).enumerate() {
            let length = (1.0 / ((rank + 1) as f32 * spread)).sqrt();
            // Random directions of many dimensions are all but orthogonal.
            for (value, axis) in axis.iter_mut().zip(random.direction(dim)) {
                *value = axis * length;
            }
        }
        Self {
            dim,
            random,
            mean,
            axes,
            scene: Vec::new(),
            left: 0,
            made: 0,
        }
    }

    /// Adds the next vector to `out`, of length 1.
    pub fn next(&mut self, out: &mut Vec<f32>) {
        let strangers = (self.made / BATCH).is_multiple_of(2);
        self.made += 1;
        if strangers {
            out.extend(self.random.direction(self.dim));
            return;
        }
        if self.left == 0 {
            self.left = 1 + self.random.next() % LONGEST;
            self.scene = self.point();
        }
        self.left -= 1;
        out.extend(self.random.near(&self.scene, NOISE));
    }

    /// The query number `at` on `vectors`, and what it is.
    pub fn query(&mut self, at: usize, vectors: &[f32]) -> (Kind, Vec<f32>) {
        let kind = Kind::ALL[at % Kind::ALL.len()];
        let query = match kind {
            Kind::Stranger => self.random.direction(self.dim),
            Kind::Words => {
                let point = self.point();
                self.random.near(&point, 1.0)
            }
            Kind::Again => {
                let count = vectors.len() / self.dim;
                let mut place = self.random.next() as usize % count;
                // The nearest keyframe of a scene, if there is any yet.
                if (place / BATCH).is_multiple_of(2) {
                    place = (place + BATCH).min(count - 1);
                }
                let stored = &vectors[place * self.dim..(place + 1) * self.dim];
                self.random.near(stored, 1.0)
            }
        };
        (kind, query)
    }

    /// A point of the scenes' distribution.
    fn point(&mut self) -> Vec<f32> {
        let mut point = self.mean.clone();
        for axis in self.axes.chunks_exact(self.dim) {
            let along = self.random.normal();
            for (value, axis) in point.iter_mut().zip(axis) {
                *value += along * axis;
            }
        }
        point
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014), and normal numbers from it (Box and Muller, 1958).
struct Random {
    state: u64,
    spare: Option<f32>,
}

impl Random {
    fn new(seed: u64) -> Self {
        Self {
            state: seed,
            spare: None,
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn normal(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let bits = self.next();
        // 24 bits each, the first never 0.
        let unit = |bits: u64| (bits & 0xff_ffff) as f32 / (1 << 24) as f32;
        let radius = (-2.0 * (1.0 - unit(bits)).ln()).sqrt();
        let (sin, cos) = (std::f32::consts::TAU * unit(bits >> 32)).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// Evenly from the sphere, of length 1.
    fn direction(&mut self, dim: usize) -> Vec<f32> {
        unit((0..dim).map(|_| self.normal()).collect())
    }

    /// `point` and noise that is `part` as long, together of length 1.
    fn near(&mut self, point: &[f32], part: f32) -> Vec<f32> {
        let scale = part * length(point) / (point.len() as f32).sqrt();
        unit(point.iter().map(|v| v + scale * self.normal()).collect())
    }
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|v| v * v).sum::<f32>().sqrt()
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = length(&vector);
    vector.iter_mut().for_each(|value| *value /= length);
    vector
}

/// The indices of the `k` vectors nearest to `query`, best first, by a scan of all of them in single precision: what
/// any index saves. All are of length 1.
pub fn scan(vectors: &[f32], query: &[f32], k: usize) -> Vec<usize> {
    Arch::new().dispatch(Scan { vectors, query, k })
}

/// The same, to the last bit of double precision, given more than enough of the best by single precision.
pub fn exact(vectors: &[f32], query: &[f32], promising: &[usize], k: usize) -> Vec<usize> {
    let dim = query.len();
    let cosine = |at: usize| -> f64 {
        let (mut product, mut square) = (0.0, 0.0);
        for (v, q) in vectors[at * dim..(at + 1) * dim].iter().zip(query) {
            product += f64::from(*v) * f64::from(*q);
            square += f64::from(*v) * f64::from(*v);
        }
        product / square.sqrt()
    };
    let mut best: Vec<(f64, usize)> = promising.iter().map(|at| (cosine(*at), *at)).collect();
    best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    best.into_iter().take(k).map(|(_, at)| at).collect()
}

struct Scan<'a> {
    vectors: &'a [f32],
    query: &'a [f32],
    k: usize,
}

impl WithSimd for Scan<'_> {
    type Output = Vec<usize>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<usize> {
        const SUMS: usize = 4;
        let (query, query_rest) = S::as_simd_f32s(self.query);
        let (query_groups, query_tail) = query.as_chunks::<SUMS>();
        // Ascending, so that the first is the one to beat.
        let mut best: Vec<(f32, usize)> = Vec::with_capacity(self.k + 1);
        for (at, vector) in self.vectors.chunks_exact(self.query.len()).enumerate() {
            let (vector, vector_rest) = S::as_simd_f32s(vector);
            let (groups, tail) = vector.as_chunks::<SUMS>();
            let mut sums = [simd.splat_f32s(0.0); SUMS];
            for (group, query) in groups.iter().zip(query_groups) {
                for lane in 0..SUMS {
                    sums[lane] = simd.mul_add_f32s(group[lane], query[lane], sums[lane]);
                }
            }
            for (value, query) in tail.iter().zip(query_tail) {
                sums[0] = simd.mul_add_f32s(*value, *query, sums[0]);
            }
            let [a, b, c, d] = sums;
            let sum = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
            let rest = vector_rest.iter().zip(query_rest).map(|(v, q)| v * q);
            let score = simd.reduce_sum_f32s(sum) + rest.sum::<f32>();
            if best.len() < self.k || score > best[0].0 {
                let place = best.partition_point(|(other, _)| *other < score);
                best.insert(place, (score, at));
                if best.len() > self.k {
                    best.remove(0);
                }
            }
        }
        best.into_iter().rev().map(|(_, at)| at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn the_set_is_what_it_says() {
        let (dim, count) = (384, 3 * BATCH);
        let mut maker = Maker::new(dim);
        let mut vectors = Vec::new();
        for _ in 0..count {
            maker.next(&mut vectors);
        }
        let vector = |at: usize| &vectors[at * dim..(at + 1) * dim];
        assert!((0..count).all(|at| (cosine(vector(at), vector(at)) - 1.0).abs() < 1e-5));
        let spread = |pairs: &mut dyn Iterator<Item = (usize, usize)>| {
            let cosines: Vec<f32> = pairs.map(|(a, b)| cosine(vector(a), vector(b))).collect();
            let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
            let square = cosines.iter().map(|c| (c - mean).powi(2)).sum::<f32>();
            (mean, (square / cosines.len() as f32).sqrt())
        };
        let strangers = spread(&mut (0..1000).map(|at| (at, at + 1000)));
        assert!(strangers.0.abs() < 0.01, "{strangers:?}");
        assert!((strangers.1 - 1.0 / (dim as f32).sqrt()).abs() < 0.005);
        // Far enough apart to be of different scenes.
        let scenes = spread(&mut (BATCH..BATCH + 1000).map(|at| (at, at + 1000)));
        assert!((0.1..0.3).contains(&scenes.0), "{scenes:?}");
        assert!(scenes.1 > 2.0 * strangers.1, "{scenes:?} {strangers:?}");
        // Mostly of one scene.
        let within = (BATCH..2 * BATCH - 1).map(|at| cosine(vector(at), vector(at + 1)));
        let alike = within.filter(|cosine| *cosine > 0.8).count();
        assert!(alike > BATCH * 8 / 10, "{alike}");

        let mut again = Maker::new(dim);
        let mut first = Vec::new();
        again.next(&mut first);
        assert_eq!(first, vector(0), "the seed is fixed");
    }

    #[test]
    fn the_scan_finds_the_best_in_order() {
        for dim in [3, 96, 385] {
            let mut maker = Maker::new(dim);
            let mut vectors = Vec::new();
            for _ in 0..500 {
                maker.next(&mut vectors);
            }
            let (_, query) = maker.query(0, &vectors);
            let all: Vec<usize> = (0..500).collect();
            let wanted = exact(&vectors, &query, &all, 20);
            let found = scan(&vectors, &query, 25);
            assert_eq!(exact(&vectors, &query, &found, 20), wanted, "dim {dim}");
            assert_eq!(scan(&vectors, &query, 1), wanted[..1], "dim {dim}");
            assert_eq!(scan(&vectors, &query, 1000).len(), 500);
        }
    }
}
