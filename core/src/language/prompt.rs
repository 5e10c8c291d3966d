//! Conversations as prompts: a pack's Jinja chat template rendered the way Hugging Face renders it.

use minijinja::context;
use serde::Serialize;

use super::jinja::Template;
use crate::error::Result;
use crate::pack::ContentForm;

/// A piece of what was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ContentPart {
    /// A picture.
    Image,
    /// A video.
    Video,
    /// Words. Special tokens written out in them are special: do not pass text of strangers in a role they should not speak in.
    Text {
        /// The words.
        text: String,
    },
}

impl ContentPart {
    /// Words.
    pub fn text(words: impl Into<String>) -> Self {
        Self::Text { text: words.into() }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`, or another role the pack's template knows.
    pub role: String,
    /// What was said, in order.
    pub content: Vec<ContentPart>,
}

impl Message {
    /// A message of `role` with nothing but words.
    pub fn new(role: impl Into<String>, words: impl Into<String>) -> Self {
        Self::of(role, vec![ContentPart::text(words)])
    }

    /// A message of `role`.
    pub fn of(role: impl Into<String>, content: Vec<ContentPart>) -> Self {
        Self {
            role: role.into(),
            content,
        }
    }

    /// What the model is to be.
    pub fn system(words: impl Into<String>) -> Self {
        Self::new("system", words)
    }

    /// What the user says.
    pub fn user(words: impl Into<String>) -> Self {
        Self::new("user", words)
    }

    /// What the model said.
    pub fn assistant(words: impl Into<String>) -> Self {
        Self::new("assistant", words)
    }

    /// The content as one string.
    pub(super) fn as_text(&self, markers: &Markers) -> String {
        let piece = |part: &ContentPart| match part {
            ContentPart::Image => markers.image.clone(),
            ContentPart::Video => markers.video.clone(),
            ContentPart::Text { text } => text.clone(),
        };
        self.content.iter().map(piece).collect()
    }
}

/// How a conversation becomes a text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Markers {
    /// What stands for a picture where the content is one string.
    pub image: String,
    /// What stands for a video there.
    pub video: String,
    /// What the chat template gets as a message's content.
    pub form: ContentForm,
}

/// A message as templates see it.
#[derive(Serialize)]
struct Seen<'a> {
    role: &'a str,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(String),
    Parts(&'a [ContentPart]),
}

/// A compiled chat template. May be used from any thread.
#[derive(Debug)]
pub struct ChatTemplate {
    template: Template,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Compiles `source` (UTF-8 Jinja). `bos_token` and `eos_token` are what the template sees under these names.
    ///
    /// The environment is the one of `transformers`: `trim_blocks`, `lstrip_blocks`, `break` and `continue`,
    /// `raise_exception(message)`, `strftime_now(format)` (UTC), the `tojson` filter, the methods of Python's
    /// strings and dicts.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`](crate::error::ErrorKind::BadPack) naming the line that does not parse.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self> {
        Ok(Self {
            template: Template::new("the pack's chat template", source)?,
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
        })
    }

    /// The prompt for `messages`, ending where the assistant's answer begins (`add_generation_prompt`).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::error::ErrorKind::InvalidArgument) when the template refuses the messages
    /// (`raise_exception`), [`ErrorKind::BadPack`](crate::error::ErrorKind::BadPack) when the template itself fails, never ends, or
    /// writes more than a mebibyte.
    pub fn render(&self, messages: &[Message], markers: &Markers) -> Result<String> {
        let seen = |message: &'_ Message| -> minijinja::Value {
            minijinja::Value::from_serialize(Seen {
                role: &message.role,
                content: match markers.form {
                    ContentForm::Text => Content::Text(message.as_text(markers)),
                    ContentForm::Parts => Content::Parts(&message.content),
                },
            })
        };
        let messages: Vec<_> = messages.iter().map(seen).collect();
        self.template.render(context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}\
        {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        ChatTemplate::new(source, "<s>", "</s>")?.render(messages, &Markers::default())
    }

