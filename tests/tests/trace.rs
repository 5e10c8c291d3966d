//! `--trace FILE`: what a run of the command looks like in time.

use std::collections::BTreeMap;
use std::path::Path;

use atom_tests::{atom, json, likeliest_pack, output, pack, temporary, video};
use serde_json::Value;

/// The complete events of a trace file and the names of its threads.
fn read(path: &Path) -> (Vec<Value>, BTreeMap<u64, String>) {
    let trace: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(trace["otherData"]["dropped_spans"], 0);
    let (mut spans, mut threads) = (Vec::new(), BTreeMap::new());
    for event in trace["traceEvents"].as_array().unwrap() {
        match (event["ph"].as_str(), event["name"].as_str()) {
            (Some("X"), _) => spans.push(event.clone()),
            (Some("M"), Some("thread_name")) => {
                let name = event["args"]["name"].as_str().unwrap().to_owned();
                threads.insert(event["tid"].as_u64().unwrap(), name);
            }
            (Some("M"), Some("process_name")) => {}
            other => panic!("{other:?} in {event}"),
        }
    }
    (spans, threads)
}

/// Start and end of an event, in microseconds.
fn times(event: &Value) -> (f64, f64) {
    let start = event["ts"].as_f64().unwrap();
    (start, start + event["dur"].as_f64().unwrap())
}

#[test]
fn indexing_shows_its_stages_on_threads_of_their_own() {
    let folder = temporary();
    let path = folder.path().join("trace.json");
    let mut command = atom();
    command.args(["--json", "index", "--pack"]).arg(pack());
    command.arg("--store").arg(folder.path().join("store"));
    command.arg("--trace").arg(&path).arg(video("bikes"));
    let done = json(&mut command);
    let (spans, threads) = read(&path);
    let count = |name: &str| spans.iter().filter(|s| s["name"] == name).count() as u64;
    let stream = &done["streams"][0];
    assert_eq!(count("store"), stream["added"].as_u64().unwrap());
    assert_eq!(count("encode"), stream["added"].as_u64().unwrap());
    assert_eq!(count("sample"), stream["frames"].as_u64().unwrap());
    for (name, thread) in [
        ("decode", "main"),
        ("sample", "atom-sample"),
        ("encode", "atom-encode"),
        ("detect", "atom-encode"),
        ("store", "atom-store"),
    ] {
        let mut own = spans.iter().filter(|s| s["name"] == name).peekable();
        assert!(own.peek().is_some(), "no {name}");
        for span in own {
            assert_eq!(threads[&span["tid"].as_u64().unwrap()], thread, "{span}");
        }
    }
    // Spans of one thread follow or hold each other, as the format demands.
    for thread in threads.keys() {
        let mut open: Vec<f64> = Vec::new();
        for span in spans.iter().filter(|s| s["tid"] == *thread) {
            let (start, end) = times(span);
            open.retain(|outer| *outer > start);
            assert!(open.iter().all(|outer| *outer >= end), "{span} sticks out");
            open.push(end);
        }
    }
}

#[test]
fn captions_are_generated_while_later_segments_are_encoded() {
    let folder = temporary();
    let path = folder.path().join("trace.json");
    let mut command = atom();
    // Short segments, so that there are many.
    command.args(["--json", "index", "--captions", "--max-segment", "0.5"]);
    command
        .arg("--pack")
        .arg(likeliest_pack())
        .arg("--trace")
        .arg(&path);
    command.arg("--store").arg(folder.path().join("store"));
    command.args(["bikes", "bigbuckbunny", "carphone"].map(video));
    let done = json(&mut command);
    for stream in done["streams"].as_array().unwrap() {
        assert_eq!(stream["captions"], stream["segments"], "{stream}");
        assert_eq!(stream["captions_failed"], 0, "{stream}");
    }
    let (spans, threads) = read(&path);
    let on = |thread: &str, name: &str, what: Option<&str>| -> Vec<(f64, f64)> {
        let own = spans.iter().filter(|span| {
            threads[&span["tid"].as_u64().unwrap()] == thread
                && span["name"] == name
                && what.is_none_or(|what| span["args"]["what"] == what)
        });
        own.map(times).collect()
    };
    let encoding = on("atom-encode", "encode", None);
    let decoding = on("atom-caption", "step", Some("language-decoder"));
    assert!(!encoding.is_empty() && !decoding.is_empty());
    let meet = |(start, end): &(f64, f64)| {
        let other = |(from, to): &&(f64, f64)| from < end && start < to;
        decoding.iter().filter(other).count()
    };
    let meetings: usize = encoding.iter().map(meet).sum();
    println!(
        "{} encodings, {} decoder steps, {meetings} of them at the same time",
        encoding.len(),
        decoding.len()
    );
    assert!(
        meetings > 0,
        "no decoder step ran while a keyframe was encoded"
    );
    // The frames were still being read meanwhile.
    let (first, _) = decoding[0];
    let reading = on("main", "decode", None);
    assert!(reading.iter().any(|(start, _)| *start > first));
}

#[test]
fn a_trace_that_cannot_be_written_is_told_before_the_work() {
    let folder = temporary();
    let mut command = atom();
    command.args(["--json", "index", "--pack"]).arg(pack());
    command.arg("--store").arg(folder.path().join("store"));
    command
        .arg("--trace")
        .arg(folder.path().join("no/such/file"));
    let done = output(command.arg(video("bikes")));
    let told: Value = serde_json::from_slice(&done.stderr).unwrap();
    assert_eq!(told["error"]["kind"], "not_found", "{told}");
    assert!(!folder.path().join("store").exists());

    // A command that fails leaves the trace of what it did.
    let path = folder.path().join("trace.json");
    let mut command = atom();
    command.args([
        "--json", "caption", "--stream", "none", "--at", "1", "--pack",
    ]);
    command
        .arg(pack())
        .arg("--store")
        .arg(folder.path().join("store"));
    assert!(!output(command.arg("--trace").arg(&path)).status.success());
    read(&path);
}
