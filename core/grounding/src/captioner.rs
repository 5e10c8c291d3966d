//! The captioner, and how a pack asks for it.

use std::sync::Arc;

use atom_core::caption::{
    Captioner, CaptionerContext, CaptionerKind, Evictable, OnText, Statement,
};
use atom_core::control::{Control, TextOptions};
use atom_core::features::Features;
use atom_core::identity::{Canonical, Digest};
use atom_core::language::{Generated, LanguageModel, Request, StopReason, constrained_generate};
use atom_core::pack::Task;
use atom_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::answer::answer;
use super::grounding::Grounding;
use super::observation::Observation;
use super::thing::Ground;
use super::verdict::Verdict;

/// Goes up when the same pack makes other captions.
const VERSION: u32 = 1;
/// What a taxonomy is expected to take.
const TAXONOMY_BYTES: u64 = 1 << 20;
/// What a decoder is asked when it chooses the wording of a caption.
const DESCRIBE: &str = "Describe the picture.";

/// The kind `grounded`. It needs the file `taxonomy`, and takes a `language_decoder` and the option `wording`.
#[derive(Debug, Clone, Copy)]
pub struct Grounded;

/// The table `[captioner.options]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    wording: Wording,
}

/// Which of several equally true sentences is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wording {
    /// The one that reads well in general. No decoder runs.
    #[default]
    Composed,
    /// The one that the language decoder finds likeliest.
    Likeliest,
}

impl CaptionerKind for Grounded {
    fn name(&self) -> &str {
        "grounded"
    }

    fn build(&self, context: &CaptionerContext) -> Result<Arc<dyn Captioner>> {
        context.expect_keys(&["files.taxonomy"], &["language_decoder", "options"])?;
        let Options { wording } = context.options()?;
        let decoder = context.spec().language_decoder.clone();
        if wording == Wording::Likeliest && decoder.is_none() {
            return Err(Error::new(
                ErrorKind::BadPack,
                "captioner.options: wording = \"likeliest\" needs a language decoder",
            )
            .remedy("name one with captioner.language_decoder, or leave wording out"));
        }
        let sources = context.feature_sources()?;
        let mut identity = Canonical::new("atom.captions.grounded", VERSION);
        identity
            .field("taxonomy", context.file("taxonomy")?)
            .field("posteriors", &sources.posteriors)
            .field("detections", &sources.detections);
        if let (Wording::Likeliest, Some(id)) = (wording, &decoder) {
            identity.field("likeliest_by", &context.computation(id)?);
        }
        Ok(Arc::new(GroundedCaptioner {
            identity: identity.finish(),
            grounding: context.evictable("grounding", TAXONOMY_BYTES),
            context: context.clone(),
            decoder,
            wording,
        }))
    }
}

#[derive(Debug)]
struct GroundedCaptioner {
    context: CaptionerContext,
    identity: Digest,
    grounding: Evictable<Grounding>,
    decoder: Option<String>,
    wording: Wording,
}

/// What may be said, and what it rests on.
struct Sayable<'a> {
    /// What a decoder that chooses is told and asked.
    request: Request<'a>,
    /// Equally true sentences; the first reads well by itself.
    candidates: Vec<String>,
    grounds: Vec<Ground>,
}

impl GroundedCaptioner {
    fn grounding(&self, control: &Control) -> Result<Arc<Grounding>> {
        self.grounding
            .get(control, || Grounding::of(self.context.pack()))
    }

    /// The decoder, to choose among `what`.
    fn decoder(&self, what: &str, control: &Control) -> Result<Arc<LanguageModel>> {
        let Some(id) = &self.decoder else {
            let message = format!("the pack names no language decoder to choose among {what}");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .remedy("use a pack with captioner.language_decoder, or ask without choices"));
        };
        self.context.language().model(id, None, control)
    }

    /// Says one of the sentences, or the caller's choices in their place.
    fn say(
        &self,
        sayable: Sayable<'_>,
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        let evidence = serde_json::to_value(&sayable.grounds)
            .map_err(|error| Error::new(ErrorKind::Internal, format!("grounds: {error}")))?;
        let candidates = &sayable.candidates;
        match (options.choices.as_slice(), candidates.as_slice()) {
            ([], [first, ..]) if self.wording == Wording::Composed => {
                return Ok(Statement::composed(first, evidence, on_text));
            }
            // There is nothing to choose.
            ([only], _) => {
                let mut said = Statement::composed(only, evidence, on_text);
                if said.stop_reason == StopReason::EndOfText {
                    said.stop_reason = StopReason::Constraint;
                }
                return Ok(said);
            }
            _ => {}
        }
        let model = self.decoder("the choices", control)?;
        let generated: Generated = constrained_generate(
            &model,
            sayable.request,
            candidates,
            options,
            control,
            on_text,
        )?;
        Ok(Statement::generated(generated, evidence))
    }
}

impl Captioner for GroundedCaptioner {
    fn identity(&self) -> Digest {
        self.identity
    }

    fn modules(&self, _: Task) -> Vec<&str> {
        let decoder = self.decoder.as_deref();
        let decoder = decoder.filter(|_| self.wording == Wording::Likeliest);
        decoder.into_iter().collect()
    }

    /// One sentence that names nothing the features do not show; where the frames differ it hedges.
    fn caption(
        &self,
        frames: &[&Features],
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        options.refuse_free("grounded")?;
        let grounding = self.grounding(control)?;
        let seen = grounding.observe(frames)?;
        let context = seen.context();
        let sayable = Sayable {
            request: Request {
                context: &context,
                wanted: DESCRIBE,
            },
            candidates: seen.sentences(),
            grounds: seen.grounds(),
        };
        self.say(sayable, options, control, on_text)
    }

    /// Reads existence, count and kind off what is grounded, denies only with a hedge, and says so when it cannot tell.
    fn answer(
        &self,
        frames: &[&Features],
        question: &str,
        options: &TextOptions,
        control: &Control,
        on_text: OnText<'_>,
    ) -> Result<Statement> {
        options.refuse_free("grounded")?;
        let grounding = self.grounding(control)?;
        let seen = grounding.observe(frames)?;
        let answer = answer(&seen, question);
        let options = decided(&seen, answer.verdict, options);
        let context = seen.context();
        let sayable = Sayable {
            request: Request {
                context: &context,
                wanted: question,
            },
            candidates: answer.candidates,
            grounds: match options.choices.is_empty() {
                true => answer.grounds,
                false => seen.grounds(),
            },
        };
        self.say(sayable, &options, control, on_text)
    }
}

/// `options` with only those choices that the grounding bears out, if any is: what is seen decides before likelihood does.
fn decided(seen: &Observation<'_>, verdict: Option<Verdict>, options: &TextOptions) -> TextOptions {
    let told = |choice: &String| {
        let agrees = verdict.is_some_and(|verdict| verdict.agrees(choice));
        agrees || seen.names(choice)
    };
    let mut options = options.clone();
    if options.choices.iter().any(told) {
        options.choices.retain(told);
    }
    options
}
