//! Graphs of real exports, rewritten: what becomes of them, and that they compute the same.

use std::path::{Path, PathBuf};

use atom_core::onnx::{ElementType, Model};
use atom_core::ort::{
    DType, Environment, EnvironmentOptions, GraphForm, RunArgs, Session, SessionConfig, Target,
    Tensor, Threads,
};
use atom_core::pack::DecoderSpec;
use atom_import::rewrite::{Rewritten, decoder, tower};
use atom_tests::{cached, ort_library, root, temporary};

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
        assert!(report.shares_cache, "{name}: {report:?}");
        assert_eq!(count(&path, "com.microsoft::GroupQueryAttention"), 2);
        assert_eq!(count(&path, "Softmax"), 0);
        assert!(report.done[1].contains("last row"), "{name}: {report:?}");
    }
}

/// Inputs of `path`: pictures of `side`, masks of ones.
fn inputs(path: &Path, side: usize) -> atom_core::Result<Vec<(String, Tensor)>> {
    let mut made = Vec::new();
    for port in Model::read(path)?.inspect()?.inputs {
        let rank = port.shape.as_ref().map_or(0, Vec::len);
        let shape = match rank {
            5 => vec![1, 1, 3, side, side],
            4 if port.name.contains("mask") => vec![1, 1, side, side],
            4 => vec![1, 3, side, side],
            3 => vec![1, 9, 32],
            _ => vec![1, 9],
        };
        let count: usize = shape.iter().product();
        let wave = (0..count).map(|at| (at as f32 * 0.37).sin());
        let tensor = match port.element {
            Some(ElementType::BOOL) => Tensor::from_bytes(DType::Bool, &shape, &vec![1; count]),
            Some(ElementType::INT64) => Tensor::from_vec(&shape, vec![1_i64; count]),
            _ => Tensor::from_vec(&shape, wave.collect::<Vec<_>>()),
        };
        made.push((port.name, tensor?));
    }
    Ok(made)
}

#[test]
fn towers_attend_in_one_node() {
    // Attentions that become a node, those that only a mask of nothing lets, and activations.
    for (name, side, attentions, guarded, activations) in [
        ("smolvlm-tiny/export/onnx/vision_encoder.onnx", 32, 2, 2, 2),
        (
            "smolvlm-tiny/export/onnx/vision_encoder_q4.onnx",
            32,
            2,
            2,
            2,
        ),
        (
            "smolvlm-tiny/export/onnx/vision_encoder_quantized.onnx",
            32,
            2,
            2,
            2,
        ),
        ("clip-tiny/export/onnx/vision_model.onnx", 32, 2, 0, 0),
        ("clip-tiny/export/onnx/vision_model_fp16.onnx", 32, 2, 0, 0),
        (
            "clip-tiny/export/onnx/vision_model_quantized.onnx",
            32,
            2,
            0,
            0,
        ),
        ("vit-gpt2-tiny/export/encoder_model.onnx", 32, 2, 0, 0),
        // Attention among channels stays.
        (
            "florence2-tiny/export/onnx/vision_encoder.onnx",
            64,
            4,
            0,
            0,
        ),
        ("florence2-tiny/export/onnx/encoder_model.onnx", 64, 2, 2, 0),
    ] {
        let folder = temporary();
        let copy = folder.path().join("graph.onnx");
        std::fs::copy(export(name), &copy).unwrap();
        let report = tower(&copy, &|| inputs(&copy, side)).unwrap();
        assert_eq!(report.left, Vec::<String>::new(), "{name}");
        assert_eq!(
            count(&copy, "com.microsoft::MultiHeadAttention"),
            attentions,
            "{name}"
        );
        assert_eq!(count(&copy, "If"), guarded, "{name}");
        assert_eq!(
            count(&copy, "com.microsoft::FastGelu"),
            activations,
            "{name}"
        );
    }
}

#[test]
fn a_masked_tower_in_half_precision_keeps_its_attention() {
    let name = "smolvlm-tiny/export/onnx/vision_encoder_fp16.onnx";
    let folder = temporary();
    let copy = folder.path().join("graph.onnx");
    std::fs::copy(export(name), &copy).unwrap();
    let report = tower(&copy, &|| inputs(&copy, 32)).unwrap();
    assert!(report.left[0].contains("16 bits"), "{:?}", report.left);
    assert_eq!(count(&copy, "If"), 0);
    assert_eq!(count(&copy, "com.microsoft::FastGelu"), 2);
}

