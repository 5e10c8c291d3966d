//! Jinja templates of a pack, rendered in the environment that Hugging Face `transformers` sets up for chat templates.
//!
//! The crate hf-chat-template sets up the same environment, but bounds neither the steps of a template nor the length of what it
//! writes, and hides the environment that could: a bad pack could hang the process or take all memory.

use std::io;

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

use super::strftime::strftime_now;
use crate::error::{Error, ErrorKind, Result};

/// Most instructions one rendering may take: a template in a pack must not hang the process.
const FUEL: u64 = 2_000_000;
/// Longest text a template may write, in bytes.
const MAX_BYTES: usize = super::tokenizer::MAX_TEXT_BYTES;
const NAME: &str = "template";

/// A compiled template. May be used from any thread.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    /// What errors call it.
    name: String,
}

impl Template {
    /// Compiles `source` (UTF-8 Jinja). `name` is what errors call it, such as `the pack's chat template`.
    ///
    /// The environment is the one of `transformers`: `trim_blocks`, `lstrip_blocks`, `break` and `continue`,
    /// `raise_exception(message)`, `strftime_now(format)` (UTC), the `tojson` filter, the methods of Python's
    /// strings and dicts.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] naming the line that does not parse.
    pub(crate) fn new(name: &str, source: &str) -> Result<Self> {
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
            .map_err(|error| bad(name, "does not parse", &error))?;
        Ok(Self {
            environment,
            name: name.to_owned(),
        })
    }

    /// What the template writes for `values`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the template refuses the values (`raise_exception`), [`ErrorKind::BadPack`] when the
    /// template itself fails, never ends, or writes more than a mebibyte.
    pub(crate) fn render(&self, values: impl Serialize) -> Result<String> {
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| bad(&self.name, "is missing", &error))?;
        let mut written = Limited(Vec::new());
        template
            .render_captured_to(values, &mut written)
            .map_err(|error| match refusal(&error) {
                Some(message) => Error::new(
                    ErrorKind::InvalidArgument,
                    format!("{} refuses these messages: {message}", self.name),
                ),
                None => bad(&self.name, "fails", &error),
            })?;
        String::from_utf8(written.0)
            .map_err(|_| Error::new(ErrorKind::Internal, "a template wrote bytes, not text"))
    }
}

fn bad(name: &str, what: &str, error: &minijinja::Error) -> Error {
    let line = error
        .line()
        .map_or_else(String::new, |line| format!(" in line {line}"));
    Error::new(ErrorKind::BadPack, format!("{name} {what}{line}: {error}"))
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

/// A buffer that refuses to grow past [`MAX_BYTES`].
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_BYTES {
            return Err(io::Error::other("the prompt is longer than a mebibyte"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
