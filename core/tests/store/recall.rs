use std::time::Instant;

use atom_core::features::{FeatureMap, Features};
use atom_core::index::{Access, Filter, Identity, NewSegment, Store, StoreOptions};

use crate::{Random, camera};

/// A store of `count` vectors around shared centres: close to one another, so that their order hangs on small differences.
fn store(path: &std::path::Path, count: usize, dim: usize, spread: f32) -> (Store, Vec<Vec<f32>>) {
    store_of(path, count, dim, spread, 50, u64::MAX)
}

fn open(path: &std::path::Path, dim: usize, partition_bytes: u64, access: Access) -> Store {
    let identity = Identity {
        hash: [3; 32],
        dim,
        description: "recall".into(),
    };
    let mut options = StoreOptions::new(identity, access);
    if partition_bytes < u64::MAX {
        options.partition_bytes = partition_bytes;
    }
    Store::open(path, &options).unwrap()
}

/// Without centres the vectors are strangers to one another.
fn store_of(
    path: &std::path::Path,
    count: usize,
    dim: usize,
    spread: f32,
    centres: usize,
    partition_bytes: u64,
) -> (Store, Vec<Vec<f32>>) {
    let store = open(path, dim, partition_bytes, Access::ReadWrite);
    let stream = camera(&store, "a");
    let mut random = Random(11);
    let mut vector = |around: Option<&Vec<f32>>, spread: f32| -> Vec<f32> {
        (0..dim)
            .map(|i| around.map_or(0.0, |c| c[i]) + spread * random.normal())
            .collect()
    };
    let centres: Vec<_> = (0..centres).map(|_| vector(None, 1.0)).collect();
    let features: Vec<_> = (0..count)
        .map(|i| Features {
            embedding: vector(i.checked_rem(centres.len()).map(|at| &centres[at]), spread),
            ..Features::default()
        })
        .collect();
    for (chunk, features) in features.chunks(2000).enumerate() {
        let segments: Vec<_> = features
            .iter()
            .enumerate()
            .map(|(i, features)| {
                let at = (chunk * 2000 + i) as i64;
                NewSegment {
                    start_ns: at,
                    end_ns: at,
                    keyframe_ns: at,
                    features,
                    thumbnail: &[],
                }
            })
            .collect();
        store.append_batch(stream, &segments).unwrap();
    }
    (store, features.into_iter().map(|f| f.embedding).collect())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(&x, &y)| f64::from(x) * f64::from(y))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn the_scan_finds_what_exact_search_finds() {
    let folder = tempfile::tempdir().unwrap();
    // Around the centres the cosines of one centre's 400 vectors differ by about .01.
    let (store, vectors) = store(folder.path(), 20_000, 384, 0.3);
    let mut random = Random(5);
    let (mut found, mut wanted) = (0, 0);
    for trial in 0..40 {
        let near = &vectors[random.below(vectors.len() as u64) as usize];
        let noise = if trial % 2 == 0 { 0.2 } else { 1.0 };
        let query: Vec<f32> = near.iter().map(|v| v + noise * random.normal()).collect();
        let mut exact: Vec<_> = vectors
            .iter()
            .map(|v| cosine(&query, v))
            .enumerate()
            .collect();
        exact.sort_by(|a, b| b.1.total_cmp(&a.1));
        let hits = store.search(&query, &Filter::best(10)).unwrap();
        assert_eq!(hits.len(), 10);
        for hit in &hits {
            let truth = cosine(&query, &vectors[hit.start_ns as usize]);
            assert!((truth - f64::from(hit.score)).abs() < 1e-6);
        }
        wanted += 10;
        found += exact[..10]
            .iter()
            .filter(|(i, _)| hits.iter().any(|h| h.start_ns as usize == *i))
            .count();
        assert_eq!(hits, store.search(&query, &Filter::best(10)).unwrap());
    }
    println!("recall@10 {found}/{wanted}");
    assert!(found * 100 >= wanted * 99, "recall@10 {found}/{wanted}");
}

fn sketches(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(path.join("parts")).unwrap();
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(".sketch"))
        .collect();
    found.sort();
    found
}

/// Bytes of 6,000 of the test's records: what seals a partition.
const SEALED: u64 = 6000 * 2000;

