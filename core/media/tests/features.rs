//! Video to features with the reference pack's own weights.

use std::path::Path;
use std::sync::Arc;

use atom_core::budget::Governor;
use atom_core::control::Control;
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::module::{ModuleStatus, Registry};
use atom_core::ort::{Environment, EnvironmentOptions};
use atom_core::pack::{ArtifactCache, Pack};
use atom_core::vision::VisualEncoder;
use atom_core::{ErrorKind, Result};
use atom_media::VideoReader;
use sha2::{Digest, Sha256};

mod common;
use common::{cached, video};

fn registry(pack: &Path) -> Result<Registry> {
    let environment = Environment::open(&EnvironmentOptions::default())?;
    let artifacts = ArtifactCache::new(atom_core::cache::dir().join("artifacts"));
    let pack = Arc::new(Pack::open(pack)?);
    Ok(Registry::new(
        pack,
        environment,
        &Governor::default(),
        artifacts,
    ))
}

/// A pack of one module, whose embedding is the logarithm of the mean of each channel's normalised values.
fn log_of_mean(extra: &str, mean: f32) -> tempfile::TempDir {
    const GRAPH: &[u8] = include_bytes!("data/log_of_mean.onnx");
    let hash: String = Sha256::digest(GRAPH)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("graph.onnx"), GRAPH).unwrap();
    let manifest = format!(
        r#"schema = 1
        id = "logarithms"
        version = "1.0.0"
        licence = "Apache-2.0"
        description = "For a test"
        {extra}
        [[module]]
        id = "logs"
        kind = "visual-encoder"
        model = {{ file = "graph.onnx", sha256 = "{hash}", bytes = {} }}
        precision = "fp32"
        inputs = [ {{ name = "pixel_values", dtype = "f32", shape = ["batch", 3, 8, 8] }} ]
        outputs = [ {{ name = "image_embeds", dtype = "f32", shape = ["batch", 3], role = "embedding" }} ]
        [module.preprocess]
        width = 8
        height = 8
        resample = "bilinear"
        views = [ {{ fit = "stretch", fraction = 1.0 }}, {{ fit = "crop", fraction = 0.5 }} ]
        mean = [{mean:?}, {mean:?}, {mean:?}]
        std = [1.0, 1.0, 1.0]
        "#,
        GRAPH.len()
    );
    std::fs::write(dir.path().join("pack.toml"), manifest).unwrap();
    dir
}

const INDEX: &str = "[tasks.index]\nvisual_encoder = \"logs\"";

fn status(registry: &Registry, id: &str) -> ModuleStatus {
    let all = registry.status();
    all.into_iter().find(|module| module.id == id).unwrap()
}

#[test]
fn a_keyframe_becomes_features() {
    let registry = registry(&cached("packs/reference")).unwrap();
    let mut encoder = VisualEncoder::new(&registry).unwrap();
    assert_eq!(
        status(&registry, "visual-encoder").loads,
        0,
        "loaded by need"
    );
    let mut reader = VideoReader::open(video("bikes")).unwrap();

    // A man on a bicycle, standing, behind a car.
    let frame = reader.frame_at(4_800_000_000).unwrap();
    let control = Control::default();
    let features = encoder
        .encode(&frame.as_frame().unwrap(), &control)
        .unwrap();
    let length: f32 = features.embedding.iter().map(|v| v * v).sum();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
    let sum: f32 = features.posteriors.iter().sum();
    assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    assert_eq!((features.map.rows, features.map.dim), (1, 1280));

    let labels = registry.pack().labels().unwrap();
    let found: Vec<_> = features
        .detections
        .iter()
        .map(|d| labels[d.label as usize].as_str())
        .collect();
    assert!(found.contains(&"person"), "{found:?}");
    let person = &features.detections[found.iter().position(|&l| l == "person").unwrap()];
    let [x0, y0, x1, y1] = person.bbox;
    // He stands right of the middle, from the top to the bottom.
    assert!(
        x0 > 0.45 && x1 < 0.85 && y0 < 0.25 && y1 > 0.6,
        "{person:?}"
    );

    // The same frame again: the same numbers. Another frame: others.
    let again = encoder
        .encode(&frame.as_frame().unwrap(), &control)
        .unwrap();
    assert_eq!(again, features);
    let other = reader.frame_at(9_000_000_000).unwrap();
    let other = encoder
        .encode(&other.as_frame().unwrap(), &control)
        .unwrap();
    let cosine: f32 = std::iter::zip(&features.embedding, &other.embedding)
        .map(|(a, b)| a * b)
        .sum();
    assert!(cosine < 0.95, "{cosine}");

    // One run for all views of a frame, one load for all frames.
    let index = registry.pack().manifest().tasks.index.as_ref().unwrap();
    assert!(index.detectors.len() > 1);
    for module in index.modules() {
        let status = status(&registry, module);
        assert_eq!((status.loads, status.runs), (1, 3), "{module}");
    }
}

#[test]
fn a_cancelled_encode_stops() {
    let registry = registry(&cached("packs/reference")).unwrap();
    let mut encoder = VisualEncoder::new(&registry).unwrap();
    let frame = VideoReader::open(video("carphone"))
        .unwrap()
        .frame_at(0)
        .unwrap();
    let control = Control::default();
    control.cancel.cancel();
    let error = encoder.encode(&frame.as_frame().unwrap(), &control);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(status(&registry, "visual-encoder").runs, 0);
}

#[test]
fn outputs_nobody_can_use_name_their_module() {
    // White is 1; minus the mean.
    let format = FrameFormat::new(PixelFormat::Rgb8, 20, 10);
    let white = vec![255; format.packed_bytes()];
    let frame = Frame::packed(format, &white, 0).unwrap();
    let encode = |mean| {
        let pack = log_of_mean(INDEX, mean);
        let registry = registry(pack.path()).unwrap();
        let mut encoder = VisualEncoder::new(&registry).unwrap();
        encoder.encode(&frame, &Control::default())
    };
    let third = 1.0 / 3_f32.sqrt();
    let fine = encode(-1.0).unwrap().embedding;
    assert!(fine.iter().all(|v| (v - third).abs() < 1e-6), "{fine:?}");
    for (mean, says) in [(2.0, "NaN"), (1.0, "infinite"), (0.0, "zero vector")] {
        let error = encode(mean).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Inference, "{error}");
        let text = error.message();
        assert!(text.contains("\"logs\""), "{text}");
        assert!(text.contains(says), "{text} does not say {says:?}");
    }
}

#[test]
fn packs_that_cannot_index_say_so() {
    let no_task = log_of_mean("", 0.0);
    let error = VisualEncoder::new(&registry(no_task.path()).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("logarithms"), "{error}");

    let other_size = log_of_mean(INDEX, 0.0);
    let manifest = other_size.path().join("pack.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("width = 8", "width = 9")).unwrap();
    let made = registry(other_size.path()).and_then(|registry| VisualEncoder::new(&registry));
    let error = made.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadPack, "{error}");
    assert!(error.message().contains("[2, 3, 8, 9]"), "{error}");
}
