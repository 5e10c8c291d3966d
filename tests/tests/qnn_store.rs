//! Stores and the forms of an encoder: vectors of the quantised form, which QNN serves, and of the processor's own never
//! stand side by side. And how well the quantised form finds things.

use std::collections::BTreeSet;
use std::path::Path;

use atom_core::ErrorKind;
use atom_core::control::Control;
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::index::{Access, NewSegment, NewStream};
use atom_core::runtime::{Runtime, RuntimeOptions};
use atom_core::task::ingest::IngestOptions;
use atom_core::task::search::SearchQuery;
use atom_tests::npu::{NpuPack, emulator};
use atom_tests::{
    cached, cosine, ort_library, output, pack, photos, python_json, root, shim, temporary, video,
};
use serde_json::Value;

const QUANTISED: &str = "visual-encoder as visual_encoder_a16w8.onnx (int8)";
const OWN: &str = "visual-encoder as visual_encoder.onnx (fp32)";

/// What a script of commands printed, a document a line, and how it ended.
struct Done {
    documents: Vec<Value>,
    code: Option<i32>,
    said: String,
}

/// Runs commands on `store` in one process, over the shim if its log and what to fail are given.
fn script(pack: &NpuPack, store: &Path, lines: &[&str], watched: Option<(&Path, String)>) -> Done {
    let path = pack.folder.path().join("script");
    std::fs::write(&path, lines.join("\n")).unwrap();
    let mut command = pack.command(&["run"]);
    command.arg(&path).arg("--store").arg(store);
    if let Some((log, fail)) = watched {
        shim::watch(&mut command, log);
        command.env("ATOM_SHIM_FAIL", fail);
    }
    let done = output(&mut command);
    let text = String::from_utf8_lossy(&done.stdout);
    let documents = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")));
    Done {
        documents: documents.collect(),
        code: done.status.code(),
        said: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

fn index(clip: &str) -> String {
    format!("index {}", video(clip).display())
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

fn segments(document: &Value) -> u64 {
    document["streams"][0]["segments"]
        .as_u64()
        .unwrap_or_else(|| panic!("{document}"))
}

/// The vectors of a store's only stream, in the order of time.
fn vectors(pack: &NpuPack, store: &Path) -> Vec<Vec<f32>> {
    let mut options = RuntimeOptions::new(pack.path());
    options.ort_library = Some(ort_library());
    let runtime = Runtime::open(&options).unwrap();
    let store = runtime.open_store(store, Access::ReadOnly).unwrap();
    let stream = store.streams().unwrap()[0].id;
    let segments = store.segments(stream, None, None).unwrap();
    let embedding = |id| store.features(id).unwrap().embedding;
    segments
        .iter()
        .map(|segment| embedding(segment.id))
        .collect()
}

#[test]
fn a_store_holds_vectors_of_one_form_whoever_serves_it() {
    if emulator().is_none() {
        return;
    }
    let mut pack = NpuPack::new();
    let [quantised, own] = ["quantised", "own"].map(|name| pack.folder.path().join(name));
    let (carphone, bigbuckbunny) = (index("carphone"), index("bigbuckbunny"));

    // QNN is here: it makes a store of the quantised form.
    let with_qnn = script(&pack, &quantised, &[&carphone, "doctor"], None);
    assert_eq!(with_qnn.code, Some(0), "{}", with_qnn.said);
    let module = &with_qnn.documents[1]["modules"][0];
    assert_eq!(module["provider"], "qnn");
    assert_eq!(module["variant"], QUANTISED);
    assert!(segments(&with_qnn.documents[0]) > 0);

    // QNN is gone: the processor adds to it in the same form, and had to show that it makes the same of it.
    let library = pack.environment.clone();
    pack.with("ATOM_QNN_LIBRARY", "");
    let added = script(&pack, &quantised, &[&bigbuckbunny, "doctor"], None);
    assert_eq!(added.code, Some(9), "{}", added.said);
    let module = &added.documents[1]["modules"][0];
    assert_eq!(module["provider"], "cpu");
    assert_eq!(module["variant"], QUANTISED);
    assert!(number(&module["golden_cosine"]) > 0.99, "{module}");
    assert!(segments(&added.documents[0]) > 0);
    // A new store is of the processor's own form.
    let fresh = script(&pack, &own, &[&carphone, "doctor"], None);
    assert_eq!(fresh.code, Some(9), "{}", fresh.said);
    assert_eq!(fresh.documents[1]["modules"][0]["variant"], OWN);

    // QNN is back: that store goes on in that form, which QNN cannot take.
    pack.environment = library;
    let back = script(&pack, &own, &[&bigbuckbunny, "doctor"], None);
    assert_eq!(back.code, Some(9), "{}", back.said);
    let module = &back.documents[1]["modules"][0];
    assert_eq!(module["provider"], "cpu");
    assert_eq!(module["variant"], OWN);
    let why = module["fallbacks"][0].as_str().unwrap();
    assert!(why.contains("qnn took none of its"), "{why}");
}

#[test]
fn after_a_loss_the_form_stays_and_the_ledger_says_what_is_there() {
    if emulator().is_none() {
        return;
    }
    let mut pack = NpuPack::new();
    let [first, second] = ["first", "second"].map(|name| pack.folder.path().join(name));
    let lines = [&*index("bikes"), "doctor"];
    let whole = script(&pack, &first, &lines, None);
    assert_eq!(whole.code, Some(0), "{}", whole.said);
    let key = pack.entry();
    let key = key.file_name().unwrap().to_string_lossy();

    // The first run of a session is its golden check: the device is lost at the second keyframe, and again, after the rebuild,
    // at the third.
    let log = pack.folder.path().join("log");
    let lost = script(&pack, &second, &lines, Some((&log, format!("{key}:3"))));
    assert_eq!(lost.code, Some(9), "{}", lost.said);
    for part in ["qnn serves it again", "cpu serves it again"] {
        assert!(lost.said.contains(part), "{part}: {}", lost.said);
    }
    assert_eq!(segments(&lost.documents[0]), segments(&whole.documents[0]));
    let state = &lost.documents[1];
    let module = &state["modules"][0];
    assert_eq!(module["provider"], "cpu");
    assert_eq!(module["variant"], QUANTISED);
    let fallbacks = module["fallbacks"].to_string();
    assert!(
        fallbacks.contains("qnn failed while running"),
        "{fallbacks}"
    );

    // What the processor made is what QNN would have made.
    let (by_qnn, by_both) = (vectors(&pack, &first), vectors(&pack, &second));
    assert!(by_qnn.len() >= 3 && by_qnn.len() == by_both.len());
    let cosines: Vec<f64> = by_qnn
        .iter()
        .zip(&by_both)
        .map(|(a, b)| cosine(a, b))
        .collect();
    println!("cosines of the vectors with and without the loss: {cosines:?}");
    assert!(cosines.iter().all(|cosine| *cosine > 0.999), "{cosines:?}");

    // What QNN keeps has an owner, and doctor names it.
    let of = |state: &Value, owner: &str| -> u64 {
        let entries = state["ledger"].as_array().unwrap();
        let own = entries.iter().filter(|entry| entry["owner"] == owner);
        own.map(|entry| entry["anon_bytes"].as_u64().unwrap()).sum()
    };
    let floor = of(state, "provider qnn");
    assert!(floor > 0, "{state}");
    assert_eq!(
        state["providers"][1]["floor_bytes"].as_u64(),
        Some(floor),
        "{state}"
    );

    // The module is charged with the processor's session and not with QNN's: as where it was the processor's from the first.
    pack.with("ATOM_QNN_LIBRARY", "");
    let lines = [&*index("bigbuckbunny"), "doctor"];
    let plain = script(&pack, &second, &lines, None);
    assert_eq!(plain.code, Some(9), "{}", plain.said);
    let owner = "module visual-encoder";
    let (charged, expected) = (of(state, owner), of(&plain.documents[1], owner));
    let on_qnn = of(&whole.documents[1], owner);
    println!(
        "charged {:.1} MB on QNN, {:.1} MB after its loss, {:.1} MB where it never was; QNN keeps {:.1} MB",
        on_qnn as f64 / 1e6,
        charged as f64 / 1e6,
        expected as f64 / 1e6,
        floor as f64 / 1e6
    );
    let near = expected / 4 + (4 << 20);
    assert!(
        charged.abs_diff(expected) < near,
        "{charged} and {expected}"
    );
    assert_ne!(charged, on_qnn);
    let mapped = |state: &Value| state["modules"][0]["mapped_bytes"].as_u64().unwrap();
    assert_eq!(mapped(state), mapped(&plain.documents[1]));
}

/// In-process, as nothing else of this binary is.
#[test]
fn the_quantised_encoder_finds_as_many_photographs_on_the_emulator() {
    if emulator().is_none() {
        return;
    }
    let folder = temporary();
    let open = |pack| {
        let mut options = RuntimeOptions::new(pack);
        options.ort_library = Some(ort_library());
        options.artifacts = Some(folder.path().join("artifacts"));
        Runtime::open(&options).unwrap()
    };
    let (exact, npu) = (open(pack()), open(cached("packs/reference-npu")));
    let store = folder.path().join("store");
    let store = npu.open_store(&store, Access::ReadWrite).unwrap();
    let new = NewStream {
        name: "photos".to_owned(),
        ..NewStream::default()
    };
    let stream = store.open_stream(&new).unwrap();
    let reference = python_json(
        &root().join("models/reference/oracle.py"),
        &["search"],
        None,
    );
    let queries = reference["queries"].as_array().unwrap();
    let names: BTreeSet<&str> = strings(&queries[0]["ranking"]).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let files: Vec<_> = names
        .iter()
        .map(|name| cached("photos").join(name))
        .collect();
    let own = npu
        .open_store(&folder.path().join("own"), Access::ReadWrite)
        .unwrap();
    let stream_of_own = own.open_stream(&new).unwrap();
    let mut cosines = Vec::new();
    for (index, photo) in photos(&files).iter().enumerate() {
        let format = FrameFormat::new(PixelFormat::Rgb8, photo.width, photo.height);
        let frame = Frame::packed(format, &photo.rgb, 0).unwrap();
        let seen = npu.observe(&frame, &Control::default()).unwrap();
        let expected = exact.observe(&frame, &Control::default()).unwrap();
        cosines.push(cosine(&seen.embedding, &expected.embedding));
        let start_ns = index as i64 * 1_000_000_000;
        let segment = NewSegment {
            start_ns,
            end_ns: start_ns + 1_000_000_000,
            keyframe_ns: start_ns,
            features: &seen,
            thumbnail: &[],
        };
        store.append(stream, &segment).unwrap();
        // What the processor's own form made goes into a store of its own, and not beside.
        let other = NewSegment {
            features: &expected,
            ..segment
        };
        own.append(stream_of_own, &other).unwrap();
        let other = NewSegment {
            start_ns: start_ns + 1,
            keyframe_ns: start_ns + 1,
            ..other
        };
        let refused = store.append(stream, &other).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StoreForeign, "{refused}");
    }
    // Nothing is encoded for a store that another form than the one loaded here has made.
    let options = IngestOptions::new("more", 1 << 20);
    let refused = npu.ingest(&own, &options).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::StoreForeign, "{refused}");
    let remedy = refused.remedy_text().unwrap_or_default();
    assert!(remedy.contains("another folder"), "{remedy}");
    for name in [QUANTISED, OWN] {
        assert!(refused.to_string().contains(name), "{name}: {refused}");
    }
    assert!(npu.ingest(&store, &options).is_ok());
    let status = npu.registry().status();
    assert_eq!(status[0].provider.as_deref(), Some("qnn"), "{status:?}");
    assert_eq!(store.variant().unwrap().unwrap().name, QUANTISED);
    let mut first = 0;
    for entry in queries {
        let mut query = SearchQuery::new(entry["query"].as_str().unwrap());
        query.min_score = Some(-1.0);
        let hits = npu.search(&store, &query, &Control::default()).unwrap();
        let found = names[(hits[0].start_ns / 1_000_000_000) as usize];
        first += usize::from(strings(&entry["relevant"]).any(|name| name == found));
    }
    cosines.sort_by(f64::total_cmp);
    let fp32 = reference["recall_at_1"].as_f64().unwrap() * queries.len() as f64;
    println!(
        "on the emulator: Recall@1 {first} of {} among {} photographs, fp32 {fp32:.0}; cosine to fp32 least {:.4}, median {:.4}",
        queries.len(),
        names.len(),
        cosines[0],
        cosines[cosines.len() / 2]
    );
    // The floor is what one query in twenty is: chance. Numbers are in models/README.md.
    assert!(
        first as f64 >= fp32 - 1.0,
        "{first} of {}, fp32 {fp32}",
        queries.len()
    );
    assert!(cosines[0] > 0.9, "{cosines:?}");
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_str().unwrap())
}
