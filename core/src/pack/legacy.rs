//! Identities as Atom computed them before it had a canonical encoding: SHA-256 over Rust's debug text of the manifest's
//! structs. Stores of format 2 and their captions carry these hashes, and are recognised by them once.
//!
//! Everything here is frozen. The texts are written out, so that renaming a type or adding a field changes none of them, and
//! tests pin hashes that the old Atom itself has written. Only strings and floats still go through Rust's own `{:?}`.

use std::fmt::Write;

use sha2::{Digest as _, Sha256};

use super::decoder::{DecoderSpec, KvForm};
use super::file_ref::FileRef;
use super::manifest::{Manifest, Task};
use super::preprocess::{Fit, Layout, Order, PreprocessSpec, Resample};
use super::spec::{DetectorSpec, ModuleKind, ModuleSpec, PortSpec, Precision, Role};
use crate::error::Result;
use crate::identity::Digest;
use crate::ort::{DType, Dim};

/// Hashes by which a store of format 2 names what made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyIdentity {
    /// Of all that the index task runs, detectors too.
    pub store: Digest,
    /// Of the encoder's forms, in the order of [`IndexIdentity::forms`](super::IndexIdentity::forms).
    pub forms: Vec<Digest>,
    /// Of the maker of captions; `None` in a pack that cannot caption, or words captions in another way now.
    pub captions: Option<Digest>,
}

impl Manifest {
    /// How a store of format 2 would name this pack; `None` for a pack that cannot index.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a module the pack lacks.
    pub fn legacy_identity(&self) -> Result<Option<LegacyIdentity>> {
        let tasks = &self.tasks;
        let Some(index) = &tasks.index else {
            return Ok(None);
        };
        let encoder = self.module(&index.visual_encoder)?;
        let mut store = Sha256::new();
        hash_module(&mut store, encoder);
        for detector in &index.detectors {
            hash_module(&mut store, self.module(detector)?);
        }
        let own = hash_form(&encoder.model, &encoder.data);
        let variants = encoder.variants.iter();
        let variants = variants.map(|variant| hash_form(&variant.model, &variant.data));
        Ok(Some(LegacyIdentity {
            store: Digest(store.finalize().into()),
            forms: std::iter::once(own).chain(variants).collect(),
            captions: match tasks.caption {
                Some(_) => caption_maker(self)?,
                None => None,
            },
        }))
    }
}

/// `ModuleSpec::variant` of format 2.
fn hash_form(model: &FileRef, data: &[FileRef]) -> Digest {
    let mut hash = Sha256::new();
    for file in std::iter::once(model).chain(data) {
        hash.update(file.sha256.as_bytes());
    }
    Digest(hash.finalize().into())
}

/// `ModuleSpec::hash_identity` of format 2.
fn hash_module(hash: &mut Sha256, module: &ModuleSpec) {
    let variants = module.variants.iter().map(|v| (&v.model, &v.data));
    for (model, data) in std::iter::once((&module.model, &module.data)).chain(variants) {
        for file in std::iter::once(model).chain(data) {
            hash.update(file.sha256.as_bytes());
        }
    }
    if let Some(tokenizer) = &module.tokenizer {
        hash.update(tokenizer.file.sha256.as_bytes());
    }
    let kind = match module.kind {
        ModuleKind::VisualEncoder => "VisualEncoder",
        ModuleKind::TextEncoder => "TextEncoder",
        ModuleKind::LanguageDecoder => "LanguageDecoder",
        ModuleKind::TokenEmbedding => "TokenEmbedding",
        ModuleKind::Connector => "Connector",
        ModuleKind::Detector => "Detector",
        ModuleKind::Encoder => "Encoder",
    };
    let precision = match module.precision {
        Precision::Fp32 => "Fp32",
        Precision::Fp16 => "Fp16",
        Precision::Int8 => "Int8",
        Precision::Int4 => "Int4",
    };
    let tokens = module.tokenizer.as_ref().map(|t| t.max_tokens.to_string());
    hash.update(format!(
        "({kind}, {precision}, {}, {}, {}, {}, {})",
        list(&module.inputs, port),
        list(&module.outputs, port),
        option(module.preprocess.as_ref().map(preprocess)),
        option(module.detector.as_ref().map(detector)),
        option(tokens),
    ));
}

