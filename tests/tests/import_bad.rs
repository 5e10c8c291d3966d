//! Folders that cannot become packs: each gets an error that names the thing, and nothing is left behind.

use std::fs;
use std::path::PathBuf;

use atom_core::ErrorKind;
use atom_core::control::Control;
use atom_import::{Form, ImportOptions, Layout, Wanted, describe, import};
use atom_tests::broken::{Folder, copy};
use atom_tests::exports::export;
use serde_json::{Value, json};

#[test]
fn missing_files_are_named() {
    let cases: [(&str, &str, &[&str]); 8] = [
        (
            "smolvlm2-tiny",
            "onnx/decoder_model_merged.onnx_data",
            &[
                "decoder_model_merged.onnx_data",
                "decoder_model_merged.onnx",
            ],
        ),
        (
            "smolvlm-tiny",
            "tokenizer.json",
            &["tokenizer.json", "save_pretrained"],
        ),
        ("smolvlm-tiny", "config.json", &["config.json"]),
        (
            "clip-tiny",
            "preprocessor_config.json",
            &["preprocessor_config.json"],
        ),
        ("clip-tiny-optimum", "model.onnx", &["no ONNX graph"]),
        (
            "florence2-tiny",
            "onnx/encoder_model.onnx",
            &["encoder_model.onnx", "decoder_model_merged"],
        ),
        (
            "florence2-tiny",
            "onnx/embed_tokens.onnx",
            &["embed_tokens.onnx"],
        ),
        (
            "vit-gpt2-tiny",
            "decoder_model_merged.onnx",
            &["decoder_model_merged.onnx"],
        ),
    ];
    for (name, file, parts) in cases {
        let folder = Folder::copy(name);
        folder.remove(file).refused(ErrorKind::NotFound, parts);
    }
    let folder = Folder::copy("clip-tiny");
    for form in ["", "_fp16", "_quantized"] {
        folder.remove(&format!("onnx/text_model{form}.onnx"));
    }
    folder.refused(ErrorKind::NotFound, &["text_model.onnx"]);
    // Both places of the template.
    let folder = Folder::copy("smolvlm-tiny");
    folder
        .remove("chat_template.json")
        .edit("tokenizer_config.json", |config| {
            config.as_object_mut().unwrap().remove("chat_template");
        });
    folder.refused(
        ErrorKind::NotFound,
        &["chat_template.jinja", "tokenizer_config.json"],
    );
}

#[test]
fn damaged_files_are_named() {
    let folder = Folder::copy("smolvlm2-tiny");
    let side = "onnx/decoder_model_merged.onnx_data";
    let bytes = fs::read(folder.file(side)).unwrap();
    folder
        .write(side, &bytes[..bytes.len() / 2])
        .refused(ErrorKind::BadModel, &[side, "cut short"]);
    for (file, content) in [
        ("config.json", &b"{\"model_type\": \"idef"[..]),
        ("config.json", b"[1, 2]"),
        ("preprocessor_config.json", b""),
        ("generation_config.json", b"\xff\xfe"),
        ("tokenizer.json", b"{\"version\": \"1.0\", \"model\": {"),
        ("chat_template.json", b"{}}"),
        ("onnx/vision_encoder.onnx", b""),
        (
            "onnx/vision_encoder.onnx",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        ),
    ] {
        let folder = Folder::copy("smolvlm-tiny");
        folder
            .write(file, content)
            .refused(ErrorKind::BadModel, &[file]);
    }
    let folder = Folder::copy("smolvlm-tiny");
    folder.write("chat_template.jinja", b"\xff\xfe");
    folder.refused(ErrorKind::BadModel, &["chat_template.jinja", "UTF-8"]);
}

