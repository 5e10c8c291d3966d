//! The flat scan: i8 vectors against a quantised query, the best candidates kept in a deterministic order.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::error::{Error, ErrorKind, Result};

use super::codec::check_vector;
use super::dot::dot;
use super::segment::Record;
use super::sketch::SketchQuery;

/// A vector of unit length as `scale * i8`. `vector` must have a direction (see [`check_vector`]).
pub(super) fn quantise(vector: &[f32], norm: f64, out: &mut Vec<i8>) -> f32 {
    let peak = vector.iter().fold(0f32, |m, v| m.max(v.abs()));
    let factor = 127.0 / f64::from(peak);
    out.extend(
        vector
            .iter()
            .map(|&v| (f64::from(v) * factor).round() as i8),
    );
    (f64::from(peak) / norm / 127.0) as f32
}

/// A query in the two forms a search needs.
pub(super) struct Query {
    unit: Vec<f64>,
    quantised: Vec<i16>,
    scale: f32,
    /// What a step of the query's own numbers and of a vector's can change of a cosine, in all its coordinates together.
    slack: (f32, f32),
}

impl Query {
    pub(super) fn new(vector: &[f32], dim: usize) -> Result<Self> {
        if vector.len() != dim {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "query of {} values for a store of dimension {dim}",
                    vector.len()
                ),
            ));
        }
        let norm = check_vector("query", vector)?;
        let unit: Vec<f64> = vector.iter().map(|&v| f64::from(v) / norm).collect();
        // As fine as i16 allows while the i32 sum over the vector cannot overflow.
        let top = f64::from(i16::MAX).min(f64::from(i32::MAX) / (127.0 * dim as f64));
        let peak = unit.iter().fold(0f64, |m, v| m.max(v.abs()));
        let quantised = unit
            .iter()
            .map(|v| (v / peak * top).trunc() as i16)
            .collect();
        let scale = peak / top;
        // The numbers of a unit vector come to √dim at most, its quantised form to little more.
        let own = 1.1 * scale * (dim as f64).sqrt() + 1e-6;
        let theirs = 0.5 * unit.iter().map(|v| v.abs()).sum::<f64>();
        Ok(Self {
            unit,
            quantised,
            scale: scale as f32,
            slack: (own as f32, theirs as f32),
        })
    }

    /// How far the approximate cosine with a vector quantised in steps of `scale` can be from the exact one.
    pub(super) fn slack(&self, scale: f32) -> f32 {
        self.slack.0 + self.slack.1 * scale
    }

    /// The approximate cosine with a quantised vector.
    pub(super) fn approximate(&self, vector: &[i8], scale: f32) -> f32 {
        dot(&self.quantised, vector) as f32 * self.scale * scale
    }

    /// `record` with its approximate cosine.
    pub(super) fn candidate(&self, record: &Record, vector: &[i8]) -> Candidate {
        Candidate {
            score: self.approximate(vector, record.scale.get()),
            id: record.id.get(),
        }
    }

    /// The query against sketches.
    pub(super) fn sketched(&self) -> SketchQuery {
        SketchQuery::new(&self.unit)
    }

    /// The cosine with `embedding`; `None` when that has no direction.
    pub(super) fn exact(&self, embedding: &[f32]) -> Option<f32> {
        let (mut product, mut square) = (0f64, 0f64);
        for (&u, &e) in self.unit.iter().zip(embedding) {
            product += u * f64::from(e);
            square += f64::from(e) * f64::from(e);
        }
        let cosine = product / square.sqrt();
        cosine.is_finite().then_some(cosine.clamp(-1.0, 1.0) as f32)
    }
}

/// A record that may be among the best.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) score: f32,
    pub(super) id: u64,
}

