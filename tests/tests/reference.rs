//! What Atom sees and finds, against a reference that shares none of its code: ONNX Runtime from Python with Pillow and
//! NumPy.

use std::collections::BTreeSet;
use std::path::PathBuf;

use atom_core::control::Control;
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::index::{Access, NewSegment, NewStream};
use atom_core::runtime::{Runtime, RuntimeOptions};
use atom_core::task::search::SearchQuery;
use atom_tests::{
    cached, cosine, files_ending, floats, ort_library, pack, photos, python_json, root, temporary,
};
use serde_json::Value;

fn runtime(folder: &std::path::Path) -> Runtime {
    let mut options = RuntimeOptions::new(pack());
    options.ort_library = Some(ort_library());
    options.artifacts = Some(folder.join("artifacts"));
    Runtime::open(&options).unwrap()
}

fn oracle(args: &[&str]) -> Value {
    python_json(&root().join("models/reference/oracle.py"), args, None)
}

fn photo_files() -> Vec<PathBuf> {
    files_ending(&cached("photos"), &[".png", ".jpg", ".jpeg"])
}

/// Index of the largest value.
fn top(values: &[f32]) -> usize {
    (0..values.len())
        .max_by(|a, b| values[*a].total_cmp(&values[*b]))
        .unwrap()
}

#[test]
fn visual_encoder_equals_python() {
    let folder = temporary();
    let runtime = runtime(folder.path());
    let files = photo_files();
    let names: Vec<String> = files
        .iter()
        .map(|file| file.to_string_lossy().into_owned())
        .collect();
    let mut args = vec!["visual"];
    args.extend(names.iter().map(String::as_str));
    let theirs = oracle(&args);
    let (mut least, mut same) = (1.0_f64, 0);
    let all = photos(&files);
    for (photo, reference) in all.iter().zip(theirs.as_array().unwrap()) {
        assert!(reference["file"].as_str().unwrap().ends_with(&photo.name));
        let format = FrameFormat::new(PixelFormat::Rgb8, photo.width, photo.height);
        let frame = Frame::packed(format, &photo.rgb, 0).unwrap();
        let ours = runtime.observe(&frame, &Control::default()).unwrap();
        let fit = cosine(&ours.embedding, &floats(&reference["embedding"]));
        let class = top(&ours.posteriors);
        println!(
            "{}: cosine {fit:.6}, class {class}, reference {} ({})",
            photo.name, reference["class"], reference["label"]
        );
        assert!(fit >= 0.999, "{}", photo.name);
        least = least.min(fit);
        same += usize::from(reference["class"] == class);
    }
    println!(
        "{} photos: smallest cosine {least:.6}, top-1 equal on {same}",
        all.len()
    );
    assert!(all.len() >= 10, "only {} photos", all.len());
    assert_eq!(same, all.len());
}

#[test]
fn search_ranks_photos_as_python_does() {
    let folder = temporary();
    let runtime = runtime(folder.path());
    let store = runtime
        .open_store(&folder.path().join("store"), Access::ReadWrite)
        .unwrap();
    let stream = store
        .open_stream(&NewStream {
            name: "photos".to_owned(),
            ..NewStream::default()
        })
        .unwrap();
    let reference = oracle(&["search"]);
    let queries = reference["queries"].as_array().unwrap();
    // In the reference's own set and order: its ranking of the first query names them all.
    let mut names: Vec<String> = queries[0]["ranking"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_str().unwrap().to_owned())
        .collect();
    names.sort();
    let files: Vec<PathBuf> = names
        .iter()
        .map(|name| cached("photos").join(name))
        .collect();
    for (index, photo) in photos(&files).iter().enumerate() {
        let format = FrameFormat::new(PixelFormat::Rgb8, photo.width, photo.height);
        let frame = Frame::packed(format, &photo.rgb, 0).unwrap();
        let features = runtime.observe(&frame, &Control::default()).unwrap();
        let start_ns = index as i64 * 1_000_000_000;
        store
            .append(
                stream,
                &NewSegment {
                    start_ns,
                    end_ns: start_ns + 1_000_000_000,
                    keyframe_ns: start_ns,
                    features: &features,
                    thumbnail: &[],
                },
            )
            .unwrap();
    }
    let mut first = 0;
    for entry in queries {
        let text = entry["query"].as_str().unwrap();
        let mut query = SearchQuery::new(text);
        query.k = names.len();
        query.min_score = Some(-1.0);
        let hits = runtime.search(&store, &query, &Control::default()).unwrap();
        let ours: Vec<&str> = hits
            .iter()
            .map(|hit| names[(hit.start_ns / 1_000_000_000) as usize].as_str())
            .collect();
        let theirs: Vec<&str> = entry["ranking"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        assert_eq!(ours, theirs, "{text:?}");
        let relevant: BTreeSet<&str> = entry["relevant"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        first += usize::from(relevant.contains(ours[0]));
        println!(
            "{text:?}: {} ({:.3}){}",
            ours[0],
            hits[0].score,
            if relevant.contains(ours[0]) {
                ""
            } else {
                " — wrong"
            }
        );
    }
    println!(
        "{} queries over {} photos ranked as the reference ranks them, Recall@1 {:.3}, reference {:.3}",
        queries.len(),
        names.len(),
        first as f64 / queries.len() as f64,
        reference["recall_at_1"].as_f64().unwrap()
    );
    assert!(
        (first as f64 / queries.len() as f64 - reference["recall_at_1"].as_f64().unwrap()).abs()
            < 1e-9
    );
}
