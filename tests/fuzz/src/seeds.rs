//! The first inputs of a target, made of files that the checkout has anyway.

use std::fs;
use std::path::PathBuf;

use crate::{files, fixtures, folders, graphs};

/// Writes those of `target` to the folder that `ATOM_FUZZ_SEEDS` names, if it does: libFuzzer then reads them from there.
///
/// # Panics
/// For a target that does not exist, and when nothing can be written.
pub fn write(target: &str) {
    let Some(folder) = std::env::var_os("ATOM_FUZZ_SEEDS").map(PathBuf::from) else {
        return;
    };
    let seeds = match target {
        "manifest" => manifests(),
        "folder" => configurations(),
        "template" => templates(),
        "tokenizer" => tokenizers(),
        "onnx" => models(),
        other => panic!("no target {other}"),
    };
    fs::create_dir_all(&folder).unwrap();
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(folder.join(number.to_string()), seed).unwrap();
    }
}

fn manifests() -> Vec<Vec<u8>> {
    let mut all = files(&fixtures().join("import"));
    all.extend(files(&fixtures().join("../../models")));
    let tomls = all.into_iter().filter(|(name, _)| name.ends_with(".toml"));
    tomls.map(|(_, content)| content).collect()
}

fn configurations() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (export, content) in folders::contents().into_iter().enumerate() {
        let texts = content.iter().filter(|(name, _)| folders::is_text(name));
        for (file, (_, content)) in texts.enumerate() {
            seeds.push([&[export as u8, file as u8, 0], &content[..]].concat());
            // Down two levels, and another value there.
            for at in 0..8 {
                let change = [
                    export as u8,
                    file as u8,
                    1,
                    0,
                    at,
                    0,
                    0,
                    at / 2,
                    0,
                    255,
                    0,
                    0,
                    at,
                ];
                seeds.push(change.to_vec());
            }
        }
    }
    seeds
}

fn templates() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (name, content) in folders::contents().into_iter().flatten() {
        if name.ends_with("chat_template.json") {
            let value: serde_json::Value = serde_json::from_slice(&content).unwrap();
            seeds.extend(
                value["chat_template"]
                    .as_str()
                    .map(|text| text.as_bytes().to_vec()),
            );
        }
    }
    let families = fixtures().join("../../core/import/src/families");
    for (_, content) in files(&families) {
        // Whole lines of a family's file are templates, between quotes.
        let text = String::from_utf8(content).unwrap();
        seeds.extend(
            text.split("'''")
                .skip(1)
                .step_by(2)
                .map(|text| text.as_bytes().to_vec()),
        );
        seeds.extend(
            text.split("\"\"\"")
                .skip(1)
                .step_by(2)
                .map(|text| text.as_bytes().to_vec()),
        );
    }
    for expression in [
        "'ab' * 9 ~ [1, 2] * 3",
        "range(9)|list|join(',')|center(99)|indent(3)|tojson(indent=2)",
        "'%5d' | format(3) ~ 'a b'.split(' ')[::-1]|first ~ 'x'.ljust(9) ~ strftime_now('%d %b %Y')",
        "dict(a=1).items()|list ~ namespace(a=2).a ~ messages|map(attribute='role')|batch(2)|list",
    ] {
        seeds.push(format!("{{{{ {expression} }}}}").into_bytes());
    }
    seeds.push(
        b"{% macro m(a, b=1) %}{{ m(a) if a }}{% endmacro %}{{ m(0) }}{% set x %}y{% endset %}"
            .to_vec(),
    );
    seeds
}

fn tokenizers() -> Vec<Vec<u8>> {
    let all = folders::contents().into_iter().flatten();
    let tokenizers = all.filter(|(name, _)| name.ends_with("tokenizer.json"));
    let mut seeds: Vec<_> = tokenizers.map(|(_, content)| content).collect();
    seeds.sort();
    seeds.dedup();
    seeds
}

fn models() -> Vec<Vec<u8>> {
    let all = folders::contents().into_iter().flatten();
    let models = all.filter(|(name, _)| name.ends_with(".onnx"));
    let mut seeds: Vec<_> = models
        .map(|(_, content)| graphs::without_weights(&content, 64))
        .collect();
    seeds.sort();
    seeds.dedup();
    seeds
}
