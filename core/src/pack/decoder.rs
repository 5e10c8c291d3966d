//! `[module.decoder]`: a language decoder's dimensions, and what its graph's ports are called.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::file_ref::FileRef;
use super::generation::GenerationSpec;
use crate::ort::DType;

/// What stands for the layer's number in a [`LayerName`].
pub(super) const LAYER: &str = "%d";

/// How a decoder keeps keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvForm {
    /// One buffer of `[1, kv_heads, capacity, head_dim]` is past and present.
    Shared,
    /// Past grows by concatenation.
    Concat,
}

/// A language decoder's dimensions and ports.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderSpec {
    /// Layers.
    pub layers: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Length of a head.
    pub head_dim: usize,
    /// Entries of the logits.
    pub vocab: usize,
    /// Longest context in tokens.
    pub context: usize,
    /// How keys and values are kept.
    pub kv: KvForm,
    /// Their type: f32 or f16.
    pub kv_dtype: DType,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end it.
    pub eos: Vec<u32>,
    /// The first tokens of every text of an encoder-decoder model; others begin with the prompt.
    #[serde(default)]
    pub start: Vec<u32>,
    /// A Jinja chat template.
    pub chat_template: Option<FileRef>,
    /// The most rows of a step that reads the cache; no limit if absent. A graph whose cache branch was traced with one new
    /// token needs 1, because it applies no causal mask among new rows.
    pub cached_rows: Option<usize>,
    /// The position of the first row.
    #[serde(default)]
    pub first_position: u32,
    /// Names of ports that differ from Hugging Face Optimum's.
    #[serde(default)]
    pub ports: DecoderPorts,
    /// Inputs with a fixed value, by name.
    #[serde(default)]
    pub constants: BTreeMap<String, Constant>,
    /// How texts are generated unless the caller says otherwise.
    #[serde(default)]
    pub generation: GenerationSpec,
    /// Whether a row depends on no row after it, so that a prompt fed in steps gives what it gives at once. A dynamically quantised
    /// decoder is not exact: its activations are scaled by all rows of a step. Prompts of such a decoder are fed in one step and
    /// share no prefix.
    #[serde(default = "exact")]
    pub exact_prefix: bool,
}

fn exact() -> bool {
    true
}

/// The name of a port that every layer has, such as `past_key_values.%d.key`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(transparent)]
pub struct LayerName(String);

impl LayerName {
    /// The pattern `text`, in which `%d` stands for the layer's number.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The pattern itself.
    pub fn pattern(&self) -> &str {
        &self.0
    }

    /// The port's name in layer `layer`.
    pub fn at(&self, layer: usize) -> String {
        self.0.replacen(LAYER, &layer.to_string(), 1)
    }

    /// The digits that stand for the layer's number in `name`, if it follows the pattern.
    pub fn digits<'a>(&self, name: &'a str) -> Option<&'a str> {
        let (before, after) = self.0.split_once(LAYER)?;
        let digits = name.strip_prefix(before)?.strip_suffix(after)?;
        let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        all.then_some(digits)
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names of the ports of a decoder's graph. A port without a name here has the name that Hugging Face Optimum gives it. A port
/// with a name here must exist.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecoderPorts {
    /// Token ids.
    pub input_ids: Option<String>,
    /// Rows of input embeddings, in place of token ids.
    pub inputs_embeds: Option<String>,
    /// Ones: one for each position in the cache and each new one.
    pub attention_mask: Option<String>,
    /// The positions of the new rows: one coordinate, or three for M-RoPE.
    pub position_ids: Option<String>,
    /// An encoder's output.
    pub encoder_hidden_states: Option<String>,
    /// Ones: one for each row of `encoder_hidden_states`.
    pub encoder_attention_mask: Option<String>,
    /// Whether the cache is read: false in the first step.
    pub use_cache_branch: Option<String>,
    /// How many of the last rows get logits.
    pub num_logits_to_keep: Option<String>,
    /// The logits.
    pub logits: Option<String>,
    /// Keys of the positions so far.
    pub past_key: Option<LayerName>,
    /// Values of the positions so far.
    pub past_value: Option<LayerName>,
    /// Keys with those of the new positions.
    pub present_key: Option<LayerName>,
    /// Values with those of the new positions.
    pub present_value: Option<LayerName>,
    /// Keys of the encoder's rows, as the first step made them.
    pub cross_past_key: Option<LayerName>,
    /// Values of the encoder's rows, as the first step made them.
    pub cross_past_value: Option<LayerName>,
    /// Keys of the encoder's rows, made by the first step.
    pub cross_present_key: Option<LayerName>,
    /// Values of the encoder's rows, made by the first step.
    pub cross_present_value: Option<LayerName>,
}

