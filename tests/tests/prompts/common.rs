//! What the tests share: packs opened, texts made, and comparisons with what is expected.

use std::ops::ControlFlow;
use std::path::Path;

use atom_core::control::{Control, TextOptions};
use atom_core::features::Features;
use atom_core::runtime::Runtime;
use atom_core::task::Statement;
use atom_core::{Error, ErrorKind, Result};
use atom_tests::exports::{export, npy};
use atom_tests::runtime_options;
use serde_json::Value;

/// Tokens are compared up to the first step at which two were this close.
pub const CLOSE: f64 = 1e-4;

pub fn opened(pack: &Path) -> Result<Runtime> {
    let mut options = runtime_options(pack);
    options.artifacts = Some(pack.join("artifacts"));
    Runtime::open(&options)
}

pub fn open(pack: &Path) -> Runtime {
    opened(pack).unwrap()
}

pub fn limits(max_tokens: usize) -> TextOptions {
    TextOptions {
        max_tokens: Some(max_tokens),
        ..TextOptions::default()
    }
}

pub fn caption(
    runtime: &Runtime,
    frames: &[&Features],
    options: &TextOptions,
) -> Result<Statement> {
    let mut on_text = |_: &str| ControlFlow::Continue(());
    runtime.caption(frames, options, &Control::default(), &mut on_text)
}

pub fn ask(
    runtime: &Runtime,
    frames: &[&Features],
    question: &str,
    options: &TextOptions,
) -> Result<Statement> {
    let mut on_text = |_: &str| ControlFlow::Continue(());
    runtime.ask(frames, question, options, &Control::default(), &mut on_text)
}

pub fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Whether `got` is `answer` up to its first close call; the token that ended the text may be missing.
pub fn same(got: &[u32], answer: &Value, margins: &str, eos: u32) -> bool {
    let (want, margins) = (ids(&answer["ids"]), answer[margins].as_array());
    for (at, token) in want.iter().enumerate() {
        let margin = margins.and_then(|margins| margins[at].as_f64());
        if margin.is_some_and(|margin| margin < CLOSE) {
            return true;
        }
        match got.get(at) {
            Some(made) if made == token => {}
            None => return *token == eos && at + 1 == want.len(),
            Some(_) => return false,
        }
    }
    got.len() == want.len()
}

/// The largest difference between `got` and the stored logits `relative`.
pub fn apart(model: &str, relative: &Value, got: &[f32]) -> f32 {
    let path = export(model)
        .join("expected")
        .join(relative.as_str().unwrap());
    let (shape, want) = npy(&path);
    assert_eq!(shape, [got.len()]);
    let apart = want.iter().zip(got).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max)
}

pub fn refused(result: Result<impl std::fmt::Debug>, kind: ErrorKind, words: &[&str]) -> Error {
    let error = result.expect_err(&words.join(" "));
    assert_eq!(error.kind(), kind, "{error}");
    let told = error.to_string();
    for word in words {
        assert!(told.contains(word), "{word} is not in: {told}");
    }
    error
}
