//! Rows for a captioner's own encoder: made at indexing, when they are asked for, or each time; kept apart from the vectors.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use atom_core::Result;
use atom_core::caption::{Captioner, CaptionerContext, CaptionerKind, OnText, Statement};
use atom_core::control::{CancelToken, Control, TextOptions};
use atom_core::engine::{Ask, Caption, Engine, Handles, Operation, Pictures, Request, Text};
use atom_core::features::{Features, Grid, Parts, Source};
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::identity::{Canonical, Digest};
use atom_core::index::{Access, SegmentId, Store};
use atom_core::runtime::{Runtime, RuntimeOptions};
use atom_core::task::ingest::IngestOptions;
use atom_tests::exports::{cosine, export, write_pack};
use atom_tests::{picture, temporary};

/// Says what rows it was given.
#[derive(Debug)]
struct Counting(Digest);

#[rustfmt::skip]
impl Captioner for Counting {
    fn identity(&self) -> Digest { self.0 }
    fn reads(&self) -> Parts { Parts::MAP }
    fn caption(&self, frames: &[&Features], _: &TextOptions, _: &Control, on_text: OnText<'_>) -> Result<Statement> {
        let map = &frames[0].map;
        let text = format!("{} rows of {} pictures", map.rows, map.pictures);
        Ok(Statement::composed(text, serde_json::json!([]), on_text))
    }
    fn answer(&self, frames: &[&Features], _: &str, options: &TextOptions, control: &Control, on_text: OnText<'_>) -> Result<Statement> {
        self.caption(frames, options, control, on_text)
    }
}

#[derive(Debug)]
struct CountingKind;

impl CaptionerKind for CountingKind {
    fn name(&self) -> &str {
        "counting"
    }

    fn build(&self, context: &CaptionerContext) -> Result<Arc<dyn Captioner>> {
        context.expect_keys(&[], &["visual_encoder", "features"])?;
        let map = context.feature_sources()?.map;
        Ok(Arc::new(Counting(
            Canonical::new("counting", 1).field("map", &map).finish(),
        )))
    }
}

/// The search tower of clip-tiny, and with `eyes` lines of `[captioner]` the tower of smolvlm-tiny, cut to tiles of a longest edge.
fn pack(dir: &Path, eyes: Option<(&str, u32)>) {
    let clip = r#"
schema = 1
id = "two-towers"
version = "1"
licence = "MIT"
[tasks.index]
visual_encoder = "search"
"#;
    let search = r#"
[[module]]
id = "search"
kind = "visual-encoder"
model = @clip-tiny/export/onnx/vision_model.onnx
precision = "fp32"
inputs = [{ name = "pixel_values", dtype = "f32", shape = ["batch_size", "num_channels", "height", "width"] }]
outputs = [{ name = "image_embeds", dtype = "f32", shape = ["batch_size", 24], role = "embedding" }]
[module.preprocess]
width = 32
height = 32
resample = "bicubic"
mean = [0.48145466, 0.4578275, 0.40821073]
std = [0.26862954, 0.26130258, 0.27577711]
steps = [{ do = "shortest-edge", size = 32 }, { do = "center-crop", width = 32, height = 32 }]
"#;
    let text = match eyes {
        None => format!("{clip}{search}"),
        Some((lines, edge)) => format!(
            r#"{clip}
[captioner]
kind = "counting"
visual_encoder = "eyes"
{lines}
[tasks.caption]
[tasks.ask]
{search}
[[module]]
id = "eyes"
kind = "visual-encoder"
model = @smolvlm-tiny/export/onnx/vision_encoder.onnx
precision = "fp32"
inputs = [
  {{ name = "pixel_values", dtype = "f32", shape = ["batch_size", "num_images", 3, "height", "width"] }},
  {{ name = "pixel_attention_mask", dtype = "bool", shape = ["batch_size", "num_images", "height", "width"] }},
]
outputs = [{{ name = "image_features", dtype = "f32", shape = ["pictures", "rows", 32], role = "features" }}]
[module.preprocess]
width = 32
height = 32
resample = "lanczos3"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
steps = [
  {{ do = "longest-edge", size = {edge}, even = true, most = 4096 }},
  {{ do = "tiles", size = 32, whole = "last" }},
]
pixel_mask = "pixel_attention_mask"
[module.preprocess.video]
resample = "bicubic"
steps = [
  {{ do = "longest-edge", size = 64, even = true, most = 4096 }},
  {{ do = "squash", width = 32, height = 32 }},
]
"#
        ),
    };
    fs::create_dir_all(dir).unwrap();
    write_pack(dir, &export(""), &text);
}