/// Best first: by score, then by id, so that equal scores always come in the same order.
pub(super) fn rank(a_score: f32, a_id: u64, b_score: f32, b_id: u64) -> Ordering {
    b_score.total_cmp(&a_score).then(a_id.cmp(&b_id))
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        rank(self.score, self.id, other.score, other.id)
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The best `limit` candidates offered so far.
pub(super) struct Best {
    limit: usize,
    heap: BinaryHeap<Candidate>,
    /// Score of the worst one kept, once full: most records end here.
    floor: f32,
}

impl Best {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            heap: BinaryHeap::new(),
            floor: f32::NEG_INFINITY,
        }
    }

    /// How many are kept.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn offer(&mut self, candidate: Candidate) {
        if candidate.score < self.floor {
            return;
        }
        if self.heap.len() < self.limit {
            self.heap.push(candidate);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && candidate < *worst
        {
            *worst = candidate;
        }
        if self.heap.len() == self.limit {
            self.floor = self.heap.peek().map_or(f32::NEG_INFINITY, |w| w.score);
        }
    }

    pub(super) fn into_vec(self) -> Vec<Candidate> {
        self.heap.into_vec()
    }
}

/// The most promising records of many: cheaper than [`Best`] where thousands are kept.
pub(super) struct Promising {
    limit: usize,
    /// The best so many, and how far below the worst of them nothing is kept.
    near: (usize, f32),
    kept: Vec<(f32, u64)>,
    /// So many of `kept` are admitted, the others are still to be asked about.
    admitted: usize,
    /// What is not above cannot be among them any more.
    floor: f32,
}

impl Promising {
    /// At most `limit`, and none more than `margin` below the `k`th best.
    pub(super) fn new(limit: usize, k: usize, margin: f32) -> Self {
        Self {
            limit,
            near: (k.max(1), margin),
            kept: Vec::with_capacity(2 * limit),
            admitted: 0,
            floor: f32::NEG_INFINITY,
        }
    }

    /// Offers those of `scores` that could be among them and that `admit` lets pass. `first` is the id of the first, the
    /// others follow. NaN is never kept. `admit` is asked later, about many at once: each time it reads memory that no
    /// cache has, and so those waits overlap. [`settle`](Self::settle) before it changes.
    pub(super) fn offer(&mut self, first: u64, scores: &[f32], admit: &mut dyn FnMut(u64) -> bool) {
        // Mostly none of so many is above the floor, which vector registers see at once.
        const TOGETHER: usize = 16;
        for (first, scores) in (first..).step_by(TOGETHER).zip(scores.chunks(TOGETHER)) {
            let floor = self.floor;
            if !scores
                .iter()
                .fold(false, |any, score| any | (*score > floor))
            {
                continue;
            }
            for (id, &score) in (first..).zip(scores) {
                if score > self.floor {
                    self.kept.push((score, id));
                    if self.kept.len() == 2 * self.limit {
                        self.settle(admit);
                        self.halve();
                    }
                }
            }
        }
    }

    /// Asks `admit` about all that are kept.
    pub(super) fn settle(&mut self, admit: &mut dyn FnMut(u64) -> bool) {
        let mut end = self.admitted;
        for at in self.admitted..self.kept.len() {
            self.kept[end] = self.kept[at];
            end += usize::from(admit(self.kept[at].1));
        }
        self.kept.truncate(end);
        self.admitted = end;
    }

    fn halve(&mut self) {
        let order = |a: &(f32, u64), b: &(f32, u64)| rank(a.0, a.1, b.0, b.1);
        let (k, margin) = self.near;
        if self.kept.len() > k {
            let (_, (kth, _), _) = self.kept.select_nth_unstable_by(k - 1, order);
            let floor = self.floor.max(*kth - margin);
            self.floor = floor;
            self.kept.retain(|(score, _)| *score > floor);
        }
        if self.kept.len() > self.limit {
            self.kept.select_nth_unstable_by(self.limit - 1, order);
            self.kept.truncate(self.limit);
            self.floor = self.kept[self.limit - 1].0;
        }
        self.admitted = self.kept.len();
    }

