//! Saying one of several true things, in the words the decoder likes best.

use std::ops::ControlFlow;

use super::{
    Constraint, GenerateOptions, Generated, Generation, LanguageModel, Message, Part, StopReason,
};
use crate::control::{Control, TextOptions};
use crate::error::{Error, ErrorKind, Result};

/// A stranger's words, harmless in a prompt: a special token written out in them is no longer one.
pub(super) fn harmless(text: &str) -> String {
    text.replace("<|", "< |")
}

/// The text an operation has when cancel or deadline came before its first token; other errors stay errors.
pub(crate) fn ended_early(error: Error) -> Result<Generated> {
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

/// Says the one of `candidates` that `model` finds the best answer to `request` after `context`, token by token;
/// `options.choices` stand in their place when there are any, and the likeliest as a whole is said. Prompts that begin
/// with the same context share it.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for choices that cannot be spelt or `max_tokens` of 0, and what the decoder reports.
/// Cancel and deadline are no errors: the text so far comes back with that reason.
pub(crate) fn say(
    model: &LanguageModel,
    (context, request): (&str, &str),
    candidates: &[String],
    options: &TextOptions,
    control: &Control,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated> {
    options.check()?;
    let prompt = Prompt::new(model, context, request)?;
    let said = if options.choices.is_empty() {
        generate(
            model,
            &prompt,
            candidates,
            options.max_tokens,
            control,
            on_text,
        )
    } else {
        choose(model, &prompt, &options.choices, control, on_text)
    };
    said.or_else(ended_early)
}

/// The tokens of a prompt, and where they are cut.
struct Prompt {
    ids: Vec<u32>,
    /// The end of what stands before every user's words, and of the context.
    cuts: [usize; 2],
}

impl Prompt {
    fn new(model: &LanguageModel, context: &str, request: &str) -> Result<Self> {
        let prompt = |words: &str| model.prompt(&[Message::user(harmless(words))]);
        let ids = prompt(&format!("{context} {request}"))?;
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
