//! What one question leaves for the next: beginnings of prompts, with everything said staying the same.

use std::ops::ControlFlow;
use std::path::Path;

use atom_core::caption::Statement;
use atom_core::control::{Control, TextOptions};
use atom_core::features::Features;
use atom_core::runtime::{Runtime, RuntimeOptions};
use atom_media::VideoReader;
use atom_tests::{cache, foreign_pack, likeliest_pack, runtime_options, temporary, video};

const QUESTIONS: [&str; 3] = [
    "Is there a bicycle?",
    "How many people are there?",
    "Why is it there?",
];

fn open(pack: &Path, artifacts: &Path, prefix_bytes: u64) -> Runtime {
    let mut options = runtime_options(pack);
    options.artifacts = Some(artifacts.to_owned());
    options.prefix_bytes = prefix_bytes;
    Runtime::open(&options).unwrap()
}

fn features(runtime: &Runtime) -> Vec<Features> {
    let clips = [
        ("bikes", 9_900_000_000),
        ("bikes", 0),
        ("carphone", 1_000_000_000),
    ];
    clips
        .iter()
        .map(|(clip, ns)| {
            let mut reader = VideoReader::open(video(clip)).unwrap();
            let frame = reader.frame_at(*ns).unwrap();
            let frame = frame.as_frame().unwrap();
            runtime.observe(&frame, &Control::default()).unwrap()
        })
        .collect()
}

/// The caption and an answer to each question, of every picture.
fn talk(runtime: &Runtime, pictures: &[Features]) -> Vec<Statement> {
    let control = Control::default();
    let options = TextOptions::default();
    let choices = TextOptions {
        choices: ["a dog", "the street", "somebody"]
            .map(String::from)
            .to_vec(),
        ..TextOptions::default()
    };
    let mut said = Vec::new();
    for features in pictures {
        let mut deaf = |_: &str| ControlFlow::Continue(());
        said.push(
            runtime
                .caption(&[features], &options, &control, &mut deaf)
                .unwrap(),
        );
        for question in QUESTIONS {
            for options in [&options, &choices] {
                let answer = runtime.ask(&[features], question, options, &control, &mut deaf);
                said.push(answer.unwrap());
            }
        }
    }
    said
}

fn check(pack: &Path, artifacts: &Path) -> (Runtime, Runtime, usize) {
    let with = open(pack, artifacts, RuntimeOptions::new(pack).prefix_bytes);
    let without = open(pack, artifacts, 0);
    let pictures = features(&with);
    let first = talk(&with, &pictures);
    let second = talk(&with, &pictures);
    let bare = talk(&without, &pictures);
    for ((first, second), bare) in first.iter().zip(&second).zip(&bare) {
        assert_eq!(first, bare);
        assert_eq!(second, bare);
    }
    let stats = with.prefixes().stats();
    println!("{stats:?}\nwithout: {:?}", without.prefixes().stats());
    // What leaves nothing to choose needs no decoder.
    let prompts = bare.iter().filter(|said| said.tokens > 0).count();
    assert!(prompts * 2 > bare.len());
    // The first prompt of all finds nothing; the last of all that were said found its picture's.
    assert_eq!(stats.misses, 1);
    assert_eq!(stats.hits as usize, 2 * prompts - 1);
    assert_eq!(without.prefixes().stats().hits, 0);
    assert_eq!(without.prefixes().stats().bytes, 0);
    // Given up, it is all run again, and comes out the same.
    assert_eq!(with.prefixes().clear(), stats.bytes);
    assert_eq!(
        talk(&with, &pictures[..1]),
        bare[..bare.len() / pictures.len()]
    );
    (with, without, pictures.len())
}

#[test]
fn grounded_captions_and_answers_share_the_context_and_stay_the_same() {
    let (with, _, _) = check(&likeliest_pack(), &cache().join("artifacts"));
    let stats = with.prefixes().stats();
    assert!(stats.reused_tokens > stats.fed_tokens, "{stats:?}");
}

#[test]
fn pictures_in_the_prompt_are_connected_and_fed_once() {
    let folder = temporary();
    let (with, without, pictures) = check(foreign_pack(), folder.path());
    let runs = |runtime: &Runtime, id: &str| {
        let modules = runtime.modules();
        modules.iter().find(|module| module.id == id).unwrap().runs
    };
    let manifest = with.pack().manifest();
    let captioner = manifest.captioner.as_ref().unwrap();
    let connector = captioner.connector.as_ref().unwrap();
    // Once for each picture, and once more after it was given up; else for every text.
    assert_eq!(runs(&with, connector) as usize, pictures + 1);
    assert_eq!(runs(&without, connector) as usize, pictures * 7);
}