    /// The ids of those that are settled, ascending: the order they lie in.
    pub(super) fn into_ids(mut self) -> Vec<u64> {
        self.kept.truncate(self.admitted);
        self.halve();
        let mut ids: Vec<u64> = self.kept.into_iter().map(|(_, id)| id).collect();
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_keeps_the_best_and_breaks_ties_by_id() {
        let mut best = Best::new(3);
        for (id, score) in [(9, 0.5), (4, 0.5), (7, 0.9), (1, 0.5), (2, 0.1), (3, 0.5)] {
            best.offer(Candidate { score, id });
        }
        let mut kept = best.into_vec();
        kept.sort();
        assert_eq!(kept.iter().map(|c| c.id).collect::<Vec<_>>(), [7, 1, 3]);
    }

    #[test]
    fn the_sum_cannot_overflow() {
        for dim in [1, 384, 65_536] {
            let ones = vec![1.0f32; dim];
            let query = Query::new(&ones, dim).unwrap();
            let mut quantised = Vec::new();
            let scale = quantise(&ones, (dim as f64).sqrt(), &mut quantised);
            let score = query.approximate(&quantised, scale);
            assert!((score - 1.0).abs() < 0.01, "dimension {dim}: {score}");
        }
    }

    #[test]
    fn no_approximate_cosine_is_further_off_than_its_slack() {
        let mut state = 3u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        for dim in [1, 5, 384, 4096] {
            let mut worst = 0f32;
            for round in 0..200 {
                let mut query: Vec<f32> = (0..dim).map(|_| next()).collect();
                let mut vector: Vec<f32> = query.iter().map(|q| q + 0.5 * next()).collect();
                if round % 2 == 0 {
                    query[dim / 2] = 9.0;
                    vector[dim / 3] = -20.0;
                }
                let query = Query::new(&query, dim).unwrap();
                let norm = check_vector("test", &vector).unwrap();
                let mut quantised = Vec::new();
                let scale = quantise(&vector, norm, &mut quantised);
                let off = query.approximate(&quantised, scale) - query.exact(&vector).unwrap();
                worst = worst.max(off.abs() / query.slack(scale));
            }
            println!("dim {dim}: at most {worst} of the slack");
            assert!(worst <= 1.0, "dim {dim}: {worst}");
        }
    }

    #[test]
    fn the_most_promising_are_the_best_of_those_admitted() {
        let score = |id: u64| (id * 7919 % 1009) as f32 / 1009.0;
        let admitted = |id: u64| !id.is_multiple_of(3);
        for (limit, k, margin) in [(50, 10, 9.0), (50, 10, 0.02), (1, 1, 9.0), (5000, 10, 9.0)] {
            let mut promising = Promising::new(limit, k, margin);
            for first in (0..1000).step_by(100) {
                let mut scores: Vec<f32> = (first..first + 100).map(score).collect();
                scores[7] = f32::NAN;
                promising.offer(first, &scores, &mut { admitted });
                promising.settle(&mut { admitted });
            }
            let mut wanted: Vec<u64> = (0..1000)
                .filter(|id| admitted(*id) && id % 100 != 7)
                .collect();
            wanted.sort_by(|a, b| rank(score(*a), *a, score(*b), *b));
            let floor = score(wanted[k - 1]) - margin;
            wanted.retain(|id| score(*id) > floor);
            wanted.truncate(limit);
            wanted.sort_unstable();
            assert_eq!(promising.into_ids(), wanted, "{limit} {k} {margin}");
        }
    }

    #[test]
    fn queries_without_direction_are_refused() {
        for bad in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            let error = Query::new(&bad, 2).err().map(|e| e.kind());
            assert_eq!(error, Some(ErrorKind::InvalidArgument));
        }
        assert!(Query::new(&[1.0], 2).is_err());
    }
}
