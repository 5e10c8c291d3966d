//! Exported models caption and answer as Hugging Face's classes do, from the features that those have made.

use std::ops::ControlFlow;
use std::path::Path;

use atom_core::Result;
use atom_core::control::{Control, TextOptions};
use atom_core::features::{Features, Grid};
use atom_core::runtime::Runtime;
use atom_core::task::Statement;
use atom_tests::exports::expected;
use atom_tests::hand_packs::{self, features};
use atom_tests::{runtime_options, temporary};
use serde_json::Value;

/// Tokens are compared up to the first step at which two were this close.
const CLOSE: f64 = 1e-4;

fn open(pack: &Path) -> Runtime {
    let mut options = runtime_options(pack);
    options.artifacts = Some(pack.join("artifacts"));
    Runtime::open(&options).unwrap()
}

fn limits(max_tokens: usize) -> TextOptions {
    TextOptions {
        max_tokens,
        ..TextOptions::default()
    }
}

fn caption(runtime: &Runtime, frames: &[&Features], options: &TextOptions) -> Result<Statement> {
    let mut on_text = |_: &str| ControlFlow::Continue(());
    runtime.caption(frames, options, &Control::default(), &mut on_text)
}

fn ask(
    runtime: &Runtime,
    frames: &[&Features],
    question: &str,
    options: &TextOptions,
) -> Result<Statement> {
    let mut on_text = |_: &str| ControlFlow::Continue(());
    runtime.ask(frames, question, options, &Control::default(), &mut on_text)
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Whether `got` is `answer` up to its first close call; the token that ended the text may be missing.
fn same(got: &[u32], answer: &Value, margins: &str, eos: u32) -> bool {
    let (want, margins) = (ids(&answer["ids"]), answer[margins].as_array());
    for (at, token) in want.iter().enumerate() {
        let margin = margins.and_then(|margins| margins[at].as_f64());
        if margin.is_some_and(|margin| margin < CLOSE) {
            return at > 3;
        }
        match got.get(at) {
            Some(made) if made == token => {}
            None => return *token == eos && at + 1 == want.len(),
            Some(_) => return false,
        }
    }
    got.len() == want.len()
}

fn grids(case: &Value) -> Vec<Grid> {
    let grids: Vec<[u32; 2]> =
        serde_json::from_value(case["rows_cols"].clone()).unwrap_or_default();
    grids
        .into_iter()
        .map(|[rows, cols]| Grid { rows, cols })
        .collect()
}

/// The pictures of a case, each with its tiles.
fn pictures(case: &Value) -> Vec<Features> {
    let Some(file) = case["image_features"].as_str() else {
        return Vec::new();
    };
    let all = features("smolvlm-tiny", file, Grid::default()).map;
    let (per, mut from) = (all.data.len() / all.pictures, 0);
    let mut made = Vec::new();
    for grid in grids(case) {
        let count = (grid.rows * grid.cols + 1) as usize;
        let mut one = Features::default();
        one.map.data = all.data[from * per..(from + count) * per].to_vec();
        one.map.rows = all.rows / all.pictures * count;
        (one.map.dim, one.map.grid, one.map.pictures) = (all.dim, grid, count);
        from += count;
        made.push(one);
    }
    assert_eq!(from, all.pictures, "{}", case["id"]);
    made
}

/// What a pack would write as the prompt of a case.
fn prompt(case: &Value) -> String {
    let parts = case["content"].as_array().unwrap();
    let part = |part: &Value| part["text"].as_str().unwrap_or("<image>").to_owned();
    parts.iter().map(part).collect()
}

#[test]
fn a_smolvlm_reads_pictures_as_its_reference_does() {
    let folder = temporary();
    let runtime = open(&hand_packs::smolvlm(folder.path(), |_, toml| toml));
    let want = expected("smolvlm-tiny");
    let mut seen = 0;
    for case in want["cases"].as_array().unwrap() {
        let frames = pictures(case);
        let frames: Vec<&Features> = frames.iter().collect();
        if frames.is_empty() {
            continue;
        }
        let options = limits(24);
        let prompt = prompt(case);
        let said = match prompt.strip_prefix("<image>") {
            Some(question) => ask(&runtime, &frames, question, &options).unwrap(),
            None => {
                let name = case["id"].as_str().unwrap().split('.').next().unwrap();
                let prompt = Some(name.replace('_', "-"));
                caption(&runtime, &frames, &TextOptions { prompt, ..options }).unwrap()
            }
        };
        assert_eq!(said.prompt_ids, ids(&case["input_ids"]), "{}", case["id"]);
        assert!(
            same(&said.token_ids, &case["greedy"], "margin", 359),
            "{}: {:?}",
            case["id"],
            said.token_ids
        );
        seen += 1;
    }
    assert_eq!(seen, 23);
}
