//! The search: a flat scan, the best of it scored again by the exact vectors. Of sealed partitions the scan reads sketches
//! and the i8 vectors of what they find promising; of the last one the i8 vectors.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Result;
use crate::trace;

use super::blob::Blobs;
use super::mapped::Mapped;
use super::part::Part;
use super::scan::{Best, Candidate, Promising, Query, rank};
use super::segment::{Record, SLOT_BITS};
use super::sketch::{self, Sketch};
use super::store::{Inner, Store, View};
use super::types::{Access, Filter, Hit, SegmentId};

/// Records estimated at a time.
const BLOCK: u32 = 64;
/// An estimate this many typical errors below the kth best is not worth a look, however few are above it.
const FAR: f32 = 6.0;

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
        let mut search = Search {
            inner,
            view: &view,
            filter,
            query,
            parts: HashMap::new(),
            // Enough that the best k by the exact score are among them: the scan's error is about 1 % of a cosine.
            best: Best::new(filter.k.saturating_mul(4).saturating_add(64)),
        };
        let sketched = search.vectors();
        if !sketched.is_empty() {
            search.sketches(&sketched);
        }
        Ok(search.exact())
    }
}

/// One search under way.
struct Search<'a> {
    inner: &'a Inner,
    view: &'a View,
    filter: &'a Filter,
    query: Query,
    /// By number.
    parts: HashMap<u64, (&'a Arc<Part>, Arc<Mapped>)>,
    best: Best,
}

/// A partition that is scanned by its sketch.
struct Sketched {
    partition: u64,
    mapped: Arc<Mapped>,
    sketch: Arc<Sketch>,
}

impl<'a> Search<'a> {
    /// Bytes of a record and its vector.
    fn stride(&self) -> u64 {
        self.inner.layout.stride() as u64
    }

    /// Maps every partition and scans those that have no sketch; returns the others.
    fn vectors(&mut self) -> Vec<Sketched> {
        let span = trace::span("index", "vectors");
        let (mut sketched, mut records) = (Vec::new(), 0);
        let parts = &self.view.parts;
        for (at, part) in parts.iter().enumerate() {
            let Some(mapped) = self.inner.map(part) else {
                continue;
            };
            // Only the last one grows.
            let sealed = at + 1 < parts.len();
            let make = self.inner.access == Access::ReadWrite;
            if let Some(sketch) = sealed.then(|| part.sketch(&mapped, make)).flatten() {
                sketched.push(Sketched {
                    partition: part.partition,
                    mapped: mapped.clone(),
                    sketch,
                });
            } else {
                records += u64::from(mapped.records());
                for (record, vector) in mapped.iter() {
                    if self.view.admits(record, self.filter) {
                        self.best.offer(self.query.candidate(record, vector));
                    }
                }
            }
            self.parts.insert(part.partition, (part, mapped));
        }
        drop(
            span.arg("records", records)
                .arg("bytes", records * self.stride()),
        );
        sketched
    }

    /// Estimates by the sketches, then scores the promising records by their i8 vectors.
    fn sketches(&mut self, sketched: &[Sketched]) {
        let span = trace::span("index", "sketches");
        let records: usize = sketched.iter().map(|s| s.sketch.records() as usize).sum();
        // A sketch's error is a few times that of the scan; what it may hide grows with the number of strangers.
        let enough = self.best.limit().saturating_mul(4);
        let enough = enough.saturating_add(records / 256).min(records).max(1);
        let margin = FAR * sketch::error(self.inner.layout.dim);
        let mut promising = Promising::new(enough, self.filter.k, margin);
        let query = self.query.sketched();
        let mut scores = [0.0; BLOCK as usize];
        for Sketched {
            partition,
            mapped,
            sketch,
        } in sketched
        {
            let mut admit = |id: u64| {
                let record = mapped.record(slot_of(id));
                record.is_some_and(|(record, _)| self.view.admits(record, self.filter))
            };
            for first in (0..sketch.records()).step_by(BLOCK as usize) {
                let scores = &mut scores[..BLOCK.min(sketch.records() - first) as usize];
                sketch.estimate(&query, first, scores);
                promising.offer(
                    partition << SLOT_BITS | u64::from(first),
                    scores,
                    &mut admit,
                );
            }
            promising.settle(&mut admit);
        }
        let ids = promising.into_ids();
        let bytes = sketched.iter().map(|s| s.sketch.body_bytes());
        drop(
            span.arg("records", records as u64)
                .arg("bytes", bytes.sum()),
        );

        let span = trace::span("index", "candidates");
        for id in &ids {
            let mapped = self.parts.get(&(id >> SLOT_BITS));
            if let Some((record, vector)) = mapped.and_then(|(_, m)| m.record(slot_of(*id))) {
                self.best.offer(self.query.candidate(record, vector));
            }
        }
        let records = ids.len() as u64;
        drop(
            span.arg("records", records)
                .arg("bytes", records * self.stride()),
        );
    }

    /// Scores the best by their exact vectors, as long as one may yet be among the hits.
    fn exact(self) -> Vec<Hit> {
        let span = trace::span("index", "exact");
        let Self {
            inner,
            view,
            filter,
            query,
            parts,
            best,
        } = self;
        let mut candidates: Vec<(f32, u64, &Record)> = best
            .into_vec()
            .into_iter()
            .filter_map(|Candidate { score, id }| {
                let (_, mapped) = parts.get(&(id >> SLOT_BITS))?;
                let (record, _) = mapped.record(slot_of(id))?;
                Some((score + query.slack(record.scale.get()), id, record))
            })
            .collect();
        // By the most that each can come to.
        candidates.sort_by(|a, b| rank(a.0, a.1, b.0, b.1));
        let (mut hits, mut read): (Vec<Hit>, u64) = (Vec::new(), 0);
        let mut open: HashMap<u64, Result<Blobs>> = HashMap::new();
        let mut bytes = 0;
        for (most, id, record) in candidates {
            // Hits are kept best first.
            let full = hits.len() == filter.k;
            if (full && hits.last().is_some_and(|worst| most < worst.score))
                || filter.min_score.is_some_and(|least| most < least)
            {
                break;
            }
            let partition = id >> SLOT_BITS;
            let blobs = open
                .entry(partition)
                .or_insert_with(|| Blobs::open(&inner.layout, partition));
            let embedding = match blobs {
                Ok(blobs) => blobs.embedding(record.blob_at.get(), id),
                Err(e) => Err(e.clone()),
            };
            let embedding = match embedding {
                Ok(embedding) => embedding,
                Err(e) => {
                    let part = parts.get(&partition);
                    if part.is_some_and(|(part, _)| inner.still_has(part)) {
                        inner.note_corrupt(id, &e);
                    }
                    continue;
                }
            };
            read += 1;
            bytes += size_of_val(&embedding[..]) as u64;
            let (Some(score), Some(stream)) =
                (query.exact(&embedding), view.name(record.stream.get()))
            else {
                continue;
            };
            if filter.min_score.is_some_and(|least| score < least) {
                continue;
            }
            let hit = Hit {
                segment: SegmentId(id),
                stream: stream.to_string(),
                start_ns: record.start_ns.get(),
                end_ns: record.end_ns.get(),
                keyframe_ns: record.keyframe_ns.get(),
                score,
            };
            let before = |other: &Hit| rank(other.score, other.segment.0, score, id).is_lt();
            hits.insert(hits.partition_point(before), hit);
            hits.truncate(filter.k);
        }
        drop(span.arg("records", read).arg("bytes", bytes));
        hits
    }
}
