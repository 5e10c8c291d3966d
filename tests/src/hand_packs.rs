//! Packs written by hand around the exports' decoders: they caption and answer from given features.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use atom_core::features::{FeatureMap, Features, Grid};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::exports::{export, npy};

/// The features of one picture as the expected outputs hold them: `[rows, width]` or `[pictures, rows, width]`.
///
/// # Panics
/// When the file is no such array.
pub fn features(name: &str, relative: &str, grid: Grid) -> Features {
    let (shape, data) = npy(&export(name).join("expected").join(relative));
    let (pictures, rows, dim) = match shape[..] {
        [rows, dim] => (1, rows, dim),
        [pictures, rows, dim] => (pictures, rows, dim),
        _ => panic!("{relative} is of shape {shape:?}"),
    };
    Features {
        map: FeatureMap {
            rows: pictures * rows,
            dim,
            data,
            grid,
            pictures,
        },
        ..Features::default()
    }
}

/// A pack that is being written by hand: files of an export, linked or copied, and a `pack.toml`.
#[derive(Debug)]
pub struct HandPack {
    dir: PathBuf,
    export: PathBuf,
    /// The manifest so far.
    pub toml: String,
}

impl HandPack {
    /// A pack in folder `dir`, of files of export `name`.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn new(dir: &Path, name: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let toml = format!("schema = 1\nid = {name:?}\nversion = \"1\"\nlicence = \"MIT\"\n");
        Self {
            dir: dir.to_owned(),
            export: export(name).join("export"),
            toml,
        }
    }

    /// Adds file `name` of the export to the pack; what a manifest says of it.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn export(&self, name: &str) -> String {
        let bytes = std::fs::read(self.export.join(name));
        let bytes = bytes.unwrap_or_else(|error| panic!("{name}: {error}"));
        self.write(name.rsplit('/').next().unwrap_or(name), &bytes)
    }

    /// Adds a file; what a manifest says of it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.join(name);
        std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut hex = String::new();
        for byte in Sha256::digest(bytes) {
            let _ = write!(hex, "{byte:02x}");
        }
        format!(
            "{{ file = {name:?}, sha256 = {hex:?}, bytes = {} }}",
            bytes.len()
        )
    }

    /// Writes the manifest.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn finish(&self) -> PathBuf {
        let path = self.dir.join("pack.toml");
        std::fs::write(&path, &self.toml)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.dir.clone()
    }
}

/// What `[captioner.files] image_prompt` of a SmolVLM says.
pub const SMOLVLM_IMAGE_PROMPT: &str = "\
{%- if rows == 0 and cols == 0 -%}
<fake_token_around_image><global-img>{{ image_token * tokens }}<fake_token_around_image>
{%- else -%}
{%- for row in range(1, rows + 1) -%}
{%- for col in range(1, cols + 1) -%}
<fake_token_around_image><row_{{ row }}_col_{{ col }}>{{ image_token * tokens }}
{%- endfor -%}
{{ '\n' }}
{%- endfor -%}
{{ '\n' }}<fake_token_around_image><global-img>{{ image_token * tokens }}<fake_token_around_image>
{%- endif -%}";

