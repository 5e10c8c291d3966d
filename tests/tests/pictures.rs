//! Pictures become what Hugging Face's image processors make of them, and encoders see that and nothing else.

use std::ops::ControlFlow;

use atom_core::control::Control;
use atom_core::features::Grid;
use atom_core::pack::{PreprocessSpec, Source};
use atom_core::runtime::{Runtime, RuntimeOptions};
use atom_core::vision::prepare;
use atom_tests::exports::{cosine, expected, export, input, npy, write_pack};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const SMOLVLM: &str = "smolvlm-tiny";
const CLIP: &str = "clip-tiny";

/// `[module.preprocess]` of each export, as its preprocessor_config.json says it.
fn spec(model: &str, split: bool) -> Value {
    let half = [0.5, 0.5, 0.5];
    match model {
        "smolvlm-tiny" | "smolvlm2-tiny" => json!({
            "width": 32, "height": 32, "resample": "lanczos3", "mean": half, "std": half,
            "pixel_mask": "pixel_attention_mask",
            "steps": [
                { "do": "longest-edge", "size": 64, "even": true, "most": 4096 },
                match split {
                    true => json!({ "do": "tiles", "size": 32, "whole": "last" }),
                    false => json!({ "do": "squash", "width": 32, "height": 32 }),
                },
            ],
        }),
        "clip-tiny" | "clip-tiny-optimum" => json!({
            "width": 32, "height": 32, "resample": "bicubic",
            "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
            "steps": [
                { "do": "shortest-edge", "size": 32 },
                { "do": "center-crop", "width": 32, "height": 32 },
            ],
        }),
        "llava-tiny" => json!({
            "width": 48, "height": 48, "resample": "bicubic",
            "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
            "steps": [
                { "do": "shortest-edge", "size": 48 },
                { "do": "center-crop", "width": 48, "height": 48 },
            ],
        }),
        "siglip-tiny" => json!({
            "width": 32, "height": 32, "resample": "bicubic", "mean": half, "std": half,
            "steps": [{ "do": "squash", "width": 32, "height": 32 }],
        }),
        "vit-gpt2-tiny" => json!({
            "width": 32, "height": 32, "resample": "bilinear", "mean": half, "std": half,
            "steps": [{ "do": "squash", "width": 32, "height": 32 }],
        }),
        "florence2-tiny" => json!({
            "width": 64, "height": 64, "resample": "bicubic",
            "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
            "steps": [{ "do": "squash", "width": 64, "height": 64 }],
        }),
        other => panic!("{other}"),
    }
}

fn parsed(spec: Value) -> PreprocessSpec {
    serde_json::from_value(spec).unwrap()
}

/// Names of the pictures of a case, whether they are cut, what the encoder reads of them, and its hash.
struct Case {
    pictures: Vec<String>,
    split: bool,
    grids: Vec<Grid>,
    file: String,
    sha256: String,
    features: Option<String>,
}

