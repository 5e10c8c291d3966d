//! Counted from outside the process's own books: how often ONNX Runtime was asked to make a session and to run one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use atom_tests::shim::{Session, sessions, watch};
use atom_tests::{atom, likeliest_pack, ort_library, pack, temporary, video};
use serde_json::Value;

/// A script of every task, most of them several times.
fn script() -> String {
    let clips = ["bikes", "bigbuckbunny", "carphone"];
    let quoted: Vec<String> = clips
        .iter()
        .map(|clip| format!("\"{}\"", video(clip).display()))
        .collect();
    let mut lines = vec![
        format!("index {}", quoted.join(" ")),
        format!("index {}", quoted[0]),
    ];
    for words in [
        "people riding bicycles in the street",
        "a rabbit",
        "a man in a car",
        "a bird",
        "a submarine",
    ] {
        lines.push(format!("search \"{words}\" -k 3"));
    }
    for clip in clips {
        lines.push(format!("caption --stream {clip}.mp4 --at 1"));
        lines.push(format!(
            "ask --stream {clip}.mp4 --at 1 \"Is there a person?\""
        ));
        lines.push(format!(
            "ask --stream {clip}.mp4 --at 1 \"Why is it there?\""
        ));
    }
    lines.push("search \"a dog\"".to_owned());
    lines.push("doctor".to_owned());
    lines.join("\n")
}

/// Runs the script in one process over the shim: what it printed, a document per line, and what the shim saw.
fn run(cache: &Path, store: &Path, name: &str) -> (Vec<Value>, Vec<Session>) {
    let file = cache.join("script.txt");
    std::fs::write(&file, script()).unwrap();
    let log = cache.join(format!("{name}.jsonl"));
    let mut command: Command = atom();
    command
        .env("ATOM_CACHE", cache)
        .arg("--json")
        .arg("--pack")
        .arg(likeliest_pack())
        .arg("--store")
        .arg(store);
    command.arg("run").arg(&file);
    watch(&mut command, &log);
    let done = atom_tests::output(&mut command);
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success(),
        "{}\n{text}\n{}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    let documents = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    (documents, sessions(&log))
}

/// The reference pack composes captions and most answers: nothing is asked of ONNX Runtime for them but the features.
#[test]
fn composed_captions_make_no_session_of_the_decoder() {
    let folder = temporary();
    let (script, log) = (folder.path().join("script"), folder.path().join("log"));
    let clip = video("bikes");
    let clip = clip.display();
    let lines = [
        format!("index --captions \"{clip}\""),
        "caption --stream bikes.mp4 --at 1".to_owned(),
        "ask --stream bikes.mp4 --at 1 \"Is there a person?\"".to_owned(),
        "ask --stream bikes.mp4 --at 1 \"Why is it there?\"".to_owned(),
    ];
    std::fs::write(&script, lines.join("\n")).unwrap();
    let mut command = atom();
    command.arg("--json").arg("--pack").arg(pack());
    command.arg("--store").arg(folder.path().join("store"));
    watch(command.arg("run").arg(&script), &log);
    let done = atom_tests::output(&mut command);
    assert!(done.status.success(), "{done:?}");
    let told = String::from_utf8_lossy(&done.stdout);
    let told: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let stream = &told[0]["streams"][0];
    assert_eq!(stream["captions"], stream["segments"], "{stream}");
    assert_eq!(told[1]["stored"], true);
    assert!(told[1..].iter().all(|said| said["tokens"] == 0), "{told:?}");
    let made = sessions(&log);
    let decoders = made
        .iter()
        .filter(|session| session.ports.iter().any(|port| port == "logits"));
    assert_eq!(decoders.count(), 0);
    assert!(!made.is_empty(), "the shim saw nothing");
}

/// What pack.toml declares of a module.
struct Declared {
    file: String,
    /// Inputs and outputs.
    ports: Vec<String>,
}

