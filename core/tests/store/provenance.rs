//! What made what is in a store: parts that the pack's modules did not make are left out, and refusals name what differs.

use std::path::Path;
use std::sync::Arc;

use atom_core::ErrorKind;
use atom_core::features::{FeatureSources, Features, Variant};
use atom_core::identity::{Canonical, Digest, Record};
use atom_core::index::{Access, Identity, NewSegment, Provenance, SegmentId, Store, StoreOptions};

use crate::{DIM, append, camera, caption, identity, sample, writable};

/// A pack whose posteriors, feature maps and detections are by makers of these numbers; 0: it makes none.
fn made_by([posteriors, map, detections]: [u8; 3]) -> FeatureSources {
    let digest = |tag: u8| (tag > 0).then_some(Digest([tag; 32]));
    FeatureSources {
        posteriors: digest(posteriors),
        map: digest(map),
        detections: digest(detections),
    }
}

fn open(path: &Path, access: Access, makers: [u8; 3]) -> Store {
    let options = StoreOptions {
        provenance: Provenance {
            features: made_by(makers),
            ..Provenance::default()
        },
        partition_bytes: 8 << 10,
        ..StoreOptions::new(identity(1), access)
    };
    Store::open(path, &options).unwrap()
}

/// Sample `number` with only these parts.
fn only(number: u64, [posteriors, map, detections]: [bool; 3]) -> Features {
    let (mut features, _) = sample(number);
    if !posteriors {
        features.posteriors.clear();
    }
    if !map {
        features.map = Default::default();
    }
    if !detections {
        features.detections.clear();
    }
    features
}

#[test]
fn each_part_is_read_while_its_own_maker_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let packs: &[[u8; 3]] = &[
        [1, 1, 1],
        // Another detector, another connector, another classifier; none of each; all others.
        [1, 1, 2],
        [1, 2, 1],
        [2, 1, 1],
        [1, 1, 0],
        [0, 0, 0],
        [3, 3, 3],
    ];
    let mut ids: Vec<SegmentId> = Vec::new();
    for (number, makers) in packs.iter().enumerate() {
        let store = open(path, Access::ReadWrite, *makers);
        ids.push(append(&store, camera(&store, "a"), number as u64).unwrap());
    }
    // Twice, so that nothing depends on which pack looked first.
    for makers in packs.iter().chain(packs) {
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let store = open(path, access, *makers);
            let mut outdated = 0;
            for (number, (id, by)) in ids.iter().zip(packs).enumerate() {
                let same = [0, 1, 2].map(|part| by[part] == makers[part]);
                let expected = only(number as u64, same);
                assert_eq!(
                    store.features(*id).unwrap(),
                    expected,
                    "{by:?} for {makers:?}"
                );
                assert_eq!(store.embedding(*id).unwrap(), expected.embedding);
                let best = atom_core::index::Filter::best(1);
                let hits = store.search(&expected.embedding, &best).unwrap();
                assert_eq!(hits[0].segment, *id);
                outdated += u64::from(same != [true; 3]);
            }
            assert_eq!(store.stats().unwrap().outdated_segments, outdated);
        }
    }
    // A pack that comes back adds no origin of its own.
    let store = open(path, Access::ReadWrite, packs[0]);
    append(&store, camera(&store, "a"), 99).unwrap();
    drop(store);
    let conn = rusqlite::Connection::open(path.join("atom.db")).unwrap();
    let origins: i64 = conn
        .query_row("SELECT count(*) FROM origins", [], |row| row.get(0))
        .unwrap();
    assert_eq!(origins, packs.len() as i64);
}

#[test]
fn captions_are_of_their_maker_whatever_the_features() {
    let folder = tempfile::tempdir().unwrap();
    let id = {
        let store = open(folder.path(), Access::ReadWrite, [1, 1, 1]);
        let id = append(&store, camera(&store, "a"), 1).unwrap();
        store
            .set_caption(id, "by detections 1", &caption("old"))
            .unwrap();
        id
    };
    let store = open(folder.path(), Access::ReadWrite, [1, 1, 2]);
    let stream = camera(&store, "a");
    assert_eq!(store.caption(id, "by detections 2").unwrap(), None);
    let uncaptioned = |maker| store.uncaptioned(stream, None, maker).unwrap();
    assert_eq!(uncaptioned("by detections 2"), Some(id));
    assert_eq!(uncaptioned("by detections 1"), None);
}

