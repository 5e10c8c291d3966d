//! Folders that users have become packs: what is written of them, and that the packs run.

use std::path::{Path, PathBuf};

use atom_import::{Form, ImportOptions, Wanted, describe};
use atom_tests::{root, temporary};

/// The exported model `name`.
fn export(name: &str) -> PathBuf {
    root()
        .join("tests/fixtures/exports")
        .join(name)
        .join("export")
}

fn options(folders: &[&Path]) -> ImportOptions {
    ImportOptions {
        folders: folders.iter().map(|&folder| folder.to_owned()).collect(),
        pack: PathBuf::from("pack"),
        ..ImportOptions::default()
    }
}

/// The manifest that is made of `options` equals the one in tests/fixtures/import. `ATOM_UPDATE=1` writes those.
fn same_as_kept(kept: &str, options: &ImportOptions) {
    let text = describe(options).unwrap_or_else(|e| panic!("{kept}: {e:?}"));
    let path = root()
        .join("tests/fixtures/import")
        .join(format!("{kept}.toml"));
    if std::env::var_os("ATOM_UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text,
        expected,
        "{}: run this test with ATOM_UPDATE=1",
        path.display()
    );
}

#[test]
fn every_folder_is_described_as_before() {
    let folder = |name: &str| export(name);
    same_as_kept("clip-tiny", &options(&[&folder("clip-tiny")]));
    same_as_kept(
        "clip-tiny-optimum",
        &options(&[&folder("clip-tiny-optimum")]),
    );
    same_as_kept("vit-gpt2-tiny", &options(&[&folder("vit-gpt2-tiny")]));
    same_as_kept("florence2-tiny", &options(&[&folder("florence2-tiny")]));
    for (kept, tiles) in [
        ("smolvlm-tiny", None),
        ("smolvlm-tiny.tiles-off", Some(false)),
    ] {
        same_as_kept(
            kept,
            &ImportOptions {
                tiles,
                ..options(&[&folder("smolvlm-tiny")])
            },
        );
    }
    same_as_kept(
        "clip-tiny+smolvlm-tiny.q4",
        &ImportOptions {
            precision: Wanted {
                all: Some(Form::Q4),
                ..Wanted::default()
            },
            ..options(&[&folder("clip-tiny"), &folder("smolvlm-tiny")])
        },
    );
}

#[test]
fn one_graph_that_transformers_5_exported_is_cut_as_optimums_is() {
    let folder = temporary();
    let from = export("clip-tiny-optimum");
    for file in std::fs::read_dir(&from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let index = r#"{"schema_version": 1, "export_format": "onnx",
        "components": {"model": {"file": "model.onnx", "metadata": {}}}}"#;
    std::fs::write(folder.path().join("export.json"), index).unwrap();
    let made = describe(&options(&[folder.path()])).unwrap();
    let known = describe(&options(&[&from])).unwrap();
    // Only what names the folder differs.
    let module = |text: &str| text[text.find("[[module]]").unwrap()..].to_owned();
    assert_eq!(module(&made), module(&known));
}
