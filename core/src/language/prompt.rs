//! Chat prompts: a pack's Jinja chat template rendered the way Hugging Face renders it.
//!
//! The crate hf-chat-template sets up the same environment, but bounds neither the steps of a template nor the length of what it
//! writes, and hides the environment that could: a bad pack could hang the process or take all memory.

use std::fmt::Write as _;
use std::io;

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, UndefinedBehavior, context};
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`, or another role the pack's template knows.
    pub role: String,
    /// What was said. Special tokens written out in it are special: do not pass text of strangers in a role they
    /// should not speak in.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }

    /// What the model is to be.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// Most instructions one rendering may take: a template in a pack must not hang the process.
const FUEL: u64 = 2_000_000;
/// Longest prompt a template may write, in bytes.
const MAX_PROMPT_BYTES: usize = super::tokenizer::MAX_TEXT_BYTES;
const NAME: &str = "chat_template";

/// A compiled chat template. May be used from any thread.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
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
    /// [`ErrorKind::BadPack`] naming the line that does not parse.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| bad("does not parse", &error))?;
        Ok(Self {
            environment,
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
        })
    }

    /// The prompt for `messages`, ending where the assistant's answer begins (`add_generation_prompt`).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the template refuses the messages (`raise_exception`),
    /// [`ErrorKind::BadPack`] when the template itself fails, never ends, or writes more than a mebibyte.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| bad("is missing", &error))?;
        let mut prompt = Limited(Vec::new());
        let values = context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
        };
        template
            .render_captured_to(values, &mut prompt)
            .map_err(|error| match refusal(&error) {
                Some(message) => Error::new(
                    ErrorKind::InvalidArgument,
                    format!("the pack's chat template refuses these messages: {message}"),
                ),
                None => bad("fails", &error),
            })?;
        String::from_utf8(prompt.0)
            .map_err(|_| Error::new(ErrorKind::Internal, "a template wrote bytes, not text"))
    }
}

fn bad(what: &str, error: &minijinja::Error) -> Error {
    let line = error
        .line()
        .map_or_else(String::new, |line| format!(" in line {line}"));
    Error::new(
        ErrorKind::BadPack,
        format!("the pack's chat template {what}{line}: {error}"),
    )
}

/// Marks the one error that is the caller's and not the pack's.
const REFUSED: &str = "\u{1}refused:";

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(
        minijinja::ErrorKind::InvalidOperation,
        format!("{REFUSED}{message}"),
    ))
}

fn refusal(error: &minijinja::Error) -> Option<String> {
    Some(error.detail()?.strip_prefix(REFUSED)?.to_owned())
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`, as `transformers` defines the filter; other keywords are
/// accepted and change nothing that a prompt depends on.
fn tojson(value: Value, arguments: Kwargs) -> Result<Value, minijinja::Error> {
    let failed = |error: serde_json::Error| {
        minijinja::Error::new(minijinja::ErrorKind::BadSerialization, error.to_string())
    };
    let indent: Option<usize> = arguments.get("indent")?;
    for key in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = arguments.get(key)?;
    }
    arguments.assert_all_used()?;
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            let mut writer = serde_json::Serializer::with_formatter(&mut out, formatter);
            value.serialize(&mut writer).map_err(failed)?;
        }
        None => {
            let mut writer = serde_json::Serializer::with_formatter(&mut out, Spaced);
            value.serialize(&mut writer).map_err(failed)?;
        }
    }
    let text = String::from_utf8(out).map_err(|error| {
        minijinja::Error::new(minijinja::ErrorKind::BadSerialization, error.to_string())
    })?;
    Ok(Value::from_safe_string(text))
}

/// Python's separators: `", "` and `": "`.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }
    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Today by `format`; the directives templates use: `%Y %m %d %b %B %a %A %H %M %S %j %y %e %-d %%`. UTC.
fn strftime_now(format: String) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    strftime(&format, now)
}

fn strftime(format: &str, unix_seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day, day_of_year) = civil(days);
    let month_name = MONTHS[(month - 1) as usize];
    let day_name = DAYS[(days % 7) as usize];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        // Writing to a string cannot fail.
        let _ = match chars.next() {
            Some('Y') => write!(out, "{year}"),
            Some('y') => write!(out, "{:02}", year % 100),
            Some('m') => write!(out, "{month:02}"),
            Some('d') => write!(out, "{day:02}"),
            Some('e') => write!(out, "{day:2}"),
            Some('j') => write!(out, "{day_of_year:03}"),
            Some('B') => out.write_str(month_name),
            Some('b' | 'h') => out.write_str(&month_name[..3]),
            Some('A') => out.write_str(day_name),
            Some('a') => out.write_str(&day_name[..3]),
            Some('H') => write!(out, "{:02}", seconds / 3600),
            Some('M') => write!(out, "{:02}", seconds / 60 % 60),
            Some('S') => write!(out, "{:02}", seconds % 60),
            Some('%') => out.write_char('%'),
            Some('-') => match chars.next() {
                Some('d') => write!(out, "{day}"),
                Some('m') => write!(out, "{month}"),
                Some(other) => write!(out, "%-{other}"),
                None => out.write_str("%-"),
            },
            Some(other) => write!(out, "%{other}"),
            None => out.write_char('%'),
        };
    }
    out
}

/// Year, month 1..=12, day 1..=31 and day of the year 1..=366 of a day counted from 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64, u64) {
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    loop {
        let length = 365 + u64::from(leap(year));
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let day_of_year = days + 1;
    let mut month = 1;
    loop {
        let length = match month {
            2 => 28 + u64::from(leap(year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if days < length {
            return (year, month, days + 1, day_of_year);
        }
        days -= length;
        month += 1;
    }
}

/// A buffer that refuses to grow past [`MAX_PROMPT_BYTES`].
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_PROMPT_BYTES {
            return Err(io::Error::other("the prompt is longer than a mebibyte"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}\
        {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        ChatTemplate::new(source, "<s>", "</s>")?.render(messages)
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

    #[test]
    fn dates() {
        assert_eq!(strftime("%d %b %Y", 0), "01 Jan 1970");
        assert_eq!(
            strftime("%A %-d %B %Y %H:%M:%S %j %q", 1_709_210_096),
            "Thursday 29 February 2024 12:34:56 060 %q"
        );
        assert_eq!(strftime("%a %e %m %y%", 978_307_199), "Sun 31 12 00%");
    }
}
