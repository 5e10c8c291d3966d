//! Generation held to a given set of texts.

use std::ops::ControlFlow;

use super::{
    Constraint, GenerateOptions, Generated, Generation, LanguageModel, Message, Part, StopReason,
};
use crate::control::{Control, DEFAULT_MAX_TOKENS, TextOptions};
use crate::error::Result;

/// What a model is asked: a context, and what is wanted of it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What is known. Prompts that begin with the same context share its prefix.
    pub context: &'a str,
    /// What is wanted, for example a question.
    pub wanted: &'a str,
}

/// Generates one of `candidates`: at each step the likeliest token that leads to one of them. With `options.choices`, generates
/// the choice that is likeliest as a whole instead.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::error::ErrorKind::InvalidArgument) for choices that the tokenizer cannot spell or
/// `max_tokens` of 0, and what the decoder reports. Cancel and deadline before the first token are errors; after it, the text
/// so far is returned with that reason.
pub fn constrained_generate(
    model: &LanguageModel,
    request: Request<'_>,
    candidates: &[String],
    options: &TextOptions,
    control: &Control,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated> {
    options.check()?;
    let prompt = Prompt::new(model, request)?;
    if !options.choices.is_empty() {
        return choose(model, &prompt, &options.choices, control, on_text);
    }
    let max_tokens = options.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
    generate(model, &prompt, candidates, max_tokens, control, on_text)
}

/// The tokens of a prompt, and where they are cut.
struct Prompt {
    ids: Vec<u32>,
    /// The end of what stands before every user's words, and of the context.
    cuts: [usize; 2],
}

impl Prompt {
    fn new(model: &LanguageModel, request: Request<'_>) -> Result<Self> {
        let Request { context, wanted } = request;
        let prompt = |words: &str| {
            let words = model.tokenizer().harmless(words)?;
            model.prompt(&[Message::user(words)])
        };
        let ids = prompt(&format!("{context} {wanted}"))?;
        // Found by comparing: where one text ends and the next begins is for template and tokenizer to say.
        let common = |words: &str| {
            let other = prompt(words).unwrap_or_default();
            let equal = ids.iter().zip(&other).take_while(|(a, b)| a == b);
            equal.count().min(ids.len().saturating_sub(1))
        };
        let system = common("");
        let cuts = [system, common(context).max(system)];
        Ok(Self { ids, cuts })
    }

    fn begin(&self, model: &LanguageModel, room: usize, control: &Control) -> Result<Generation> {
        let [system, context] = self.cuts;
        let parts = [
            Part::Ids(&self.ids[..system]),
            Part::Ids(&self.ids[system..context]),
            Part::Ids(&self.ids[context..]),
        ];
        model.begin(&parts, room, control)
    }
}

fn generate(
    model: &LanguageModel,
    prompt: &Prompt,
    candidates: &[String],
    max_tokens: usize,
    control: &Control,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated> {
    let constraint = Constraint::choices(model.tokenizer(), candidates)?;
    let longest = candidates.iter().map(String::len).max().unwrap_or(0);
    // No token is longer than its text in bytes.
    let room = model.context().saturating_sub(prompt.ids.len());
    let max_tokens = max_tokens.min(room);
    let mut generation = prompt.begin(model, longest.min(max_tokens), control)?;
    let options = GenerateOptions {
        max_tokens,
        constraint: Some(constraint),
        ..GenerateOptions::default()
    };
    generation.generate(&options, control, on_text)
}

fn choose(
    model: &LanguageModel,
    prompt: &Prompt,
    choices: &[String],
    control: &Control,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated> {
    let mut generation = prompt.begin(model, 0, control)?;
    choose_after(&mut generation, choices, control, on_text)
}

/// Streams the likeliest of `choices` after what was fed to `generation`.
///
/// # Errors
/// As [`Generation::choose`].
pub(crate) fn choose_after(
    generation: &mut Generation,
    choices: &[String],
    control: &Control,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated> {
    let choice = generation.choose(choices, control)?;
    let text = choices[choice.index].clone();
    let token_ids = generation.model().tokenizer().encode(&text, false)?;
    let stop_reason = match on_text(&text) {
        ControlFlow::Continue(()) => StopReason::Constraint,
        ControlFlow::Break(()) => StopReason::Cancelled,
    };
    Ok(Generated {
        text,
        tokens: token_ids.len(),
        token_ids,
        stop_reason,
    })
}
