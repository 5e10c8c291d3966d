//! A language decoder's graph, port by port. [`DecoderMap`] says what each input reads. It is made from the manifest and the
//! loaded graph. Loading checks a graph by making its map, golden runs take from it the inputs that their files leave out, and a
//! generation feeds every step by it.
//!
//! | port (Optimum's name) | reads |
//! |---|---|
//! | `input_ids`, or `inputs_embeds` | the new rows |
//! | `attention_mask` | ones for the positions so far and the new ones |
//! | `position_ids` | the positions of the new rows; three numbers each for M-RoPE |
//! | `past_key_values.%d.key`, `.value` (or `.%d.decoder.key`) | the `present` of the step before |
//! | `past_key_values.%d.encoder.key`, `.value` | the `present` of the first step |
//! | `encoder_hidden_states`, `encoder_attention_mask` | the encoder's output, the same in every step |
//! | `use_cache_branch` | false in the first step, then true |
//! | `num_logits_to_keep` | 1, or as many rows as logits are wanted for |
//! | any in `[module.decoder.constants]` | the value given there |
//!
//! `[module.decoder.ports]` gives other names. A graph with any other input is refused, and the error names that input.

mod build;
mod constant;
mod feed;
mod golden;
mod names;
mod shape;

pub(crate) use feed::{Step, whole};

use crate::ort::{DType, Dim, Port};
use crate::pack::{Constant, DecoderSpec};

/// What an input reads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// The new tokens.
    TokenIds,
    /// The rows of the new tokens, or of what stands in their place.
    Embeddings,
    /// Ones, one for each position so far and each new one.
    AttentionMask,
    /// The positions of the new rows, of so many coordinates: 1, or 3 for M-RoPE.
    Positions(usize),
    /// The encoder's output.
    EncoderStates,
    /// Ones, one for each row of the encoder's output.
    EncoderMask,
    /// Whether there are positions so far.
    CacheBranch,
    /// How many of the last rows get logits.
    LogitsToKeep,
    /// The manifest's value, in this shape.
    Constant(Constant, Vec<usize>),
    /// Keys or values of the positions so far.
    Past,
    /// Keys or values of the encoder's rows.
    CrossPast,
}

/// An input of the graph, and what it reads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Input {
    pub(crate) port: Port,
    pub(crate) source: Source,
}

/// The names of one layer's keys and values, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerPorts {
    pub(crate) past: [String; 2],
    pub(crate) present: [String; 2],
}

/// How a decoder takes its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// As token ids of this type.
    Ids(DType),
    /// As embeddings of this type and, where the graph fixes it, this width.
    Embeds(DType, Option<usize>),
}

/// A decoder's ports, and what each input reads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DecoderMap {
    /// The graph's file, for errors.
    file: String,
    spec: DecoderSpec,
    /// All inputs, in the graph's order.
    inputs: Vec<Input>,
    /// The port that reads the new rows, and how.
    rows: (String, Rows),
    logits: String,
    layers: Vec<LayerPorts>,
    /// The encoder's keys and values; empty when the graph has no ports for them.
    cross: Vec<LayerPorts>,
}

impl DecoderMap {
    /// The port that reads the new rows, and how.
    pub(crate) fn rows(&self) -> (&str, Rows) {
        (&self.rows.0, self.rows.1)
    }

    /// The input that reads from `source`, if the graph has one.
    pub(crate) fn input(&self, source: &Source) -> Option<&Port> {
        let found = self.inputs.iter().find(|input| input.source == *source)?;
        Some(&found.port)
    }

    /// Whether it attends to an encoder's output.
    pub(crate) fn reads_encoder(&self) -> bool {
        self.input(&Source::EncoderStates).is_some()
    }

    /// Whether a position has three coordinates (M-RoPE).
    pub(crate) fn has_three_positions(&self) -> bool {
        self.input(&Source::Positions(3)).is_some()
    }

    /// The output that holds the logits.
    pub(crate) fn logits(&self) -> &str {
        &self.logits
    }

    /// The ports of each layer's cache.
    pub(crate) fn layers(&self) -> &[LayerPorts] {
        &self.layers
    }

    /// The ports of each layer's keys and values of the encoder's rows; empty when the graph has none.
    pub(crate) fn cross(&self) -> &[LayerPorts] {
        &self.cross
    }

    /// The manifest's table.
    pub(crate) fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The most rows of a step that follows `past` positions; `None` means no limit.
    pub(crate) fn most_rows(&self, past: usize) -> Option<usize> {
        self.spec.cached_rows.filter(|_| past > 0)
    }

    /// Shape of one layer's keys or values of `length` positions.
    pub(crate) fn cache_shape(&self, length: usize) -> [usize; 4] {
        [1, self.spec.kv_heads, length, self.spec.head_dim]
    }

    /// Bytes of all layers' keys and values of `length` positions.
    pub(crate) fn cache_bytes(&self, length: usize) -> u64 {
        self.bytes_of(&self.layers, length)
    }

    /// Bytes of all layers' keys and values of `length` rows of an encoder; 0 when the graph has no ports for them.
    pub(crate) fn cross_bytes(&self, length: usize) -> u64 {
        self.bytes_of(&self.cross, length)
    }

    fn bytes_of(&self, layers: &[LayerPorts], length: usize) -> u64 {
        let of_all = [layers.len() * 2, self.spec.kv_dtype.size()];
        let factors = self.cache_shape(length).into_iter().chain(of_all);
        // A manifest may claim more than there can be.
        factors.fold(1, |bytes, factor| bytes.saturating_mul(factor as u64))
    }
}

/// The last dimension of `port`, if the graph fixes it.
pub(crate) fn width(port: &Port) -> Option<usize> {
    match port.shape.last()? {
        Dim::Fixed(width) => Some(*width),
        Dim::Symbolic(_) => None,
    }
}

#[cfg(test)]
mod tests;