    #[test]
    fn chatml_renders_as_transformers_does() {
        let prompt = render(CHATML, &[Message::user("Hi")]).expect("prompt");
        assert_eq!(
            prompt,
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
             <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
        let prompt =
            render(CHATML, &[Message::system("Short."), Message::user("Hi")]).expect("prompt");
        assert_eq!(
            prompt,
            "<|im_start|>system\nShort.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn what_hugging_face_templates_use_works() {
        let source = "{{- bos_token }}{%- set ns = namespace(system='') %}\n\
            {%- for m in messages %}\n    {%- if m.role == 'system' %}{%- set ns.system = m.content.strip() %}\n\
            {%- continue %}\n{%- endif %}\n[{{ m['content'].split('|')[-1] | trim }}]{% if not loop.last %},{% endif %}\n\
            {%- endfor %}{{ ns.system }}{{ tools is defined }}{{ messages[1:] | length }}\
            {{ {'k': 'é<'} | tojson }}{{ [1, 2] | tojson(indent=2) }}{{ strftime_now('%%') }}{{ eos_token }}";
        let prompt = render(
            source,
            &[
                Message::system(" S "),
                Message::user("a|b "),
                Message::user("c"),
            ],
        )
        .expect("prompt");
        assert_eq!(
            prompt,
            "<s>[b],[c]SFalse2{\"k\": \"é<\"}[\n  1,\n  2\n]%</s>"
        );
    }

    #[test]
    fn a_refusal_is_the_callers_error() {
        let source = "{{ raise_exception('roles must alternate') }}";
        let error = render(source, &[]).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.message().ends_with("roles must alternate"), "{error}");
    }

    #[test]
    fn a_hostile_template_is_an_error() {
        let endless =
            "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
        let long = "{% for a in range(90000) %}{{ 'x' * 9000 }}{% endfor %}";
        for source in [
            "{% if %}",
            "{{ nothing() }}",
            endless,
            long,
            "{% include 'x' %}",
        ] {
            let error = render(source, &[]).expect_err("hostile");
            assert_eq!(error.kind(), ErrorKind::BadPack, "{error}");
        }
    }

    /// The crate recurses over a chain, and over lists in lists when it lets go of them. A thread of the runtime has two megabytes.
    #[test]
    fn a_deep_template_is_read_on_a_stack_that_holds_it() {
        let chain = |part: &str| format!("{{{{ 1{} }}}}", part.repeat(120_000 / part.len()));
        let chains = [
            "+1", ".a", "|int", "[0]", " is odd", " if 1", "()", "~1", "**1",
        ]
        .map(chain);
        let signs = format!("{{{{ 1 - {}1 }}}}", "-".repeat(120_000));
        let nots = format!("{{{{ {}1 }}}}", "not ".repeat(30_000));
        let branches = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(10_000));
        let lists = "{% set ns = namespace(a=[]) %}{% for a in range(90000) %}{% set ns.a = [ns.a] %}{% endfor %}";
        let sources = chains
            .into_iter()
            .chain([signs, nots, branches, lists.to_owned()]);
        let small = std::thread::Builder::new().stack_size(2 << 20);
        let read = small.spawn(|| {
            for source in sources {
                if let Err(error) = render(&source, &[]) {
                    let kinds = [ErrorKind::BadPack, ErrorKind::InvalidArgument];
                    assert!(kinds.contains(&error.kind()), "{error}");
                }
            }
        });
        read.expect("a thread").join().expect("no panic");
        let error = render(&" ".repeat(1 << 20), &[]).expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::BadPack);
        assert!(error.message().contains("131072"), "{error}");
    }

    #[test]
    fn a_filter_makes_no_more_than_fits() {
        for filter in [
            "indent(10000000000000)",
            "indent(width=10000000000000)",
            "list|batch(10000000000000)",
            "list|batch(18446744073709551615)",
            "list|slice(10000000000000)",
            "format(1)",
        ] {
            let source = format!("{{{{ '%010000000000000d'|{filter} }}}}");
            let error = render(&source, &[]).expect_err("hostile");
            assert_eq!(error.kind(), ErrorKind::BadPack, "{error}");
            assert!(error.message().contains("a number above"), "{error}");
        }
        let source = "{{ '{:010000000000000}'.format(1) }}";
        let error = render(source, &[]).expect_err("hostile");
        assert!(error.message().contains("a number above"), "{error}");
        let harmless = "{{ '%05d'|format(1234567) }}{{ 'a\n123456'|indent(2, first=true) }}\
            {{ [1, 2, 3]|batch(2)|list|length }}{{ '{:>4}'.format(7) }}";
        assert_eq!(
            render(harmless, &[]).expect("text"),
            "1234567  a\n  1234562   7"
        );
    }
}
