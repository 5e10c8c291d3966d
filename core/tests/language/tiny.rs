//! The decoders of tests/fixtures/decoders, each in a pack of its own, and what numpy made of them.

use std::fs;
use std::path::{Path, PathBuf};

use atom_core::features::FeatureMap;
use atom_core::language::LanguageModel;
use atom_core::module::Registry;
use atom_core::pack::ArtifactCache;
use serde_json::Value;
use tempfile::TempDir;

use super::common::*;

pub const HIDDEN: usize = 12;
pub const WIDE: usize = 10;
pub const LAYERS: usize = 2;
/// Bytes of one position of the cache: keys and values of each layer, one head of 8 floats.
pub const POSITION: u64 = LAYERS as u64 * 2 * 8 * 4;

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/decoders")
}

/// What numpy made of decoder `name`.
pub struct Expected(pub Value);

impl Expected {
    pub fn of(name: &str) -> Self {
        let text = fs::read(fixtures().join("expected.json")).expect("expected.json");
        let all: Value = serde_json::from_slice(&text).expect("JSON");
        Self(all[name].clone())
    }

    pub fn ids(&self, key: &str) -> Vec<u32> {
        serde_json::from_value(self.0[key].clone()).expect(key)
    }

    pub fn floats(&self, key: &str) -> Vec<f32> {
        serde_json::from_value(self.0[key].clone()).expect(key)
    }

    pub fn encoder(&self) -> FeatureMap {
        let data = self.floats("encoder");
        FeatureMap::of_one(data.len() / WIDE, WIDE, data)
    }
}

pub fn reference(dir: &Path, name: &str) -> String {
    let bytes = fs::read(dir.join(name)).expect(name);
    let hash = <sha2::Sha256 as sha2::Digest>::digest(&bytes);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{{ file = \"{name}\", sha256 = \"{hash}\", bytes = {} }}",
        bytes.len()
    )
}

/// A pack of decoder `name`; `keys` are those of its `[module.decoder]` beyond the dimensions.
pub fn pack(name: &str, keys: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("folder");
    let file = |name: &str| {
        fs::copy(fixtures().join(name), dir.path().join(name)).expect(name);
        reference(dir.path(), name)
    };
    let kv_dtype = if name == "captioner" { "f16" } else { "f32" };
    let mut text = format!(
        "schema = 1\nid = \"tiny\"\nversion = \"1\"\nlicence = \"Apache-2.0\"\n\n\
         [[module]]\nid = \"mouth\"\nkind = \"language-decoder\"\nprecision = \"fp32\"\nmodel = {}\n\
         tokenizer = {{ file = {}, max_tokens = 64 }}\n\n\
         [module.decoder]\nlayers = {LAYERS}\nkv_heads = 1\nhead_dim = 8\nvocab = 32\ncontext = 40\nkv = \"concat\"\n\
         kv_dtype = \"{kv_dtype}\"\neos = [0]\n{keys}\n",
        file(&format!("{name}.onnx")),
        file("words.json"),
    );
    if fixtures().join(format!("{name}.words.onnx")).exists() {
        text += &format!(
            "\n[[module]]\nid = \"words\"\nkind = \"token-embedding\"\nprecision = \"fp32\"\nmodel = {}\n\
             inputs = [ {{ name = \"input_ids\", dtype = \"i64\", shape = [\"batch\", \"rows\"] }} ]\n\
             outputs = [ {{ name = \"inputs_embeds\", dtype = \"f32\", shape = [\"batch\", \"rows\", {HIDDEN}] }} ]\n",
            file(&format!("{name}.words.onnx")),
        );
    }
    fs::write(dir.path().join("pack.toml"), text).expect("pack.toml");
    dir
}

pub fn registry_in(dir: &TempDir) -> Registry {
    registry_with(dir.path(), ArtifactCache::disabled())
}

pub fn model_in(registry: &Registry) -> LanguageModel {
    let words = registry.pack().module("words").is_ok().then_some("words");
    LanguageModel::new(registry, "mouth", words).expect("model")
}

/// Decoder `name`, and the folder it is loaded from.
pub fn model_of(name: &str, keys: &str) -> (TempDir, LanguageModel) {
    let dir = pack(name, keys);
    let model = model_in(&registry_in(&dir));
    (dir, model)
}

/// Golden outputs of decoder `name`: `inputs` by port, and the logits of the last row.
pub fn golden(dir: &TempDir, inputs: &[(&str, &[usize], Vec<u8>)], logits: &[f32]) {
    let path = dir.path().join("pack.toml");
    let mut text = fs::read_to_string(&path).expect("pack.toml");
    let end = text
        .find("\n[[module]]\nid = \"words\"")
        .unwrap_or(text.len());
    let port = |name: &str, shape: &[usize], bytes: &[u8]| {
        let file = format!("{name}.bin");
        fs::write(dir.path().join(&file), bytes).expect("golden file");
        format!(
            "{{ port = \"{name}\", shape = {shape:?}, file = {} }}",
            reference(dir.path(), &file)
        )
    };
    let inputs: Vec<String> = inputs
        .iter()
        .map(|(name, shape, bytes)| port(name, shape, bytes))
        .collect();
    let output = port("logits", &[1, 1, logits.len()], &raw(logits));
    let golden = format!(
        "\n[module.golden]\ncosine = 0.99\ninputs = [ {} ]\noutputs = [ {output} ]\n",
        inputs.join(", ")
    );
    text.insert_str(end, &golden);
    fs::write(path, text).expect("pack.toml");
}

pub fn raw(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub fn ids(prompt: &[u32]) -> Vec<u8> {
    prompt.iter().flat_map(|id| id.to_le_bytes()).collect()
}

pub fn cosine(dir: &TempDir) -> atom_core::Result<f64> {
    let reports = registry_in(dir).golden()?;
    Ok(reports[0].cosine)
}
