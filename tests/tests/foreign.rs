//! A pack of other shapes serves every task with the same code, and its numbers are those of an independent reference.

use std::io::Write;
use std::ops::ControlFlow;
use std::process::{Command, Stdio};

use atom_core::control::{Control, TextOptions};
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::index::Access;
use atom_core::runtime::{Runtime, RuntimeOptions, Task};
use atom_core::task::ingest::IngestOptions;
use atom_core::task::search::SearchQuery;
use atom_tests::{
    cached, cosine, floats, foreign_pack, foreign_script, picture, python_json, temporary,
};
use serde_json::{Value, json};

const TOKENS: usize = 32;

fn open(artifacts: &std::path::Path) -> Runtime {
    let mut options = RuntimeOptions::new(foreign_pack());
    options.artifacts = Some(artifacts.to_owned());
    options.ort_library = Some(atom_tests::ort_library());
    Runtime::open(&options).unwrap()
}

fn frame_of(pixels: &[u8], width: u32, height: u32, ns: i64) -> Frame<'_> {
    Frame::packed(
        FrameFormat::new(PixelFormat::Rgb8, width, height),
        pixels,
        ns,
    )
    .unwrap()
}

/// What Pillow and ONNX Runtime make of the same pixels.
fn visual_reference(pixels: &[u8], width: u32, height: u32) -> Value {
    let mut child = Command::new(cached("venv/bin/python"))
        .arg(foreign_script())
        .arg("visual")
        .arg(foreign_pack())
        .args([width.to_string(), height.to_string()])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(pixels).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success());
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn foreign_pack_serves_every_task_and_equals_its_reference() {
    let folder = temporary();
    let runtime = open(folder.path());
    for task in [
        Task::Index,
        Task::Search,
        Task::Caption,
        Task::Ask,
        Task::Assemble,
    ] {
        assert!(runtime.serves(task), "{task:?}");
    }
    let control = Control::default();

    // Visual encoder: shapes, layout, channel order, filter.
    let mut features = Vec::new();
    for (seed, width, height) in [(1, 320, 240), (2, 97, 61), (3, 1280, 720), (4, 64, 200)] {
        let pixels = picture(seed, width, height);
        let ours = runtime
            .observe(&frame_of(&pixels, width, height, 0), &control)
            .unwrap();
        let theirs = visual_reference(&pixels, width, height);
        let embedding = cosine(&ours.embedding, &floats(&theirs["embedding"]));
        let map = cosine(&ours.map.data, &floats(&theirs["features"]));
        println!(
            "{width}x{height}: cosine of the embedding {embedding:.6}, of the features {map:.6}"
        );
        assert!(embedding > 0.9999 && map > 0.9999);
        assert_eq!((ours.map.rows, ours.map.dim), (24, 40));
        features.push(ours);
    }

    // Caption and ask: connector, prompt, splice, KV that grows by concatenation, greedy choice.
    let options = TextOptions {
        max_tokens: Some(TOKENS),
        ..TextOptions::default()
    };
    let mut texts = Vec::new();
    for (index, features) in features.iter().enumerate() {
        for question in [None, Some("What is the picture?")] {
            let mut streamed = String::new();
            let mut on_text = |text: &str| {
                streamed.push_str(text);
                ControlFlow::Continue(())
            };
            let ours = match question {
                None => runtime.caption(&[features], &options, &control, &mut on_text),
                Some(question) => {
                    runtime.ask(&[features], question, &options, &control, &mut on_text)
                }
            }
            .unwrap();
            let prompt = match question {
                None => "<picture> Say what it is".to_owned(),
                Some(question) => format!("<picture> {question}"),
            };
            let given = json!({"prompt": prompt, "features": features.map.data});
            let pack = foreign_pack().to_string_lossy();
            let theirs = python_json(
                &foreign_script(),
                &["generate", &pack, &TOKENS.to_string()],
                Some(&given.to_string()),
            );
            let expected = theirs["text"].as_str().unwrap();
            println!(
                "picture {index}, {}: {} tokens, {}; smallest margin {:.4}",
                question.unwrap_or("caption"),
                ours.tokens,
                if ours.text == expected {
                    "equal"
                } else {
                    "DIFFERENT"
                },
                theirs["smallest_margin"]
            );
            assert_eq!(ours.tokens, theirs["tokens"].as_array().unwrap().len());
            assert_eq!(ours.text, expected);
            assert_eq!(streamed, ours.text, "streamed text differs from the whole");
            texts.push(ours.text);
        }
    }
    texts.sort();
    texts.dedup();
    assert!(
        texts.len() > 4,
        "only {} different answers: the picture does not reach the decoder",
        texts.len()
    );
}

#[test]
fn foreign_pack_indexes_and_searches_as_its_reference_ranks() {
    let folder = temporary();
    let runtime = open(&folder.path().join("artifacts"));
    let store = runtime
        .open_store(&folder.path().join("store"), Access::ReadWrite)
        .unwrap();
    let (width, height) = (160, 120);
    let mut options = IngestOptions::new("shapes", width as usize * height as usize * 3);
    options.sampler.max_segment_ns = 1_000_000_000;
    let ingest = runtime.ingest(&store, &options).unwrap();
    // Six scenes of two seconds each, a new picture is a cut.
    for index in 0..60u64 {
        let pixels = picture(index / 10, width, height);
        let frame = frame_of(&pixels, width, height, index as i64 * 200_000_000);
        ingest.push_wait(&frame).unwrap();
    }
    let report = ingest.finish().unwrap();
    println!("{report:?}");
    assert_eq!((report.frames, report.dropped), (60, 0));
    assert!(report.segments >= 6, "{report:?}");
    assert_eq!(report.segments, report.keyframes);

    let stream = store.stream("shapes").unwrap();
    let segments = store.segments(stream.id, None, None).unwrap();
    let vectors: Vec<Vec<f32>> = segments
        .iter()
        .map(|s| store.features(s.id).unwrap().embedding)
        .collect();
    let queries = ["the picture", "What is 日本 🚲", "zzz", "a\u{301}é"];
    let pack = foreign_pack().to_string_lossy();
    let texts = python_json(
        &foreign_script(),
        &["text", &pack],
        Some(&json!(queries).to_string()),
    );
    for (query, text) in queries.iter().zip(texts.as_array().unwrap()) {
        let vector = floats(&text["vector"]);
        let mut expected: Vec<(i64, f64)> = segments
            .iter()
            .zip(&vectors)
            .map(|(segment, own)| (segment.start_ns, cosine(own, &vector)))
            .collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut wanted = SearchQuery::new(*query);
        wanted.k = segments.len();
        let hits = runtime
            .search(&store, &wanted, &Control::default())
            .unwrap();
        assert_eq!(hits.len(), segments.len());
        for (hit, (_, score)) in hits.iter().zip(&expected) {
            assert!(
                (f64::from(hit.score) - score).abs() < 2e-3,
                "{query}: {} against {score}",
                hit.score
            );
        }
        println!(
            "{query:?}: best {:.4} at {} ns, reference {:.4} at {} ns",
            hits[0].score, hits[0].start_ns, expected[0].1, expected[0].0
        );
    }
}
