//! What the tests share: the pack, the model, and a generation that checks what it streams.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use atom_core::budget::Governor;
use atom_core::cache;
use atom_core::control::Control;
use atom_core::language::{GenerateOptions, Generated, Generation, LanguageModel};
use atom_core::module::Registry;
use atom_core::ort::{Environment, EnvironmentOptions};
use atom_core::pack::{ArtifactCache, Pack};

pub const DECODER: &str = "language-decoder";

/// `relative` in the cache; a test never passes because its input is missing.
pub fn cached(relative: &str) -> PathBuf {
    let path = cache::dir().join(relative);
    assert!(
        path.exists(),
        "{} is missing: run `python3 models/setup.py test` first",
        path.display()
    );
    path
}

pub fn environment() -> &'static Environment {
    let library = std::env::var_os("ATOM_ORT_LIBRARY")
        .map_or_else(|| cached("ort/libonnxruntime.so"), PathBuf::from);
    Environment::open(&EnvironmentOptions {
        library: Some(library),
        ..EnvironmentOptions::default()
    })
    .expect("ONNX Runtime")
}

pub fn registry_of(pack: &Path) -> Registry {
    registry_with(pack, ArtifactCache::new(cache::dir().join("artifacts")))
}

pub fn registry_with(pack: &Path, artifacts: ArtifactCache) -> Registry {
    let pack = Pack::open(pack).expect("pack");
    Registry::new(
        Arc::new(pack),
        environment(),
        &Governor::default(),
        artifacts,
    )
}

/// One registry for the tests of this process, as in the product.
pub fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| registry_of(&cached("packs/reference")))
}

pub fn model() -> LanguageModel {
    LanguageModel::new(registry(), DECODER, None).expect("model")
}

pub fn free() -> Control {
    Control::default()
}

pub fn begin(model: &LanguageModel, prompt: &str) -> Generation {
    let ids = model.tokenizer().encode(prompt, false).expect("ids");
    let mut generation = model.start(ids.len() + 32, &free()).expect("generation");
    generation.feed(&ids, &free()).expect("feed");
    generation
}

pub fn tokens(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        ..GenerateOptions::default()
    }
}

/// Generates, and checks that what was streamed is the text.
pub fn say(generation: &mut Generation, options: &GenerateOptions, control: &Control) -> Generated {
    let mut streamed = String::new();
    let generated = generation
        .generate(options, control, &mut |piece| {
            assert!(!piece.is_empty());
            streamed.push_str(piece);
            ControlFlow::Continue(())
        })
        .expect("generate");
    assert_eq!(streamed, generated.text);
    assert_eq!(generated.tokens, generated.token_ids.len());
    generated
}

pub const STORY: &str =
    "Once upon a time, in a small village near the sea, there lived an old fisherman who";

/// Mean log-probability of `text` after the generation, token by token.
pub fn likelihood(generation: &Generation, text: &str) -> f64 {
    let mut generation = generation.fork().expect("fork");
    let ids = generation
        .model()
        .tokenizer()
        .encode(text, false)
        .expect("ids");
    let mut sum = 0.0;
    for id in &ids {
        let logits = generation.logits();
        let norm = logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
        sum += f64::from(logits[*id as usize]) - norm;
        generation.feed(&[*id], &free()).expect("feed");
    }
    sum / ids.len() as f64
}
