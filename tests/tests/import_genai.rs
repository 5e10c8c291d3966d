//! Folders of onnxruntime-genai become packs that say the same as those of the same graphs in another layout.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use atom_core::ErrorKind;
use atom_core::control::{Control, TextOptions};
use atom_core::pack::Source;
use atom_core::runtime::Runtime;
use atom_import::{ImportOptions, import};
use atom_tests::broken::Folder;
use atom_tests::exports::{export, input};
use atom_tests::{root, runtime_options};
use serde_json::{Value, json};

/// A genai folder of smolvlm-tiny's graphs, whose ports keep Optimum's names except those in `decoder`.
fn genai(change: impl FnOnce(&mut Value)) -> Folder {
    let folder = Folder::empty();
    let from = export("smolvlm-tiny").join("export");
    for (file, to) in [
        ("onnx/vision_encoder.onnx", "vision_encoder/model.onnx"),
        ("onnx/decoder_model_merged.onnx", "decoder/model.onnx"),
        ("tokenizer.json", "tokenizer.json"),
        ("tokenizer_config.json", "tokenizer_config.json"),
        ("preprocessor_config.json", "processor_config.json"),
        ("config.json", "config.json"),
    ] {
        folder.write(to, fs::read(from.join(file)).unwrap());
    }
    let merged = root().join("tests/fixtures/import/merged_embedding.onnx");
    folder.write("embedding/model.onnx", fs::read(merged).unwrap());
    let mut config = json!({
        "model": {
            "type": "smolvlm",
            "bos_token_id": 1,
            "eos_token_id": [359, 2],
            "pad_token_id": 2,
            "context_length": 8192,
            "vocab_size": 360,
            "decoder": {
                "filename": "decoder/model.onnx",
                "head_size": 8,
                "num_hidden_layers": 2,
                "num_key_value_heads": 1,
                "num_attention_heads": 4,
                "inputs": {
                    "inputs_embeds": "inputs_embeds",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value"
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value"
                }
            },
            "vision": {
                "filename": "vision_encoder/model.onnx",
                "inputs": {"pixel_values": "pixel_values"},
                "outputs": {"image_features": "image_features"}
            },
            "embedding": {
                "filename": "embedding/model.onnx",
                "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
                "outputs": {"inputs_embeds": "inputs_embeds"}
            }
        },
        "search": {"do_sample": false, "max_length": 8192, "num_beams": 1, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
    });
    change(&mut config);
    folder.write("genai_config.json", config.to_string());
    folder
}

/// The tokens of an answer about a picture.
fn said(pack: &Path) -> Vec<u32> {
    let mut options = runtime_options(pack);
    let artifacts = pack.with_extension("artifacts");
    options.artifacts = Some(artifacts);
    let runtime = Runtime::open(&options).unwrap();
    let control = Control::default();
    let frame = input("frame2s_321x241");
    let features = runtime
        .observe_for_text(&frame.as_frame().unwrap(), Source::Still, &control)
        .unwrap();
    let options = TextOptions {
        max_tokens: Some(16),
        ..TextOptions::default()
    };
    let statement = runtime
        .ask(
            &[&features],
            "describe this image",
            &options,
            &control,
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap();
    statement.token_ids
}

#[test]
fn a_model_of_pictures_says_the_same_as_in_another_layout() {
    let other = Folder::copy("smolvlm-tiny");
    let folder = genai(|_| {});
    let reports = [&other, &folder].map(|folder| {
        let options = folder.options();
        import(&options, &Control::default()).unwrap_or_else(|e| panic!("{e:?}"));
        said(&options.pack)
    });
    println!("{:?}", reports[0]);
    assert_eq!(reports[0], reports[1]);
    assert!(reports[0].len() > 4);
    let text = fs::read_to_string(folder.options().pack.join("pack.toml")).unwrap();
    assert!(text.contains("eos = [359, 2]"), "{text}");
    assert!(text.contains("captioner/tokens.onnx"), "{text}");
}

#[test]
fn a_text_decoder_is_a_module_with_the_ports_that_the_folder_names() {
    let folder = genai(|config| {
        let model = config["model"].as_object_mut().unwrap();
        model.remove("vision");
        model.remove("embedding");
        model["type"] = json!("llama");
        model["decoder"]["inputs"]["position_ids"] = json!("positions_id");
        model["decoder"]["inputs"]["past_key_names"] = json!("past_key_value_.%d.key");
    });
    folder.remove("config.json");
    folder.patch("decoder/model.onnx", "position_ids", "positions_id");
    folder.patch(
        "decoder/model.onnx",
        "past_key_values.0.key",
        "past_key_value_.0.key",
    );
    folder.patch(
        "decoder/model.onnx",
        "past_key_values.1.key",
        "past_key_value_.1.key",
    );
    let options = folder.options();
    let report = import(&options, &Control::default()).unwrap_or_else(|e| panic!("{e:?}"));
    assert!(report.tasks.is_empty());
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.contains("no task")),
        "{:?}",
        report.warnings
    );
    let text = fs::read_to_string(options.pack.join("pack.toml")).unwrap();
    for line in [
        "position_ids = \"positions_id\"",
        "past_key = \"past_key_value_.%d.key\"",
        "context = 8192",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn what_a_genai_folder_lacks_is_named() {
    let folder = genai(|config| config["model"]["type"] = json!("qwen2_5_vl"));
    folder.remove("config.json");
    folder.refused(
        ErrorKind::Unsupported,
        &["genai_config.json", "qwen2_5_vl", "three rows"],
    );
    let folder =
        genai(|config| config["model"]["decoder"]["filename"] = json!("decoder/other.onnx"));
    folder.refused(ErrorKind::NotFound, &["decoder/other.onnx"]);
    let folder = genai(|config| config["model"]["decoder"]["filename"] = json!("../other.onnx"));
    folder.refused(ErrorKind::BadModel, &["../other.onnx"]);
    let folder = genai(|config| config["model"]["decoder"] = json!({}));
    folder.remove("vision_encoder/model.onnx");
    folder.refused(ErrorKind::NotFound, &["vision_encoder/model.onnx"]);
    let folder = genai(|config| config["model"] = json!(3));
    folder.refused(ErrorKind::BadModel, &["genai_config.json", "model"]);
    let folder = genai(|config| {
        config["model"]["decoder"]["inputs"]["past_key_names"] = json!("past.%s.key")
    });
    folder.refused(ErrorKind::BadModel, &["past_key_names", "%d"]);
}

#[test]
fn a_part_of_a_larger_folder_is_found() {
    let folder = genai(|_| {});
    let inner = folder.all.path().join("hub/cpu-int4");
    fs::create_dir_all(inner.parent().unwrap()).unwrap();
    fs::rename(folder.path(), &inner).unwrap();
    let options = ImportOptions {
        folders: vec![inner.parent().unwrap().to_owned()],
        ..folder.options()
    };
    folder.refused_with(&options, ErrorKind::InvalidArgument, &["cpu-int4", "give"]);
}