/// A pack of the export smolvlm-tiny without its vision encoder, which serves captions and answers of given features. `edit` may
/// change the manifest.
///
/// # Panics
/// When it cannot be written.
pub fn smolvlm(dir: &Path, edit: impl FnOnce(&HandPack, String) -> String) -> PathBuf {
    let mut pack = HandPack::new(dir, "smolvlm-tiny");
    let template: Value = serde_json::from_slice(
        &std::fs::read(pack.export.join("chat_template.json")).unwrap_or_default(),
    )
    .unwrap_or_default();
    let template = template["chat_template"].as_str().unwrap_or_default();
    let (words, decoder, tokenizer) = (
        pack.export("onnx/embed_tokens.onnx"),
        pack.export("onnx/decoder_model_merged.onnx"),
        pack.export("tokenizer.json"),
    );
    let template = pack.write("chat_template.jinja", template.as_bytes());
    let image = pack.write("image_prompt.jinja", SMOLVLM_IMAGE_PROMPT.as_bytes());
    let toml = format!(
        r#"
[captioner]
kind = "vlm"
language_decoder = "decoder"
token_embedding = "words"
image_token = "<image>"
content = "parts"
[captioner.files]
image_prompt = {image}
[tasks.caption]
prompt = "<image>describe this image"
[tasks.caption.prompts]
text-first = "look: <image>describe this image"
two-images = "first <image> second <image> what is in the image ?"
[tasks.ask]
prompt = "<image>{{}}"
[[module]]
id = "words"
kind = "token-embedding"
precision = "fp32"
model = {words}
inputs = [{{ name = "input_ids", dtype = "i64", shape = ["batch", "length"] }}]
outputs = [{{ name = "inputs_embeds", dtype = "f32", shape = ["batch", "length", 32] }}]
[[module]]
id = "decoder"
kind = "language-decoder"
precision = "fp32"
model = {decoder}
[module.tokenizer]
file = {tokenizer}
max_tokens = 8192
[module.decoder]
layers = 2
kv_heads = 1
head_dim = 8
vocab = 360
context = 8192
kv = "concat"
kv_dtype = "f32"
bos = 1
eos = [359]
chat_template = {template}
"#
    );
    pack.toml += &edit(&pack, toml);
    pack.finish()
}

/// A pack of the export florence2-tiny without its vision encoder; as [`smolvlm`].
///
/// # Panics
/// When it cannot be written.
pub fn florence(dir: &Path, edit: impl FnOnce(&HandPack, String) -> String) -> PathBuf {
    let mut pack = HandPack::new(dir, "florence2-tiny");
    let (words, encoder, decoder, tokenizer) = (
        pack.export("onnx/embed_tokens.onnx"),
        pack.export("onnx/encoder_model.onnx"),
        pack.export("onnx/decoder_model_merged.onnx"),
        pack.export("tokenizer.json"),
    );
    let toml = format!(
        r#"
[captioner]
kind = "vlm"
language_decoder = "decoder"
token_embedding = "words"
encoder = "reader"
[tasks.caption]
prompt = "What does the image describe?"
[tasks.caption.prompts]
caption = "What does the image describe?"
detailed-caption = "Describe in detail what is shown in the image."
[tasks.ask]
prompt = "{{}}"
[[module]]
id = "words"
kind = "token-embedding"
precision = "fp32"
model = {words}
inputs = [{{ name = "input_ids", dtype = "i64", shape = ["batch", "length"] }}]
outputs = [{{ name = "inputs_embeds", dtype = "f32", shape = ["batch", "length", 32] }}]
[[module]]
id = "reader"
kind = "encoder"
precision = "fp32"
model = {encoder}
inputs = [
  {{ name = "inputs_embeds", dtype = "f32", shape = ["batch", "length", 32] }},
  {{ name = "attention_mask", dtype = "i64", shape = ["batch", "length"] }},
]
outputs = [{{ name = "last_hidden_state", dtype = "f32", shape = ["batch", "length", 32] }}]
[[module]]
id = "decoder"
kind = "language-decoder"
precision = "fp32"
model = {decoder}
[module.tokenizer]
file = {tokenizer}
max_tokens = 256
[module.decoder]
layers = 2
kv_heads = 4
head_dim = 8
vocab = 329
context = 256
kv = "concat"
kv_dtype = "f32"
cached_rows = 1
bos = 0
eos = [2]
start = [2]
[module.decoder.generation]
beams = 3
no_repeat_ngram = 3
forced_first = 0
forced_last = 2
"#
    );
    pack.toml += &edit(&pack, toml);
    pack.finish()
}