impl DecoderPorts {
    /// The name that `key` gives, if any.
    pub(crate) fn name(&self, key: &str) -> Option<&str> {
        let names = self.names();
        names.into_iter().find(|(own, _)| *own == key)?.1
    }

    /// The name of a cache's ports that `key` gives, if any.
    pub(crate) fn pattern(&self, key: &str) -> Option<&LayerName> {
        let patterns = self.patterns();
        patterns.into_iter().find(|(own, _)| *own == key)?.1
    }

    pub(super) fn names(&self) -> [(&'static str, Option<&str>); 9] {
        [
            ("input_ids", self.input_ids.as_deref()),
            ("inputs_embeds", self.inputs_embeds.as_deref()),
            ("attention_mask", self.attention_mask.as_deref()),
            ("position_ids", self.position_ids.as_deref()),
            (
                "encoder_hidden_states",
                self.encoder_hidden_states.as_deref(),
            ),
            (
                "encoder_attention_mask",
                self.encoder_attention_mask.as_deref(),
            ),
            ("use_cache_branch", self.use_cache_branch.as_deref()),
            ("num_logits_to_keep", self.num_logits_to_keep.as_deref()),
            ("logits", self.logits.as_deref()),
        ]
    }

    pub(super) fn patterns(&self) -> [(&'static str, Option<&LayerName>); 8] {
        [
            ("past_key", self.past_key.as_ref()),
            ("past_value", self.past_value.as_ref()),
            ("present_key", self.present_key.as_ref()),
            ("present_value", self.present_value.as_ref()),
            ("cross_past_key", self.cross_past_key.as_ref()),
            ("cross_past_value", self.cross_past_value.as_ref()),
            ("cross_present_key", self.cross_present_key.as_ref()),
            ("cross_present_value", self.cross_present_value.as_ref()),
        ]
    }
}

/// A number, or true or false.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(
    untagged,
    expecting = "a constant is a number, true or false, or a list of these"
)]
pub enum Scalar {
    /// True or false.
    Flag(bool),
    /// A whole number.
    Whole(i64),
    /// Any other number.
    Number(f64),
}

/// The fixed value of an input.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    untagged,
    expecting = "a constant is a number, true or false, or a list of these"
)]
pub enum Constant {
    /// The same for every element.
    One(Scalar),
    /// Each element, in row-major order.
    Each(Vec<Scalar>),
}

// The numbers are finite.
impl Eq for Constant {}

impl Constant {
    pub(crate) fn scalars(&self) -> &[Scalar] {
        match self {
            Self::One(scalar) => std::slice::from_ref(scalar),
            Self::Each(scalars) => scalars,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layers_name_gives_the_layer_and_is_recognised_by_it() {
        let name = LayerName::new("past.%d.key");
        assert_eq!(name.at(12), "past.12.key");
        assert_eq!(name.digits("past.12.key"), Some("12"));
        for other in [
            "past..key",
            "past.x.key",
            "past.-1.key",
            "past.1.value",
            "past.1",
        ] {
            assert_eq!(name.digits(other), None);
        }
        // Both ends overlap in a name that is too short.
        assert_eq!(LayerName::new("aa%daa").digits("aaa"), None);
    }
}
