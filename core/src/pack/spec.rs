//! A module's entry in `pack.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::decoder::DecoderSpec;
use super::file_ref::FileRef;
use super::preprocess::PreprocessSpec;
pub use crate::ort::Provider;
use crate::ort::{DType, Dim, ProviderOptions};

/// What a module does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleKind {
    /// Pixels to features.
    VisualEncoder,
    /// Words to a vector.
    TextEncoder,
    /// Tokens to the next token.
    LanguageDecoder,
    /// Token ids to the decoder's input embeddings.
    TokenEmbedding,
    /// Features to the decoder's input embeddings.
    Connector,
    /// Pixels to boxes.
    Detector,
    /// Rows of pictures and words to the states that a decoder attends to.
    Encoder,
}

impl ModuleKind {
    /// The name in manifests and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::VisualEncoder => "visual-encoder",
            Self::TextEncoder => "text-encoder",
            Self::LanguageDecoder => "language-decoder",
            Self::TokenEmbedding => "token-embedding",
            Self::Connector => "connector",
            Self::Detector => "detector",
            Self::Encoder => "encoder",
        }
    }
}

/// Precision of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    Fp32,
    /// 16-bit floats.
    Fp16,
    /// 8-bit integers.
    Int8,
    /// 4-bit integers.
    Int4,
}

impl Precision {
    /// The name in manifests and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }
}

/// What happens when the preferred provider cannot run a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// An error.
    Require,
    /// The next one of the list, with a warning.
    Prefer,
    /// The next one of the list, else the processor.
    #[default]
    Allow,
}

/// How a module is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadPath {
    /// From its optimised, prepacked form in the artifact cache, made at the first load.
    Prepacked,
    /// As it lies in the pack.
    #[default]
    Plain,
}

/// What an output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The search vector.
    Embedding,
    /// Class probabilities.
    Posteriors,
    /// What a connector reads: `[batch, D]` or `[batch, N, D]`.
    Features,
    /// Nothing a task reads.
    #[default]
    None,
}

/// A declared port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// Name in the graph.
    pub name: String,
    /// Type of the elements.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Vec<Dim>,
    /// Outputs only: what it means.
    #[serde(default)]
    pub role: Role,
}

/// A module.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleSpec {
    /// Its name in the pack.
    pub id: String,
    /// What it does.
    pub kind: ModuleKind,
    /// The ONNX graph.
    pub model: FileRef,
    /// The graph's external data.
    #[serde(default)]
    pub data: Vec<FileRef>,
    /// Precision of the weights.
    pub precision: Precision,
    /// Providers, preferred first.
    #[serde(default = "cpu_only")]
    pub providers: Vec<Provider>,
    /// What happens when the preferred one cannot run it.
    #[serde(default)]
    pub policy: Policy,
    /// How it is loaded.
    #[serde(default)]
    pub load: LoadPath,
    /// What it reads. A language decoder may leave out the ports that follow from `decoder`.
    #[serde(default)]
    pub inputs: Vec<PortSpec>,
    /// What it writes; as `inputs`.
    #[serde(default)]
    pub outputs: Vec<PortSpec>,
    /// Visual encoder, detector: how pixels become the input.
    pub preprocess: Option<PreprocessSpec>,
    /// Text encoder, language decoder: how words become tokens.
    pub tokenizer: Option<TokenizerSpec>,
    /// Language decoder: its dimensions.
    pub decoder: Option<DecoderSpec>,
    /// Detector: labels and thresholds.
    pub detector: Option<DetectorSpec>,
    /// A known input and its output. Providers other than the processor serve no module without one.
    pub golden: Option<GoldenSpec>,
    /// Options of the providers.
    #[serde(default)]
    pub options: BTreeMap<Provider, ProviderOptions>,
    /// Other forms of the module, for providers that want one.
    #[serde(default, rename = "variant")]
    pub variants: Vec<VariantSpec>,
    /// Sizes of dimensions that the graph leaves open: those of the variant in use.
    #[serde(skip)]
    pub fixed: BTreeMap<String, usize>,
}

