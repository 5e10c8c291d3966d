//! Folders of exported models: those of the tests, one as onnxruntime-genai lays them out and one as transformers 5 does.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::edits::{self, Bytes};
use crate::{files, fixtures};

/// An export in a folder of its own.
pub struct Export {
    /// Where it is.
    pub dir: PathBuf,
    /// Its configurations: what is changed, by their paths in the folder.
    pub texts: Vec<(String, Vec<u8>)>,
}

/// Every export, written to the folder for temporary files once.
pub struct Exports {
    /// In a fixed order: inputs name them by number.
    pub all: Vec<Export>,
    words: Vec<String>,
}

/// What each export consists of, in the order of [`Exports::all`].
///
/// # Panics
/// When the checkout is not complete.
pub fn contents() -> Vec<Vec<(String, Vec<u8>)>> {
    let export = |name: &str| files(&fixtures().join("exports").join(name).join("export"));
    let mut all: Vec<_> = [
        "clip-tiny",
        "clip-tiny-optimum",
        "siglip-tiny",
        "smolvlm-tiny",
        "smolvlm2-tiny",
        "llava-tiny",
        "florence2-tiny",
        "vit-gpt2-tiny",
    ]
    .into_iter()
    .map(export)
    .collect();
    all.push(genai(export("smolvlm2-tiny")));
    all.push(transformers_5(export("smolvlm2-tiny")));
    all
}

/// `export` as onnxruntime-genai has it.
fn genai(export: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let mut made: Vec<_> = export
        .into_iter()
        .filter(|(name, _)| !name.contains("_fp16"))
        .map(|(name, content)| (name.trim_start_matches("onnx/").to_owned(), content))
        .collect();
    let index = json!({
        "model": {
            "type": "smolvlm",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "context_length": 512,
            "decoder": {
                "filename": "decoder_model_merged.onnx",
                "head_size": 8,
                "num_key_value_heads": 1,
                "inputs": {
                    "inputs_embeds": "inputs_embeds",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
            "embedding": {
                "filename": "embed_tokens.onnx",
                "inputs": {"input_ids": "input_ids"},
                "outputs": {"inputs_embeds": "inputs_embeds"},
            },
            "vision": {
                "filename": "vision_encoder.onnx",
                "inputs": {"pixel_values": "pixel_values"},
                "outputs": {"image_features": "image_features"},
            },
        },
        "search": {"do_sample": false, "num_beams": 1, "max_length": 512, "temperature": 1.0},
    });
    made.push((
        "genai_config.json".to_owned(),
        index.to_string().into_bytes(),
    ));
    made
}

/// `export` as transformers 5 saves its configurations.
fn transformers_5(export: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let json = |name: &str| -> Value {
        let found = export.iter().find(|(own, _)| own == name);
        serde_json::from_slice(&found.unwrap().1).unwrap()
    };
    let mut processor = json("processor_config.json");
    processor["image_processor"] = json("preprocessor_config.json");
    processor["video_processor"] =
        json!({"fps": 1, "num_frames": 64, "size": {"longest_edge": 64}});
    let template = json("chat_template.json")["chat_template"].clone();
    let gone = ["preprocessor_config.json", "chat_template.json"];
    let mut made: Vec<_> = export
        .into_iter()
        .filter(|(name, _)| !gone.contains(&name.as_str()))
        .collect();
    for (name, content) in &mut made {
        if name == "processor_config.json" {
            *content = processor.to_string().into_bytes();
        }
    }
    let template = template.as_str().unwrap().as_bytes().to_vec();
    made.push(("chat_template.jinja".to_owned(), template));
    made
}

/// Whether the file `name` is changed.
pub fn is_text(name: &str) -> bool {
    name.ends_with(".json") || name.ends_with(".jinja")
}

impl Exports {
    /// Writes every export.
    ///
    /// # Panics
    /// When the checkout is not complete or nothing can be written.
    pub fn write() -> Self {
        let top = std::env::temp_dir().join(format!("exports-{}", std::process::id()));
        let mut words = BTreeSet::new();
        let mut all = Vec::new();
        for (number, content) in contents().into_iter().enumerate() {
            let dir = top.join(number.to_string()).join("model");
            for (name, content) in &content {
                let path = dir.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
                if let Ok(value) = serde_json::from_slice(content) {
                    edits::words(&value, &mut words);
                }
            }
            let texts = content.into_iter().filter(|(name, _)| is_text(name));
            all.push(Export {
                dir,
                texts: texts.collect(),
            });
        }
        let words = words.into_iter().collect();
        Self { all, words }
    }

    /// Makes the folder that `input` describes, gives it to `call` and restores it. The first byte chooses the export, the second
    /// a file. If the third is even, the rest is that file's content; otherwise the rest is a list of changes.
    ///
    /// # Panics
    /// When nothing can be written.
    pub fn with(&self, input: &[u8], call: impl FnOnce(&Export)) {
        let mut bytes = Bytes(input);
        let Some([export, file, mode]) = bytes.some() else {
            return;
        };
        let export = &self.all[usize::from(export) % self.all.len()];
        let file = usize::from(file) % export.texts.len();
        let mut changed = vec![(file, None)];
        if mode % 2 == 0 {
            changed[0].1 = Some(bytes.0.to_vec());
        } else {
            let mut file = file;
            for _ in 0..8 {
                let mut value = match changed.iter().find(|(own, _)| *own == file) {
                    Some((_, Some(content))) => serde_json::from_slice(content),
                    _ => serde_json::from_slice(&export.texts[file].1),
                }
                .unwrap_or_else(|_| json!("a template"));
                let done = edits::change(&mut value, &mut bytes, &self.words);
                let text = match &value {
                    Value::String(text) if export.texts[file].0.ends_with(".jinja") => text.clone(),
                    value => value.to_string(),
                };
                changed.retain(|(own, _)| *own != file);
                changed.push((file, Some(text.into_bytes())));
                let next = bytes.one();
                let (Some(()), Some(next)) = (done, next) else {
                    break;
                };
                file = usize::from(next) % export.texts.len();
            }
        }
        let path = |file: usize| export.dir.join(&export.texts[file].0);
        for (file, content) in &changed {
            if let Some(content) = content {
                fs::write(path(*file), content).unwrap();
            }
        }
        call(export);
        for (file, _) in &changed {
            fs::write(path(*file), &export.texts[*file].1).unwrap();
        }
    }
}