#[test]
fn wrong_values_are_named_by_file_and_key() {
    let set = |key: &'static str, value: Value| {
        move |config: &mut Value| {
            let mut at = config;
            for part in key.split('.') {
                at = &mut at[part];
            }
            *at = value;
        }
    };
    for (file, key, value, also) in [
        ("config.json", "model_type", json!(7), "a text"),
        (
            "config.json",
            "image_token_id",
            json!("<image>"),
            "a token id",
        ),
        (
            "config.json",
            "image_token_id",
            json!(100_000),
            "no such token",
        ),
        ("config.json", "text_config", json!([1]), "an object"),
        (
            "config.json",
            "text_config.max_position_embeddings",
            json!("many"),
            "a whole number",
        ),
        (
            "config.json",
            "text_config.max_position_embeddings",
            json!(0),
            "tokens",
        ),
        (
            "config.json",
            "text_config.eos_token_id",
            json!(4000),
            "vocabulary",
        ),
        (
            "generation_config.json",
            "eos_token_id",
            json!({"a": 1}),
            "a token id",
        ),
        (
            "generation_config.json",
            "eos_token_id",
            json!([359, "x"]),
            "eos_token_id[1]",
        ),
        (
            "generation_config.json",
            "temperature",
            json!("hot"),
            "a number",
        ),
        (
            "generation_config.json",
            "num_beams",
            json!(-3),
            "a whole number",
        ),
        (
            "preprocessor_config.json",
            "size",
            json!("big"),
            "longest_edge",
        ),
        (
            "preprocessor_config.json",
            "size",
            json!({"height": 3}),
            "longest_edge",
        ),
        (
            "preprocessor_config.json",
            "size",
            json!({"longest_edge": 0}),
            "pixels",
        ),
        (
            "preprocessor_config.json",
            "max_image_size",
            json!({"longest_edge": 1e12}),
            "a whole number",
        ),
        ("preprocessor_config.json", "resample", json!(9), "filter"),
        (
            "preprocessor_config.json",
            "resample",
            json!("magic"),
            "filter",
        ),
        (
            "preprocessor_config.json",
            "image_mean",
            json!([0.5, 0.5]),
            "three numbers",
        ),
        (
            "preprocessor_config.json",
            "image_std",
            json!([0.5, 0, 0.5]),
            "other than 0",
        ),
        (
            "preprocessor_config.json",
            "rescale_factor",
            json!(0),
            "above 0",
        ),
        (
            "preprocessor_config.json",
            "do_image_splitting",
            json!("yes"),
            "true or false",
        ),
        ("tokenizer_config.json", "eos_token", json!(5), "a text"),
    ] {
        let folder = Folder::copy("smolvlm-tiny");
        folder.edit(file, set(key, value));
        let last = key.rsplit('.').next().unwrap();
        folder.refused(ErrorKind::BadModel, &[file, last, also]);
    }
    let folder = Folder::copy("clip-tiny");
    folder.edit(
        "preprocessor_config.json",
        set("crop_size", json!({"height": 48, "width": 32})),
    );
    folder.edit("config.json", |_| {});
    // The graph leaves height and width open, and running it tells.
    folder.refused(ErrorKind::Inference, &["vision_model.onnx"]);
    let folder = Folder::copy("clip-tiny");
    folder.edit(
        "tokenizer_config.json",
        set("model_max_length", json!("long")),
    );
    folder.refused(
        ErrorKind::BadModel,
        &["tokenizer_config.json", "model_max_length", "a number"],
    );
    let folder = Folder::copy("florence2-tiny");
    folder.edit(
        "preprocessor_config.json",
        set("size", json!({"height": 32, "width": 32})),
    );
    folder.refused(
        ErrorKind::BadModel,
        &[
            "vision_encoder.onnx",
            "pixel_values",
            "preprocessor_config.json",
        ],
    );
    let folder = Folder::copy("vit-gpt2-tiny");
    folder.edit("generation_config.json", |config| {
        config
            .as_object_mut()
            .unwrap()
            .remove("decoder_start_token_id");
    });
    folder.edit("config.json", |config| {
        config
            .as_object_mut()
            .unwrap()
            .remove("decoder_start_token_id");
    });
    folder.refused(
        ErrorKind::BadModel,
        &["config.json", "decoder_start_token_id"],
    );
}

#[test]
fn what_is_not_known_is_named() {
    let folder = Folder::copy("smolvlm-tiny");
    folder.edit("config.json", |config| {
        config["model_type"] = json!("newvlm")
    });
    folder.refused(
        ErrorKind::Unsupported,
        &["config.json", "model_type", "newvlm", "smolvlm"],
    );
    for (model_type, missing) in [
        ("qwen2_vl", "three rows"),
        ("qwen2_5_vl", "three rows"),
        ("qwen3_vl", "three rows"),
        ("lfm2_vl", "past_conv"),
        ("gemma3n", "per_layer_inputs"),
        ("paligemma", "both directions"),
        ("phi3_v", "negative ids"),
        ("siglip2", "fixed resolution"),
        ("blip", "exporter"),
    ] {
        let folder = Folder::copy("smolvlm-tiny");
        folder.edit("config.json", |config| {
            config["model_type"] = json!(model_type)
        });
        folder.refused(
            ErrorKind::Unsupported,
            &["config.json", model_type, missing],
        );
    }
    let folder = Folder::copy("clip-tiny");
    folder.edit("preprocessor_config.json", |c| {
        c["image_processor_type"] = json!("NewImageProcessor")
    });
    folder.refused(
        ErrorKind::Unsupported,
        &[
            "preprocessor_config.json",
            "image_processor_type",
            "NewImageProcessor",
        ],
    );
    let folder = Folder::copy("clip-tiny");
    folder.edit("preprocessor_config.json", |c| {
        c["do_flip_channel_order"] = json!(true)
    });
    folder.refused(
        ErrorKind::Unsupported,
        &["preprocessor_config.json", "do_flip_channel_order"],
    );
    let folder = Folder::copy("clip-tiny");
    folder.edit("preprocessor_config.json", |c| {
        c["do_center_crop"] = json!(false)
    });
    folder.refused(
        ErrorKind::Unsupported,
        &["preprocessor_config.json", "crop_size"],
    );
    // A port and an operator.
    let folder = Folder::copy("smolvlm-tiny");
    folder.patch(
        "onnx/decoder_model_merged.onnx",
        "position_ids",
        "position_idz",
    );
    folder.refused(
        ErrorKind::Unsupported,
        &["decoder_model_merged.onnx", "position_idz"],
    );
    let folder = Folder::copy("smolvlm-tiny");
    folder.patch("onnx/vision_encoder.onnx", "Softmax", "Softmix");
    folder.refused(ErrorKind::BadModel, &["vision_encoder.onnx", "Softmix"]);
}