#[test]
fn a_mask_that_forbids_something_keeps_the_attention_as_it_was() {
    let name = "smolvlm-tiny/export/onnx/vision_encoder.onnx";
    let folder = temporary();
    let copy = folder.path().join("graph.onnx");
    std::fs::copy(export(name), &copy).unwrap();
    tower(&copy, &|| inputs(&copy, 32)).unwrap();
    // Half the picture is padding: the branch with the old nodes runs, and gives the same bits.
    let masked = |path: &Path| {
        let half: Vec<u8> = (0..32 * 32).map(|at| u8::from(at / 32 < 16)).collect();
        let mut given = inputs(path, 32).unwrap();
        let mask = given
            .iter_mut()
            .find(|(name, _)| name.contains("mask"))
            .unwrap();
        mask.1 = Tensor::from_bytes(DType::Bool, &[1, 1, 32, 32], &half).unwrap();
        features(path, &given)
    };
    let whole = |path: &Path| features(path, &inputs(path, 32).unwrap());
    let original = export(name);
    let (old, new) = (masked(&original), masked(&copy));
    let apart = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    };
    let close = 1e-5;
    assert!(apart(&old, &new) < close, "{}", apart(&old, &new));
    assert!(
        apart(&old, &whole(&original)) > 100.0 * close,
        "the mask does nothing"
    );

    // A causal mask forbids something always.
    let name = "clip-tiny/export/onnx/text_model.onnx";
    std::fs::copy(export(name), &copy).unwrap();
    let report = tower(&copy, &|| inputs(&copy, 32)).unwrap();
    assert!(
        report.done.is_empty() && report.left[0].contains("forbids"),
        "{report:?}"
    );
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(export(name)).unwrap());
}

/// The first output.
fn features(path: &Path, given: &[(String, Tensor)]) -> Vec<f32> {
    let options = EnvironmentOptions {
        library: Some(ort_library()),
        ..Default::default()
    };
    let mut session = Session::load(&SessionConfig {
        environment: Environment::open(&options).unwrap(),
        model: path.to_owned(),
        form: GraphForm::Source,
        threads: Threads::Shared,
        target: Target::default(),
        fixed: Vec::new(),
        untuned: false,
        profile: None,
    })
    .unwrap();
    let output = session.outputs()[0].name.clone();
    let args = RunArgs {
        inputs: given
            .iter()
            .map(|(name, tensor)| (&name[..], tensor))
            .collect(),
        outputs: vec![&output],
        ..RunArgs::default()
    };
    session.run(args).unwrap()[0].to_f32s().unwrap()
}

/// A small graph with the operators of `real_size.py`, whose heads are wide enough to be turned inside the attention.
fn made_decoder(folder: &Path, dtype: &str, change: &str) -> PathBuf {
    let code = format!(
        "import sys; from pathlib import Path; sys.path.insert(0, {:?}); import real_size as r\n\
         r.TXT = dict(H=64, I=96, L=2, NH=4, KV=2, HD=16, V=96, theta=1e4, ctx=256)\n{change}\n\
         r.decoder(Path({:?}), {dtype:?}, False)",
        root().join("tests/fixtures/exports/tools"),
        folder.join("graph.onnx"),
    );
    let made = std::process::Command::new(cached("venv/bin/python"))
        .args(["-B", "-c", &code])
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    folder.join("graph.onnx")
}

const MADE: &str = r#"
    layers = 2
    kv_heads = 2
    head_dim = 16
    vocab = 96
    context = 256
    kv = "concat"
    kv_dtype = "f32"
    eos = [2]
"#;

