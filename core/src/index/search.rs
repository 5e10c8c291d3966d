//! The search: a flat scan of the quantised vectors, the best of it scored again by the exact ones.

use std::collections::HashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::trace;

use super::blob::Blobs;
use super::scan::{Best, Candidate, Query, rank};
use super::segment::SLOT_BITS;
use super::store::Store;
use super::types::{Access, Filter, Hit, SegmentId};

impl Store {
    /// The segments nearest to `query` (any length but zero; of the store's dimension), best first, equal scores by id. Scores are
    /// exact cosines. Empty when nothing passes the filter. Damaged records are left out, warned of and counted.
    ///
    /// # Errors
    /// `InvalidArgument`: a query of another dimension, zero, or with a NaN; `k` of 0; a NaN `min_score`.
    pub fn search(&self, query: &[f32], filter: &Filter) -> Result<Vec<Hit>> {
        let _span = trace::span("index", "scan");
        let inner = &self.0;
        let query = Query::new(query, inner.layout.dim)?;
        if filter.k == 0 || filter.min_score.is_some_and(f32::is_nan) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "a search for no hits, or with a NaN as least score",
            ));
        }
        if inner.access == Access::ReadOnly {
            inner.refresh()?;
        }
        let view = inner.view();
        // Enough that the best k by the exact score are among them: the scan's error is about 1 % of a cosine.
        let mut best = Best::new(filter.k.saturating_mul(4).saturating_add(64));
        let mut maps = HashMap::new();
        for part in &view.parts {
            let Some(mapped) = inner.map(part) else {
                continue;
            };
            for (record, vector) in mapped.iter() {
                let stream = record.stream.get();
                let live = match filter.stream {
                    Some(wanted) => wanted.0 == stream && view.name(stream).is_some(),
                    None => view.name(stream).is_some(),
                };
                if live
                    && (view.replaced.is_empty() || !view.replaced.contains(&record.id.get()))
                    && filter
                        .from_ns
                        .is_none_or(|from| record.end_ns.get() >= from)
                    && filter.to_ns.is_none_or(|to| record.start_ns.get() < to)
                {
                    best.offer(Candidate {
                        score: query.approximate(vector, record.scale.get()),
                        id: record.id.get(),
                    });
                }
            }
            maps.insert(part.partition, (part, mapped));
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
            let slot = (id & ((1 << SLOT_BITS) - 1)) as u32;
            let (Some((_, blobs)), Some((record, _))) = (&open, mapped.record(slot)) else {
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
