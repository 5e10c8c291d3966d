//! What is wrong with a manifest is said by naming the key.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use atom_core::ErrorKind;
use atom_core::pack::{Dim, Manifest, ModuleKind, Pack, Role, Task};

use crate::support::{LINEAR_PORTS, Test, kind, linear_pack};

/// Everything a manifest can hold.
pub(crate) const FULL: &str = include_str!("full.toml");

#[test]
fn everything_is_read() -> Test {
    let manifest = Manifest::parse(FULL)?;
    for task in Task::ALL {
        assert!(manifest.tasks.has(task), "{}", task.name());
    }
    let kinds: Vec<ModuleKind> = manifest.modules.iter().map(|module| module.kind).collect();
    use ModuleKind as K;
    assert_eq!(
        kinds,
        [
            K::VisualEncoder,
            K::TextEncoder,
            K::LanguageDecoder,
            K::TokenEmbedding,
            K::Connector,
            K::Detector
        ]
    );
    let visual = &manifest.modules[0];
    assert_eq!(visual.embedding_dim(), Some(384));
    assert_eq!(visual.inputs[0].shape[0], Dim::Symbolic("batch".into()));
    assert_eq!(
        visual
            .output_with(Role::Features)
            .map(|port| port.name.as_str()),
        Some("pooler_output")
    );
    assert_eq!(visual.bytes(), 30);
    let views = visual.preprocess.as_ref().map(|spec| spec.views.len());
    assert_eq!(views, Some(2));
    assert_eq!(manifest.files().count(), 14);
    Ok(())
}

