use std::fs;
use std::sync::Arc;

use atom_core::ErrorKind;
use atom_core::features::{Features, Variant};
use atom_core::index::{Access, Filter, NewSegment, NewStream, Store, StoreOptions};

use crate::{
    DIM, Random, append, camera, caption, expect, identity, options, readable, sample, writable,
};

#[test]
fn a_store_of_another_pack_is_refused_and_names_both() {
    let folder = tempfile::tempdir().unwrap();
    drop(writable(folder.path()).unwrap());
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let mut other = StoreOptions::new(identity(2), access);
        let error = Store::open(folder.path(), &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreForeign);
        let text = error.to_string();
        assert!(
            text.contains("test pack 1") && text.contains("test pack 2"),
            "{text}"
        );
        assert!(error.remedy_text().is_some());
        other.identity = identity(1);
        other.identity.dim = DIM + 1;
        let error = Store::open(folder.path(), &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreForeign);
    }
    drop(writable(folder.path()).unwrap());
}

#[test]
fn vectors_of_another_variant_are_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let [own, quantised] =
        [(1, "encoder as own.onnx"), (2, "encoder as small.onnx")].map(|(hash, name)| {
            Arc::new(Variant {
                hash: [hash; 32],
                name: name.to_owned(),
            })
        });
    let by = |number: u64, variant: &Arc<Variant>| {
        let (mut features, _) = sample(number);
        features.made_by = Some(Arc::clone(variant));
        features
    };
    let add = |store: &Store, all: &[&Features]| {
        let stream = camera(store, "a");
        let first = store.stats().unwrap().segments as i64;
        let segments = all.iter().zip(first..).map(|(features, at)| NewSegment {
            start_ns: at,
            end_ns: at,
            keyframe_ns: at,
            features,
            thumbnail: &[],
        });
        store.append_batch(stream, &segments.collect::<Vec<_>>())
    };
    let refused = |store: &Store, all: &[&Features]| {
        let before = store.stats().unwrap().segments;
        let error = add(store, all).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreForeign, "{error}");
        for variant in [&own, &quantised] {
            assert!(error.to_string().contains(&variant.name), "{error}");
        }
        assert!(error.remedy_text().is_some());
        assert_eq!(store.stats().unwrap().segments, before);
    };
    let store = writable(folder.path()).unwrap();
    assert_eq!(store.variant().unwrap(), None);
    // Not even the first may be of two.
    refused(&store, &[&by(1, &own), &by(2, &quantised)]);
    assert_eq!(store.variant().unwrap(), None);
    add(&store, &[&by(1, &quantised), &by(2, &quantised)]).unwrap();
    refused(&store, &[&by(3, &own)]);
    refused(&store, &[&by(3, &quantised), &by(4, &own)]);
    drop(store);
    // Kept with the store, for readers too.
    let store = readable(folder.path()).unwrap();
    assert_eq!(store.variant().unwrap().as_ref(), Some(&*quantised));
    assert!(store.check_variant(&quantised).is_ok());
    assert_eq!(
        store.check_variant(&own).unwrap_err().kind(),
        ErrorKind::StoreForeign
    );
    drop(store);
    let store = writable(folder.path()).unwrap();
    refused(&store, &[&by(3, &own)]);
    add(&store, &[&by(3, &quantised)]).unwrap();
}

#[test]
fn a_newer_or_much_older_store_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = writable(folder.path()).unwrap();
        append(&store, camera(&store, "a"), 1).unwrap();
    }
    let database = folder.path().join("atom.db");
    let set = |version: i64| {
        let conn = rusqlite::Connection::open(&database).unwrap();
        conn.pragma_update(None, "user_version", version).unwrap();
    };
    for version in [4, 1] {
        set(version);
        let before = fs::read(&database).unwrap();
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let error = Store::open(folder.path(), &options(access)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::StoreVersion, "{error}");
            let told = format!("version {version}");
            assert!(error.to_string().contains(&told), "{error}");
        }
        assert_eq!(fs::read(&database).unwrap(), before);
    }
    set(3);
    let store = writable(folder.path()).unwrap();
    expect(&store, store.stream("a").unwrap().id, 1).unwrap();
}

