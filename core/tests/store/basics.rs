use std::fs;

use atom_core::ErrorKind;
use atom_core::index::{Filter, NewSegment, NewStream, Source};

use crate::{DIM, STEP, append, camera, caption, expect, readable, sample, writable};

#[test]
fn what_is_appended_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    {
        let store = writable(&path).unwrap();
        let (a, b) = (camera(&store, "a"), camera(&store, "b"));
        for number in 0..40 {
            append(&store, if number % 3 == 0 { a } else { b }, number).unwrap();
        }
        store.set_complete(b, true).unwrap();
        store.set_start_wall(a, 77).unwrap();
        assert!(store.stats().unwrap().partitions > 3);
    }
    for store in [readable(&path).unwrap(), writable(&path).unwrap()] {
        let (a, b) = (store.stream("a").unwrap(), store.stream("b").unwrap());
        assert_eq!((a.complete, b.complete), (false, true));
        assert_eq!((a.start_wall_ns, b.start_wall_ns), (Some(77), None));
        for number in 0..40 {
            let stream = if number % 3 == 0 { a.id } else { b.id };
            expect(&store, stream, number).unwrap();
        }
        let stats = store.stats().unwrap();
        assert_eq!((stats.segments, stats.streams), (40, 2));
        assert_eq!((stats.corrupt_records, stats.damaged_partitions), (0, 0));
        assert_eq!(store.last_end_ns(a.id).unwrap(), Some(40 * STEP));
        let found = store
            .segments(a.id, Some(4 * STEP), Some(9 * STEP))
            .unwrap();
        let starts: Vec<_> = found.iter().map(|s| s.start_ns / STEP).collect();
        assert_eq!(starts, [3, 6], "3 ends at 4, 9 starts at 9");
        // Segment 3 is stream a's, 4 and 5 are not: a gap.
        assert_eq!(store.segment_at(a.id, 5 * STEP).unwrap(), None);
        assert!(store.segment_at(a.id, 4 * STEP).unwrap().is_some());
    }
}

#[test]
fn appending_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = writable(folder.path()).unwrap();
    let stream = camera(&store, "a");
    let first = append(&store, stream, 5).unwrap();
    let before = store.stats().unwrap();
    assert_eq!(append(&store, stream, 5).unwrap(), first);
    assert_eq!(camera(&store, "a"), stream);
    let after = store.stats().unwrap();
    assert_eq!(
        (after.segments, after.blob_bytes, after.vector_bytes),
        (before.segments, before.blob_bytes, before.vector_bytes)
    );
    // Twice within one batch, and beside a new one.
    let (features, thumbnail) = sample(6);
    let new = NewSegment {
        start_ns: 6 * STEP,
        end_ns: 7 * STEP,
        keyframe_ns: 6 * STEP,
        features: &features,
        thumbnail: &thumbnail,
    };
    let old = NewSegment {
        start_ns: 5 * STEP,
        ..new
    };
    let ids = store.append_batch(stream, &[new, old, new]).unwrap();
    assert_eq!((ids[1], ids[0] == ids[2]), (first, true));
    assert_eq!(store.stats().unwrap().segments, 2);
    assert_eq!(store.append_batch(stream, &[]).unwrap(), []);
}