/// A pack of the export vit-gpt2-tiny without its vision encoder; as [`smolvlm`].
///
/// # Panics
/// When it cannot be written.
pub fn vit_gpt2(dir: &Path, edit: impl FnOnce(&HandPack, String) -> String) -> PathBuf {
    let mut pack = HandPack::new(dir, "vit-gpt2-tiny");
    let (decoder, tokenizer) = (
        pack.export("decoder_model_merged.onnx"),
        pack.export("tokenizer.json"),
    );
    let toml = format!(
        r#"
[captioner]
kind = "vlm"
language_decoder = "decoder"
[tasks.caption]
[[module]]
id = "decoder"
kind = "language-decoder"
precision = "fp32"
model = {decoder}
[module.tokenizer]
file = {tokenizer}
max_tokens = 64
[module.decoder]
layers = 2
kv_heads = 4
head_dim = 8
vocab = 301
context = 64
kv = "concat"
kv_dtype = "f32"
cached_rows = 1
bos = 300
eos = [300]
start = [300]
"#
    );
    pack.toml += &edit(&pack, toml);
    pack.finish()
}

/// A pack of the export llava-tiny without its vision encoder; as [`smolvlm`]. Its prompt has no template for pictures.
///
/// # Panics
/// When it cannot be written.
pub fn llava(dir: &Path, edit: impl FnOnce(&HandPack, String) -> String) -> PathBuf {
    let mut pack = HandPack::new(dir, "llava-tiny");
    let config = std::fs::read(pack.export.join("tokenizer_config.json")).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    let template = config["chat_template"].as_str().unwrap_or_default();
    let (words, decoder, tokenizer, template) = (
        pack.export("onnx/embed_tokens.onnx"),
        pack.export("onnx/decoder_model_merged.onnx"),
        pack.export("tokenizer.json"),
        pack.write("chat_template.jinja", template.as_bytes()),
    );
    let toml = format!(
        r#"
[captioner]
kind = "vlm"
language_decoder = "decoder"
token_embedding = "words"
image_token = "<image>"
content = "parts"
[tasks.ask]
prompt = "<image>{{}}"
[[module]]
id = "words"
kind = "token-embedding"
precision = "fp32"
model = {words}
inputs = [{{ name = "input_ids", dtype = "i64", shape = ["batch", "length"] }}]
outputs = [{{ name = "inputs_embeds", dtype = "f32", shape = ["batch", "length", 32] }}]
[[module]]
id = "decoder"
kind = "language-decoder"
precision = "fp32"
model = {decoder}
[module.tokenizer]
file = {tokenizer}
max_tokens = 2048
[module.decoder]
layers = 2
kv_heads = 2
head_dim = 8
vocab = 322
context = 2048
kv = "concat"
kv_dtype = "f32"
bos = 1
eos = [2]
chat_template = {template}
"#
    );
    pack.toml += &edit(&pack, toml);
    pack.finish()
}

/// A pack of the text tower of `export` alone: graph `onnx/text_model.onnx` with output `output` of `width` numbers. `words` are
/// further lines of `[module.tokenizer]`.
///
/// # Panics
/// When it cannot be written.
pub fn text_tower(dir: &Path, export: &str, output: &str, width: usize, words: &str) -> PathBuf {
    let mut pack = HandPack::new(dir, export);
    let (model, tokenizer) = (
        pack.export("onnx/text_model.onnx"),
        pack.export("tokenizer.json"),
    );
    pack.toml += &format!(
        r#"
[[module]]
id = "words"
kind = "text-encoder"
precision = "fp32"
model = {model}
inputs = [{{ name = "input_ids", dtype = "i64", shape = ["batch", "length"] }}]
outputs = [{{ name = {output:?}, dtype = "f32", shape = ["batch", {width}], role = "embedding" }}]
[module.tokenizer]
file = {tokenizer}
{words}
"#
    );
    pack.finish()
}