#[test]
fn what_is_wrong_is_named() -> Test {
    let sha = "aa".repeat(32);
    let cases: &[(&str, &str, &[&str])] = &[
        ("schema = 1", "schema = 2", &["schema = 2"]),
        ("schema = 1\n", "", &["schema"]),
        ("id = \"full\"", "id = \"Full Pack\"", &["id", "Full Pack"]),
        ("version = \"1.0.0\"", "version = \" \"", &["version"]),
        ("version = \"1.0.0\"", "version = 1", &["version"]),
        ("licence = \"Apache-2.0\"", "", &["licence"]),
        ("description", "descripton", &["descripton"]),
        ("[tasks.index]", "[tasks.indexing]", &["indexing"]),
        (
            "visual_encoder = \"visual\"",
            "visual_encoder = \"nobody\"",
            &["tasks.index.visual_encoder", "nobody"],
        ),
        (
            "detectors = [\"detector\"]",
            "detectors = [\"text\"]",
            &["tasks.index.detectors", "text-encoder"],
        ),
        (
            "detectors = [\"detector\"]",
            "detectors = [\"detector\", \"detector\"]",
            &["tasks.index.detectors", "twice"],
        ),
        (
            "visual_encoder = \"visual\"",
            "visual_encoder = \"text\"",
            &["tasks.index.visual_encoder", "text-encoder"],
        ),
        (
            "query_template = \"a photo of {}\"",
            "query_template = \"a photo\"",
            &["tasks.search.query_template"],
        ),
        (
            "min_score = 0.15",
            "min_score = 2.0",
            &["tasks.search.min_score"],
        ),
        (
            "min_score = 0.15",
            "min_score = nan",
            &["tasks.search.min_score"],
        ),
        (
            "role = \"embedding\"",
            "role = \"none\"",
            &["tasks.search", "embedding"],
        ),
        ("role = \"embedding\"", "role = \"posteriors\"", &["role"]),
        ("role = \"embedding\"", "role = \"vector\"", &["vector"]),
        (
            "token_embedding = \"embed\"",
            "token_embedding = \"decoder\"",
            &["captioner.token_embedding", "language-decoder"],
        ),
        (
            "connector = \"connector\"",
            "connector = \"bridge\"",
            &["captioner.connector", "bridge"],
        ),
        ("kind = \"vlm\"", "kind = \"a model\"", &["captioner.kind"]),
        ("kind = \"vlm\"\n", "", &["kind"]),
        ("[captioner]\nkind", "[captioner]\nmodel", &["model"]),
        (
            "[captioner.files]",
            "[grounding]",
            &["grounding", "[captioner]"],
        ),
        (
            "[tasks.caption]",
            "[tasks.caption]\nmode = \"grounded\"",
            &["tasks.caption.mode", "kind = \"grounded\""],
        ),
        (
            "[tasks.ask]",
            "[tasks.ask]\nmode = \"prefix\"",
            &["tasks.ask.mode", "kind = \"vlm\""],
        ),
        (
            "[tasks.ask]",
            "[tasks.ask]\nlanguage_decoder = \"decoder\"",
            &["tasks.ask.language_decoder", "[captioner]"],
        ),
        (
            "file = \"taxonomy.json\"",
            "file = \"/etc/passwd\"",
            &["captioner.files.taxonomy.file", "absolute"],
        ),
        (
            "file = \"taxonomy.json\"",
            "file = \"a/../../b\"",
            &["captioner.files.taxonomy.file", ".."],
        ),
        (
            "file = \"taxonomy.json\"",
            "file = \"\"",
            &["captioner.files.taxonomy.file", "empty"],
        ),
        (
            "file = \"taxonomy.json\"",
            "file = './x'",
            &["captioner.files.taxonomy.file"],
        ),
        (
            "file = \"taxonomy.json\"",
            "file = 'a\\b'",
            &["captioner.files.taxonomy.file"],
        ),
        (
            "file = \"visual.onnx\"",
            "file = \"../visual.onnx\"",
            &["module \"visual\"", "model.file", ".."],
        ),
        (
            "file = \"visual.onnx.data\"",
            "file = \"sub/visual.onnx.data\"",
            &["module \"visual\"", "data.file"],
        ),
        (
            "id = \"text\"",
            "id = \"visual\"",
            &["module.id", "visual", "twice"],
        ),
        (
            "kind = \"text-encoder\"",
            "kind = \"encoder\"",
            &["encoder"],
        ),
        (
            "kind = \"text-encoder\"",
            "kind = \"connector\"",
            &["tokenizer"],
        ),
        ("precision = \"fp32\"", "precision = \"fp31\"", &["fp31"]),
        ("providers = [\"cpu\"]", "providers = []", &["providers"]),
        (
            "providers = [\"cpu\"]",
            "providers = [\"cpu\", \"cpu\"]",
            &["providers"],
        ),
        ("providers = [\"cpu\"]", "providers = [\"gpu\"]", &["gpu"]),
        (
            "providers = [\"cpu\"]",
            "providers = [\"cpu\"]\noptions = { qnn = { soc_model = 69 } }",
            &["options.qnn", "not in providers"],
        ),
        (
            "providers = [\"cpu\"]",
            "providers = [\"qnn\", \"cpu\"]\noptions = { qnn = { soc_model = 70 } }",
            &["options.qnn", "soc_model = 70", "69"],
        ),
        (
            "providers = [\"cpu\"]",
            "providers = [\"cpu\"]\noptions = { cpu = { threads = 2 } }",
            &["options.cpu", "threads", "it takes none"],
        ),
        (
            "providers = [\"cpu\"]",
            "providers = [\"xnnpack\"]\noptions = { xnnpack = { intra_op_num_threads = 0 } }",
            &["options.xnnpack", "intra_op_num_threads = 0", "from 1"],
        ),
        (
            "providers = [\"cpu\"]",
            "providers = [\"nnapi\"]\noptions = { nnapi = { cpu_only = true, cpu_disabled = true } }",
            &["options.nnapi", "cpu_only"],
        ),
        (
            "providers = [\"cpu\"]",
            "providers = [\"cpu\"]\nvariant = [ { providers = [\"qnn\"], model = { file = \"q.onnx\", sha256 = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\", bytes = 10 }, precision = \"int8\" } ]",
            &["variant", "not in providers"],
        ),
        (
            "providers = [\"cpu\"]",
            "providers = [\"qnn\"]\nvariant = [ { providers = [\"qnn\"], fixed = { rows = 2 }, model = { file = \"q.onnx\", sha256 = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\", bytes = 10 }, precision = \"int8\" } ]",
            &["variant.fixed", "rows"],
        ),
        ("policy = \"allow\"", "policy = \"maybe\"", &["maybe"]),
        ("load = \"prepacked\"", "load = \"fast\"", &["fast"]),
        (
            "dtype = \"f32\", shape = [\"batch\", 3, 224, 224]",
            "dtype = \"f64\", shape = [1]",
            &["f64"],
        ),
        (
            "[\"batch\", 3, 224, 224]",
            "[\"batch\", 0, 224, 224]",
            &["inputs.shape", "pixel_values"],
        ),
        (
            "[\"batch\", 3, 224, 224]",
            "[\"batch\", 3, 224, -1]",
            &["dimension"],
        ),
        (
            "[\"batch\", 3, 224, 224]",
            "[\"batch\", 3]",
            &["inputs", "four dimensions"],
        ),
        (
            "name = \"posteriors\"",
            "name = \"image_embeds\"",
            &["outputs.name", "image_embeds"],
        ),
        ("width = 224", "width = 0", &["preprocess.width"]),
        ("width = 224", "width = -1", &["width"]),
        (
            "fraction = 0.875",
            "fraction = 1.5",
            &["preprocess.views.fraction"],
        ),
        ("fit = \"crop\"", "fit = \"squeeze\"", &["squeeze"]),
        (
            "std = [0.502, 0.502, 0.502]",
            "std = [0.502, 0, 0.502]",
            &["preprocess.std"],
        ),
        ("std = [0.502, 0.502, 0.502]", "std = [0.5]", &["std"]),
        (
            "mean = [0.498, 0.498, 0.498]",
            "mean = [inf, 0, 0]",
            &["preprocess.mean"],
        ),
        (
            "max_tokens = 256",
            "max_tokens = 0",
            &["tokenizer.max_tokens"],
        ),
        ("layers = 30", "layers = 0", &["decoder.layers"]),
        ("eos = [2]", "eos = []", &["decoder.eos"]),
        ("eos = [2]", "eos = [49152]", &["decoder.eos"]),
        (
            "kv_dtype = \"f32\"",
            "kv_dtype = \"i64\"",
            &["decoder.kv_dtype"],
        ),
        ("kv = \"shared\"", "kv = \"paged\"", &["paged"]),
        ("nms_iou = 0.5", "nms_iou = 5", &["detector.nms_iou"]),
        (
            "labels = [\"person\", \"bicycle\"]",
            "labels = []",
            &["detector.labels"],
        ),
        (
            "name = \"boxes\"",
            "name = \"boxen\"",
            &["outputs", "boxes"],
        ),
        ("cosine = 0.999", "cosine = 1.1", &["golden.cosine"]),
        (
            "port = \"image_embeds\"",
            "port = \"images\"",
            &["golden.outputs.port", "images"],
        ),
        (
            "shape = [1, 384]",
            "shape = [1, 385]",
            &["golden.outputs.file.bytes"],
        ),
        ("bytes = 1536", "bytes = 0", &["golden.outputs.file.bytes"]),
        (&sha, "AA", &["sha256", "AA"]),
        (
            "[module.preprocess]",
            "[module.preprocessing]",
            &["preprocessing"],
        ),
        ("[[module]]", "[[modul]]", &["modul"]),
        ("schema = 1", "schema = 1\nschema = 1", &["schema"]),
        ("schema = 1", "schema = \"", &["TOML"]),
    ];
    for (from, to, says) in cases {
        assert!(
            FULL.contains(from),
            "the test's own text has changed: {from}"
        );
        let error = Manifest::parse(&FULL.replacen(from, to, 1)).err();
        let error = error.ok_or_else(|| format!("{from:?} -> {to:?} is accepted"))?;
        assert!(
            matches!(error.kind(), ErrorKind::BadPack | ErrorKind::Unsupported),
            "{error:?}"
        );
        for word in *says {
            assert!(
                error.to_string().contains(word),
                "{to:?}: {error} should say {word:?}"
            );
        }
    }
    Ok(())
}