#[test]
fn a_segment_without_its_origin_is_an_error_and_the_rest_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (lost, kept) = {
        let store = open(folder.path(), Access::ReadWrite, [1, 1, 1]);
        let stream = camera(&store, "a");
        (
            append(&store, stream, 1).unwrap(),
            append(&store, stream, 2).unwrap(),
        )
    };
    let conn = rusqlite::Connection::open(folder.path().join("atom.db")).unwrap();
    conn.execute(
        "UPDATE segments SET origin = 77 WHERE id = ?1",
        [lost.0 as i64],
    )
    .unwrap();
    drop(conn);
    let unreadable = |store: &Store, id| {
        let error = store.features(id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreCorrupt, "{error}");
        // Vectors need no origin.
        assert_eq!(store.embedding(id).unwrap().len(), DIM);
    };
    let store = open(folder.path(), Access::ReadWrite, [1, 1, 1]);
    unreadable(&store, lost);
    assert_eq!(store.features(kept).unwrap(), sample(2).0);
    drop(store);
    // An origin that is no identity: the store opens, and new segments are as ever.
    let conn = rusqlite::Connection::open(folder.path().join("atom.db")).unwrap();
    conn.execute("UPDATE origins SET detections = x'77'", [])
        .unwrap();
    drop(conn);
    let store = open(folder.path(), Access::ReadWrite, [1, 1, 1]);
    unreadable(&store, kept);
    store.stats().unwrap();
    let new = append(&store, camera(&store, "a"), 3).unwrap();
    assert_eq!(store.features(new).unwrap(), sample(3).0);
}

fn encoder(mean: f32, width: u32) -> Canonical {
    let mut preprocess = Record::new();
    preprocess.field("mean", &[mean; 3]).field("width", &width);
    let mut canonical = Canonical::new("atom.embedding", 1);
    canonical.field("preprocess", &preprocess);
    canonical
}

fn options(encoder: &Canonical, forms: &[Variant]) -> StoreOptions {
    let identity = Identity {
        hash: encoder.finish().0,
        dim: DIM,
        description: "the pack".into(),
    };
    StoreOptions {
        provenance: Provenance {
            encoding: encoder.bytes(),
            forms: forms.to_vec(),
            ..Provenance::default()
        },
        ..StoreOptions::new(identity, Access::ReadWrite)
    }
}

#[test]
fn a_foreign_store_is_refused_by_the_fields_that_differ() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path(), &options(&encoder(0.5, 224), &[])).unwrap());
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let mut other = options(&encoder(0.25, 224), &[]);
        other.access = access;
        let error = Store::open(folder.path(), &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreForeign);
        let told = "preprocess.mean was [0.5, 0.5, 0.5] and is [0.25, 0.25, 0.25]";
        assert!(error.message().contains(told), "{error}");
        assert!(!error.message().contains("width"), "{error}");
        assert!(error.remedy_text().is_some());
    }
    drop(Store::open(folder.path(), &options(&encoder(0.5, 224), &[])).unwrap());
    // Whoever does not say what is behind its hash is refused without the fields.
    let error = writable(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreForeign, "{error}");
}

#[test]
fn a_pack_without_the_form_that_made_a_store_is_refused_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let [own, small, new] = [1, 2, 3].map(|tag| Variant {
        hash: [tag; 32],
        name: format!("encoder as {tag}.onnx"),
    });
    let encoder = encoder(0.5, 224);
    let both = options(&encoder, &[own.clone(), small.clone()]);
    // An empty store was made by no form.
    drop(Store::open(folder.path(), &both).unwrap());
    drop(
        Store::open(
            folder.path(),
            &options(&encoder, std::slice::from_ref(&own)),
        )
        .unwrap(),
    );
    {
        let store = Store::open(folder.path(), &both).unwrap();
        let mut features = sample(1).0;
        features.made_by = Some(Arc::new(small.clone()));
        let segment = NewSegment {
            start_ns: 0,
            end_ns: 1,
            keyframe_ns: 0,
            features: &features,
            thumbnail: &[],
        };
        store.append(camera(&store, "a"), &segment).unwrap();
    }
    // A pack that gained a variant, and one that lost another.
    let more = options(&encoder, &[own.clone(), new, small.clone()]);
    drop(Store::open(folder.path(), &more).unwrap());
    drop(
        Store::open(
            folder.path(),
            &options(&encoder, std::slice::from_ref(&small)),
        )
        .unwrap(),
    );
    let error = Store::open(
        folder.path(),
        &options(&encoder, std::slice::from_ref(&own)),
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreForeign);
    for name in [&own.name, &small.name] {
        assert!(error.message().contains(name), "{error}");
    }
    assert!(error.remedy_text().is_some());
}
