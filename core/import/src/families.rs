//! Families of models, as data: `families/*.toml`.

use std::collections::BTreeMap;

use atom_core::{Error, ErrorKind, Result};
use serde::Deserialize;

const FILES: &[(&str, &str)] = &[
    ("clip.toml", include_str!("families/clip.toml")),
    ("mobileclip.toml", include_str!("families/mobileclip.toml")),
    ("siglip.toml", include_str!("families/siglip.toml")),
    ("smolvlm.toml", include_str!("families/smolvlm.toml")),
    ("llava.toml", include_str!("families/llava.toml")),
    ("fastvlm.toml", include_str!("families/fastvlm.toml")),
    ("moondream.toml", include_str!("families/moondream.toml")),
    ("florence2.toml", include_str!("families/florence2.toml")),
    ("vit_gpt2.toml", include_str!("families/vit_gpt2.toml")),
];

/// Which graphs a family has, and how they are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// Pictures and texts into one space.
    Towers,
    /// A vision encoder, embeddings of tokens, and a decoder that reads both as one sequence.
    Decoder,
    /// The same sequence into a text encoder; the decoder attends to what that writes.
    TextEncoderDecoder,
    /// A vision encoder, and a decoder that attends to what it writes.
    PictureEncoderDecoder,
}

/// When a text is padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Pad {
    /// To the full length.
    Always,
    /// Only if the graph reads texts of one length.
    IfFixed,
}

/// A family.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Family {
    pub(crate) name: String,
    /// What `model_type` of `config.json` may be.
    model_types: Vec<String>,
    /// Parts of the model's name that tell the family where `model_type` does not.
    #[serde(default)]
    names: Vec<String>,
    pub(crate) shape: Shape,
    pub(crate) towers: Option<TowerRules>,
    pub(crate) captioner: Option<CaptionerRules>,
}

/// What is the family's own about its text tower.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TowerRules {
    pub(crate) pad: Pad,
    /// The tokenizer's own if absent.
    pub(crate) pad_id: Option<u32>,
    #[serde(default)]
    pub(crate) lowercase: bool,
}

/// What is the family's own about its prompts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaptionerRules {
    /// The token that marks a picture, where `config.json` names none.
    pub(crate) image_token: Option<String>,
    pub(crate) caption: String,
    /// `None`: it answers no questions.
    pub(crate) ask: Option<String>,
    #[serde(default)]
    pub(crate) join: String,
    pub(crate) plain_caption: Option<String>,
    pub(crate) plain_ask: Option<String>,
    pub(crate) image_prompt: Option<String>,
    pub(crate) video_prompt: Option<String>,
    /// What the chat template writes for a video.
    pub(crate) video_token: Option<String>,
    /// For chat templates that do not.
    pub(crate) video_branch: Option<Branch>,
    #[serde(default)]
    pub(crate) tokens: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) prompts: BTreeMap<String, String>,
}

/// A text that is put into another, behind a part of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Branch {
    pub(crate) after: String,
    pub(crate) insert: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusals {
    family: Vec<Refused>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    name: String,
    model_types: Vec<String>,
    missing: String,
}

fn table<T: for<'a> Deserialize<'a>>(file: &str, text: &str) -> Result<T> {
    toml::from_str(text)
        .map_err(|e| Error::new(ErrorKind::Internal, format!("families/{file}: {e}")))
}

fn all() -> Result<Vec<Family>> {
    FILES.iter().map(|(file, text)| table(file, text)).collect()
}

/// The family of the model whose `model_type` is `model_type`, which `place` says. `names` are what else the model is called.
///
/// # Errors
/// [`ErrorKind::Unsupported`] naming what is missing for a family that Atom knows, and the families there are for another.
pub(crate) fn find(model_type: &str, place: &str, names: &[String]) -> Result<Family> {
    let families = all()?;
    let calls = |part: &String| {
        names
            .iter()
            .any(|name| name.to_ascii_lowercase().contains(part.as_str()))
    };
    let typed = |family: &&Family| family.model_types.iter().any(|own| own == model_type);
    let found = families.iter().find(typed);
    if let Some(found) = found {
        // A MobileCLIP says that it is a CLIP.
        let closer = families
            .iter()
            .find(|family| family.shape == found.shape && family.names.iter().any(calls));
        return Ok(closer.unwrap_or(found).clone());
    }
    let refused: Refusals = table("refused.toml", include_str!("families/refused.toml"))?;
    if let Some(refused) = refused
        .family
        .iter()
        .find(|family| family.model_types.iter().any(|own| own == model_type))
    {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{place} is {model_type:?}: {} needs what Atom does not have: {}",
                refused.name, refused.missing
            ),
        )
        .remedy("import a model of another family, such as SmolVLM2"));
    }
    let known: Vec<String> = families
        .iter()
        .map(|f| format!("{} ({})", f.name, f.model_types.join(", ")))
        .collect();
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("{place} is {model_type:?}, a family that Atom does not know"),
    )
    .remedy(format!(
        "import a model of one of these: {}",
        known.join("; ")
    )))
}
