//! A pack changes under its stores, and Atom itself: what is stored stays usable as far as what made it is still there.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use atom_core::ErrorKind;
use atom_core::caption::Statement;
use atom_core::control::{Control, TextOptions};
use atom_core::features::Features;
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::index::{Access, Hit, Segment, Store};
use atom_core::runtime::Runtime;
use atom_core::task::ingest::IngestOptions;
use atom_core::task::search::SearchQuery;
use atom_tests::damage::Pack;
use atom_tests::{
    atom, foreign_pack, ort_library, output, pack, photos, picture, root, runtime_options,
    temporary,
};
use serde_json::Value;

const WIDTH: u32 = 160;
const HEIGHT: u32 = 120;

fn open(pack: &Path, folder: &Path) -> Runtime {
    let mut options = runtime_options(pack);
    options.artifacts = Some(folder.join("artifacts"));
    Runtime::open(&options).unwrap()
}

/// A copy of a checked-in store of format 2, which the Atom of that format made with tests/fixtures/stores/make.sh.
fn old_store(name: &str, folder: &Path) -> PathBuf {
    let from = root().join("tests/fixtures/stores").join(name);
    let to = folder.join(format!("store-{name}"));
    std::fs::create_dir_all(to.join("parts")).unwrap();
    for file in ["atom.db", "parts/00000001.blob", "parts/00000001.vec"] {
        std::fs::write(to.join(file), std::fs::read(from.join(file)).unwrap()).unwrap();
    }
    to
}