#[test]
fn a_stream_stands_for_one_source() {
    let folder = tempfile::tempdir().unwrap();
    let store = writable(folder.path()).unwrap();
    let file = |uri: &str, sha: Option<u8>| NewStream {
        name: "film".into(),
        source: Some(Source {
            uri: uri.into(),
            sha256: sha.map(|s| [s; 32]),
            bytes: Some(9),
        }),
        ..NewStream::default()
    };
    let id = store.open_stream(&file("/a.mp4", Some(1))).unwrap();
    // Moved, but the same bytes.
    assert_eq!(store.open_stream(&file("/b.mp4", Some(1))).unwrap(), id);
    for other in [file("/a.mp4", Some(2)), file("/b.mp4", None)] {
        let error = store.open_stream(&other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.to_string().contains("delete the stream"), "{error}");
    }
    let boot = |id: &str| NewStream {
        name: "door".into(),
        boot_id: Some(id.into()),
        ..NewStream::default()
    };
    store.open_stream(&boot("one")).unwrap();
    store.open_stream(&boot("one")).unwrap();
    let error = store.open_stream(&boot("two")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let error = store.stream("flim").unwrap_err();
    assert!(error.to_string().contains("film, door"), "{error}");
}

#[test]
fn search_filters_and_orders() {
    let folder = tempfile::tempdir().unwrap();
    let store = writable(folder.path()).unwrap();
    let (a, b) = (camera(&store, "a"), camera(&store, "b"));
    let (mut features, _) = sample(0);
    let mut add = |stream, start: i64, x: f32, y: f32| {
        features.embedding = vec![0.0; DIM];
        (features.embedding[0], features.embedding[1]) = (x, y);
        let segment = NewSegment {
            start_ns: start,
            end_ns: start + 10,
            keyframe_ns: start,
            features: &features,
            thumbnail: b"",
        };
        store.append(stream, &segment).unwrap()
    };
    // Three equal ones, one longer (length must not count), one across.
    let same: Vec<_> = [30, 10, 20].map(|t| add(a, t, 0.6, 0.8)).to_vec();
    let long = add(b, 0, 5.0, 0.0);
    let across = add(b, 50, 0.0, 1.0);
    let mut query = vec![0.0; DIM];
    query[0] = 3.0;
    let ids = |filter: &Filter| -> Vec<_> {
        let hits = store.search(&query, filter).unwrap();
        assert!(hits.is_sorted_by(|a, b| a.score >= b.score));
        hits.iter().map(|h| h.segment).collect()
    };
    let all = ids(&Filter::best(10));
    assert_eq!(all, [&[long], &same[..], &[across]].concat());
    assert_eq!(ids(&Filter::best(2)), all[..2]);
    let only_a = Filter {
        stream: Some(a),
        ..Filter::best(10)
    };
    assert_eq!(ids(&only_a), same);
    let timed = Filter {
        from_ns: Some(31),
        to_ns: Some(50),
        ..only_a.clone()
    };
    assert_eq!(ids(&timed), same[..1]);
    let good = Filter {
        min_score: Some(0.7),
        ..Filter::best(10)
    };
    assert_eq!(ids(&good), [long]);
    let none = Filter {
        min_score: Some(0.7),
        ..only_a
    };
    assert_eq!(ids(&none), []);
    let hit = &store.search(&query, &Filter::best(1)).unwrap()[0];
    assert_eq!((hit.stream.as_str(), hit.score), ("b", 1.0));
}

#[test]
fn captions_are_kept_by_maker() {
    let folder = tempfile::tempdir().unwrap();
    let store = writable(folder.path()).unwrap();
    let stream = camera(&store, "a");
    let id = append(&store, stream, 1).unwrap();
    assert_eq!(store.caption(id, "m1").unwrap(), None);
    for (maker, text) in [
        ("m1", "a cat"),
        ("m1", "a grey cat"),
        ("m2", "ein Kätzchen"),
    ] {
        store.set_caption(id, maker, &caption(text)).unwrap();
    }
    let kept = |maker| store.caption(id, maker).unwrap();
    assert_eq!(kept("m1"), Some(caption("a grey cat")));
    assert_eq!(kept("m2"), Some(caption("ein Kätzchen")));
    assert_eq!(kept("m3"), None);
    // What is still to be said, by maker, in the order of ids.
    let next = append(&store, stream, 2).unwrap();
    let first = append(&store, stream, 0).unwrap();
    let open = |after, maker| store.uncaptioned(stream, after, maker).unwrap();
    assert_eq!(open(None, "m1"), Some(next));
    assert_eq!(open(None, "m3"), Some(id));
    assert_eq!(open(Some(next), "m1"), Some(first));
    assert_eq!(open(Some(first), "m1"), None);
    store.delete_stream(stream).unwrap();
    let gone = store.caption(id, "m1").unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(open(None, "m3"), None);
}

#[test]
fn a_deleted_stream_is_gone_and_its_space_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = writable(folder.path()).unwrap();
    let (a, b) = (camera(&store, "a"), camera(&store, "b"));
    for number in 0..30 {
        append(&store, if number < 20 { a } else { b }, number).unwrap();
    }
    let before = store.stats().unwrap();
    let reader = readable(folder.path()).unwrap();
    assert!(expect(&reader, a, 3).is_ok());
    store.delete_stream(a).unwrap();
    for store in [&store, &reader] {
        assert!(expect(store, a, 3).is_err());
        for number in 20..30 {
            expect(store, b, number).unwrap();
        }
        let hits = store
            .search(&sample(3).0.embedding, &Filter::best(99))
            .unwrap();
        assert_eq!(hits.len(), 10);
        assert!(hits.iter().all(|h| h.stream == "b"));
    }
    let after = store.stats().unwrap();
    assert!(after.partitions < before.partitions);
    assert_eq!(
        fs::read_dir(folder.path().join("parts")).unwrap().count(),
        after.partitions * 2
    );
    assert_eq!(
        append(&store, a, 99).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    // The name is free, the id is not used again.
    assert_ne!(camera(&store, "a"), a);
    store.delete_stream(b).unwrap();
    assert_eq!(store.stats().unwrap().partitions, 0);
    let c = camera(&store, "c");
    append(&store, c, 1).unwrap();
    expect(&store, c, 1).unwrap();
}

#[test]
fn retention_removes_the_oldest_and_only_those() {
    let folder = tempfile::tempdir().unwrap();
    let store = writable(folder.path()).unwrap();
    let stream = camera(&store, "a");
    for number in 0..60 {
        append(&store, stream, number).unwrap();
    }
    let reader = readable(folder.path()).unwrap();
    expect(&reader, stream, 0).unwrap();
    let before = store.stats().unwrap();
    let bytes = before.vector_bytes + before.blob_bytes + before.catalogue_bytes;
    assert_eq!(store.retain(bytes).unwrap().partitions, 0);
    let retained = store.retain(bytes - 1).unwrap();
    assert_eq!(retained.partitions, 1);
    let first = retained.segments;
    assert!(first > 0);
    assert_eq!(
        store.segments(stream, None, None).unwrap()[0].start_ns,
        first as i64 * STEP
    );
    for store in [&store, &reader] {
        assert!(expect(store, stream, first - 1).is_err());
        for number in first..60 {
            expect(store, stream, number).unwrap();
        }
    }
    // The newest always stays.
    store.retain(0).unwrap();
    let after = store.stats().unwrap();
    assert_eq!(after.partitions, 1);
    expect(&store, stream, 59).unwrap();
    assert_eq!(
        fs::read_dir(folder.path().join("parts")).unwrap().count(),
        2
    );
    // Ids do not come back.
    let last = append(&store, stream, 60).unwrap();
    assert!(
        store
            .segments(stream, None, None)
            .unwrap()
            .iter()
            .all(|s| s.id <= last)
    );
    assert_eq!(reader.stats().unwrap().damaged_partitions, 0);
}

#[test]
fn damaged_records_are_left_out_counted_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<_>;
    {
        let store = writable(folder.path()).unwrap();
        let stream = camera(&store, "a");
        ids = (0..4).map(|n| append(&store, stream, n).unwrap()).collect();
    }
    let flip = |name: &str, at: usize| {
        let path = folder.path().join("parts").join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = if at < bytes.len() {
            at
        } else {
            bytes.len() - 5
        };
        bytes[at] ^= 0x10;
        fs::write(&path, bytes).unwrap();
    };
    let file = |suffix: &str| format!("{:08}.{suffix}", ids[0].0 >> 20);
    // A byte of the second record's vector, and the last thumbnail.
    let stride = (56usize + DIM).next_multiple_of(64);
    flip(&file("vec"), 128 + stride + 60);
    flip(&file("blob"), usize::MAX);
    let store = writable(folder.path()).unwrap();
    let stream = store.stream("a").unwrap().id;
    let hits = store
        .search(&sample(1).0.embedding, &Filter::best(9))
        .unwrap();
    assert!(hits.iter().all(|h| h.segment != ids[1]));
    assert_eq!(hits.len(), 3);
    assert_eq!(store.stats().unwrap().corrupt_records, 1);
    let error = store.thumbnail(ids[3]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreCorrupt);
    assert!(error.to_string().contains(&file("blob")), "{error}");
    assert!(
        error.to_string().contains("index the video again"),
        "{error}"
    );
    // Which is what mends it, and no segment comes twice.
    for number in 0..4 {
        let id = append(&store, stream, number).unwrap();
        assert_eq!(id == ids[number as usize], number % 2 == 0);
    }
    for number in 0..4 {
        expect(&store, stream, number).unwrap();
    }
    let hits = store
        .search(&sample(3).0.embedding, &Filter::best(9))
        .unwrap();
    assert_eq!(hits.len(), 4);
}

