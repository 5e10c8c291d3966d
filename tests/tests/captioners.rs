//! Captioners that core does not know: one of ten lines serves a pack, and one that nobody links leaves the rest at work.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atom_core::caption::{Captioner, CaptionerContext, CaptionerKind, OnText, Statement};
use atom_core::control::{Control, TextOptions};
use atom_core::features::Features;
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::identity::{Canonical, Digest};
use atom_core::index::{Access, SegmentId, Store};
use atom_core::language::StopReason;
use atom_core::runtime::{Runtime, RuntimeOptions, Task};
use atom_core::task::ingest::IngestOptions;
use atom_core::task::search::SearchQuery;
use atom_core::{ErrorKind, Result};
use atom_tests::damage::Pack;
use atom_tests::{foreign_pack, ort_library, pack, picture, runtime_options, temporary};

/// Says how long the search vector is. Counts how often it is asked, for the tests; the rest is ten lines.
#[derive(Debug)]
struct Measuring(u64, Arc<AtomicU64>);

#[rustfmt::skip]
impl Captioner for Measuring {
    fn identity(&self) -> Digest { Canonical::new("measuring", 1).field("unit", &self.0).finish() }
    fn caption(&self, frames: &[&Features], _: &TextOptions, _: &Control, on_text: OnText<'_>) -> Result<Statement> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let length = frames[0].embedding.len() as u64 / self.0;
        Ok(Statement::composed(format!("{length} long."), serde_json::json!([{ "unit": self.0 }]), on_text))
    }
    fn answer(&self, frames: &[&Features], _: &str, options: &TextOptions, control: &Control, on_text: OnText<'_>) -> Result<Statement> {
        self.caption(frames, options, control, on_text)
    }
}

/// Its kind: the pack's option says the unit.
#[derive(Debug, Default)]
struct MeasuringKind(Arc<AtomicU64>);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    unit: u64,
}

impl CaptionerKind for MeasuringKind {
    fn name(&self) -> &str {
        "measuring"
    }

    fn build(&self, context: &CaptionerContext) -> Result<Arc<dyn Captioner>> {
        context.expect_keys(&["options"], &[])?;
        let Options { unit } = context.options()?;
        Ok(Arc::new(Measuring(unit, self.0.clone())))
    }
}

/// The foreign pack with `captioner` in place of its own, and no prompts.
fn captioned_by(captioner: &str) -> Pack {
    let pack = Pack::copy();
    let manifest = pack.manifest();
    let table = manifest.find("[captioner]").unwrap();
    let end = manifest[table..].find("\n[[module]]").unwrap() + table;
    pack.edit(&manifest[table..end], captioner);
    for prompt in ["Say what it is", "{}"] {
        pack.edit(&format!("prompt = \"<picture> {prompt}\"\n"), "");
    }
    pack
}

fn open(pack: &Path, folder: &Path, kinds: Vec<Arc<dyn CaptionerKind>>) -> Result<Runtime> {
    let mut options = runtime_options(pack);
    options.artifacts = Some(folder.join("artifacts"));
    options.captioners = kinds;
    Runtime::open(&options)
}

const WIDTH: u32 = 160;
const HEIGHT: u32 = 120;

