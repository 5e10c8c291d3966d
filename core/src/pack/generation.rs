//! `[module.decoder.generation]`: how a decoder's texts are generated unless the caller says otherwise. The keys and their meaning
//! are those of `generation_config.json` of Hugging Face `transformers`.

use serde::Deserialize;

/// When a beam search ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(untagged, expecting = "early_stopping is true, false or \"never\"")]
pub enum EarlyStopping {
    /// `true`: as soon as there are as many finished texts as beams. `false`: when the best running text, at its present length,
    /// scores no better than the worst finished one.
    Finished(bool),
    /// `"never"`: when no running text can become better than the worst finished one.
    Word(Never),
}

/// The word of [`EarlyStopping::Word`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Never {
    /// `"never"`.
    Never,
}

/// How a decoder's texts are generated unless the caller says otherwise.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationSpec {
    /// Texts that are followed at once; 1 is greedy.
    pub beams: usize,
    /// The score of a finished text is its log-probability divided by its length to this power.
    pub length_penalty: f32,
    /// When the beam search ends.
    pub early_stopping: EarlyStopping,
    /// No sequence of so many tokens occurs twice; 0 is off.
    pub no_repeat_ngram: usize,
    /// Above 1 makes tokens that occurred less likely. 1 is off.
    pub repetition_penalty: f32,
    /// The first token of every text.
    pub forced_first: Option<u32>,
    /// The last token of a text that reaches `max_tokens`.
    pub forced_last: Option<u32>,
    /// Tokens that are never generated.
    pub suppress: Vec<u32>,
    /// A text does not end before it has so many tokens.
    pub min_tokens: usize,
    /// Divides the logits before a draw.
    pub temperature: f32,
    /// A draw is among so many of the likeliest tokens; 0: among all.
    pub top_k: usize,
    /// A draw is among the likeliest tokens whose probabilities together reach this.
    pub top_p: f32,
    /// Tokens are drawn at random. Otherwise the likeliest one is taken.
    pub sample: bool,
    /// The most tokens of a text.
    pub max_tokens: Option<usize>,
}

impl Eq for GenerationSpec {}

impl Default for GenerationSpec {
    fn default() -> Self {
        Self {
            beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Finished(false),
            no_repeat_ngram: 0,
            repetition_penalty: 1.0,
            forced_first: None,
            forced_last: None,
            suppress: Vec::new(),
            min_tokens: 0,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            sample: false,
            max_tokens: None,
        }
    }
}
