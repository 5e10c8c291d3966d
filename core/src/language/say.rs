//! Saying one of several true things, in the words the decoder likes best.

use std::ops::ControlFlow;

use super::{
    Constraint, GenerateOptions, Generated, Generation, LanguageModel, Message, StopReason,
};
use crate::control::{Control, TextOptions};
use crate::error::{Error, ErrorKind, Result};

/// A stranger's words, harmless in a prompt: a special token written out in them is no longer one.
pub(super) fn harmless(text: &str) -> String {
    text.replace("<|", "< |")
}

/// The text an operation has when cancel or deadline came before its first token; other errors stay errors.
pub(super) fn ended_early(error: Error) -> Result<Generated> {
    let stop_reason = match error.kind() {
        ErrorKind::Cancelled => StopReason::Cancelled,
        ErrorKind::DeadlineExceeded => StopReason::Deadline,
        _ => return Err(error),
    };
    Ok(Generated {
        text: String::new(),
        tokens: 0,
        token_ids: Vec::new(),
        stop_reason,
    })
}

/// Says the one of `candidates` that `model` finds the best answer to `prompt`, token by token; `options.choices`
/// stand in their place when there are any, and the likeliest as a whole is said.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for choices that cannot be spelt or `max_tokens` of 0, and what the decoder reports.
/// Cancel and deadline are no errors: the text so far comes back with that reason.
pub(crate) fn say(
    model: &LanguageModel,
    prompt: &str,
    candidates: &[String],
    options: &TextOptions,
    control: &Control,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated> {
    options.check()?;
    let said = if options.choices.is_empty() {
        generate(
            model,
            prompt,
            candidates,
            options.max_tokens,
            control,
            on_text,
        )
    } else {
        choose(model, prompt, &options.choices, control, on_text)
    };
    said.or_else(ended_early)
}

fn generate(
    model: &LanguageModel,
    prompt: &str,
    candidates: &[String],
    max_tokens: usize,
    control: &Control,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated> {
    let constraint = Constraint::choices(model.tokenizer(), candidates)?;
    let longest = candidates.iter().map(String::len).max().unwrap_or(0);
    let prompt = model.prompt(&[Message::user(harmless(prompt))])?;
    // No token is longer than its text in bytes.
    let room = model.context().saturating_sub(prompt.len());
    let max_tokens = max_tokens.min(room);
    let mut generation = model.start(prompt.len() + longest.min(max_tokens), control)?;
    generation.feed(&prompt, control)?;
    let options = GenerateOptions {
        max_tokens,
        constraint: Some(constraint),
        ..GenerateOptions::default()
    };
    generation.generate(&options, control, on_text)
}

fn choose(
    model: &LanguageModel,
    prompt: &str,
    choices: &[String],
    control: &Control,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated> {
    let prompt = model.prompt(&[Message::user(harmless(prompt))])?;
    let mut generation = model.start(prompt.len(), control)?;
    generation.feed(&prompt, control)?;
    chosen(&mut generation, choices, control, on_text)
}

/// Streams the likeliest of `choices` after what was fed to `generation`.
///
/// # Errors
/// As [`Generation::choose`].
pub(super) fn chosen(
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
