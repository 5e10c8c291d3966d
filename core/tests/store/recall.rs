use std::time::Instant;

use atom_core::features::{FeatureMap, Features};
use atom_core::index::{Access, Filter, Identity, NewSegment, Store, StoreOptions};

use crate::{Random, camera};

/// A store of `count` vectors around shared centres: close to one another, so that their order hangs on small differences.
fn store(path: &std::path::Path, count: usize, dim: usize, spread: f32) -> (Store, Vec<Vec<f32>>) {
    let identity = Identity {
        hash: [3; 32],
        dim,
        description: "recall".into(),
    };
    let store = Store::open(path, &StoreOptions::new(identity, Access::ReadWrite)).unwrap();
    let stream = camera(&store, "a");
    let mut random = Random(11);
    let mut vector = |around: Option<&Vec<f32>>, spread: f32| -> Vec<f32> {
        (0..dim)
            .map(|i| around.map_or(0.0, |c| c[i]) + spread * random.normal())
            .collect()
    };
    let centres: Vec<_> = (0..50).map(|_| vector(None, 1.0)).collect();
    let features: Vec<_> = (0..count)
        .map(|i| Features {
            embedding: vector(Some(&centres[i % centres.len()]), spread),
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

/// Not a test: prints what a search of 100,000 costs.
#[test]
#[ignore = "a measurement"]
fn measure_search() {
    let folder = tempfile::tempdir().unwrap();
    let (store, vectors) = store(folder.path(), 100_000, 384, 0.3);
    let mut times = Vec::new();
    for i in 0..60 {
        let begin = Instant::now();
        store.search(&vectors[i * 1000], &Filter::best(10)).unwrap();
        times.push(begin.elapsed());
    }
    println!("first {:?}", times[0]);
    times.sort();
    println!("p50 {:?} of 100,000 x 384", times[times.len() / 2]);
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
        map: FeatureMap {
            rows: 1,
            dim: 1280,
            data: vec![0.5; 1280],
        },
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