#[test]
fn a_folder_of_something_else_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("holiday.jpg"), b"x").unwrap();
    let error = writable(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("holiday.jpg"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let file = folder.path().join("holiday.jpg");
    assert_eq!(
        writable(&file).unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    let missing = folder.path().join("none");
    assert_eq!(readable(&missing).unwrap_err().kind(), ErrorKind::NotFound);
    let empty = tempfile::tempdir().unwrap();
    let error = readable(empty.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);

    // A database of another program, and one that is none.
    let other = tempfile::tempdir().unwrap();
    let conn = rusqlite::Connection::open(other.path().join("atom.db")).unwrap();
    conn.execute_batch("CREATE TABLE t(x)").unwrap();
    drop(conn);
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let error = Store::open(other.path(), &options(access)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    fs::write(other.path().join("atom.db"), [7; 5000]).unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let error = Store::open(other.path(), &options(access)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreCorrupt, "{error}");
        assert!(error.to_string().contains("atom.db"), "{error}");
    }
}

#[test]
fn partitions_without_a_catalogue_are_not_taken_for_leftovers() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = writable(folder.path()).unwrap();
        append(&store, camera(&store, "a"), 1).unwrap();
    }
    fs::remove_file(folder.path().join("atom.db")).unwrap();
    let error = writable(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreCorrupt);
    fs::write(folder.path().join("atom.db"), b"").unwrap();
    let error = writable(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreCorrupt);
    assert_eq!(
        fs::read_dir(folder.path().join("parts")).unwrap().count(),
        2
    );
}

#[test]
fn two_writers_in_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let store = writable(folder.path()).unwrap();
    let error = writable(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreLocked);
    let pid = std::process::id().to_string();
    assert!(error.to_string().contains(&pid), "{error}");
    let stream = camera(&store, "a");
    append(&store, stream, 1).unwrap();
    drop(store);
    expect(&writable(folder.path()).unwrap(), stream, 1).unwrap();
}

#[test]
fn a_reader_does_not_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = writable(folder.path()).unwrap();
    let stream = camera(&store, "a");
    let id = append(&store, stream, 1).unwrap();
    let reader = readable(folder.path()).unwrap();
    let new = NewStream {
        name: "b".into(),
        ..NewStream::default()
    };
    for error in [
        append(&reader, stream, 2).unwrap_err(),
        reader.open_stream(&new).unwrap_err(),
        reader.set_caption(id, "m", &caption("t")).unwrap_err(),
        reader.set_complete(stream, true).unwrap_err(),
        reader.delete_stream(stream).unwrap_err(),
        reader.retain(0).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
    }
}

