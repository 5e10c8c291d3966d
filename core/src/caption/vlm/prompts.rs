//! The pack's prompts, and a conversation made of one.

use std::collections::BTreeMap;

use super::super::context::CaptionerContext;
use crate::error::{Error, ErrorKind, Result};
use crate::language::{ContentPart, Message};
use crate::pack::Task;

/// The prompts of captions and answers.
#[derive(Debug)]
pub(super) struct Prompts {
    caption: String,
    named: BTreeMap<String, String>,
    answer: String,
    /// Where the picture goes in a prompt.
    image_token: Option<String>,
}

/// What a prompt shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// So many pictures.
    Images(usize),
    /// One video.
    Video,
}

impl Prompts {
    /// The checked prompts of the pack; a task without a prompt gets an empty one, or the question alone.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] naming the key.
    pub(super) fn new(context: &CaptionerContext, image_token: Option<&str>) -> Result<Self> {
        let tasks = &context.pack().manifest().tasks;
        let of = |task, default: &str| context.prompt(task).unwrap_or(default).to_owned();
        let named = tasks.caption.iter().flat_map(|task| task.prompts.clone());
        let prompts = Self {
            caption: of(Task::Caption, ""),
            named: named.collect(),
            answer: of(Task::Ask, "{}"),
            image_token: image_token.map(str::to_owned),
        };
        if prompts.answer.matches("{}").count() != 1 {
            return wrong(
                "tasks.ask.prompt",
                &prompts.answer,
                "it holds {} once, where the question goes",
            );
        }
        Ok(prompts)
    }

    /// The prompt of captions.
    pub(super) fn of_captions(&self) -> &str {
        &self.caption
    }

    /// The conversation of a caption: the prompt called `name`, or the pack's own.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] naming the prompts there are, or for another number of pictures than the prompt shows.
    pub(super) fn caption(&self, name: Option<&str>, shown: Shown) -> Result<Message> {
        let prompt = match name {
            None => &self.caption,
            Some(name) => self.named.get(name).ok_or_else(|| self.unknown(name))?,
        };
        self.message(prompt, shown, None)
    }

    fn unknown(&self, name: &str) -> Error {
        let names: Vec<&str> = self.named.keys().map(String::as_str).collect();
        let remedy = match names.as_slice() {
            [] => "the pack has no named prompts: leave the name out".to_owned(),
            names => format!("the pack has {}", names.join(", ")),
        };
        Error::new(
            ErrorKind::InvalidArgument,
            format!("the pack has no prompt called {name:?}"),
        )
        .remedy(remedy)
    }

    /// The conversation of a question, which is free of special tokens.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for another number of pictures than the prompt shows.
    pub(super) fn answer(&self, question: &str, shown: Shown) -> Result<Message> {
        self.message(&self.answer, shown, Some(question))
    }

    /// The user's message: the words of `prompt` with the pictures in their place. Pictures come first in a prompt without a marker,
    /// and all together in one with a single marker; otherwise there is one picture for each marker.
    fn message(&self, prompt: &str, shown: Shown, question: Option<&str>) -> Result<Message> {
        let token = self.image_token.as_deref();
        // Only after the prompt is cut: the question must not decide where a picture goes.
        let words = |text: &str| match question {
            Some(question) => text.replacen("{}", question, 1),
            None => text.to_owned(),
        };
        let mut pictures = match (token, shown) {
            (None, _) => Vec::new(),
            (Some(_), Shown::Video) => vec![ContentPart::Video],
            (Some(_), Shown::Images(count)) => vec![ContentPart::Image; count],
        };
        let pieces: Vec<&str> = match token {
            Some(token) => prompt.split(token).collect(),
            None => vec![prompt],
        };
        let pieces = match pieces.as_slice() {
            [whole] => vec!["", whole],
            _ => pieces,
        };
        let places = pieces.len() - 1;
        if places > 1 && places != pictures.len() {
            let what = format!(
                "the prompt {prompt:?} shows {places} pictures, but there are {}",
                pictures.len()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, what)
                .remedy(format!("give {places} pictures, or use another prompt")));
        }
        let each = if places > 1 { 1 } else { pictures.len() };
        let mut content = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            if at > 0 {
                content.extend(pictures.drain(..each));
            }
            content.extend((!piece.is_empty()).then(|| ContentPart::text(words(piece))));
        }
        Ok(Message::of("user", content))
    }
}

fn wrong<T>(key: &str, prompt: &str, remedy: &str) -> Result<T> {
    Err(Error::new(ErrorKind::BadPack, format!("{key} = {prompt:?}")).remedy(remedy))
}