/// A form of a module for certain providers: the same ports, other weights.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantSpec {
    /// Providers that use it in place of the module's own form.
    pub providers: Vec<Provider>,
    /// The ONNX graph.
    pub model: FileRef,
    /// The graph's external data.
    #[serde(default)]
    pub data: Vec<FileRef>,
    /// Precision of the weights.
    pub precision: Precision,
    /// Sizes for dimensions that the module's ports name: NPUs compile for fixed shapes.
    #[serde(default)]
    pub fixed: BTreeMap<String, usize>,
    /// A known input and its output, and how near this form must come; the module's own when absent.
    pub golden: Option<GoldenSpec>,
}

fn cpu_only() -> Vec<Provider> {
    vec![Provider::Cpu]
}

/// How words become tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSpec {
    /// A Hugging Face `tokenizer.json`.
    pub file: FileRef,
    /// Longest input in tokens.
    pub max_tokens: usize,
    /// Text encoder: every text is padded to so many tokens. Absent: a text is as long as it is, unless the graph's input has a
    /// fixed length.
    pub pad_to: Option<usize>,
    /// Text encoder: the token that fills; the tokenizer's own when absent.
    pub pad_id: Option<u32>,
    /// The text is put in lower case before it is tokenized.
    #[serde(default)]
    pub lowercase: bool,
    /// The last token of a text that was cut. Absent: the tokenizer's post-processor keeps its tokens around the cut text.
    pub end_id: Option<u32>,
}

/// A detector's labels and thresholds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorSpec {
    /// Names of the classes.
    pub labels: Vec<String>,
    /// Score below which a box is dropped.
    pub min_score: f32,
    /// Overlap above which the weaker of two boxes is dropped.
    pub nms_iou: f32,
}

/// A known input and its output.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenSpec {
    /// Smallest cosine between what a declared output should be and what it is.
    pub cosine: f64,
    /// What goes in; ports of a cache that are not given start empty.
    pub inputs: Vec<GoldenPort>,
    /// What comes out.
    pub outputs: Vec<GoldenPort>,
}

/// A tensor of a golden run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenPort {
    /// The port.
    pub port: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Raw little-endian elements of the port's type.
    pub file: FileRef,
}

impl ModuleSpec {
    /// Every file of the module.
    pub fn files(&self) -> impl Iterator<Item = &FileRef> {
        let tokenizer = self.tokenizer.iter().map(|tokenizer| &tokenizer.file);
        let template = self
            .decoder
            .iter()
            .filter_map(|decoder| decoder.chat_template.as_ref());
        let goldens = self.golden.iter();
        let goldens = goldens.chain(self.variants.iter().filter_map(|v| v.golden.as_ref()));
        let golden = goldens.flat_map(|golden| {
            let ports = golden.inputs.iter().chain(&golden.outputs);
            ports.map(|port| &port.file)
        });
        self.weights()
            .chain(self.variants.iter().flat_map(VariantSpec::weights))
            .chain(tokenizer)
            .chain(template)
            .chain(golden)
    }

    /// The options of `provider`.
    pub fn options_of(&self, provider: Provider) -> ProviderOptions {
        self.options.get(&provider).cloned().unwrap_or_default()
    }

    /// The files a session is made from.
    pub fn weights(&self) -> impl Iterator<Item = &FileRef> {
        std::iter::once(&self.model).chain(&self.data)
    }

    /// The declared input called `name`.
    pub fn input(&self, name: &str) -> Option<&PortSpec> {
        self.inputs.iter().find(|port| port.name == name)
    }

    /// The declared output called `name`.
    pub fn output(&self, name: &str) -> Option<&PortSpec> {
        self.outputs.iter().find(|port| port.name == name)
    }

    /// The first declared output with this role.
    pub fn output_with(&self, role: Role) -> Option<&PortSpec> {
        self.outputs.iter().find(|port| port.role == role)
    }

    /// Size of the module's graph and weights on disk.
    pub fn bytes(&self) -> u64 {
        self.weights().map(|file| file.bytes).sum()
    }

    /// Length of the vectors of the output with role `embedding`, if it is fixed.
    pub fn embedding_dim(&self) -> Option<usize> {
        match self.output_with(Role::Embedding)?.shape.last()? {
            Dim::Fixed(dim) => Some(*dim),
            Dim::Symbolic(_) => None,
        }
    }
}
