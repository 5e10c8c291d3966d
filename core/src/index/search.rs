//! The search: a flat scan, the best of it scored again by the exact vectors. Of sealed partitions the scan reads sketches
//! and the i8 vectors of what they find promising; of the last one the i8 vectors.

use std::collections::HashMap;

use crate::error::Result;
use crate::trace;

use super::blob::Blobs;
use super::scan::{Best, Candidate, Promising, Query, rank};
use super::segment::{Record, SLOT_BITS};
use super::store::{Store, View};
use super::types::{Access, Filter, Hit, SegmentId};

/// Records estimated at a time.
const BLOCK: u32 = 64;

fn slot_of(id: u64) -> u32 {
    (id & ((1 << SLOT_BITS) - 1)) as u32
}

impl View {
    /// Whether a search with `filter` may find `record`.
    fn admits(&self, record: &Record, filter: &Filter) -> bool {
        let stream = record.stream.get();
        filter.stream.is_none_or(|wanted| wanted.0 == stream)
            && self.name(stream).is_some()
            && (self.replaced.is_empty() || !self.replaced.contains(&record.id.get()))
            && filter
                .from_ns
                .is_none_or(|from| record.end_ns.get() >= from)
            && filter.to_ns.is_none_or(|to| record.start_ns.get() < to)
    }
}

impl Store {
    /// The segments nearest to `query` (any length but zero; of the store's dimension), best first, equal scores by id. Scores are
    /// exact cosines. Empty when nothing passes the filter. Damaged records are left out, warned of and counted.
    ///
    /// # Errors
    /// `InvalidArgument`: a query of another dimension, zero, or with a NaN; what [`Filter::check`] refuses.
    pub fn search(&self, query: &[f32], filter: &Filter) -> Result<Vec<Hit>> {
        let _span = trace::span("index", "scan");
        let inner = &self.0;
        let query = Query::new(query, inner.layout.dim)?;
        filter.check()?;
        if inner.access == Access::ReadOnly {
            inner.refresh()?;
        }
        let view = inner.view();
        // Enough that the best k by the exact score are among them: the scan's error is about 1 % of a cosine.
        let mut best = Best::new(filter.k.saturating_mul(4).saturating_add(64));
        let mut maps = HashMap::new();
        let (mut sketched, mut sketches) = (0, Vec::new());
        for (at, part) in view.parts.iter().enumerate() {
            let Some(mapped) = inner.map(part) else {
                continue;
            };
            // Only the last one grows.
            let sealed = at + 1 < view.parts.len();
            let sketch = sealed.then(|| part.sketch(&mapped, inner.access == Access::ReadWrite));
            if let Some(sketch) = sketch.flatten() {
                sketched += sketch.records() as usize;
                sketches.push((part, mapped.clone(), sketch));
            } else {
                for (record, vector) in mapped.iter() {
                    if view.admits(record, filter) {
                        best.offer(query.candidate(record, vector));
                    }
                }
            }
            maps.insert(part.partition, (part, mapped));
        }
        if !sketches.is_empty() {
            // A sketch's error is a few times that of the scan; what it may hide grows with the number of strangers.
            let enough = best
                .limit()
                .saturating_mul(4)
                .saturating_add(sketched / 256);
            let mut promising = Promising::new(enough.min(sketched).max(1));
            let query_sketch = query.sketched();
            let mut scores = [0.0; BLOCK as usize];
            for (part, mapped, sketch) in &sketches {
                for first in (0..sketch.records()).step_by(BLOCK as usize) {
                    let scores = &mut scores[..BLOCK.min(sketch.records() - first) as usize];
                    sketch.estimate(&query_sketch, first, scores);
                    let id = part.partition << SLOT_BITS | u64::from(first);
                    promising.offer(id, scores, &mut |id| {
                        let record = mapped.record(slot_of(id));
                        record.is_some_and(|(record, _)| view.admits(record, filter))
                    });
                }
            }
            for id in promising.into_ids() {
                let mapped = maps.get(&(id >> SLOT_BITS));
                if let Some((record, vector)) = mapped.and_then(|(_, m)| m.record(slot_of(id))) {
                    best.offer(query.candidate(record, vector));
                }
            }
        }
        let mut candidates = best.into_vec();
        candidates.sort_by_key(|c| c.id);
        let mut hits = Vec::new();
        let mut open: Option<(u64, Result<Blobs>)> = None;
        for Candidate { id, .. } in candidates {
            let partition = id >> SLOT_BITS;
            let Some((part, mapped)) = maps.get(&partition) else {
                continue;
            };
            if open.as_ref().is_none_or(|(p, _)| *p != partition) {
                open = Some((partition, Blobs::open(&inner.layout, partition)));
            }
            let (Some((_, blobs)), Some((record, _))) = (&open, mapped.record(slot_of(id))) else {
                continue;
            };
            let embedding = match blobs {
                Ok(blobs) => blobs.embedding(record.blob_at.get(), id),
                Err(e) => Err(e.clone()),
            };
            let embedding = match embedding {
                Ok(embedding) => embedding,
                Err(e) => {
                    if inner.still_has(part) {
                        inner.note_corrupt(id, &e);
                    }
                    continue;
                }
            };
            let (Some(score), Some(stream)) =
                (query.exact(&embedding), view.name(record.stream.get()))
            else {
                continue;
            };
            if filter.min_score.is_none_or(|least| score >= least) {
                hits.push(Hit {
                    segment: SegmentId(id),
                    stream: stream.to_string(),
                    start_ns: record.start_ns.get(),
                    end_ns: record.end_ns.get(),
                    keyframe_ns: record.keyframe_ns.get(),
                    score,
                });
            }
        }
        hits.sort_by(|a, b| rank(a.score, a.segment.0, b.score, b.segment.0));
        hits.truncate(filter.k);
        Ok(hits)
    }
}