fn cases(model: &str) -> Vec<Case> {
    let expected = expected(model);
    let list = expected.get("cases").unwrap_or(&expected["images"]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let cases = list.as_array().unwrap().iter();
    // Frames of videos are prepared in another way, and have a test of their own.
    let still = cases.filter(|case| case.get("video").is_none());
    let with_pixels = still.filter(|case| case.get("pixel_values").is_some());
    with_pixels
        .map(|case| Case {
            pictures: match case.get("images") {
                Some(images) => images.as_array().unwrap().iter().map(text).collect(),
                None => vec![text(&case["image"])],
            },
            split: case.get("do_image_splitting") == Some(&Value::Bool(true)),
            grids: case.get("rows_cols").map_or(Vec::new(), |grids| {
                let side = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
                let grids = grids.as_array().unwrap().iter();
                let grid = |grid: &Value| Grid {
                    rows: side(&grid[0]),
                    cols: side(&grid[1]),
                };
                grids.map(grid).collect()
            }),
            file: text(&case["pixel_values"]["file"]),
            sha256: text(&case["pixel_values"]["sha256_float32"]),
            features: case.get("image_features").map(text),
        })
        .collect()
}

/// What the encoder would read of all pictures of a case.
fn pixels(spec: &PreprocessSpec, case: &Case) -> (Vec<f32>, Vec<Grid>) {
    let (mut values, mut grids) = (Vec::new(), Vec::new());
    for name in &case.pictures {
        let picture = input(name);
        let made = prepare(spec, Source::Still, &picture.as_frame().unwrap()).unwrap();
        assert!(made.mask.iter().all(|one| *one == 1), "{name}");
        values.extend(made.values);
        grids.push(made.grid);
    }
    (values, grids)
}

fn hash(values: &[f32]) -> String {
    let mut hash = Sha256::new();
    values
        .iter()
        .for_each(|value| hash.update(value.to_le_bytes()));
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn pixels_are_bit_for_bit_those_of_the_references_processors() {
    for (model, count) in [
        (SMOLVLM, 23),
        (CLIP, 5),
        ("clip-tiny-optimum", 5),
        ("vit-gpt2-tiny", 5),
        ("florence2-tiny", 15),
        ("siglip-tiny", 5),
        ("llava-tiny", 10),
        ("smolvlm2-tiny", 23),
    ] {
        let cases = cases(model);
        assert_eq!(cases.len(), count, "{model}");
        for case in cases {
            let what = format!("{model} {:?} split {}", case.pictures, case.split);
            let (values, grids) = pixels(&parsed(spec(model, case.split)), &case);
            let (_, stored) = npy(&export(model).join("expected").join(&case.file));
            assert_eq!(values.len(), stored.len(), "{what}");
            let worst = values.iter().zip(&stored).map(|(a, b)| (a - b).abs());
            let worst = worst.fold(0.0, f32::max);
            assert_eq!(worst, 0.0, "{what}");
            assert_eq!(hash(&values), case.sha256, "{what}");
            if !case.grids.is_empty() {
                assert_eq!(grids, case.grids, "{what}");
            }
        }
    }
}

#[test]
fn frames_of_a_video_are_within_what_torchvision_rounds_otherwise() {
    let model = "smolvlm2-tiny";
    let expected = expected(model);
    let videos = expected["cases"].as_array().unwrap().iter();
    let videos: Vec<&Value> = videos.filter(|case| case.get("video").is_some()).collect();
    assert_eq!(videos.len(), 2);
    let mut right = spec(model, true);
    right["video"] = json!({ "resample": "bicubic", "steps": [
        { "do": "longest-edge", "size": 64, "even": true, "most": 4096 },
        { "do": "squash", "width": 32, "height": 32 },
    ] });
    let mut one_resize = right.clone();
    one_resize["video"]["steps"]
        .as_array_mut()
        .unwrap()
        .remove(0);
    let mut as_stills = right.clone();
    as_stills["video"]["resample"] = json!("nearest");
    for (spec, fits) in [(right, true), (one_resize, false), (as_stills, false)] {
        let spec = parsed(spec);
        for case in &videos {
            let mut values = Vec::new();
            for name in case["images"].as_array().unwrap() {
                let frame = input(name.as_str().unwrap());
                let made = prepare(&spec, Source::Video, &frame.as_frame().unwrap()).unwrap();
                assert_eq!((made.pictures, made.grid), (1, Grid::default()));
                values.extend(made.values);
            }
            let file = case["pixel_values"]["file"].as_str().unwrap();
            let (_, stored) = npy(&export(model).join("expected").join(file));
            assert_eq!(values.len(), stored.len());
            // A level is 1 / 127.5.
            let off = values
                .iter()
                .zip(&stored)
                .map(|(a, b)| (a - b).abs() * 127.5);
            let (sum, most) = off.fold((0.0_f32, 0.0_f32), |(s, m), o| (s + o, m.max(o)));
            let mean = sum / values.len() as f32;
            println!(
                "{}: {mean:.3} levels on average, {most:.1} at most",
                case["id"]
            );
            assert_eq!(
                mean < 0.35 && most < 3.5,
                fits,
                "{}: {mean} {most}",
                case["id"]
            );
        }
    }
}

/// Another description of the same export that a port could have come to.
fn wrongly(model: &str, split: bool, change: &str) -> Option<Value> {
    let mut spec = spec(model, split);
    let steps = spec["steps"].as_array().unwrap().len();
    match change {
        "bgr" => spec["order"] = json!("bgr"),
        "not normalised" => {
            spec["mean"] = json!([0, 0, 0]);
            spec["std"] = json!([1, 1, 1]);
        }
        "not antialiased" => spec["resample"] = json!("nearest"),
        "another filter" => {
            let other = if model == "vit-gpt2-tiny" {
                "bicubic"
            } else {
                "bilinear"
            };
            spec["resample"] = json!(other);
        }
        "one resize instead of two" if steps == 2 && model == SMOLVLM => {
            spec["steps"].as_array_mut().unwrap().remove(0);
        }
        "squashed instead of cropped" if model == CLIP => {
            spec["steps"] = json!([{ "do": "squash", "width": 32, "height": 32 }]);
        }
        "the whole picture first" if split => spec["steps"][1]["whole"] = json!("first"),
        _ => return None,
    }
    Some(spec)
}

#[test]
fn wrong_descriptions_give_other_pixels() {
    for model in [SMOLVLM, CLIP, "vit-gpt2-tiny", "florence2-tiny"] {
        for change in [
            "bgr",
            "not normalised",
            "not antialiased",
            "another filter",
            "one resize instead of two",
            "squashed instead of cropped",
            "the whole picture first",
        ] {
            let mut told = 0;
            let mut tried = 0;
            for case in cases(model) {
                // Of a picture that has the size already, resizing tells nothing; this one is shrunk by every step.
                if case.pictures != ["frame9s_640x272"] {
                    continue;
                }
                let Some(spec) = wrongly(model, case.split, change) else {
                    continue;
                };
                tried += 1;
                told += usize::from(hash(&pixels(&parsed(spec), &case).0) != case.sha256);
            }
            assert_eq!(told, tried, "{model}: {change}");
        }
    }
}

/// A pack that captions pictures with the rows of one encoder, without an index task. Its decoder is never run.
fn captioner_pack(split: bool) -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let steps = match split {
        true => r#"{ do = "tiles", size = 32, whole = "last" }"#,
        false => r#"{ do = "squash", width = 32, height = 32 }"#,
    };
    let text = format!(
        r#"
schema = 1
id = "eyes"
version = "1"
licence = "MIT"
[captioner]
kind = "looker"
visual_encoder = "vision"
[tasks.caption]
[[module]]
id = "vision"
kind = "visual-encoder"
model = @onnx/vision_encoder.onnx
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
steps = [{{ do = "longest-edge", size = 64, even = true, most = 4096 }}, {steps}]
pixel_mask = "pixel_attention_mask"
"#
    );
    write_pack(dir.path(), &export(SMOLVLM).join("export"), &text);
    let runtime = Runtime::open(&RuntimeOptions::new(dir.path())).unwrap();
    (dir, runtime)
}

#[test]
fn rows_of_a_cut_picture_are_those_of_the_reference() {
    for split in [true, false] {
        let (_dir, runtime) = captioner_pack(split);
        let mut seen = 0;
        for case in cases(SMOLVLM).iter().filter(|case| case.split == split) {
            let (mut rows, mut dim) = (Vec::new(), 0);
            for (name, grid) in case.pictures.iter().zip(&case.grids) {
                let picture = input(name);
                let frame = picture.as_frame().unwrap();
                let control = Control::default();
                let features = runtime
                    .observe_for_text(&frame, Source::Still, &control)
                    .unwrap();
                let map = features.map;
                assert_eq!(map.grid, *grid, "{name}");
                assert_eq!(map.pictures as u32, grid.rows * grid.cols + 1, "{name}");
                assert_eq!(map.rows, map.pictures * 4, "{name}");
                assert!(features.embedding.is_empty());
                assert_eq!(features.time_ns, None);
                rows.extend(map.data);
                dim = map.dim;
            }
            let file = case.features.as_ref().unwrap();
            let (shape, want) = npy(&export(SMOLVLM).join("expected").join(file));
            assert_eq!(shape.iter().product::<usize>(), rows.len(), "{file}");
            let pairs = rows.chunks_exact(dim).zip(want.chunks_exact(dim));
            let worst = pairs.map(|(a, b)| cosine(a, b)).fold(1.0, f64::min);
            assert!(worst >= 0.99999, "{file}: {worst}");
            seen += 1;
        }
        assert!(seen >= 11, "{seen}");
    }
}

#[test]
fn vectors_of_pictures_are_those_of_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"
schema = 1
id = "clip"
version = "1"
licence = "MIT"
[tasks.index]
visual_encoder = "vision"
[[module]]
id = "vision"
kind = "visual-encoder"
model = @onnx/vision_model.onnx
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
    write_pack(dir.path(), &export(CLIP).join("export"), text);
    let runtime = Runtime::open(&RuntimeOptions::new(dir.path())).unwrap();
    let (shape, want) = npy(&export(CLIP).join("expected/image_embeds.npy"));
    assert_eq!(shape, [5, 24]);
    for (case, want) in cases(CLIP).iter().zip(want.chunks_exact(24)) {
        let picture = input(&case.pictures[0]);
        let frame = picture.as_frame().unwrap();
        let vector = runtime.embed_picture(&frame, &Control::default()).unwrap();
        let near = cosine(&vector, want);
        assert!(near >= 0.999999, "{:?}: {near}", case.pictures);
        let norm: f32 = vector.iter().map(|v| v * v).sum();
        assert!((norm - 1.0).abs() < 1e-5);
    }
    // It cannot caption, and says so.
    let error = runtime
        .caption(&[], &Default::default(), &Control::default(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_err();
    assert!(error.message().contains("cannot caption"), "{error}");
}