/// The files of a copy of the reference pack are links: only its manifest is another.
fn linked(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            linked(&path, &to);
        } else if path.ends_with("pack.toml") || std::fs::hard_link(&path, &to).is_err() {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

/// Replaces text of a manifest, once.
fn edit(pack: &Path, from: &str, to: &str) {
    let path = pack.join("pack.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "pack.toml has no {from:?}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn search(runtime: &Runtime, store: &Store, text: &str) -> Vec<Hit> {
    let mut query = SearchQuery::new(text);
    query.min_score = Some(-1.0);
    runtime.search(store, &query, &Control::default()).unwrap()
}

fn caption(runtime: &Runtime, store: &Store, segment: &Segment) -> Statement {
    let mut on_text = |_: &str| ControlFlow::Continue(());
    let options = TextOptions::default();
    runtime
        .caption_segment(
            store,
            segment.id,
            &options,
            false,
            &Control::default(),
            &mut on_text,
        )
        .unwrap()
}

fn segments(store: &Store, stream: &str) -> Vec<Segment> {
    let stream = store.stream(stream).unwrap().id;
    store.segments(stream, None, None).unwrap()
}

fn features(store: &Store, stream: &str) -> Vec<Features> {
    let all = segments(store, stream);
    all.iter().map(|s| store.features(s.id).unwrap()).collect()
}

/// Indexes a few seconds of drawn scenes, or of a picture that shows a person.
fn index(runtime: &Runtime, store: &Store, stream: &str, person: bool) {
    let (width, height, pictures) = if person {
        let mut photos = photos(&[atom_tests::cached("photos/astronaut.png")]);
        let photo = photos.remove(0);
        (photo.width, photo.height, vec![photo.rgb])
    } else {
        (
            WIDTH,
            HEIGHT,
            (0..2).map(|seed| picture(seed, WIDTH, HEIGHT)).collect(),
        )
    };
    let format = FrameFormat::new(PixelFormat::Rgb8, width, height);
    let options = IngestOptions::new(stream, width as usize * height as usize * 3);
    let ingest = runtime.ingest(store, &options).unwrap();
    for number in 0..8 {
        let pixels = &pictures[number / 4 % pictures.len()];
        let frame = Frame::packed(format, pixels, number as i64 * 250_000_000).unwrap();
        ingest.push_wait(&frame).unwrap();
    }
    assert!(ingest.finish().unwrap().keyframes > 0);
}

/// What the Atom of format 2 found in the store, query by query.
fn recorded(name: &str) -> Vec<Value> {
    let path = root().join(format!("tests/fixtures/stores/{name}.jsonl"));
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// The same segments in the same order, with the same scores but for the last digits, which depend on the processor.
fn found_as_recorded(runtime: &Runtime, store: &Store, name: &str) {
    for line in recorded(name) {
        let query = line["query"].as_str().unwrap();
        let mut hits = search(runtime, store, query);
        hits.retain(|hit| hit.stream == "carphone.mp4");
        let expected = line["hits"].as_array().unwrap();
        assert_eq!(hits.len(), expected.len());
        for (hit, expected) in hits.iter().zip(expected) {
            let seconds = |ns: i64| ns as f64 / 1e9;
            assert_eq!(expected["start_s"], seconds(hit.start_ns), "{query}");
            let score = expected["score"].as_f64().unwrap();
            assert!(
                (f64::from(hit.score) - score).abs() < 1e-4,
                "{query}: {} and then {score}",
                hit.score
            );
        }
    }
}

fn version(store: &Path) -> u32 {
    // user_version lies at byte 60 of an SQLite file.
    let bytes = std::fs::read(store.join("atom.db")).unwrap();
    u32::from_be_bytes(bytes[60..64].try_into().unwrap())
}

#[test]
fn stores_of_format_2_search_equal_and_take_new_frames() {
    for (name, pack, count) in [("foreign", foreign_pack(), 4), ("reference", &pack(), 2)] {
        let folder = temporary();
        let runtime = open(pack, folder.path());
        let path = old_store(name, folder.path());

        let reader = runtime.open_store(&path, Access::ReadOnly).unwrap();
        found_as_recorded(&runtime, &reader, name);
        let old = features(&reader, "carphone.mp4");
        assert_eq!(old.len(), count);
        drop(reader);
        assert_eq!(version(&path), 2, "a reader wrote");

        let store = runtime.open_store(&path, Access::ReadWrite).unwrap();
        found_as_recorded(&runtime, &store, name);
        assert_eq!(features(&store, "carphone.mp4"), old);
        index(&runtime, &store, "new", false);
        assert_eq!(segments(&store, "new").len(), 2);
        found_as_recorded(&runtime, &store, name);
        let stats = store.stats().unwrap();
        assert_eq!((stats.outdated_segments, stats.corrupt_records), (0, 0));
        drop(store);
        assert_eq!(version(&path), 3);

        let store = runtime.open_store(&path, Access::ReadOnly).unwrap();
        assert_eq!(features(&store, "carphone.mp4"), old);
        assert_eq!(search(&runtime, &store, "a picture").len(), count + 2);
        // Detections are still handed out: the detectors that made them are there.
        let detected = old.iter().any(|f| !f.detections.is_empty());
        assert_eq!(detected, name == "reference");
    }
}

/// Captions that a decoder made of the feature map: their maker says the same as ever.
#[test]
fn captions_of_format_2_are_served_without_generating() {
    let folder = temporary();
    let runtime = open(foreign_pack(), folder.path());
    let path = old_store("foreign", folder.path());
    // From a reader too, which does not carry the store over.
    for access in [Access::ReadOnly, Access::ReadWrite, Access::ReadOnly] {
        let store = runtime.open_store(&path, access).unwrap();
        for segment in segments(&store, "carphone.mp4") {
            let kept = caption(&runtime, &store, &segment);
            assert!(kept.stored && !kept.text.is_empty(), "{access:?}: {kept:?}");
        }
    }
    let modules = runtime.modules();
    let decoder = modules.iter().find(|module| module.id == "mouth").unwrap();
    assert_eq!(decoder.runs, 0);
    // And it is what it would be today.
    let store = runtime.open_store(&path, Access::ReadWrite).unwrap();
    let segment = &segments(&store, "carphone.mp4")[0];
    let kept = caption(&runtime, &store, segment);
    let features = store.features(segment.id).unwrap();
    let mut on_text = |_: &str| ControlFlow::Continue(());
    let options = TextOptions::default();
    let control = Control::default();
    let again = runtime.caption(&[&features], &options, &control, &mut on_text);
    assert_eq!(again.unwrap().text, kept.text);
}

#[test]
fn another_detector_leaves_vectors_searchable_and_its_own_words_unsaid() {
    let folder = temporary();
    let path = folder.path().join("store");
    let before = open(&pack(), folder.path());
    let store = before.open_store(&path, Access::ReadWrite).unwrap();
    index(&before, &store, "old", true);
    let old = features(&store, "old");
    assert!(!old[0].detections.is_empty() && !old[0].posteriors.is_empty());
    let hits = search(&before, &store, "a woman");
    let segment = segments(&store, "old").remove(0);
    assert!(!caption(&before, &store, &segment).stored);
    assert!(caption(&before, &store, &segment).stored);
    drop((store, before));

    // The same classes under other names, as another detector would have them.
    let swapped = folder.path().join("swapped");
    linked(&pack(), &swapped);
    edit(
        &swapped,
        "labels = [\"person\", \"bicycle\",",
        "labels = [\"somebody\", \"bicycle\",",
    );
    let after = open(&swapped, folder.path());
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let store = after.open_store(&path, access).unwrap();
        assert_eq!(search(&after, &store, "a woman"), hits);
        for (now, then) in features(&store, "old").iter().zip(&old) {
            assert_eq!(now.embedding, then.embedding);
            assert_eq!(now.posteriors, then.posteriors);
            assert_eq!(now.map, then.map);
            assert!(now.detections.is_empty(), "{now:?}");
        }
        let outdated = store.stats().unwrap().outdated_segments;
        assert_eq!(outdated, old.len() as u64);
    }
    let store = after.open_store(&path, Access::ReadWrite).unwrap();
    assert!(!caption(&after, &store, &segment).stored);
    index(&after, &store, "new", true);
    let new = features(&store, "new");
    assert_eq!(new[0].detections, old[0].detections);
    assert_eq!(new[0].embedding, old[0].embedding);
    drop(store);

    // Said once, by the command too.
    let mut command = atom();
    command
        .env("ATOM_CACHE", folder.path())
        .env("ATOM_ORT_LIBRARY", ort_library())
        .args(["--json", "search", "a woman", "--min-score", "-1", "--pack"])
        .arg(&swapped)
        .arg("--store")
        .arg(&path);
    let said = output(&mut command);
    let log = String::from_utf8_lossy(&said.stderr);
    let told = format!("are read without detections ({} segments)", old.len());
    assert_eq!(log.matches(&told).count(), 1, "{log}");
    assert_eq!(log.matches("are read without").count(), 1, "{log}");

    // The first pack comes back: its own are read again, the other's not.
    let before = open(&pack(), folder.path());
    let store = before.open_store(&path, Access::ReadWrite).unwrap();
    assert_eq!(features(&store, "old"), old);
    assert!(features(&store, "new")[0].detections.is_empty());
    assert!(caption(&before, &store, &segment).stored);
}

#[test]
fn another_preparation_of_pictures_makes_a_store_foreign_and_is_named() {
    let folder = temporary();
    let path = folder.path().join("store");
    let runtime = open(foreign_pack(), folder.path());
    let store = runtime.open_store(&path, Access::ReadWrite).unwrap();
    index(&runtime, &store, "a", false);
    drop(store);
    let other = Pack::copy();
    other.edit("mean = [0.4, 0.45, 0.5]", "mean = [0.4, 0.45, 0.6]");
    let changed = open(&other.path(), folder.path());
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let error = changed.open_store(&path, access).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreForeign);
        let named = "encoder.preprocess.mean was [0.4, 0.45, 0.5] and is [0.4, 0.45, 0.6]";
        assert!(error.message().contains(named), "{error}");
        assert!(error.remedy_text().unwrap().contains("another folder"));
    }

    // What decides no vector changes nothing: names, versions, licences, descriptions, load paths.
    let renamed = Pack::copy();
    renamed.edit("id = \"foreign\"", "id = \"renamed\"");
    renamed.edit("version = \"0.0.1\"", "version = \"0.0.2\"");
    renamed.edit("licence = \"Apache-2.0\"", "licence = \"MIT\"");
    renamed.edit("says nothing true.", "says nothing.");
    renamed.edit("load = \"prepacked\"", "load = \"plain\"");
    let renamed = open(&renamed.path(), folder.path());
    let store = renamed.open_store(&path, Access::ReadWrite).unwrap();
    let found = search(&renamed, &store, "the picture");
    drop(store);
    let store = runtime.open_store(&path, Access::ReadWrite).unwrap();
    assert_eq!(search(&runtime, &store, "the picture"), found);
    assert_eq!(found.len(), 2);
}
