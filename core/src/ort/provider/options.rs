//! The options a provider takes, and what they may be.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::fmt;

use serde::Deserialize;

use super::kind::Provider;
use crate::error::{Error, ErrorKind, Result};

/// Options of a provider by name, as a manifest gives them.
pub type ProviderOptions = BTreeMap<String, Setting>;

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    /// `true` or `false`; `1` and `0` to the provider.
    Switch(bool),
    /// A whole number.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch(on) => write!(f, "{}", u8::from(*on)),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A provider and how it is set up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Which.
    pub provider: Provider,
    /// Its options.
    pub options: ProviderOptions,
}

/// An option there is.
pub(super) struct Rule {
    pub(super) key: &'static str,
    pub(super) legal: Legal,
}

/// What an option may be.
pub(super) enum Legal {
    /// true or false.
    Switch,
    /// A whole number between these, both included.
    Between(i64, i64),
    /// One of these numbers.
    Numbers(&'static [i64]),
    /// One of these words.
    Words(&'static [&'static str]),
    /// The name of a library, without a folder: a pack must not load what it likes.
    Library { begins: &'static str },
}

impl Legal {
    fn holds(&self, setting: &Setting) -> bool {
        match (self, setting) {
            (Self::Switch, Setting::Switch(_)) => true,
            (Self::Between(low, high), Setting::Number(number)) => (low..=high).contains(&number),
            (Self::Numbers(all), Setting::Number(number)) => all.contains(number),
            (Self::Words(all), Setting::Text(text)) => all.contains(&text.as_str()),
            (Self::Library { begins }, Setting::Text(text)) => {
                let inner = text.strip_prefix(begins);
                let inner = inner.and_then(|rest| rest.strip_suffix(".so"));
                inner.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric()))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Legal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |all: &[String]| all.join(", ");
        match self {
            Self::Switch => f.write_str("true or false"),
            Self::Between(low, high) => write!(f, "a whole number from {low} to {high}"),
            Self::Numbers(all) => {
                let all: Vec<_> = all.iter().map(ToString::to_string).collect();
                write!(f, "one of the numbers {}", list(&all))
            }
            Self::Words(all) => {
                let all: Vec<_> = all.iter().map(|word| format!("{word:?}")).collect();
                write!(f, "one of {}", list(&all))
            }
            Self::Library { begins } => {
                write!(f, "the name of a library, {begins}….so, without a folder")
            }
        }
    }
}

/// Whether every option is there and may be what it is.
pub(super) fn check(
    provider: Provider,
    rules: &'static [Rule],
    options: &ProviderOptions,
) -> Result<()> {
    for (key, setting) in options {
        let Some(rule) = rules.iter().find(|rule| rule.key == key) else {
            let known: Vec<&str> = rules.iter().map(|rule| rule.key).collect();
            let remedy = if known.is_empty() {
                "it takes none".to_owned()
            } else {
                format!("it takes {}", known.join(", "))
            };
            return Err(wrong(provider, format_args!("has no option {key:?}")).remedy(remedy));
        };
        if !rule.legal.holds(setting) {
            let shown = match setting {
                Setting::Text(text) => format!("{text:?}"),
                Setting::Switch(on) => on.to_string(),
                Setting::Number(number) => number.to_string(),
            };
            return Err(wrong(provider, format_args!("option {key} = {shown}"))
                .remedy(format!("it is {}", rule.legal)));
        }
    }
    Ok(())
}

/// What is wrong with a provider's options.
pub(super) fn wrong(provider: Provider, what: impl fmt::Display) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("provider {provider} {what}"),
    )
}

/// Names and values as the C API takes them.
pub(super) struct Pairs {
    strings: Vec<(CString, CString)>,
}

impl Pairs {
    pub(super) fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> Result<Self> {
        let nul = |_| Error::new(ErrorKind::InvalidArgument, "an option contains a NUL");
        let strings = pairs.into_iter().map(|(key, value)| {
            Ok((
                CString::new(key).map_err(nul)?,
                CString::new(value).map_err(nul)?,
            ))
        });
        Ok(Self {
            strings: strings.collect::<Result<_>>()?,
        })
    }

    /// Pointers that are valid as long as `self`.
    pub(super) fn pointers(&self) -> (Vec<*const c_char>, Vec<*const c_char>) {
        let keys = self.strings.iter().map(|(key, _)| key.as_ptr());
        let values = self.strings.iter().map(|(_, value)| value.as_ptr());
        (keys.collect(), values.collect())
    }
}
