//! What a pack will hold, before a file is written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use atom_core::ort::Port;
use atom_core::pack::Precision;

use crate::report::Notes;

/// A step from a picture to pixels, as `[module.preprocess]` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Squash {
        width: usize,
        height: usize,
    },
    ShortestEdge {
        size: usize,
        longest: Option<usize>,
    },
    CenterCrop {
        width: usize,
        height: usize,
    },
    LongestEdge {
        size: usize,
        even: bool,
        most: usize,
    },
    Tiles {
        size: usize,
    },
}

impl Step {
    /// Width and height after the step, if it decides them.
    pub(crate) fn size(&self) -> Option<(usize, usize)> {
        match *self {
            Self::Squash { width, height } | Self::CenterCrop { width, height } => {
                Some((width, height))
            }
            Self::Tiles { size } => Some((size, size)),
            Self::ShortestEdge { .. } | Self::LongestEdge { .. } => None,
        }
    }
}

/// `[module.preprocess]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Preprocess {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rescale: f64,
    pub(crate) mean: [f64; 3],
    pub(crate) std: [f64; 3],
    pub(crate) resample: &'static str,
    pub(crate) steps: Vec<Step>,
    pub(crate) pixel_mask: Option<String>,
    pub(crate) video: Option<Video>,
}

/// How frames of a video are chosen and become pixels.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Video {
    pub(crate) steps: Vec<Step>,
    pub(crate) resample: &'static str,
    pub(crate) fps: f64,
    pub(crate) max_frames: usize,
}

/// A file to write beside the graphs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Extra {
    /// Its path in the pack.
    pub(crate) target: String,
    pub(crate) content: Vec<u8>,
}

/// `[module.tokenizer]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Words {
    pub(crate) file: Extra,
    pub(crate) max_tokens: usize,
    pub(crate) pad_to: Option<usize>,
    pub(crate) pad_id: Option<u32>,
    pub(crate) lowercase: bool,
    pub(crate) end_id: Option<u32>,
}

/// `[module.decoder.generation]`: numbers and flags by key, as TOML text.
pub(crate) type Generation = BTreeMap<&'static str, String>;

/// `[module.decoder]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decoder {
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
    pub(crate) context: usize,
    pub(crate) shared: bool,
    pub(crate) kv_dtype: &'static str,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Vec<u32>,
    pub(crate) start: Vec<u32>,
    pub(crate) chat_template: Option<Extra>,
    pub(crate) cached_rows: Option<usize>,
    pub(crate) first_position: u32,
    pub(crate) exact_prefix: bool,
    pub(crate) ports: BTreeMap<&'static str, String>,
    pub(crate) generation: Generation,
}

/// A part of a graph that becomes a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
}

/// Where a module's graph is from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Source {
    /// Its path in the pack.
    pub(crate) target: String,
    /// The file as the user knows it.
    pub(crate) shown: String,
    /// The file itself, through links.
    pub(crate) file: PathBuf,
    /// Only this part of it.
    pub(crate) cut: Option<Cut>,
    /// Files of external weights: the location that the graph names, and the file.
    pub(crate) data: Vec<(String, PathBuf)>,
    /// The same part of the same graph in the best precision there is, to compare with.
    pub(crate) best: Option<Box<Source>>,
    /// Operators that ONNX does not define.
    pub(crate) foreign: Vec<String>,
}

impl Source {
    /// Where the files of external weights will lie in the pack, in their order.
    pub(crate) fn data_targets(&self) -> Vec<String> {
        let place = self
            .target
            .rsplit_once('/')
            .map_or(String::new(), |(place, _)| format!("{place}/"));
        let target = |(location, _): &(String, PathBuf)| {
            format!("{place}{}", location.trim_start_matches("./"))
        };
        self.data.iter().map(target).collect()
    }
}

/// A module.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Module {
    pub(crate) id: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) source: Source,
    pub(crate) precision: Precision,
    /// For the report.
    pub(crate) form: &'static str,
    pub(crate) inputs: Vec<Port>,
    /// Each with its role, if it has one.
    pub(crate) outputs: Vec<(Port, Option<&'static str>)>,
    pub(crate) preprocess: Option<Preprocess>,
    pub(crate) words: Option<Words>,
    pub(crate) decoder: Option<Decoder>,
}

/// `[captioner]` of kind `vlm`.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Captioner {
    pub(crate) visual_encoder: &'static str,
    pub(crate) connector: Option<&'static str>,
    pub(crate) token_embedding: Option<&'static str>,
    pub(crate) encoder: Option<&'static str>,
    pub(crate) language_decoder: &'static str,
    pub(crate) image_token: Option<String>,
    pub(crate) video_token: Option<String>,
    pub(crate) content: Option<&'static str>,
    pub(crate) add_special_tokens: Option<bool>,
    pub(crate) image_prompt: Option<Extra>,
    pub(crate) video_prompt: Option<Extra>,
    pub(crate) video: Option<(f64, usize)>,
}

/// `[tasks]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Tasks {
    /// The module that encodes keyframes.
    pub(crate) index: Option<&'static str>,
    pub(crate) search: Option<Search>,
    pub(crate) caption: Option<Prompts>,
    pub(crate) ask: Option<String>,
}

/// `[tasks.search]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Search {
    pub(crate) text_encoder: &'static str,
    pub(crate) query_template: String,
    pub(crate) min_score: f64,
}

/// `[tasks.caption]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Prompts {
    pub(crate) prompt: String,
    pub(crate) named: BTreeMap<String, String>,
}

/// A pack.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) id: String,
    pub(crate) licence: String,
    pub(crate) description: String,
    pub(crate) tasks: Tasks,
    pub(crate) captioner: Option<Captioner>,
    pub(crate) modules: Vec<Module>,
    pub(crate) notes: Notes,
}
