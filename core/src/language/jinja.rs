//! Jinja templates of a pack, rendered in the environment that Hugging Face `transformers` sets up for chat templates.
//!
//! The crate hf-chat-template sets up the same environment, but bounds neither the steps of a template nor the length of what it
//! writes, and hides the environment that could: a bad pack could hang the process or take all memory.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{Environment, State, UndefinedBehavior, filters};
use serde::Serialize;

use super::strftime::strftime_now;
use crate::error::{Error, ErrorKind, Result};

/// Most instructions one rendering may take: a template in a pack must not hang the process.
const FUEL: u64 = 2_000_000;
/// Longest text a template may write, in bytes.
const MAX_BYTES: usize = super::tokenizer::MAX_TEXT_BYTES;
/// Longest source, in bytes. Those of models have some ten thousand.
const MAX_SOURCE: usize = 128 << 10;
/// Most spaces, lists or items that a filter may be asked for.
const MOST_MADE: usize = 1000;
/// Filters that make as much as a number says.
const MAKERS: [&str; 4] = ["batch", "format", "indent", "slice"];
/// A source up to this many bytes nests nothing deeper than any thread's stack holds, if it has no namespace besides: only a
/// namespace keeps from one step of a loop to the next what it puts into a list.
const SHALLOW: usize = 1 << 10;
/// Stack for other sources. The crate recurses over a chain such as `a+a+a`, one level for each of its parts, and over lists
/// inside lists. Only what is used of it takes memory.
const DEEP_STACK: usize = 512 << 20;
const NAME: &str = "template";

/// A compiled template. May be used from any thread.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    /// What errors call it.
    name: String,
    deep: bool,
}

impl Template {
    /// Compiles `source` (UTF-8 Jinja). `name` is what errors call it, such as `the pack's chat template`.
    ///
    /// The environment is the one of `transformers`: `trim_blocks`, `lstrip_blocks`, `break` and `continue`,
    /// `raise_exception(message)`, `strftime_now(format)` (UTC), the `tojson` filter, the methods of Python's
    /// strings and dicts.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] naming the line that does not parse, or for a source that is too long.
    pub(crate) fn new(name: &str, source: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            let what = format!(
                "{name} has {} bytes, at most {MAX_SOURCE} are read",
                source.len()
            );
            return Err(Error::new(ErrorKind::BadPack, what));
        }
        let deep = source.len() > SHALLOW || source.contains("namespace");
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(method);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        for filter in MAKERS {
            let own = format!("{filter} of any size");
            match filter {
                "batch" => environment.add_filter(own, filters::batch),
                "format" => environment.add_filter(own, filters::format),
                "indent" => environment.add_filter(own, filters::indent),
                _ => environment.add_filter(own, filters::slice),
            }
            let bounded = move |state: &State<'_, '_>, given: Rest<Value>| {
                bounded(filter, &given)?;
                state.apply_filter(&format!("{filter} of any size"), &given)
            };
            environment.add_filter(filter, bounded);
        }
        let compiled = guarded(name, deep, || {
            environment.add_template_owned(NAME, source.to_owned())
        })?;
        compiled.map_err(|error| bad(name, "does not parse", &error))?;
        Ok(Self {
            environment,
            name: name.to_owned(),
            deep,
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
        let values = Value::from_serialize(&values);
        let mut written = Limited(Vec::new());
        // The state holds what the template made, which may be deep: it ends where it began.
        let rendered = guarded(&self.name, self.deep, || {
            template
                .render_captured_to(values, &mut written)
                .map(|_| ())
        })?;
        rendered.map_err(|error| match refusal(&error) {
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

/// Runs a call into the crate: on a stack of its own if it may go deep. A panic on a hostile template becomes an error.
fn guarded<T: Send>(name: &str, deep: bool, call: impl FnOnce() -> T + Send) -> Result<T> {
    let call = AssertUnwindSafe(call);
    let end = if deep {
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("atom-template".into())
                .stack_size(DEEP_STACK)
                .spawn_scoped(scope, || catch_unwind(call));
            let thread = thread.map_err(|e| Error::io("a thread for a template", &e))?;
            Ok(thread.join().unwrap_or_else(Err))
        })?
    } else {
        catch_unwind(call)
    };
    end.map_err(|_| {
        let what = format!("{name} fails: it asks for more than can be had");
        Error::new(ErrorKind::BadPack, what)
    })
}

/// Refuses what would make a filter take all memory: a number, or a width in a format.
fn bounded(filter: &str, given: &[Value]) -> Result<(), minijinja::Error> {
    let large = |value: &Value| value.as_usize().is_some_and(|number| number > MOST_MADE);
    let wide = |text: &str| {
        let mut digits = text.split(|c: char| !c.is_ascii_digit());
        digits.any(|digits| digits.len() > 3)
    };
    let refused = match given {
        [text, ..] if filter == "format" => text.as_str().is_some_and(wide),
        [_, numbers @ ..] => numbers.iter().any(|number| {
            let named = Kwargs::try_from(number.clone()).ok();
            let mut named = named.iter().flat_map(|named| {
                let values = named.args().map(|name| named.peek::<Value>(name));
                values.filter_map(Result::ok)
            });
            large(number) || named.any(|number| large(&number))
        }),
        [] => false,
    };
    if refused {
        let what = format!("{filter} is given a number above {MOST_MADE}");
        return Err(minijinja::Error::new(
            minijinja::ErrorKind::InvalidOperation,
            what,
        ));
    }
    Ok(())
}

/// The methods of Python's strings and dicts.
fn method(
    state: &State<'_, '_>,
    value: &Value,
    method: &str,
    given: &[Value],
) -> Result<Value, minijinja::Error> {
    if method == "format" {
        bounded(method, std::slice::from_ref(value))?;
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, given)
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