#[test]
fn bad_segments_and_queries_are_refused_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = writable(folder.path()).unwrap();
    let stream = camera(&store, "a");
    append(&store, stream, 1).unwrap();
    let (good, _) = sample(2);
    let with = |change: &dyn Fn(&mut Features)| {
        let mut features = good.clone();
        change(&mut features);
        features
    };
    let times = (10, 20, 15);
    for (features, (start_ns, end_ns, keyframe_ns)) in [
        (with(&|f| f.embedding[3] = f32::NAN), times),
        (with(&|f| f.embedding[3] = f32::INFINITY), times),
        (with(&|f| f.embedding.fill(0.0)), times),
        (with(&|f| f.embedding.truncate(3)), times),
        (with(&|f| f.posteriors[0] = f32::NAN), times),
        (with(&|f| f.map.data[0] = f32::NAN), times),
        (good.clone(), (20, 10, 15)),
        (good.clone(), (10, 20, 9)),
        (good.clone(), (10, 20, 21)),
    ] {
        let bad = NewSegment {
            start_ns,
            end_ns,
            keyframe_ns,
            features: &features,
            thumbnail: b"",
        };
        let fine = NewSegment {
            start_ns: 0,
            end_ns: 1,
            keyframe_ns: 0,
            features: &good,
            ..bad
        };
        let error = store.append_batch(stream, &[fine, bad]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(store.stats().unwrap().segments, 1);

    let query = &good.embedding;
    let nan_score = Filter {
        min_score: Some(f32::NAN),
        ..Filter::best(1)
    };
    for (query, filter) in [
        (vec![0.0; DIM], Filter::best(1)),
        (vec![f32::NAN; DIM], Filter::best(1)),
        (vec![1.0; DIM - 1], Filter::best(1)),
        (vec![], Filter::best(1)),
        (query.clone(), Filter::best(0)),
        (query.clone(), nan_score),
    ] {
        let error = store.search(&query, &filter).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    // As many as one likes.
    assert_eq!(
        store
            .search(query, &Filter::best(usize::MAX))
            .unwrap()
            .len(),
        1
    );
    for dim in [0, 65_537] {
        let mut options = options(Access::ReadWrite);
        options.identity.dim = dim;
        let error = Store::open(folder.path().join("new"), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    let unnamed = NewStream::default();
    let error = store.open_stream(&unnamed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn queries_and_appends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = writable(folder.path()).unwrap();
    let stream = camera(&store, "a");
    append(&store, stream, 0).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let store = store.clone();
            scope.spawn(move || {
                for _ in 0..200 {
                    expect(&store, stream, 0).unwrap();
                }
            });
        }
        for number in 1..60 {
            append(&store, stream, number).unwrap();
            expect(&store, stream, number).unwrap();
        }
    });
}

/// Whatever bytes the files hold: an answer or an error, and what is answered from a damaged partition is right.
#[test]
fn flipped_and_missing_bytes_are_noticed_and_never_crash() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    let mut segments = Vec::new();
    {
        let store = writable(&original).unwrap();
        let stream = camera(&store, "a");
        for number in 0..20 {
            segments.push((append(&store, stream, number).unwrap(), sample(number)));
        }
    }
    let mut names = vec!["atom.db".to_owned()];
    for entry in fs::read_dir(original.join("parts")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        names.push(format!("parts/{name}"));
    }
    names.sort();
    let mut random = Random(77);
    let (mut noticed, trials) = (0, 150);
    for trial in 0..trials {
        let path = folder.path().join(format!("{trial}"));
        fs::create_dir_all(path.join("parts")).unwrap();
        for name in &names {
            fs::copy(original.join(name), path.join(name)).unwrap();
        }
        let name = &names[random.below(names.len() as u64) as usize];
        let mut bytes = fs::read(path.join(name)).unwrap();
        match random.below(3) {
            0 => bytes.truncate(random.below(bytes.len() as u64) as usize),
            many => {
                for _ in 0..many * many * 4 {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << random.below(8);
                }
            }
        }
        fs::write(path.join(name), bytes).unwrap();
        let mut errors = 0;
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let Ok(store) = Store::open(&path, &options(access)) else {
                errors += 1;
                continue;
            };
            for (id, (features, thumbnail)) in &segments {
                for same in [
                    store.features(*id).map(|f| f == *features),
                    store.thumbnail(*id).map(|t| t == *thumbnail),
                ] {
                    assert!(name == "atom.db" || same.as_ref().is_ok_and(|s| *s) || same.is_err());
                    errors += usize::from(!same.is_ok_and(|s| s));
                }
                match store.search(&features.embedding, &Filter::best(30)) {
                    Ok(hits) => errors += usize::from(hits.len() != segments.len()),
                    Err(_) => errors += 1,
                }
            }
            let _ = store.stats();
            if access == Access::ReadWrite {
                let _ = store.retain(0);
            }
        }
        noticed += usize::from(errors > 0);
        fs::remove_dir_all(&path).unwrap();
    }
    // Not every bit matters: padding, free pages of the catalogue.
    println!("{noticed} of {trials} damages noticed");
    assert!(noticed * 4 > trials * 3);
}