fn open(dir: &Path, eyes: Option<(&str, u32)>) -> Runtime {
    if !dir.join("pack.toml").exists() {
        pack(dir, eyes);
    }
    let mut options = RuntimeOptions::new(dir);
    options.captioners = vec![Arc::new(CountingKind)];
    Runtime::open(&options).unwrap()
}

const SIZE: (u32, u32) = (320, 240);

fn with_frame<T>(seed: u64, use_frame: impl FnOnce(&Frame<'_>) -> T) -> T {
    let pixels = picture(seed, SIZE.0, SIZE.1);
    let format = FrameFormat::new(PixelFormat::Rgb8, SIZE.0, SIZE.1);
    use_frame(&Frame::packed(format, &pixels, seed as i64 * 5_000_000_000).unwrap())
}

fn indexed(runtime: &Runtime, path: &Path) -> Store {
    let store = runtime.open_store(path, Access::ReadWrite).unwrap();
    let options = IngestOptions::new("a", SIZE.0 as usize * SIZE.1 as usize * 3);
    let indexing = runtime.ingest(&store, &options).unwrap();
    for seed in 0..3 {
        with_frame(seed, |frame| indexing.push_wait(frame).unwrap());
    }
    indexing.finish().unwrap();
    store
}

fn segments(store: &Store) -> Vec<SegmentId> {
    let stream = store.stream("a").unwrap().id;
    let all = store.segments(stream, None, None).unwrap();
    all.into_iter().map(|segment| segment.id).collect()
}

fn runs(runtime: &Runtime, module: &str) -> u64 {
    let all = runtime.modules();
    all.iter().find(|status| status.id == module).unwrap().runs
}

/// Caption, then `questions` questions, through the engine.
fn talk(runtime: &Runtime, store: &Store, ids: &[SegmentId], questions: usize) -> Vec<String> {
    let handles = Arc::new(Handles::default());
    let handle = handles.add_store(store.clone());
    let engine = Engine::new(runtime.clone(), handles);
    let pictures = || Pictures::Segments {
        store: handle,
        segments: ids.to_vec(),
    };
    let caption = Operation::Caption(Caption {
        pictures: pictures(),
        options: TextOptions::default(),
        fresh: true,
        store_always: true,
    });
    let ask = || {
        Operation::Ask(Ask {
            pictures: pictures(),
            question: "what?".into(),
            options: TextOptions::default(),
            store_always: true,
        })
    };
    let all = std::iter::once(caption).chain((0..questions).map(|_| ask()));
    all.map(|operation| {
        let cancel = CancelToken::new();
        let response = engine.run(Request::new(operation), &cancel, &mut |_| {
            ControlFlow::Continue(())
        });
        Text::try_from(response.unwrap()).unwrap().text
    })
    .collect()
}

fn kept(store: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(store.join("maps")) else {
        return Vec::new();
    };
    let entries = entries.map(|entry| entry.unwrap().metadata().unwrap().len());
    entries.collect()
}

/// 2 x 2 tiles and the whole: 5 pictures, 4 rows each.
const SAID: &str = "20 rows of 5 pictures";

#[test]
fn on_demand_a_keyframe_is_encoded_once_and_its_rows_are_kept() {
    let dir = temporary();
    let runtime = open(&dir.path().join("pack"), Some(("", 64)));
    let path = dir.path().join("store");
    let store = indexed(&runtime, &path);
    let ids = segments(&store);
    assert_eq!(ids.len(), 3);
    assert_eq!((runs(&runtime, "search"), runs(&runtime, "eyes")), (3, 0));
    assert!(kept(&path).is_empty());
    assert_eq!(store.stats().unwrap().map_bytes, 0);

    assert_eq!(talk(&runtime, &store, &ids[..1], 3), vec![SAID; 4]);
    assert_eq!(runs(&runtime, "eyes"), 5, "one picture, five tiles, once");
    // Half-precision numbers behind 80 bytes.
    assert_eq!(kept(&path), [80 + 20 * 32 * 2]);
    assert_eq!(store.stats().unwrap().map_bytes, 80 + 20 * 32 * 2);

    // The keyframe was kept as JPEG: its rows are nearly those of the frame itself.
    let map = store.features(ids[0]).unwrap().map;
    assert_eq!(map.grid, Grid { rows: 2, cols: 2 });
    let control = Control::default();
    let exact = with_frame(0, |frame| {
        runtime.observe_for_text(frame, Source::Still, &control)
    });
    let exact = exact.unwrap().map;
    let pairs = map.data.chunks_exact(32).zip(exact.data.chunks_exact(32));
    let worst = pairs.map(|(a, b)| cosine(a, b)).fold(1.0, f64::min);
    println!("rows of the kept keyframe: least cosine {worst:.5}");
    assert!(worst > 0.98, "{worst}");

    // Another process: what was kept serves it, and nothing of vision is loaded.
    drop((store, runtime));
    let runtime = open(&dir.path().join("pack"), None);
    let store = runtime.open_store(&path, Access::ReadOnly).unwrap();
    assert_eq!(talk(&runtime, &store, &ids[..1], 1), vec![SAID; 2]);
    assert_eq!((runs(&runtime, "search"), runs(&runtime, "eyes")), (0, 0));
    // Opened for reading only, the rows of another segment are kept all the same, since the requests say so.
    assert_eq!(talk(&runtime, &store, &ids[1..2], 2), vec![SAID; 3]);
    assert_eq!((runs(&runtime, "eyes"), kept(&path).len()), (5, 2));

    // Several segments are frames of a video, which are not cut, and their rows are kept beside the others.
    let said = talk(&runtime, &store, &ids[..2], 1);
    assert_eq!(said, vec!["4 rows of 1 pictures"; 2]);
    assert_eq!((runs(&runtime, "eyes"), kept(&path).len()), (7, 4));
    drop((store, runtime));

    // Rows go alone, oldest first, and with their segments.
    let runtime = open(&dir.path().join("pack"), None);
    let store = runtime.open_store(&path, Access::ReadWrite).unwrap();
    let all: u64 = kept(&path).iter().sum();
    assert!(store.retain_maps(all - 1).unwrap() > 0);
    assert_eq!(kept(&path).len(), 3);
    assert_eq!(segments(&store).len(), 3);
    store.delete_stream(store.stream("a").unwrap().id).unwrap();
    assert!(kept(&path).is_empty());
}

#[test]
fn eager_rows_are_there_at_once_and_never_means_never() {
    for (policy, at_indexing, kept_later, later_runs) in [("eager", 15, 3, 0), ("never", 0, 0, 10)]
    {
        let dir = temporary();
        let lines = format!("features = {policy:?}");
        let runtime = open(&dir.path().join("pack"), Some((&lines, 64)));
        let path = dir.path().join("store");
        let store = indexed(&runtime, &path);
        assert_eq!(runs(&runtime, "eyes"), at_indexing, "{policy}");
        assert_eq!(runs(&runtime, "search"), 3, "{policy}");
        let ids = segments(&store);
        assert_eq!(talk(&runtime, &store, &ids[..1], 1), vec![SAID; 2]);
        assert_eq!(kept(&path).len(), kept_later, "{policy}");
        let later = runs(&runtime, "eyes") - at_indexing;
        assert_eq!(later, later_runs, "{policy}");
    }
}

#[test]
fn another_captioner_asks_without_a_frame_encoded_for_search_again() {
    let dir = temporary();
    let path = dir.path().join("store");
    let store = indexed(&open(&dir.path().join("searching"), None), &path);
    let ids = segments(&store);
    drop(store);
    // Only the tiles of its edge differ between these two.
    for (name, edge, said) in [
        ("small", 64, SAID),
        ("large", 96, "40 rows of 10 pictures"),
        ("small", 64, SAID),
    ] {
        let runtime = open(&dir.path().join(name), Some(("", edge)));
        let store = runtime.open_store(&path, Access::ReadWrite).unwrap();
        let vector = store.embedding(ids[0]).unwrap();
        assert_eq!(
            talk(&runtime, &store, &ids[..1], 1),
            vec![said; 2],
            "{name}"
        );
        // Rows of the other captioner are not served, and take no place beside its own.
        assert_eq!(kept(&path).len(), 1);
        assert_eq!(runs(&runtime, "search"), 0);
        assert_eq!(store.embedding(ids[0]).unwrap(), vector);
    }
}

#[test]
fn damaged_rows_are_made_again() {
    let dir = temporary();
    let runtime = open(&dir.path().join("pack"), Some(("", 64)));
    let path = dir.path().join("store");
    let store = indexed(&runtime, &path);
    let ids = segments(&store);
    talk(&runtime, &store, &ids[..1], 0);
    let file = fs::read_dir(path.join("maps"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    for damage in [&b"short"[..], &[0; 2000]] {
        fs::write(&file, damage).unwrap();
        assert_eq!(talk(&runtime, &store, &ids[..1], 0), [SAID]);
    }
    assert_eq!(runs(&runtime, "eyes"), 15);
    assert_eq!(kept(&path), [80 + 20 * 32 * 2]);
    // What was being written when the machine stopped goes when the store is opened for writing.
    let unfinished = file.with_extension("map.tmp-1-1");
    fs::write(&unfinished, b"half").unwrap();
    let orphan = path.join("maps/00000009-0000000.map");
    fs::copy(&file, &orphan).unwrap();
    drop(store);
    drop(runtime.open_store(&path, Access::ReadWrite).unwrap());
    assert!(!unfinished.exists() && !orphan.exists() && file.exists());
}
