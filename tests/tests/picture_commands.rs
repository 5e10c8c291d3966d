//! `atom embed`, `atom caption` and `atom ask` of picture files, from the import of a folder to the output.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use atom_tests::exports::{cosine, expected, export, npy};
use atom_tests::{atom, json, output, temporary};
use serde_json::Value;

/// The pack that `atom pack import` makes of an export.
fn imported(name: &str, dir: &Path) -> PathBuf {
    let pack = dir.join(name);
    let mut import = atom();
    import
        .args(["pack", "import"])
        .arg(export(name).join("export"));
    import.arg("-o").arg(&pack);
    let done = output(&mut import);
    assert!(done.status.success(), "{}", stderr(&done));
    pack
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn with(pack: &Path, words: &[&str]) -> Command {
    let mut command = atom();
    command.arg("--pack").arg(pack).args(words);
    command
}

fn picture(name: &str) -> String {
    let path = export("inputs").join(format!("{name}.png"));
    path.to_str().unwrap().to_owned()
}

fn vector(value: &Value) -> Vec<f32> {
    let values = value["vector"].as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap() as f32).collect()
}

#[test]
fn embed_prints_the_vectors_of_pictures_and_words() {
    let dir = temporary();
    let pack = imported("clip-tiny", dir.path());
    let want = expected("clip-tiny");
    let texts = std::fs::read_to_string(export("inputs").join("texts.json")).unwrap();
    let texts: Value = serde_json::from_str(&texts).unwrap();
    for (kind, option, file) in [
        ("images", "--image", "image_embeds.npy"),
        ("texts", "--text", "text_embeds.npy"),
    ] {
        let (shape, rows) = npy(&export("clip-tiny").join("expected").join(file));
        let items = want[kind].as_array().unwrap();
        assert_eq!(shape[0], items.len());
        for (item, row) in items.iter().zip(rows.chunks_exact(shape[1])) {
            let given = match kind {
                "images" => picture(item["image"].as_str().unwrap()),
                _ => texts[item["text"].as_str().unwrap()]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            };
            let said = json(&mut with(&pack, &["embed", option, &given, "--json"]));
            let near = cosine(&vector(&said), row);
            assert!(near > 0.99999, "{given:?}: {near}");
            assert!(!said["model"].as_str().unwrap().is_empty());
        }
    }
    // Without --json, the numbers alone.
    let file = picture("tiny_17x9");
    let plain = output(&mut with(&pack, &["embed", "--image", &file]));
    let plain = String::from_utf8(plain.stdout).unwrap();
    let numbers: Vec<f32> = plain
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    let said = json(&mut with(&pack, &["embed", "--image", &file, "--json"]));
    assert_eq!(numbers, vector(&said));
    for (words, told) in [
        (vec!["embed"], "--image"),
        (
            vec!["embed", "--image", &file, "--text", "both"],
            "cannot be used with",
        ),
        (vec!["embed", "--image", "/nowhere.png"], "/nowhere.png"),
        (vec!["embed", "--image", "/"], "not a file"),
        (vec!["caption", &file], "cannot caption"),
    ] {
        let refused = output(&mut with(&pack, &words));
        assert!(!refused.status.success(), "{words:?}");
        assert!(
            stderr(&refused).contains(told),
            "{words:?}: {}",
            stderr(&refused)
        );
    }
}

#[test]
fn pictures_are_captioned_and_asked_about_by_their_content() {
    let dir = temporary();
    let pack = imported("smolvlm-tiny", dir.path());
    // Called what it is not.
    let misnamed = dir.path().join("frame.mp4");
    std::fs::copy(picture("exact_64x64"), &misnamed).unwrap();
    let misnamed = misnamed.to_str().unwrap();
    let asked = json(&mut with(
        &pack,
        &[
            "ask",
            misnamed,
            "describe this image",
            "--max-tokens",
            "4",
            "--json",
        ],
    ));
    let cases = expected("smolvlm-tiny");
    let case = cases["cases"].as_array().unwrap().iter();
    let case = case
        .clone()
        .find(|case| case["id"] == "exact_64x64.split.q1")
        .unwrap();
    assert_eq!(asked["prompt_ids"], case["input_ids"]);
    let tokens = asked["token_ids"].as_array().unwrap();
    let want = case["greedy"]["ids"].as_array().unwrap();
    assert!(
        !tokens.is_empty() && want.starts_with(tokens),
        "{tokens:?} {want:?}"
    );

    let file = picture("tiny_17x9");
    let said = json(&mut with(
        &pack,
        &["caption", &file, "--max-tokens", "2", "--json"],
    ));
    assert!(said["text"].is_string());
    let broken = dir.path().join("broken.png");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&broken, &whole[..whole.len() / 2]).unwrap();
    let broken = broken.to_str().unwrap();
    for (words, told) in [
        (vec!["caption", &file, "--at", "1"], "--at names a time"),
        (vec!["caption", &file, "--to", "2"], "--to names a time"),
        (
            vec!["ask", &file, "what?", "--at", "0"],
            "--at names a time",
        ),
        (vec!["caption", broken], "broken.png"),
        (vec!["ask", broken, "what?"], "damaged PNG"),
        (vec!["embed", "--image", &file], "cannot index"),
    ] {
        let refused = output(&mut with(&pack, &words));
        assert!(!refused.status.success(), "{words:?}");
        assert!(
            stderr(&refused).contains(told),
            "{words:?}: {}",
            stderr(&refused)
        );
    }
}
