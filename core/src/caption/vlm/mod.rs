//! The captioner `vlm`: a language decoder says what visual features show.
//!
//! The features' rows reach the decoder in one of three ways, as the pack says:
//!
//! | keys | rows |
//! |---|---|
//! | `image_token` | stand in the prompt, in place of that token |
//! | `encoder` | go through the encoder together with the prompt; the decoder attends to what it writes |
//! | neither, and `decoder.start` | are what the decoder attends to; there is no prompt |

mod encoder;
mod expand;
mod numerals;
mod pictures;
mod prompts;
mod speaker;

use std::sync::Arc;

use serde_json::Value;

use super::captioner::{Captioner, CaptionerKind};
use super::context::CaptionerContext;
use super::keys;
use super::statement::{OnText, Statement};
use crate::control::{Control, DEFAULT_MAX_TOKENS, TextOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::features::{Features, Parts};
use crate::identity::{Canonical, Digest};
use crate::language::{LanguageContext, LanguageModel, Message, choose_after};
use crate::pack::{CaptionerSpec, ContentForm, Task};
use prompts::Prompts;
use speaker::Speaker;

/// Goes up when the same pack makes other captions.
const VERSION: u32 = 1;

/// The kind `vlm`. It always needs `language_decoder`. A decoder that reads the rows in its prompt needs `token_embedding`,
/// `image_token` and a `prompt` for each task. An `encoder` needs `token_embedding`; its rows come first unless there is an
/// `image_token`. `connector` is for features that are not rows of embeddings already.
#[derive(Debug, Clone, Copy)]
pub struct Vlm;

impl CaptionerKind for Vlm {
    fn name(&self) -> &str {
        "vlm"
    }

    fn build(&self, context: &CaptionerContext) -> Result<Arc<dyn Captioner>> {
        expect_keys(context)?;
        let spec = context.spec();
        let prompts = Prompts::new(context, spec.image_token.as_deref())?;
        Ok(Arc::new(VlmCaptioner {
            identity: identity(context, &prompts)?,
            language: context.language().clone(),
            speaker: Speaker::new(context)?,
            decoder: spec.language_decoder.clone().unwrap_or_default(),
            token_embedding: spec.token_embedding.clone(),
            max_tokens: max_tokens(context)?,
            prompts,
        }))
    }
}

/// Refuses a pack without the keys that its way of reading rows needs.
fn expect_keys(context: &CaptionerContext) -> Result<()> {
    const OPTIONAL: &[&str] = &[
        "visual_encoder",
        "features",
        "connector",
        "token_embedding",
        "encoder",
        "image_token",
        "video_token",
        "content",
        "add_special_tokens",
        "video",
        "files.image_prompt",
        "files.video_prompt",
        "prompt",
    ];
    context.expect_keys(&["language_decoder"], OPTIONAL)?;
    let spec = context.spec();
    let missing = |key: &str, why: &str| {
        let error = keys::missing(key, &spec.kind);
        Err(match why {
            "" => error,
            why => error.remedy(why),
        })
    };
    let starts = starts(context, spec)?;
    if spec.encoder.is_some() && !starts {
        let why = "name the first tokens of the decoder, decoder_start_token_id in config.json";
        return missing("decoder.start", why);
    }
    let reads_in_prompt = !starts;
    if spec.token_embedding.is_none() && (spec.encoder.is_some() || reads_in_prompt) {
        let why = match reads_in_prompt && spec.image_token.is_none() {
            true => {
                "a decoder that reads rows in its prompt needs it; one that attends to them needs decoder.start instead"
            }
            false => "",
        };
        return missing("captioner.token_embedding", why);
    }
    if spec.image_token.is_none() {
        if reads_in_prompt {
            return missing("captioner.image_token", "");
        }
        for name in ["image_prompt", "video_prompt"] {
            if spec.files.contains_key(name) {
                let why = format!("captioner.files.{name} is of no use without it");
                return missing("captioner.image_token", &why);
            }
        }
    }
    let tasks = &context.pack().manifest().tasks;
    let served = [
        (Task::Caption, "caption", tasks.caption.is_some()),
        (Task::Ask, "ask", tasks.ask.is_some()),
    ];
    for (task, name, served) in served {
        let needed = match task {
            Task::Ask => spec.image_token.is_some(),
            _ => reads_in_prompt,
        };
        if served && needed && context.prompt(task).is_none() {
            return missing(&format!("tasks.{name}.prompt"), "");
        }
    }
    if tasks.ask.is_some() && starts && spec.encoder.is_none() && spec.image_token.is_none() {
        let why = "a decoder without a prompt cannot be asked: remove [tasks.ask]";
        return missing("captioner.encoder", why);
    }
    Ok(())
}

/// Whether the decoder begins every text with tokens of its own: it attends to an encoder's output.
fn starts(context: &CaptionerContext, spec: &CaptionerSpec) -> Result<bool> {
    let decoder = spec.language_decoder.as_deref().unwrap_or_default();
    let decoder = context.pack().module(decoder)?.decoder.as_ref();
    Ok(decoder.is_some_and(|decoder| !decoder.start.is_empty()))
}

fn max_tokens(context: &CaptionerContext) -> Result<usize> {
    let decoder = context.spec().language_decoder.as_deref();
    let decoder = context.pack().module(decoder.unwrap_or_default())?;
    let generation = decoder.decoder.as_ref().map(|decoder| &decoder.generation);
    let most = generation.and_then(|generation| generation.max_tokens);
    Ok(most.unwrap_or(DEFAULT_MAX_TOKENS))
}

fn identity(context: &CaptionerContext, prompts: &Prompts) -> Result<Digest> {
    let spec = context.spec();
    let mut identity = Canonical::new("atom.captions.vlm", VERSION);
    identity
        .field("feature_map", &context.feature_sources()?.map)
        .field("image_token", &spec.image_token)
        .field("prompt", prompts.of_captions());
    for (name, id) in [
        ("language_decoder", &spec.language_decoder),
        ("token_embedding", &spec.token_embedding),
        ("connector", &spec.connector),
        ("encoder", &spec.encoder),
    ] {
        if let Some(id) = id {
            identity.field(name, &context.computation(id)?);
        }
    }
    for name in ["image_prompt", "video_prompt"] {
        identity.field(name, &spec.files.get(name));
    }
    let parts = spec.content == Some(ContentForm::Parts);
    identity
        .field("video_token", &spec.video_token)
        .field("add_special_tokens", &spec.add_special_tokens)
        .unless_default("parts", &parts, &false);
    if let Some(video) = spec.video {
        identity.field("video_frames", &video.max_frames);
    }
    // Named prompts decide no stored caption.
    Ok(identity.finish())
}

#[derive(Debug)]
struct VlmCaptioner {
    identity: Digest,
    language: LanguageContext,
    speaker: Speaker,
    decoder: String,
    token_embedding: Option<String>,
    max_tokens: usize,
    prompts: Prompts,
}

impl VlmCaptioner {
    fn model(&self, control: &Control) -> Result<Arc<LanguageModel>> {
        let token_embedding = self.token_embedding.as_deref();
        self.language.model(&self.decoder, token_embedding, control)
    }

    /// Generates freely after `message`, or the likeliest of `options.choices` if there are any.
    fn generate(
        &self,
        model: &LanguageModel,
        frames: &[&Features],
        message: Message,
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        let mut limits = model.options(options)?;
        let begun = self
            .speaker
            .begin(model, frames, message, limits.max_tokens, control)?;
        let mut generation = begun.generation;
        let generated = if options.choices.is_empty() {
            let room = model.context().saturating_sub(generation.position());
            limits.max_tokens = limits.max_tokens.min(room);
            generation.generate(&limits, control, on_text)?
        } else {
            choose_after(&mut generation, &options.choices, control, on_text)?
        };
        let mut said = Statement::generated(generated, Value::Array(Vec::new()));
        said.prompt_ids = begun.prompt_ids;
        Ok(said)
    }
}

impl Captioner for VlmCaptioner {
    fn identity(&self) -> Digest {
        self.identity
    }

    fn reads(&self) -> Parts {
        Parts::MAP
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn modules(&self, _: Task) -> Vec<&str> {
        let others = self.speaker.modules();
        let embedding = self.token_embedding.as_deref();
        others
            .into_iter()
            .chain(embedding)
            .chain([&*self.decoder])
            .collect()
    }

    fn caption(
        &self,
        frames: &[&Features],
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        let shown = self.speaker.shown(frames);
        let message = self.prompts.caption(options.prompt.as_deref(), shown)?;
        let model = self.model(control)?;
        self.generate(&model, frames, message, options, control, on_text)
    }

    fn answer(
        &self,
        frames: &[&Features],
        question: &str,
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        if let Some(name) = &options.prompt {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("the prompt {name:?} is given with a question"),
            )
            .remedy("leave it out: only captions have named prompts"));
        }
        let shown = self.speaker.shown(frames);
        let model = self.model(control)?;
        let question = model.tokenizer().harmless(question)?;
        let message = self.prompts.answer(&question, shown)?;
        self.generate(&model, frames, message, options, control, on_text)
    }
}
