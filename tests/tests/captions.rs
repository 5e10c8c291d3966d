//! Captions kept with their segments: made while indexing, served without generating, to their own maker only.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use atom_core::ErrorKind;
use atom_core::caption::Statement;
use atom_core::control::{Control, TextOptions};
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::index::{Access, Segment, Store};
use atom_core::language::StopReason;
use atom_core::runtime::Runtime;
use atom_core::task::ingest::IngestOptions;
use atom_tests::damage::Pack;
use atom_tests::{
    atom, foreign_pack, json, output, pack, picture, runtime_options, temporary, video,
};
use serde_json::Value;

/// Threads are the process's: tests that caption in this one take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const WIDTH: u32 = 160;
const HEIGHT: u32 = 120;

fn open(pack: &Path, cache: &Path) -> Runtime {
    let mut options = runtime_options(pack);
    options.artifacts = Some(cache.join("artifacts"));
    Runtime::open(&options).unwrap()
}

fn options(stream: &str) -> IngestOptions {
    let mut options = IngestOptions::new(stream, WIDTH as usize * HEIGHT as usize * 3);
    options.sampler.max_segment_ns = 1_000_000_000;
    options
}

/// Frame number `index` of a stream of drawn scenes.
fn scene(index: u64, push: impl FnOnce(&Frame<'_>)) {
    let pixels = picture(index / 5, WIDTH, HEIGHT);
    let format = FrameFormat::new(PixelFormat::Rgb8, WIDTH, HEIGHT);
    push(&Frame::packed(format, &pixels, index as i64 * 200_000_000).unwrap());
}

fn segments(store: &Store, stream: &str) -> Vec<Segment> {
    let id = store.stream(stream).unwrap().id;
    store.segments(id, None, None).unwrap()
}

fn say(runtime: &Runtime, store: &Store, segment: &Segment, fresh: bool) -> Statement {
    let mut streamed = String::new();
    let said = runtime
        .caption_segment(
            store,
            segment.id,
            &TextOptions::default(),
            fresh,
            &Control::default(),
            &mut |piece| {
                streamed.push_str(piece);
                ControlFlow::Continue(())
            },
        )
        .unwrap();
    assert_eq!(streamed, said.text);
    said
}

fn decoder_runs(runtime: &Runtime, id: &str) -> u64 {
    let modules = runtime.modules();
    modules.iter().find(|m| m.id == id).unwrap().runs
}

#[test]
fn indexed_with_captions_nothing_is_generated_again() {
    let _turn = turn();
    let folder = temporary();
    let runtime = open(foreign_pack(), folder.path());
    let path = folder.path().join("store");
    let store = runtime.open_store(&path, Access::ReadWrite).unwrap();
    let indexing = runtime.ingest_captioned(&store, &options("a")).unwrap();
    let other = runtime.ingest_captioned(&store, &options("b")).unwrap();
    let threads = atom_core::os::thread::all();
    let captioning = threads.iter().filter(|t| t.name == "atom-caption");
    assert_eq!(captioning.count(), 1, "one thread for a store: {threads:?}");
    for index in 0..40 {
        scene(index, |frame| indexing.push_wait(frame).unwrap());
        scene(index + 40, |frame| other.push_wait(frame).unwrap());
    }
    let (report, other) = (indexing.finish().unwrap(), other.finish().unwrap());
    println!("{report:?}\n{other:?}");
    assert!(report.segments >= 8);
    for report in [report, other] {
        assert_eq!(
            (report.captions, report.captions_failed),
            (report.segments, 0)
        );
    }

    // Served as they were made, to readers too.
    let runs = decoder_runs(&runtime, "mouth");
    let reader = runtime.open_store(&path, Access::ReadOnly).unwrap();
    let all = [segments(&store, "a"), segments(&store, "b")].concat();
    let kept: Vec<_> = all
        .iter()
        .map(|s| say(&runtime, &store, s, false))
        .collect();
    for (segment, kept) in all.iter().zip(&kept) {
        assert!(kept.stored && !kept.text.is_empty());
        assert_eq!(&say(&runtime, &reader, segment, false), kept);
    }
    assert_eq!(
        decoder_runs(&runtime, "mouth"),
        runs,
        "something was generated"
    );
    let mut texts: Vec<_> = kept.iter().map(|kept| &kept.text).collect();
    texts.sort();
    texts.dedup();
    assert!(texts.len() > 2, "{texts:?}");

    // Made anew they are the same.
    for (segment, kept) in all.iter().zip(&kept) {
        let fresh = say(&runtime, &store, segment, true);
        assert!(!fresh.stored);
        assert_eq!(
            Statement {
                stored: true,
                prompt_ids: Vec::new(),
                token_ids: Vec::new(),
                ..fresh
            },
            *kept
        );
    }
    assert!(decoder_runs(&runtime, "mouth") > runs);

    // What asks for something else gets something else.
    let ask = |options: &TextOptions, stop: bool| {
        let on_text = &mut |_: &str| match stop {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let control = Control::default();
        let id = all[0].id;
        runtime.caption_segment(&store, id, options, false, &control, on_text)
    };
    let short = TextOptions {
        max_tokens: Some(3),
        ..TextOptions::default()
    };
    let short = ask(&short, false).unwrap();
    assert!(!short.stored && short.tokens <= 3);
    let choice = TextOptions {
        choices: vec!["the picture".into(), "the thing".into()],
        ..TextOptions::default()
    };
    assert!(!ask(&choice, false).unwrap().stored);
    let stopped = ask(&TextOptions::default(), true).unwrap();
    assert_eq!(stopped.stop_reason, StopReason::Cancelled);
    // None of that took the place of what is kept.
    assert_eq!(say(&runtime, &store, &all[0], false), kept[0]);
}

#[test]
fn captions_of_another_maker_are_not_served() {
    let _turn = turn();
    let folder = temporary();
    let theirs = Pack::copy();
    theirs.edit("Say what it is", "Say what that is");
    let store = folder.path().join("store");
    let ours = open(foreign_pack(), folder.path());
    let writer = ours.open_store(&store, Access::ReadWrite).unwrap();
    let indexing = ours.ingest_captioned(&writer, &options("a")).unwrap();
    for index in 0..20 {
        scene(index, |frame| indexing.push_wait(frame).unwrap());
    }
    indexing.finish().unwrap();
    let segment = segments(&writer, "a")[0].clone();
    let our_words = say(&ours, &writer, &segment, false);
    assert!(our_words.stored);
    drop(writer);

    // The same visual encoder, so the same store; another prompt, so other captions.
    let other = open(&theirs.path(), folder.path());
    let writer = other.open_store(&store, Access::ReadWrite).unwrap();
    let first = say(&other, &writer, &segment, false);
    assert!(!first.stored);
    let second = say(&other, &writer, &segment, false);
    assert!(second.stored && second.text == first.text);
    let id = writer.stream("a").unwrap().id;
    let report = other.caption_stream(&writer, id).unwrap();
    let count = segments(&writer, "a").len() as u64;
    assert_eq!((report.made, report.failed), (count - 1, 0));
    assert_eq!(other.caption_stream(&writer, id).unwrap().made, 0);
    drop(writer);
    // Ours are still there.
    let reader = ours.open_store(&store, Access::ReadOnly).unwrap();
    assert_eq!(say(&ours, &reader, &segment, false), our_words);
    let error = ours.caption_stream(&reader, id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
}

#[test]
fn a_caption_that_fails_costs_no_segment() {
    let pack = Pack::copy();
    // A decoder that is no model, as far as ONNX Runtime is concerned.
    let manifest = pack.manifest();
    let model = manifest.split("id = \"mouth\"").nth(1).unwrap();
    let model = model.split("file = \"").nth(1).unwrap();
    let model = model.split('"').next().unwrap();
    pack.rewrite(model, |bytes| bytes.truncate(bytes.len() / 2));
    let done = json(pack.index().arg("--captions"));
    let stream = &done["streams"][0];
    assert!(stream["segments"].as_u64().unwrap() > 0);
    assert_eq!(stream["added"], stream["segments"]);
    assert_eq!(stream["captions"], 0);
    assert_eq!(stream["captions_failed"], stream["segments"]);

    // A pack that cannot caption says so before the work.
    let mute = Pack::copy();
    let manifest = mute.manifest();
    let table = manifest.find("[tasks.caption]").unwrap();
    let end = manifest[table + 1..].find("\n[").unwrap() + table + 1;
    mute.edit(&manifest[table..end], "");
    let done = output(mute.index().arg("--captions"));
    let told: Value = serde_json::from_slice(&done.stderr).unwrap();
    assert_eq!(told["error"]["kind"], "unsupported", "{told}");
}

#[test]
fn captioning_that_is_broken_off_goes_on_later() {
    let _turn = turn();
    let folder = temporary();
    let runtime = open(foreign_pack(), folder.path());
    let path = folder.path().join("store");
    let store = runtime.open_store(&path, Access::ReadWrite).unwrap();
    let indexing = runtime.ingest_captioned(&store, &options("a")).unwrap();
    for index in 0..40 {
        scene(index, |frame| indexing.push_wait(frame).unwrap());
    }
    // Every segment is there, however many of them have captions.
    let before = indexing.finish_ingest().unwrap();
    drop(indexing);
    assert_eq!(before.segments, segments(&store, "a").len() as u64);
    let id = store.stream("a").unwrap().id;
    let rest = runtime.caption_stream(&store, id).unwrap();
    println!("{before:?}, then {rest:?}");
    assert_eq!(rest.failed, 0);
    // The one at hand when it was broken off may have been finished.
    let made = before.captions + rest.made;
    assert!(made == before.segments || made + 1 == before.segments);
    assert_eq!(runtime.caption_stream(&store, id).unwrap().made, 0);
    for segment in segments(&store, "a") {
        assert!(say(&runtime, &store, &segment, false).stored);
    }
}

#[test]
fn the_command_keeps_what_it_said() {
    let folder = temporary();
    let store = folder.path().join("store");
    let command = |words: &[&str]| {
        let mut command = atom();
        command.arg("--json").args(words).arg("--pack").arg(pack());
        command.arg("--store").arg(&store);
        command
    };
    json(command(&["index"]).arg(video("bikes")));
    let caption = ["caption", "--stream", "bikes.mp4", "--at", "9.9"];
    let first = json(&mut command(&caption));
    let second = json(&mut command(&caption));
    assert_eq!(
        (&first["stored"], &second["stored"]),
        (&false.into(), &true.into())
    );
    for field in ["text", "tokens", "stop_reason", "grounds"] {
        assert_eq!(first[field], second[field]);
    }
    assert_eq!(json(command(&caption).arg("--fresh"))["stored"], false);
    let again = json(command(&["index", "--captions"]).arg(video("bikes")));
    let stream = &again["streams"][0];
    let segments = stream["segments"].as_u64().unwrap();
    assert_eq!(stream["captions"].as_u64().unwrap(), segments - 1);
}