#[test]
fn sketches_find_what_exact_search_finds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (count, dim) = (20_000, 384);
    // Strangers: the nearest of a query is hardly nearer than the rest.
    let (store, vectors) = store_of(path, count, dim, 1.0, 0, SEALED);
    let made = sketches(path);
    assert!(made.len() >= 2, "{made:?}");
    let mut random = Random(5);
    let queries: Vec<Vec<f32>> = (0..40)
        .map(|_| (0..dim).map(|_| random.normal()).collect())
        .collect();
    let (mut found, mut wanted) = (0, 0);
    let mut all = Vec::new();
    for query in &queries {
        let mut exact: Vec<_> = vectors
            .iter()
            .map(|v| cosine(query, v))
            .enumerate()
            .collect();
        exact.sort_by(|a, b| b.1.total_cmp(&a.1));
        let hits = store.search(query, &Filter::best(10)).unwrap();
        wanted += 10;
        found += exact[..10]
            .iter()
            .filter(|(i, _)| hits.iter().any(|h| h.start_ns as usize == *i))
            .count();
        // Times are checked before records are forgotten, so a narrow range loses nothing.
        let (from, to) = (4000, 4200);
        let filter = Filter {
            from_ns: Some(from),
            to_ns: Some(to),
            ..Filter::best(3)
        };
        let within = store.search(query, &filter).unwrap();
        let mut best: Vec<_> = exact
            .iter()
            .filter(|(i, _)| (from..to).contains(&(*i as i64)))
            .collect();
        best.truncate(3);
        let ids = |hits: &[atom_core::index::Hit]| -> Vec<usize> {
            hits.iter().map(|hit| hit.start_ns as usize).collect()
        };
        let best: Vec<usize> = best.iter().map(|(i, _)| *i).collect();
        assert_eq!(ids(&within), best);
        all.push(hits);
    }
    println!("recall@10 {found}/{wanted}");
    assert!(found * 100 >= wanted * 99, "recall@10 {found}/{wanted}");
    drop(store);

    // Flipped, cut short, gone: made again by the next writer; a reader does without.
    let flip = |path: &std::path::Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 8;
        std::fs::write(path, bytes).unwrap();
    };
    let whole = std::fs::read(&made[0]).unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        flip(&made[0]);
        std::fs::write(&made[1], &whole[..whole.len() / 3]).unwrap();
        std::fs::write(path.join("parts/00000001.sketch.tmp-1-1"), b"half").unwrap();
        let store = open(path, dim, SEALED, access);
        for (query, hits) in queries.iter().zip(&all) {
            assert_eq!(&store.search(query, &Filter::best(10)).unwrap(), hits);
        }
        if access == Access::ReadWrite {
            assert_eq!(std::fs::read(&made[0]).unwrap(), whole);
            assert_eq!(sketches(path), made);
            store.retain(0).unwrap();
            assert!(sketches(path).is_empty());
            assert!(
                !store
                    .search(&queries[0], &Filter::best(10))
                    .unwrap()
                    .is_empty()
            );
        }
    }
}

/// Not a test: prints how fast segments of the reference pack's size are made durable.
#[test]
#[ignore = "a measurement"]
fn measure_append() {
    let folder = tempfile::tempdir().unwrap();
    let (store, vectors) = store(folder.path(), 1, 384, 0.3);
    let stream = camera(&store, "b");
    let features = Features {
        embedding: vectors[0].clone(),
        posteriors: vec![0.001; 1000],
        map: FeatureMap::of_one(1, 1280, vec![0.5; 1280]),
        ..Features::default()
    };
    let thumbnail = vec![7; 15_000];
    let mut at = 0;
    for batch in [1, 16] {
        let begin = Instant::now();
        let count = 320;
        for _ in 0..count / batch {
            let segments: Vec<_> = (at..at + batch)
                .map(|start_ns| NewSegment {
                    start_ns,
                    end_ns: start_ns,
                    keyframe_ns: start_ns,
                    features: &features,
                    thumbnail: &thumbnail,
                })
                .collect();
            at += batch;
            store.append_batch(stream, &segments).unwrap();
        }
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        println!("append, {batch} at a time: {rate:.0}/s");
    }
}