fn pixels(seed: u64, use_frame: impl FnOnce(&Frame<'_>)) {
    let pixels = picture(seed, WIDTH, HEIGHT);
    let format = FrameFormat::new(PixelFormat::Rgb8, WIDTH, HEIGHT);
    use_frame(&Frame::packed(format, &pixels, seed as i64 * 1_000_000_000).unwrap());
}

fn indexed(runtime: &Runtime, path: &Path) -> Store {
    let store = runtime.open_store(path, Access::ReadWrite).unwrap();
    let options = IngestOptions::new("a", WIDTH as usize * HEIGHT as usize * 3);
    let indexing = runtime.ingest(&store, &options).unwrap();
    for seed in 0..3 {
        pixels(seed, |frame| indexing.push_wait(frame).unwrap());
    }
    indexing.finish().unwrap();
    store
}

fn first_segment(store: &Store) -> SegmentId {
    let stream = store.stream("a").unwrap().id;
    store.segments(stream, None, None).unwrap()[0].id
}

fn caption(runtime: &Runtime, store: &Store, segment: SegmentId) -> Result<Statement> {
    let (options, control) = (TextOptions::default(), Control::default());
    runtime.caption_segment(store, segment, &options, false, &control, &mut |_| {
        ControlFlow::Continue(())
    })
}

#[test]
fn a_captioner_of_ten_lines_serves_a_pack() {
    let folder = temporary();
    let in_units = |unit: u64| {
        let table = format!("[captioner]\nkind = \"measuring\"\noptions = {{ unit = {unit} }}\n");
        captioned_by(&table)
    };
    let pack = in_units(1);
    let kind = MeasuringKind::default();
    let asked = kind.0.clone();
    let runtime = open(&pack.path(), folder.path(), vec![Arc::new(kind)]).unwrap();
    assert!(runtime.serves(Task::Caption) && runtime.serves(Task::Ask));
    let path = folder.path().join("store");
    let store = indexed(&runtime, &path);
    let segment = first_segment(&store);

    let said = caption(&runtime, &store, segment).unwrap();
    assert_eq!((said.text.as_str(), said.stored), ("48 long.", false));
    assert_eq!(said.stop_reason, StopReason::EndOfText);
    let again = caption(&runtime, &store, segment).unwrap();
    let stored = Statement {
        stored: true,
        prompt_ids: Vec::new(),
        token_ids: Vec::new(),
        ..said.clone()
    };
    assert_eq!(again, stored);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "made once, then served");
    let features = store.features(segment).unwrap();
    let (options, control) = (TextOptions::default(), Control::default());
    let mut pieces = Vec::new();
    let answer = runtime
        .ask(
            &[&features],
            "How long?",
            &options,
            &control,
            &mut |piece| {
                pieces.push(piece.to_owned());
                ControlFlow::Continue(())
            },
        )
        .unwrap();
    assert_eq!(pieces, ["48 long."]);
    assert_eq!(answer.evidence, serde_json::json!([{ "unit": 1 }]));
    // The limits are core's, not the captioner's.
    let mut ignore = |_: &str| ControlFlow::Continue(());
    let blank = runtime.ask(&[&features], " ", &options, &control, &mut ignore);
    assert_eq!(blank.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let none = runtime.caption(&[], &options, &control, &mut ignore);
    assert_eq!(none.unwrap_err().kind(), ErrorKind::InvalidArgument);
    control.cancel.cancel();
    let cancelled = runtime.caption(&[&features], &options, &control, &mut ignore);
    let cancelled = cancelled.unwrap();
    assert_eq!(
        (cancelled.text.as_str(), cancelled.stop_reason),
        ("", StopReason::Cancelled)
    );
    // Captions behind an ingest are its as well.
    let stream = store.stream("a").unwrap().id;
    let rest = runtime.caption_stream(&store, stream).unwrap();
    assert!(rest.made > 0 && rest.failed == 0, "{rest:?}");
    drop((store, runtime));

    // Another identity makes captions of its own, and leaves the others alone.
    let other = in_units(2);
    let kinds = || -> Vec<Arc<dyn CaptionerKind>> { vec![Arc::new(MeasuringKind::default())] };
    let runtime = open(&other.path(), folder.path(), kinds()).unwrap();
    let store = runtime.open_store(&path, Access::ReadWrite).unwrap();
    let theirs = caption(&runtime, &store, segment).unwrap();
    assert_eq!((theirs.text.as_str(), theirs.stored), ("24 long.", false));
    drop((store, runtime));
    let runtime = open(&pack.path(), folder.path(), kinds()).unwrap();
    let store = runtime.open_store(&path, Access::ReadOnly).unwrap();
    assert_eq!(caption(&runtime, &store, segment).unwrap(), stored);
}

#[test]
fn a_kind_that_nobody_links_leaves_indexing_and_search() {
    let folder = temporary();
    for (pack, kind) in [
        (
            captioned_by("[captioner]\nkind = \"oracle\"\n").path(),
            "oracle",
        ),
        // The reference pack in a program without grounding.
        (pack(), "grounded"),
    ] {
        let folder = folder.path().join(kind);
        let mut options = RuntimeOptions::new(pack);
        options.ort_library = Some(ort_library());
        options.artifacts = Some(folder.join("artifacts"));
        let runtime = Runtime::open(&options).unwrap();
        assert!(runtime.serves(Task::Index) && runtime.serves(Task::Search));
        assert!(!runtime.serves(Task::Caption) && !runtime.serves(Task::Ask));
        runtime.prefetch(Task::Caption);
        let store = indexed(&runtime, &folder.join("store"));
        let mut query = SearchQuery::new("the picture");
        query.min_score = Some(-1.0);
        let hits = runtime.search(&store, &query, &Control::default()).unwrap();
        assert!(!hits.is_empty());

        let features = store.features(hits[0].segment).unwrap();
        let (options, control) = (TextOptions::default(), Control::default());
        let mut ignore = |_: &str| ControlFlow::Continue(());
        let stream = store.stream("a").unwrap().id;
        for error in [
            caption(&runtime, &store, hits[0].segment).unwrap_err(),
            runtime
                .ask(&[&features], "What?", &options, &control, &mut ignore)
                .unwrap_err(),
            runtime.caption_stream(&store, stream).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let told = error.to_string();
            assert!(told.contains(&format!("{kind:?}")), "{told}");
            assert!(told.contains("feature"), "{told}");
        }
    }
}

/// Opening the foreign pack, with `from` in its manifest replaced, says all of `wanted`.
fn refused(from: &str, to: &str, wanted: &[&str]) {
    let pack = Pack::copy();
    pack.edit(from, to);
    refused_pack(&pack, wanted);
}

fn refused_pack(pack: &Pack, wanted: &[&str]) {
    let kinds = runtime_options(pack.path()).captioners;
    let error = open(&pack.path(), pack.folder.path(), kinds).err();
    let error = error.unwrap_or_else(|| panic!("{wanted:?}: it opens"));
    assert_eq!(error.kind(), ErrorKind::BadPack, "{error}");
    let told = error.to_string();
    for word in wanted {
        assert!(told.contains(word), "{word} is not in: {told}");
    }
}

#[test]
fn a_kind_names_the_keys_it_needs_and_those_it_refuses() {
    let vlm = |key: &str| [format!("captioner.{key}"), "vlm".to_owned()];
    for (line, key) in [
        ("language_decoder = \"mouth\"\n", "language_decoder"),
        ("token_embedding = \"words\"\n", "token_embedding"),
        ("image_token = \"<picture>\"\n", "image_token"),
    ] {
        let [key, kind] = vlm(key);
        refused(line, "", &[&key, &kind, "missing"]);
    }
    refused(
        "connector = \"bridge\"\n",
        "connector = \"bridge\"\noptions = { heat = 1 }\n",
        &["captioner.options", "no meaning"],
    );
    refused(
        "prompt = \"<picture> Say what it is\"\n",
        "",
        &["tasks.caption.prompt", "missing"],
    );
    refused(
        "\"<picture> {}\"",
        "\"<picture> What?\"",
        &["tasks.ask.prompt", "{} once"],
    );

    // Grounded's own settings, which core does not know.
    let file = {
        let manifest = Pack::copy().manifest();
        let file = manifest.split("file = { file = \"words.json\"").nth(1);
        let rest = file.unwrap().split('}').next().unwrap().to_owned();
        format!("{{ file = \"words.json\"{rest}}}")
    };
    let grounded = |more: &str| captioned_by(&format!("[captioner]\nkind = \"grounded\"\n{more}"));
    let taxonomy = format!("files = {{ taxonomy = {file} }}\n");
    refused_pack(&grounded(""), &["captioner.files.taxonomy", "missing"]);
    for (more, wanted) in [
        (
            "options = { wordy = true }\n",
            &["captioner.options", "wordy", "wording"][..],
        ),
        (
            "options = { wording = \"best\" }\n",
            &["captioner.options", "best", "likeliest"],
        ),
        (
            "options = { wording = \"likeliest\" }\n",
            &["likeliest", "captioner.language_decoder"],
        ),
        (
            "connector = \"bridge\"\n",
            &["captioner.connector", "no meaning"],
        ),
    ] {
        refused_pack(&grounded(&format!("{more}{taxonomy}")), wanted);
    }
    let other = taxonomy.replace("taxonomy", "map");
    refused_pack(&grounded(&other), &["captioner.files.taxonomy"]);
}

#[test]
fn two_kinds_of_one_name_are_refused() {
    let folder = temporary();
    let twice: Vec<Arc<dyn CaptionerKind>> = vec![
        Arc::new(MeasuringKind::default()),
        Arc::new(MeasuringKind::default()),
    ];
    let error = open(foreign_pack(), folder.path(), twice).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(error.to_string().contains("measuring"), "{error}");
}