/// What task/caption.rs of format 2 hashed, at wording 2, for a pack that now has a captioner of kind `vlm`. `None` for other
/// kinds: they word captions in another way now.
fn caption_maker(manifest: &Manifest) -> Result<Option<Digest>> {
    let Some(captioner) = &manifest.captioner else {
        return Ok(None);
    };
    if captioner.kind != "vlm" {
        return Ok(None);
    }
    let mut hash = Sha256::new();
    hash.update("caption 2 Prefix");
    let modules = [
        &captioner.language_decoder,
        &captioner.token_embedding,
        &captioner.connector,
    ];
    for id in modules.into_iter().flatten() {
        let module = manifest.module(id)?;
        hash_module(&mut hash, module);
        hash.update(option(module.decoder.as_ref().map(decoder)));
    }
    let prompt = manifest.tasks.prompt(Task::Caption);
    let text = |text: Option<&str>| option(text.map(|text| format!("{text:?}")));
    hash.update(format!(
        "({}, {})",
        text(captioner.image_token.as_deref()),
        text(prompt)
    ));
    Ok(Some(Digest(hash.finalize().into())))
}

fn option(value: Option<String>) -> String {
    value.map_or_else(|| "None".to_owned(), |value| format!("Some({value})"))
}

fn list<T>(values: &[T], text: impl Fn(&T) -> String) -> String {
    let mut out = String::from("[");
    for (at, value) in values.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(out, "{comma}{}", text(value));
    }
    out + "]"
}

fn dtype(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::I64 => "I64",
        DType::I32 => "I32",
        DType::U8 => "U8",
        DType::I8 => "I8",
        DType::Bool => "Bool",
    }
}

fn port(port: &PortSpec) -> String {
    let role = match port.role {
        Role::Embedding => "Embedding",
        Role::Posteriors => "Posteriors",
        Role::Features => "Features",
        Role::None => "None",
    };
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => format!("Fixed({size})"),
        Dim::Symbolic(name) => format!("Symbolic({name:?})"),
    };
    format!(
        "PortSpec {{ name: {:?}, dtype: {}, shape: {}, role: {role} }}",
        port.name,
        dtype(port.dtype),
        list(&port.shape, dim),
    )
}

fn preprocess(spec: &PreprocessSpec) -> String {
    let resample = match spec.resample {
        // No pack of that time had these.
        Resample::Nearest => "Nearest",
        Resample::Box => "Box",
        Resample::Hamming => "Hamming",
        Resample::Bilinear => "Bilinear",
        Resample::Bicubic => "Bicubic",
        Resample::Lanczos3 => "Lanczos3",
    };
    let views = list(&spec.views, |view| {
        let fit = match view.fit {
            Fit::Crop => "Crop",
            Fit::Stretch => "Stretch",
            Fit::Pad => "Pad",
        };
        format!("ViewSpec {{ fit: {fit}, fraction: {:?} }}", view.fraction)
    });
    let layout = match spec.layout {
        Layout::Nchw => "Nchw",
        Layout::Nhwc => "Nhwc",
    };
    let order = match spec.order {
        Order::Rgb => "Rgb",
        Order::Bgr => "Bgr",
    };
    format!(
        "PreprocessSpec {{ width: {}, height: {}, resample: {resample}, views: {views}, mean: {:?}, std: {:?}, \
         layout: {layout}, order: {order} }}",
        spec.width, spec.height, spec.mean, spec.std,
    )
}

fn detector(spec: &DetectorSpec) -> String {
    format!(
        "DetectorSpec {{ labels: {:?}, min_score: {:?}, nms_iou: {:?} }}",
        spec.labels, spec.min_score, spec.nms_iou
    )
}

fn decoder(spec: &DecoderSpec) -> String {
    let kv = match spec.kv {
        KvForm::Shared => "Shared",
        KvForm::Concat => "Concat",
    };
    let template = spec.chat_template.as_ref().map(|file| {
        format!(
            "FileRef {{ file: {:?}, sha256: {:?}, bytes: {} }}",
            file.file, file.sha256, file.bytes
        )
    });
    format!(
        "DecoderSpec {{ layers: {}, kv_heads: {}, head_dim: {}, vocab: {}, context: {}, kv: {kv}, kv_dtype: {}, \
         bos: {:?}, eos: {:?}, chat_template: {} }}",
        spec.layers,
        spec.kv_heads,
        spec.head_dim,
        spec.vocab,
        spec.context,
        dtype(spec.kv_dtype),
        spec.bos,
        spec.eos,
        option(template),
    )
}
