//! Graphs of real exports, rewritten: what becomes of them, and that they compute the same.

use std::path::{Path, PathBuf};

use atom_core::onnx::Model;
use atom_core::ort::{DType, Tensor};
use atom_core::pack::DecoderSpec;
use atom_import::rewrite::{Rewritten, decoder, tower};
use atom_tests::{root, temporary};

fn export(name: &str) -> PathBuf {
    root().join("tests/fixtures/exports").join(name)
}

/// How many nodes are `operator`, also inside other nodes.
fn count(path: &Path, operator: &str) -> usize {
    let summary = Model::read(path).unwrap().inspect().unwrap();
    let all = summary.operators.iter();
    let all = all.filter(|(own, _)| own.to_string() == operator);
    all.map(|(_, count)| count).sum()
}

const SMOLVLM: &str = r#"
    layers = 2
    kv_heads = 1
    head_dim = 8
    vocab = 360
    context = 512
    kv = "concat"
    kv_dtype = "f32"
    eos = [2]
"#;

fn rewritten(name: &str, spec: &str) -> (Rewritten, tempfile::TempDir, PathBuf) {
    let folder = temporary();
    let copy = folder.path().join("graph.onnx");
    std::fs::copy(export(name), &copy).unwrap();
    let spec: DecoderSpec = toml::from_str(spec).unwrap();
    let report = decoder(&copy, &spec).unwrap_or_else(|error| panic!("{name}: {error}"));
    (report, folder, copy)
}

#[test]
fn decoders_of_every_precision_share_one_cache() {
    for (suffix, kv) in [
        ("", "f32"),
        ("_fp16", "f32"),
        ("_q4", "f32"),
        ("_quantized", "f32"),
    ] {
        let name = format!("smolvlm-tiny/export/onnx/decoder_model_merged{suffix}.onnx");
        let spec = SMOLVLM.replace("\"f32\"", &format!("\"{kv}\""));
        let (report, _folder, path) = rewritten(&name, &spec);
        println!("{name}: {report:?}");
        assert!(report.shares_cache, "{name}: {report:?}");
        assert_eq!(count(&path, "com.microsoft::GroupQueryAttention"), 2);
        assert_eq!(count(&path, "Softmax"), 0);
    }
}

#[test]
fn towers() {
    for (name, ports) in [
        ("smolvlm-tiny/export/onnx/vision_encoder.onnx", 32),
        ("smolvlm-tiny/export/onnx/vision_encoder_fp16.onnx", 32),
        ("smolvlm-tiny/export/onnx/vision_encoder_q4.onnx", 32),
        ("smolvlm-tiny/export/onnx/vision_encoder_quantized.onnx", 32),
        ("clip-tiny/export/onnx/vision_model.onnx", 32),
        ("clip-tiny/export/onnx/vision_model_fp16.onnx", 32),
        ("clip-tiny/export/onnx/vision_model_quantized.onnx", 32),
        ("clip-tiny/export/onnx/text_model.onnx", 32),
        ("vit-gpt2-tiny/export/encoder_model.onnx", 32),
        ("florence2-tiny/export/onnx/vision_encoder.onnx", 64),
        ("florence2-tiny/export/onnx/encoder_model.onnx", 64),
    ] {
        let folder = temporary();
        let copy = folder.path().join("graph.onnx");
        std::fs::copy(export(name), &copy).unwrap();
        let summary = Model::read(&copy).unwrap().inspect().unwrap();
        let inputs = || {
            let mut made = Vec::new();
            for port in &summary.inputs {
                let rank = port.shape.as_ref().unwrap().len();
                let shape = match rank {
                    5 => vec![1, 1, 3, ports, ports],
                    4 if port.name.contains("mask") => vec![1, 1, ports, ports],
                    4 => vec![1, 3, ports, ports],
                    3 => vec![1, 9, 32],
                    _ => vec![1, 9],
                };
                let n: usize = shape.iter().product();
                let wave: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
                let tensor = match format!("{:?}", port.element).as_str() {
                    "Some(BOOL)" => Tensor::from_bytes(DType::Bool, &shape, &vec![1; n]),
                    "Some(INT64)" => Tensor::from_vec(&shape, vec![1_i64; n]),
                    _ => Tensor::from_vec(&shape, wave),
                };
                made.push((port.name.clone(), tensor?));
            }
            Ok(made)
        };
        let report = tower(&copy, &inputs);
        println!("{name}: {report:?}");
    }
}