#[test]
fn other_formats_are_answered_with_what_to_use() {
    let folder = Folder::empty();
    folder
        .write("model-Q4_K_M.gguf", "GGUF")
        .write("mmproj-model-f16.gguf", "GGUF");
    folder.refused(ErrorKind::Unsupported, &["gguf", "mmproj", "ONNX export"]);
    let folder = Folder::empty();
    folder
        .write("config.json", "{}")
        .write("model.safetensors", "x");
    folder.refused(ErrorKind::NotFound, &["PyTorch", "optimum-cli"]);
    let folder = Folder::empty();
    folder.write("notes.txt", "x");
    folder.refused(ErrorKind::NotFound, &["no ONNX graph"]);
    let mut options = folder.options();
    options.folders = vec![folder.file("missing")];
    folder.refused_with(&options, ErrorKind::NotFound, &["missing"]);
    options.folders = vec![folder.file("notes.txt")];
    folder.refused_with(
        &options,
        ErrorKind::InvalidArgument,
        &["notes.txt", "not a folder"],
    );
}

#[test]
fn two_layouts_are_listed_and_one_can_be_chosen() {
    let folder = Folder::copy("clip-tiny");
    copy(&export("clip-tiny-optimum").join("export"), &folder.path());
    folder.refused(
        ErrorKind::InvalidArgument,
        &["transformers.js", "optimum", "--layout"],
    );
    for (layout, graph) in [
        (Layout::TransformersJs, "vision_model.onnx"),
        (Layout::Optimum, "search-vision.onnx"),
    ] {
        let options = ImportOptions {
            layout: Some(layout),
            ..folder.options()
        };
        assert!(describe(&options).unwrap().contains(graph));
    }
    let folder = Folder::copy("clip-tiny");
    let inner = "onnxruntime/cpu/int4/genai_config.json";
    folder.write(
        inner,
        json!({"model": {"type": "qwen3_vl", "decoder": {"filename": "text.onnx"}}}).to_string(),
    );
    folder.write("onnxruntime/cpu/int4/text.onnx", "");
    folder.refused(
        ErrorKind::InvalidArgument,
        &["transformers.js", "genai", "onnxruntime/cpu/int4"],
    );
    // The folder of one part can be given, too.
    let mut options = folder.options();
    options.folders = vec![folder.file("onnx")];
    assert!(describe(&options).unwrap().contains("text_model.onnx"));
}

#[test]
fn places_of_the_pack_are_checked() {
    let folder = Folder::copy("clip-tiny");
    let mut options = folder.options();
    options.pack = folder.all.path().join("model");
    folder.refused_with(
        &options,
        ErrorKind::AlreadyExists,
        &["model", "exists already"],
    );
    options.pack = folder.file("config.json");
    folder.refused_with(&options, ErrorKind::AlreadyExists, &["config.json"]);
    options.pack = PathBuf::from("/proc/atom/pack");
    let error = import(&options, &Control::default()).unwrap_err();
    assert!(error.message().contains("/proc/atom"), "{error}");
    options.pack = PathBuf::from("/");
    folder.refused_with(&options, ErrorKind::InvalidArgument, &["/"]);
}

#[test]
fn two_models_for_one_task_are_refused() {
    let (folder, other) = (Folder::copy("clip-tiny"), Folder::copy("siglip-tiny"));
    let mut options = folder.options();
    options.folders.push(other.path());
    let parts = [
        options.folders[0].display().to_string(),
        options.folders[1].display().to_string(),
    ];
    folder.refused_with(
        &options,
        ErrorKind::InvalidArgument,
        &[&parts[0], &parts[1], "search"],
    );
    options.folders = vec![folder.path(), folder.path()];
    folder.refused_with(
        &options,
        ErrorKind::InvalidArgument,
        &["both models for search"],
    );
    options.folders = Vec::new();
    folder.refused_with(&options, ErrorKind::InvalidArgument, &["no folder"]);
}

#[test]
fn a_cancelled_import_leaves_nothing() {
    let folder = Folder::copy("clip-tiny");
    let control = Control::default();
    control.cancel.cancel();
    let error = import(&folder.options(), &control).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(
        fs::read_dir(folder.all.path().join("out")).unwrap().count(),
        0
    );
}

#[test]
fn a_precision_for_a_graph_that_is_not_there_is_refused() {
    let mut wanted = Wanted::default();
    wanted.graphs.insert("vision".to_owned(), Form::Fp16);
    let options = ImportOptions {
        folders: vec![export("clip-tiny").join("export")],
        precision: wanted,
        ..ImportOptions::default()
    };
    let error = describe(&options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let said = format!("{} {}", error.message(), error.remedy_text().unwrap());
    for name in ["vision", "text_model", "vision_model"] {
        assert!(said.contains(name), "{said}");
    }
}
