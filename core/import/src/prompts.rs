//! Prompts: chat templates, what stands for a picture or a video in them, and a task's words.

use std::collections::BTreeMap;
use std::fmt::Write;

use atom_core::{Error, ErrorKind, Result};

use crate::config::{Document, Places};
use crate::families::{CaptionerRules, Family, Shape};
use crate::plan::{Extra, Prompts};
use crate::report::Notes;
use crate::source::Export;
use crate::words::Words;

/// The pack's folder for a captioner.
pub(crate) const GROUP: &str = "captioner";

/// A chat template as the pack will have it.
pub(crate) struct Chat {
    /// Its text, and where it is from.
    pub(crate) text: Option<(String, String)>,
    /// What it writes for a video, if it knows videos.
    pub(crate) video_token: Option<String>,
}

/// The chat template of `export`; with a branch for videos if the model takes them and the family says how.
pub(crate) fn chat_template(
    export: &Export<'_>,
    rules: &CaptionerRules,
    tokens: &Tokens,
    videos: bool,
    notes: &mut Notes,
) -> Chat {
    let mut text = export.configs.chat_template.clone();
    let token = tokens.video.clone().filter(|_| videos);
    let (Some((template, place)), Some(token)) = (&mut text, token) else {
        return Chat {
            text,
            video_token: None,
        };
    };
    let knows = |template: &str| template.contains("'video'") || template.contains("\"video\"");
    if !knows(template)
        && let Some(branch) = &rules.video_branch
    {
        *template = template.replacen(
            &branch.after,
            &format!("{}{}", branch.after, branch.insert),
            1,
        );
        notes.infer("chat template", "a branch for videos was added", place);
    }
    let video_token = knows(template).then_some(token);
    if video_token.is_none() {
        notes.warn(format!(
            "{place} has no branch for videos: frames of a video are given to the model as several pictures"
        ));
    }
    Chat { text, video_token }
}

/// How a chat template takes a message: as a list of parts, or as one text.
pub(crate) fn content(template: &Option<(String, String)>, notes: &mut Notes) -> &'static str {
    let Some((text, place)) = template else {
        return "text";
    };
    let parts = ["['type']", "[\"type\"]", ".type"]
        .iter()
        .any(|part| text.contains(part));
    let content = if parts { "parts" } else { "text" };
    notes.infer("content of messages", content, place);
    content
}

/// The tokens that prompts of pictures are made of.
pub(crate) struct Tokens {
    /// The token that marks a picture; `None`: rows come first, or are what the decoder attends to.
    pub(crate) image: Option<String>,
    /// What marks a video.
    video: Option<String>,
    others: BTreeMap<String, String>,
}

impl Tokens {
    /// Reads them.
    ///
    /// # Errors
    /// A token that the tokenizer does not have; values of a wrong type.
    pub(crate) fn read(
        export: &Export<'_>,
        words: &Words,
        rules: &CaptionerRules,
        family: &Family,
        notes: &mut Notes,
    ) -> Result<Self> {
        let mut tokens = Self {
            image: None,
            video: None,
            others: rules.tokens.clone(),
        };
        if family.shape != Shape::Decoder {
            return Ok(tokens);
        }
        let tokenizer = export.configs.tokenizer();
        let extra = tokenizer
            .get("extra_special_tokens")?
            .filter(|extra| extra.is_object());
        let own = |key: &str| -> Result<Option<String>> {
            let nested = extra
                .as_ref()
                .map(|extra| extra.get(key))
                .transpose()?
                .flatten();
            let found = match nested {
                Some(nested) => Some(nested),
                None => tokenizer.get(key)?,
            };
            found
                .map(|node| node.token_text().map(str::to_owned))
                .transpose()
        };
        for (key, text) in &mut tokens.others {
            if let Some(other) = own(key)? {
                *text = other;
            }
        }
        tokens.video = own("video_token")?.or_else(|| rules.video_token.clone());
        let config = export.configs.config.iter().map(Document::root).collect();
        let config = Places(config);
        let id = match config.get("image_token_id")? {
            Some(id) => Some(id),
            None => config.get("image_token_index")?,
        };
        tokens.image = match id {
            Some(node) => {
                let text = words.text_of(&node)?;
                notes.infer("image token", &text, &node.place());
                Some(text)
            }
            None => own("image_token")?.or_else(|| rules.image_token.clone()),
        };
        let image = tokens.image.as_deref().unwrap_or_default();
        if words.tokenizer.token_to_id(image).is_none() {
            return Err(Error::new(
                ErrorKind::BadModel,
                format!("tokenizer.json has no token {image:?}, which marks where a picture goes"),
            )
            .remedy("use the tokenizer of this model, and set image_token_id in config.json"));
        }
        Ok(tokens)
    }