#[test]
fn positions_are_turned_inside_the_attention_where_heads_allow_it() {
    for (dtype, kv) in [
        ("fp32", "f32"),
        ("fp16", "f16"),
        ("int8", "f32"),
        ("q4", "f32"),
        ("q4f16", "f16"),
    ] {
        let folder = temporary();
        let path = made_decoder(folder.path(), dtype, "");
        let spec: DecoderSpec =
            toml::from_str(&MADE.replace("\"f32\"", &format!("{kv:?}"))).unwrap();
        let report = decoder(&path, &spec).unwrap();
        assert!(
            report.shares_cache && report.left.is_empty(),
            "{dtype}: {report:?}"
        );
        assert!(
            report.done[0].contains("turned inside 2"),
            "{dtype}: {report:?}"
        );
        assert!(report.done[1].contains("last row"), "{dtype}: {report:?}");
        for operator in ["Softmax", "Concat", "Expand", "Cos", "Range"] {
            assert_eq!(count(&path, operator), 0, "{dtype}: {operator}");
        }
        // A graph that shares its cache already is told so, and stays.
        let again = decoder(&path, &spec).unwrap();
        assert!(again.shares_cache, "{dtype}: {again:?}");
        assert_eq!(
            count(&path, "com.microsoft::GroupQueryAttention"),
            2,
            "{dtype}"
        );
        assert_eq!(count(&path, "Slice"), 1, "{dtype}");
    }
}

#[test]
fn what_is_not_plain_attention_stays_as_it_is() {
    // Changes of the maker's own source, and what of the report names.
    let patched = |from: &str, to: &str| {
        format!(
            "import inspect\nsource = inspect.getsource(r.decoder)\nassert source.count({from:?}) >= 1\n\
             exec(source.replace({from:?}, {to:?}), r.__dict__)"
        )
    };
    for (change, why) in [
        // A row attends to the one behind it, too.
        (
            patched(
                "LessOrEqual\", cols, rows",
                "LessOrEqual\", cols, g.op(\"Add\", rows, C(k(1)))",
            ),
            "more than causal",
        ),
        // Only the last 100 positions count.
        (
            patched(
                "ok = g.op(\"And\", g.op(\"LessOrEqual\", cols, rows)",
                "ok = g.op(\"And\", g.op(\"And\", g.op(\"LessOrEqual\", cols, rows), g.op(\"Less\", g.op(\"Sub\", rows, cols), C(k(100))))",
            ),
            "more than causal",
        ),
        // Scores are capped before the softmax.
        (
            patched(
                "g.op(\"Softmax\", s,",
                "g.op(\"Softmax\", g.op(\"Tanh\", s),",
            ),
            "no attention over",
        ),
        // Heads share keys in another order.
        (
            patched(
                "v = g.op(\"Unsqueeze\", v, C(k([2]))); return g.op(\"Reshape\", g.op(\"Expand\", v, C(k([1, 1, NH // KV, 1, 1])))",
                "v = g.op(\"Unsqueeze\", v, C(k([1]))); return g.op(\"Reshape\", g.op(\"Expand\", v, C(k([1, NH // KV, 1, 1, 1])))",
            ),
            "undone",
        ),
    ] {
        let folder = temporary();
        let path = made_decoder(folder.path(), "fp32", &change);
        let spec: DecoderSpec = toml::from_str(MADE).unwrap();
        let report = decoder(&path, &spec).unwrap();
        assert!(!report.shares_cache, "{why}: {report:?}");
        assert!(
            report.left.iter().any(|left| left.contains(why)),
            "{why}: {report:?}"
        );
        assert_eq!(count(&path, "Softmax"), 2, "{why}");
    }
}

#[test]
fn a_rotation_of_another_kind_stays_before_the_attention() {
    // Positions count double: the tables of the graph are taken, whatever they are.
    let double = "import inspect\nsource = inspect.getsource(r.decoder)\nassert 'g.cast(pid, T.FLOAT)' in source\n\
                  exec(source.replace('g.cast(pid, T.FLOAT)', 'g.op(\"Mul\", g.cast(pid, T.FLOAT), C(np.float32(2)))'), r.__dict__)";
    // Both halves are turned by angles of their own.
    let uneven = "import inspect\nsource = inspect.getsource(r.decoder)\nassert 'g.op(\"Concat\", f, f, axis=-1)' in source\n\
                  exec(source.replace('g.op(\"Concat\", f, f, axis=-1)', 'g.op(\"Concat\", f, g.op(\"Neg\", g.op(\"Add\", f, f)), axis=-1)'), r.__dict__)";
    for (change, inside) in [(double, 2), (uneven, 0)] {
        let folder = temporary();
        let path = made_decoder(folder.path(), "fp32", change);
        let spec: DecoderSpec = toml::from_str(MADE).unwrap();
        let report = decoder(&path, &spec).unwrap();
        assert!(report.shares_cache, "{report:?}");
        let expected = format!("turned inside {inside} of them");
        assert!(report.done[0].contains(&expected), "{report:?}");
    }
}
