//! The captioner `vlm`: visual features stand in the prompt of a language decoder, which generates freely.

mod visual_prefix;

use std::sync::Arc;

use serde_json::Value;

use super::captioner::{Captioner, CaptionerKind};
use super::context::CaptionerContext;
use super::statement::{OnText, Statement};
use crate::control::{Control, TextOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::features::{Features, Parts};
use crate::identity::{Canonical, Digest};
use crate::language::{GenerateOptions, Generated, LanguageContext, choose_after, harmless};
use crate::pack::Task;
use visual_prefix::VisualPrefix;

/// Goes up when the same pack makes other captions.
const VERSION: u32 = 1;

/// The kind `vlm`. Its keys: `language_decoder`, `token_embedding`, `image_token` and a `prompt` for each task; `connector` if the
/// features are not rows of the decoder's input already.
#[derive(Debug, Clone, Copy)]
pub struct Vlm;

impl CaptionerKind for Vlm {
    fn name(&self) -> &str {
        "vlm"
    }

    fn build(&self, context: &CaptionerContext) -> Result<Arc<dyn Captioner>> {
        const NEEDED: &[&str] = &[
            "language_decoder",
            "token_embedding",
            "image_token",
            "prompt",
        ];
        context.expect_keys(NEEDED, &["connector", "visual_encoder"])?;
        let spec = context.spec();
        // `expect_keys` has seen that the needed ones are there.
        let given = |key: &Option<String>| key.clone().unwrap_or_default();
        let image_token = given(&spec.image_token);
        let caption_prompt = prompt(context, Task::Caption, &image_token)?;
        let answer_prompt = prompt(context, Task::Ask, &image_token)?;
        let decoder = given(&spec.language_decoder);
        let token_embedding = given(&spec.token_embedding);
        let connector = spec.connector.as_deref();
        let mut identity = Canonical::new("atom.captions.vlm", VERSION);
        identity
            .field("feature_map", &context.feature_sources()?.map)
            .field("language_decoder", &context.computation(&decoder)?)
            .field("token_embedding", &context.computation(&token_embedding)?)
            .field("image_token", &image_token)
            .field("prompt", &caption_prompt);
        if let Some(id) = connector {
            identity.field("connector", &context.computation(id)?);
        }
        Ok(Arc::new(VlmCaptioner {
            identity: identity.finish(),
            language: context.language().clone(),
            prefix: VisualPrefix::new(context.registry(), connector, &image_token)?,
            decoder,
            token_embedding,
            caption_prompt,
            answer_prompt,
            image_token,
        }))
    }
}

/// The checked prompt of `task`; empty if the pack does not serve it.
fn prompt(context: &CaptionerContext, task: Task, image_token: &str) -> Result<String> {
    let Some(prompt) = context.prompt(task) else {
        return Ok(String::new());
    };
    let (key, asks) = match task {
        Task::Ask => ("tasks.ask.prompt", true),
        _ => ("tasks.caption.prompt", false),
    };
    let wrong = |remedy: &str| {
        Err(Error::new(ErrorKind::BadPack, format!("{key} = {prompt:?}")).remedy(remedy))
    };
    if image_token.is_empty() || prompt.matches(image_token).count() != 1 {
        return wrong("it holds captioner.image_token once, where the picture goes");
    }
    if asks && prompt.matches("{}").count() != 1 {
        return wrong("it holds {} once, where the question goes");
    }
    Ok(prompt.to_owned())
}

#[derive(Debug)]
struct VlmCaptioner {
    identity: Digest,
    language: LanguageContext,
    prefix: VisualPrefix,
    decoder: String,
    token_embedding: String,
    caption_prompt: String,
    answer_prompt: String,
    image_token: String,
}

impl VlmCaptioner {
    /// Generates freely after `prompt`, or the likeliest of `options.choices` if there are any.
    fn generate(
        &self,
        frames: &[&Features],
        prompt: &str,
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        let token_embedding = Some(&*self.token_embedding);
        let model = self
            .language
            .model(&self.decoder, token_embedding, control)?;
        let mut generation =
            self.prefix
                .start(&model, prompt, frames, options.max_tokens, control)?;
        let generated: Generated = if options.choices.is_empty() {
            let room = model.context().saturating_sub(generation.position());
            let limits = GenerateOptions {
                max_tokens: options.max_tokens.min(room),
                ..GenerateOptions::default()
            };
            generation.generate(&limits, control, on_text)?
        } else {
            choose_after(&mut generation, &options.choices, control, on_text)?
        };
        Ok(Statement::generated(generated, Value::Array(Vec::new())))
    }
}

impl Captioner for VlmCaptioner {
    fn identity(&self) -> Digest {
        self.identity
    }

    fn reads(&self) -> Parts {
        Parts::MAP
    }

    fn modules(&self, _: Task) -> Vec<&str> {
        let connector = self.prefix.connector().into_iter();
        connector
            .chain([&*self.token_embedding, &*self.decoder])
            .collect()
    }

    fn caption(
        &self,
        frames: &[&Features],
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        self.generate(frames, &self.caption_prompt, options, control, on_text)
    }

    fn answer(
        &self,
        frames: &[&Features],
        question: &str,
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        // The image token is the pack's alone.
        let question = harmless(question).replace(&self.image_token, " ");
        let prompt = self.answer_prompt.replacen("{}", &question, 1);
        self.generate(frames, &prompt, options, control, on_text)
    }
}