    /// The family's template `text`, with the tokens it names.
    pub(crate) fn template(&self, name: &str, text: Option<&str>) -> Option<Extra> {
        let mut content = String::new();
        for (key, token) in &self.others {
            let token = token.replace('\\', "\\\\").replace('"', "\\\"");
            // Writing to a string does not fail.
            let _ = writeln!(content, "{{%- set {key} = \"{token}\" -%}}");
        }
        content.push_str(text?.trim());
        content.push('\n');
        Some(Extra {
            target: format!("{GROUP}/{name}.jinja"),
            content: content.into_bytes(),
        })
    }
}

/// What prompts are made from.
pub(crate) struct Prompted<'a> {
    pub(crate) export: &'a Export<'a>,
    pub(crate) rules: &'a CaptionerRules,
    pub(crate) family: &'a Family,
    pub(crate) template: bool,
    pub(crate) image_token: Option<&'a str>,
}

impl Prompted<'_> {
    /// The prompts of captions and of answers.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a chat template, if the family has no prompt without one.
    pub(crate) fn read(&self, notes: &mut Notes) -> Result<(Prompts, Option<String>)> {
        let rules = self.rules;
        match self.family.shape {
            Shape::Towers | Shape::PictureEncoderDecoder => Ok((Prompts::default(), None)),
            Shape::TextEncoderDecoder => {
                let mut named = BTreeMap::new();
                let places = self.export.configs.processor();
                match places.get("task_prompts_without_inputs")? {
                    Some(list) => {
                        for (task, prompt) in list.entries()? {
                            named.insert(task_name(task), prompt.text()?.to_owned());
                        }
                        notes.infer(
                            "named prompts",
                            &format!("{} of them", named.len()),
                            &list.place(),
                        );
                    }
                    None => named.extend(
                        rules
                            .prompts
                            .iter()
                            .map(|(task, prompt)| (task_name(task), prompt.clone())),
                    ),
                }
                let prompt = named
                    .get("caption")
                    .cloned()
                    .unwrap_or_else(|| rules.caption.clone());
                Ok((Prompts { prompt, named }, rules.ask.clone()))
            }
            Shape::Decoder => {
                let image = self.image_token.unwrap_or_default();
                let made = |words: &str, plain: &Option<String>| match (self.template, plain) {
                    (false, Some(plain)) => Ok(plain.replace("{image}", image)),
                    (false, None) => Err(self.no_template()),
                    (true, _) => Ok(format!("{image}{}{words}", self.join())),
                };
                let prompt = made(&rules.caption, &rules.plain_caption)?;
                let ask = rules
                    .ask
                    .as_ref()
                    .map(|ask| made(ask, &rules.plain_ask))
                    .transpose()?;
                Ok((
                    Prompts {
                        prompt,
                        named: BTreeMap::new(),
                    },
                    ask,
                ))
            }
        }
    }

    /// What stands between the image token and the words: nothing where the template itself puts the parts together.
    fn join(&self) -> &str {
        let template = self.export.configs.chat_template.as_ref();
        let parts = template.is_some_and(|(text, _)| {
            ["['type']", "[\"type\"]", ".type"]
                .iter()
                .any(|part| text.contains(part))
        });
        if parts { "" } else { &self.rules.join }
    }

    fn no_template(&self) -> Error {
        let shown = self.export.folder.shown().display();
        Error::new(
            ErrorKind::NotFound,
            format!(
                "{shown} has no chat template: neither chat_template.jinja nor chat_template.json, nor \"chat_template\" in \
                 tokenizer_config.json"
            ),
        )
        .remedy("copy the file from the model that was exported")
    }
}

/// `<MORE_DETAILED_CAPTION>` as `more-detailed-caption`.
fn task_name(task: &str) -> String {
    let name = task.trim_matches(['<', '>']).to_ascii_lowercase();
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tasks_are_those_of_the_command_line() {
        assert_eq!(task_name("<CAPTION>"), "caption");
        assert_eq!(
            task_name("<MORE_DETAILED_CAPTION>"),
            "more-detailed-caption"
        );
        assert_eq!(task_name("<OCR_WITH_REGION>"), "ocr-with-region");
    }
}