#[test]
fn a_missing_partition_costs_its_own_segments_only() {
    let folder = tempfile::tempdir().unwrap();
    let count = 30;
    {
        let store = writable(folder.path()).unwrap();
        let stream = camera(&store, "a");
        for number in 0..count {
            append(&store, stream, number).unwrap();
        }
    }
    let parts = folder.path().join("parts");
    fs::remove_file(parts.join("00000001.vec")).unwrap();
    fs::remove_file(parts.join("00000001.blob")).unwrap();
    fs::write(parts.join("00000002.vec"), b"short").unwrap();
    let lost = |store: &_, stream| -> Vec<u64> {
        (0..count)
            .filter(|&n| expect(store, stream, n).is_err())
            .collect()
    };
    let store = writable(folder.path()).unwrap();
    let stream = store.stream("a").unwrap().id;
    let before = lost(&store, stream);
    assert!(!before.is_empty() && before.len() < 20, "{before:?}");
    assert_eq!(store.stats().unwrap().damaged_partitions, 2);
    for number in 0..count {
        append(&store, stream, number).unwrap();
    }
    assert!(lost(&store, stream).is_empty());
}

#[test]
fn captions_go_with_their_segments() {
    let folder = tempfile::tempdir().unwrap();
    let store = writable(folder.path()).unwrap();
    let stream = camera(&store, "a");
    for number in 0..80 {
        let id = append(&store, stream, number).unwrap();
        store.set_caption(id, "m", &caption("a cat")).unwrap();
    }
    let rows = || {
        let catalogue = rusqlite::Connection::open(folder.path().join("atom.db")).unwrap();
        let count = "SELECT count(*) FROM captions";
        let rows: i64 = catalogue.query_row(count, [], |row| row.get(0)).unwrap();
        rows as u64
    };
    assert_eq!(rows(), 80);
    let retained = store.retain(0).unwrap();
    let left = store.segments(stream, None, None).unwrap();
    assert!(retained.segments > 0 && !left.is_empty());
    assert_eq!(rows(), left.len() as u64);
    assert_eq!(left.len() as u64 + retained.segments, 80);
    for segment in left {
        assert_eq!(
            store.caption(segment.id, "m").unwrap(),
            Some(caption("a cat"))
        );
    }
    store.delete_stream(stream).unwrap();
    assert_eq!(rows(), 0);
}
