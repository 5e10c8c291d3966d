//! The store from outside: what it keeps, refuses, finds, and survives.

mod basics;
mod carry_over;
mod crash;
mod disk;
mod power_loss;
mod provenance;
mod recall;
mod refusals;

use std::path::Path;

use atom_core::Result;
use atom_core::features::{Detection, FeatureMap, Features};
use atom_core::index::{
    Access, Caption, Identity, NewSegment, NewStream, SegmentId, Store, StoreOptions, StreamId,
};

const DIM: usize = 24;

fn identity(tag: u8) -> Identity {
    Identity {
        hash: [tag; 32],
        dim: DIM,
        description: format!("test pack {tag}"),
    }
}

/// Small partitions, so that tests meet several.
fn options(access: Access) -> StoreOptions {
    StoreOptions {
        partition_bytes: 8 << 10,
        ..StoreOptions::new(identity(1), access)
    }
}

fn writable(path: &Path) -> Result<Store> {
    Store::open(path, &options(Access::ReadWrite))
}

fn readable(path: &Path) -> Result<Store> {
    Store::open(path, &options(Access::ReadOnly))
}

fn camera(store: &Store, name: &str) -> StreamId {
    let new = NewStream {
        name: name.into(),
        ..NewStream::default()
    };
    store.open_stream(&new).unwrap()
}

fn caption(text: &str) -> Caption {
    Caption {
        text: text.into(),
        tokens: 3,
        stop_reason: "end_of_text".into(),
        grounds: "[]".into(),
    }
}

/// SplitMix64: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// About normal, mean 0, deviation 1.
    fn normal(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| self.next() as f64 / u64::MAX as f64).sum();
        (sum - 6.0) as f32
    }
}

/// Features and thumbnail that follow from `number` alone.
fn sample(number: u64) -> (Features, Vec<u8>) {
    let mut random = Random(number);
    let mut floats = |count: usize| (0..count).map(|_| random.normal()).collect::<Vec<_>>();
    let features = Features {
        embedding: floats(DIM),
        posteriors: floats(10),
        detections: vec![Detection {
            label: number as u32,
            score: 0.5,
            bbox: [0.0, 0.25, 0.5, 1.0],
        }],
        map: FeatureMap::of_one(1, 16, floats(16)),
        ..Features::default()
    };
    let bytes = 100 + random.below(900);
    let thumbnail = (0..bytes).map(|_| random.next() as u8).collect();
    (features, thumbnail)
}

const STEP: i64 = 1_000;

fn append(store: &Store, stream: StreamId, number: u64) -> Result<SegmentId> {
    let (features, thumbnail) = sample(number);
    let start_ns = number as i64 * STEP;
    let segment = NewSegment {
        start_ns,
        end_ns: start_ns + STEP,
        keyframe_ns: start_ns + STEP / 2,
        features: &features,
        thumbnail: &thumbnail,
    };
    store.append(stream, &segment)
}

/// Segment `number` is there, with all its content, and a search finds it.
fn expect(store: &Store, stream: StreamId, number: u64) -> Result<(), String> {
    let (features, thumbnail) = sample(number);
    let start_ns = number as i64 * STEP;
    let found = store
        .segment_at(stream, start_ns)
        .map_err(|e| e.to_string())?
        .filter(|s| s.start_ns == start_ns)
        .ok_or_else(|| format!("segment {number} is gone"))?;
    if (found.end_ns, found.keyframe_ns) != (start_ns + STEP, start_ns + STEP / 2) {
        return Err(format!("segment {number} has other times: {found:?}"));
    }
    match store.features(found.id) {
        Ok(found) if found == features => {}
        other => return Err(format!("features of segment {number}: {other:?}")),
    }
    match store.thumbnail(found.id) {
        Ok(found) if found == thumbnail => {}
        other => return Err(format!("thumbnail of segment {number}: {other:?}")),
    }
    let filter = atom_core::index::Filter {
        stream: Some(stream),
        ..atom_core::index::Filter::best(1)
    };
    match store.search(&features.embedding, &filter) {
        Ok(hits) if hits.len() == 1 && hits[0].segment == found.id && hits[0].score > 0.999 => {
            Ok(())
        }
        other => Err(format!("search for segment {number}: {other:?}")),
    }
}