fn replace(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    fs::remove_file(dir.join(name))?;
    fs::write(dir.join(name), bytes)
}

#[test]
fn files_are_looked_at_when_a_pack_is_opened() -> Test {
    assert_eq!(
        kind(Pack::open(Path::new("/no/such/pack"))),
        Some(ErrorKind::NotFound)
    );
    let empty = tempfile::tempdir()?;
    assert_eq!(kind(Pack::open(empty.path())), Some(ErrorKind::NotFound));
    fs::write(empty.path().join("pack.toml"), [0xff, 0xfe, 0])?;
    assert_eq!(kind(Pack::open(empty.path())), Some(ErrorKind::BadPack));

    let dir = linear_pack(LINEAR_PORTS)?;
    let pack = Pack::open(dir.path())?;
    let spec = pack.module("linear")?;
    assert_eq!(
        pack.read(&spec.model)?,
        fs::read(dir.path().join("linear.onnx"))?
    );
    assert_eq!(kind(pack.module("other")), Some(ErrorKind::NotFound));
    let mut seen = Vec::new();
    let report = pack.verify(&mut |file, done, total| seen.push((file.to_owned(), done, total)))?;
    assert_eq!((report.files, report.bytes), (2, spec.bytes()));
    assert_eq!(
        seen.last().map(|last| (last.1, last.2)),
        Some((spec.bytes(), spec.bytes()))
    );

    let good = fs::read(dir.path().join("linear.onnx.data"))?;
    let says = |word: &str| -> Test {
        let error = Pack::open(dir.path())
            .err()
            .ok_or_else(|| format!("opens; should say {word}"))?;
        assert_eq!(error.kind(), ErrorKind::BadPack);
        let text = error.to_string();
        assert!(
            text.contains("linear.onnx.data") && text.contains(word),
            "{text}"
        );
        Ok(())
    };
    replace(dir.path(), "linear.onnx.data", &good[1..])?;
    says("bytes")?;
    fs::remove_file(dir.path().join("linear.onnx.data"))?;
    fs::write(dir.path().join("x"), "")?;
    fs::remove_file(dir.path().join("x"))?;
    says("No such file")?;
    let outside = tempfile::tempdir()?;
    fs::write(outside.path().join("weights"), &good)?;
    symlink(
        outside.path().join("weights"),
        dir.path().join("linear.onnx.data"),
    )?;
    says("leaves the pack")?;
    fs::remove_file(dir.path().join("linear.onnx.data"))?;
    fs::create_dir(dir.path().join("linear.onnx.data"))?;
    says("regular file")?;
    fs::remove_dir(dir.path().join("linear.onnx.data"))?;
    // A link that stays inside is a file like any other.
    fs::write(dir.path().join("weights"), &good)?;
    symlink("weights", dir.path().join("linear.onnx.data"))?;
    let pack = Pack::open(dir.path())?;
    let data = &pack.module("linear")?.data[0];
    assert_eq!(pack.read(data)?, good);
    // The hash counts, not only the size; both ways of looking see it.
    let mut flipped = good.clone();
    flipped[3] ^= 0x80;
    replace(dir.path(), "weights", &flipped)?;
    assert_eq!(kind(pack.read(data)), Some(ErrorKind::BadPack));
    assert_eq!(kind(pack.checked(data)), Some(ErrorKind::BadPack));
    assert_eq!(
        kind(pack.verify(&mut |_, _, _| {})),
        Some(ErrorKind::BadPack)
    );
    Ok(())
}
