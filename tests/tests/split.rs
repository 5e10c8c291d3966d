//! `atom pack split`: graphs of real exports, cut.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atom_core::onnx::{Cut, Model};
use atom_core::{Error, ErrorKind, Result};
use atom_import::split::{REPORT, Report, WEIGHTS, split};
use atom_tests::{root, temporary};

const DECODER: &str = "smolvlm-tiny/export/onnx/decoder_model_merged.onnx";

fn export(name: &str) -> PathBuf {
    root().join("tests/fixtures/exports").join(name)
}

fn cut(name: &str, tensors: &[&str]) -> Cut {
    Cut {
        name: name.to_owned(),
        tensors: tensors.iter().map(|&tensor| tensor.to_owned()).collect(),
    }
}

fn made(model: &Path, cuts: &[Cut], to: &Path) -> Result<Report> {
    split(model, cuts, to, &BTreeMap::new())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn two_towers_and_what_is_left_equal_the_whole() {
    let folder = temporary();
    let to = folder.path().join("clip");
    let clip = export("clip-tiny-optimum/export/model.onnx");
    let cuts = [
        cut("text", &["text_embeds"]),
        cut("vision", &["image_embeds"]),
    ];
    let report = made(&clip, &cuts, &to).unwrap();
    let modules: Vec<(&str, Vec<&str>)> = report
        .modules
        .iter()
        .map(|module| {
            let inputs = module.inputs.iter().map(String::as_str);
            (&module.name[..], inputs.collect())
        })
        .collect();
    let expected = [
        ("text", vec!["attention_mask", "input_ids"]),
        ("vision", vec!["pixel_values"]),
        ("rest", vec!["image_embeds", "text_embeds"]),
    ];
    assert_eq!(modules, expected);
    let files = ["rest.onnx", REPORT, "text.onnx", "vision.onnx", WEIGHTS];
    assert_eq!(names(&to), files);
    assert_eq!(report.proof.len(), 4);
    for proved in &report.proof {
        assert!(proved.largest_difference <= proved.allowed, "{proved:?}");
        assert!(proved.allowed < 1e-2, "{proved:?}");
    }
    // No weight is in a module's own file and none is stored twice.
    let stored = std::fs::metadata(to.join(WEIGHTS)).unwrap().len();
    assert!(stored >= report.weights_bytes && stored < report.weights_bytes * 11 / 10 + 65_536);
    let whole = std::fs::metadata(&clip).unwrap().len();
    assert!(stored < whole, "{stored} of {whole}");
    for module in &report.modules {
        let model = Model::read(&to.join(&module.file)).unwrap();
        model.check_external_files(&to).unwrap();
        assert!(std::fs::metadata(to.join(&module.file)).unwrap().len() < 120_000);
    }
}

/// Cuts at the end of the first layer, and at what that crosses, as errors tell.
#[test]
fn a_cut_that_does_not_separate_names_what_crosses_until_it_does() {
    let folder = temporary();
    let to = folder.path().join("decoder");
    let first = "/text_model/layers.0/Add_1_output_0";
    let refused = made(&export(DECODER), &[cut("lower", &[first])], &to)
        .expect_err("mask and positions cross");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    for word in ["\"lower\"", "\"rest\"", "tensor", "node", "crosses"] {
        assert!(refused.message().contains(word), "{word}: {refused}");
    }
    assert_eq!(names(folder.path()), Vec::<String>::new());
    let mut tensors = vec![
        first.to_owned(),
        "present.0.key".into(),
        "present.0.value".into(),
    ];
    let mut report = None;
    for _ in 0..20 {
        let cuts = [Cut {
            name: "lower".into(),
            tensors: tensors.clone(),
        }];
        match made(&export(DECODER), &cuts, &to) {
            Ok(made) => {
                report = Some(made);
                break;
            }
            Err(error) => {
                let more = crossing(&error);
                assert!(more.iter().any(|name| !tensors.contains(name)), "{error}");
                tensors.extend(
                    more.into_iter()
                        .filter(|name| !tensors.contains(name))
                        .collect::<Vec<_>>(),
                );
            }
        }
    }
    let report = report.expect("the errors lead to cuts that separate");
    assert_eq!(report.modules.len(), 2);
    // Keys, values and logits.
    assert_eq!(report.proof.len(), 5);
    assert!(report.modules[1].inputs.iter().any(|input| input == first));
    assert!(report.modules.iter().all(|module| module.weights_bytes > 0));
}

/// The tensors that an error's remedy names.
fn crossing(error: &Error) -> Vec<String> {
    let remedy = error.remedy_text().unwrap_or_default();
    let (_, list) = remedy
        .split_once("those that cross are ")
        .unwrap_or_else(|| panic!("{error}"));
    list.split(", ").map(str::to_owned).collect()
}

#[test]
fn bad_cuts_name_what_is_wrong_and_leave_nothing() {
    let clip = export("clip-tiny-optimum/export/model.onnx");
    let middle = "/text_model/final_layer_norm/LayerNormalization_output_0";
    let lower = "/text_model/encoder/layers.0/layer_norm1/LayerNormalization_output_0";
    for (cuts, kind, words) in [
        (
            vec![cut("a", &["text_embed"])],
            ErrorKind::NotFound,
            vec!["\"text_embed\"", "text_embeds"],
        ),
        (vec![cut("a", &[""])], ErrorKind::NotFound, vec!["\"\""]),
        (
            vec![cut("a", &["pixel_values"])],
            ErrorKind::InvalidArgument,
            vec!["input", "empty"],
        ),
        (
            vec![cut("a", &["onnx::MatMul_642"])],
            ErrorKind::InvalidArgument,
            vec!["weight", "empty"],
        ),
        (
            vec![cut("a", &["vision_model.post_layernorm.bias"])],
            ErrorKind::InvalidArgument,
            vec!["\"a\"", "empty"],
        ),
        (
            vec![cut("a", &["text_embeds"]), cut("b", &["text_embeds"])],
            ErrorKind::InvalidArgument,
            vec!["\"text_embeds\"", "twice"],
        ),
        (
            vec![cut("a", &["text_embeds"]), cut("a", &["image_embeds"])],
            ErrorKind::InvalidArgument,
            vec!["\"a\"", "two modules"],
        ),
        (
            vec![cut("rest", &["text_embeds"])],
            ErrorKind::InvalidArgument,
            vec!["rest", "image_embeds"],
        ),
        (
            vec![cut("../up", &["text_embeds"])],
            ErrorKind::InvalidArgument,
            vec!["../up"],
        ),
        (
            vec![cut("", &["text_embeds"])],
            ErrorKind::InvalidArgument,
            vec!["no name"],
        ),
        (
            vec![cut("a", &[])],
            ErrorKind::InvalidArgument,
            vec!["\"a\"", "no tensor"],
        ),
        (vec![], ErrorKind::InvalidArgument, vec!["no cut"]),
        // What `a` makes last depends on `b`, and that on what `a` makes first.
        (
            vec![cut("a", &[lower, "text_embeds"]), cut("b", &[middle])],
            ErrorKind::InvalidArgument,
            vec!["do not separate", "crosses"],
        ),
    ] {
        let folder = temporary();
        let refused = made(&clip, &cuts, &folder.path().join("made")).expect_err("a bad cut");
        assert_eq!(refused.kind(), kind, "{refused}");
        let text = refused.to_string() + refused.remedy_text().unwrap_or_default();
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert_eq!(names(folder.path()), Vec::<String>::new(), "{refused}");
    }
    // A folder that holds something stays as it is.
    let folder = temporary();
    std::fs::write(folder.path().join("mine"), "mine").unwrap();
    let refused = made(&clip, &[cut("a", &["text_embeds"])], folder.path()).expect_err("not empty");
    assert!(refused.message().contains("holds something"), "{refused}");
    assert_eq!(names(folder.path()), ["mine"]);
    // Sides on which the model does not run.
    let sizes = BTreeMap::from([("height".to_owned(), 40), ("width".to_owned(), 40)]);
    let to = folder.path().join("made");
    let refused = split(&clip, &[cut("a", &["text_embeds"])], &to, &sizes).expect_err("40 x 40");
    assert!(
        refused.remedy_text().unwrap_or_default().contains("--size"),
        "{refused}"
    );
    assert_eq!(names(folder.path()), ["mine"]);
}

#[test]
fn the_command_prints_what_it_made() {
    let folder = temporary();
    let to = folder.path().join("vit");
    let model = export("vit-gpt2-tiny/export/encoder_model.onnx");
    let mut command = atom_tests::atom();
    command.args(["--json", "pack", "split"]).arg(&model);
    command
        .args(["--cut", "lower=/encoder/layer.0/output/Add_output_0", "-o"])
        .arg(&to);
    let report = atom_tests::json(&mut command);
    assert_eq!(report["modules"][1]["name"], "rest");
    let written = std::fs::read_to_string(to.join(REPORT)).unwrap();
    assert_eq!(
        report,
        serde_json::from_str::<serde_json::Value>(&written).unwrap()
    );
}

#[test]
fn sizes_that_no_memory_holds_are_refused() {
    let folder = temporary();
    let clip = export("clip-tiny-optimum/export/model.onnx");
    let cuts = [cut("vision", &["image_embeds"])];
    for size in [100_000_000, usize::MAX] {
        let sizes = ["image_batch_size", "text_batch_size", "batch_size"]
            .map(|name| (name.to_owned(), size));
        let to = folder.path().join("parts");
        let error = split(&clip, &cuts, &to, &BTreeMap::from(sizes)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.message().contains("too large"), "{error}");
        assert!(names(folder.path()).is_empty());
    }
}