/// The module a session belongs to: the one whose declared ports it has; of several such, the one whose file it was made
/// from.
fn module_of(session: &Session, modules: &BTreeMap<String, Declared>) -> String {
    let own = &session.ports;
    let mut fits: Vec<&String> = modules
        .iter()
        .filter(|(_, module)| module.ports.iter().all(|port| own.contains(port)))
        .map(|(id, _)| id)
        .collect();
    if fits.len() > 1 {
        fits.retain(|id| Path::new(&session.model).ends_with(&modules[*id].file));
    }
    match fits.as_slice() {
        [one] => (*one).clone(),
        several => panic!("{session:?} may be any of {several:?}"),
    }
}

/// The modules that find things in keyframes.
fn detectors() -> Vec<String> {
    let pack = atom_core::pack::Pack::open(&likeliest_pack()).unwrap();
    let index = pack.manifest().tasks.index.as_ref().unwrap();
    index.detectors.clone()
}

fn declared() -> BTreeMap<String, Declared> {
    let pack = atom_core::pack::Pack::open(&likeliest_pack()).unwrap();
    pack.manifest()
        .modules
        .iter()
        .map(|module| {
            let ports = module.inputs.iter().chain(&module.outputs);
            let declared = Declared {
                file: module.model.file.clone(),
                ports: ports.map(|port| port.name.clone()).collect(),
            };
            (module.id.clone(), declared)
        })
        .collect()
}

#[test]
fn sessions_are_distinct_modules_and_encoder_runs_are_keyframes() {
    assert!(ort_library().exists());
    let modules = declared();
    let cache = temporary();
    for state in ["cold", "warm"] {
        let (documents, seen) = run(cache.path(), &cache.path().join(state), state);
        let mut made: BTreeMap<String, u64> = BTreeMap::new();
        let mut runs: BTreeMap<String, u64> = BTreeMap::new();
        for session in &seen {
            assert!(session.ok, "{session:?}");
            assert_eq!(session.failed_runs, 0, "{session:?}");
            let id = module_of(session, &modules);
            *made.entry(id.clone()).or_default() += 1;
            *runs.entry(id).or_default() += session.runs;
        }
        println!("{state}: sessions {made:?}, runs {runs:?}");

        let keyframes: u64 = documents
            .iter()
            .flat_map(|document| document["streams"].as_array().cloned().unwrap_or_default())
            .map(|stream| stream["added"].as_u64().unwrap())
            .sum();
        println!("{state}: {keyframes} keyframes");
        assert!(keyframes >= 3);
        if state == "warm" {
            assert_eq!(
                runs["visual-encoder"], keyframes,
                "a frame was encoded more than once, or not at all"
            );
            for id in detectors() {
                assert_eq!(runs[&id], keyframes, "{id}");
            }
        }
        assert_eq!(
            made.keys().collect::<Vec<_>>(),
            modules.keys().collect::<Vec<_>>(),
            "every module is used"
        );

        let doctor = documents.last().unwrap();
        for module in doctor["modules"].as_array().unwrap() {
            let id = module["id"].as_str().unwrap();
            println!(
                "{state}: {id} {} bytes, {} runs, {}",
                module["bytes"], module["runs"], module["placement"]
            );
            assert_eq!(module["loads"], 1, "{module}");
            assert_eq!(module["state"], "resident", "{module}");
            if state == "warm" {
                assert_eq!(
                    module["runs"].as_u64().unwrap(),
                    runs[id],
                    "the registry's count of {id} differs"
                );
                assert_eq!(made[id], 1, "{id} was loaded {} times", made[id]);
            } else {
                // The first load ever makes the optimised form with a session of its own, and runs that form beside
                // the original before it trusts it. Where that form has a product in parts, the original is another.
                let form = match id {
                    "language-decoder" => 3,
                    "visual-encoder" | "text-encoder" => 2,
                    _ => 0,
                };
                assert_eq!(made[id], 1 + form, "{id} was loaded {} times", made[id]);
                assert!(
                    module["runs"].as_u64().unwrap() <= runs[id]
                        && runs[id] <= module["runs"].as_u64().unwrap() + 2
                );
            }
        }
        let alive = seen.iter().filter(|session| !session.released).count();
        assert!(alive == 0, "{alive} sessions were never released");
    }
}
