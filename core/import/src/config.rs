//! Typed reading of JSON configurations. Every error names the file and the key.

use atom_core::{Error, ErrorKind, Result};
use serde_json::Value;

/// A configuration file.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    name: String,
    value: Value,
}

/// A value of a configuration file, and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    file: &'a str,
    path: String,
    value: &'a Value,
}

impl Document {
    /// The file `name` with this content.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] naming the file if it is not JSON, or not an object.
    pub(crate) fn parse(name: &str, content: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(content).map_err(|e| {
            Error::new(
                ErrorKind::BadModel,
                format!("{name} is not valid JSON: {e}"),
            )
            .remedy("the file may be cut short: copy or download it again")
        })?;
        if !value.is_object() {
            return Err(Error::new(
                ErrorKind::BadModel,
                format!("{name} is {}, expected an object", kind(&value)),
            )
            .remedy("copy or download the file again"));
        }
        Ok(Self {
            name: name.to_owned(),
            value,
        })
    }

    /// The whole file.
    pub(crate) fn root(&self) -> Node<'_> {
        Node {
            file: &self.name,
            path: String::new(),
            value: &self.value,
        }
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("{:?}", shortened(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl<'a> Node<'a> {
    /// File and key, for reports.
    pub(crate) fn place(&self) -> String {
        if self.path.is_empty() {
            self.file.to_owned()
        } else {
            format!("{}: {}", self.file, self.path)
        }
    }

    /// An error about this value.
    pub(crate) fn wrong(&self, expected: &str) -> Error {
        let is = kind(self.value);
        Error::new(
            ErrorKind::BadModel,
            format!("{} is {is}, expected {expected}", self.place()),
        )
        .remedy(format!("correct the key in {}", self.file))
    }

    /// An error about a key that is missing here.
    pub(crate) fn missing(&self, key: &str, why: &str) -> Error {
        Error::new(
            ErrorKind::BadModel,
            format!("{} has no {:?}: {why}", self.file, self.joined(key)),
        )
        .remedy(format!(
            "add the key to {}, or export the model again",
            self.file
        ))
    }

    fn joined(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The value under `key`; `None` if it is missing or null.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] if this is no object.
    pub(crate) fn get(&self, key: &str) -> Result<Option<Node<'a>>> {
        let Value::Object(map) = self.value else {
            return Err(self.wrong("an object"));
        };
        Ok(map
            .get(key)
            .filter(|value| !value.is_null())
            .map(|value| Node {
                file: self.file,
                path: self.joined(key),
                value,
            }))
    }

    /// The value under `key`; `why` says what needs it.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] if it is missing.
    pub(crate) fn need(&self, key: &str, why: &str) -> Result<Node<'a>> {
        self.get(key)?.ok_or_else(|| self.missing(key, why))
    }

    pub(crate) fn is_object(&self) -> bool {
        self.value.is_object()
    }

    pub(crate) fn is_array(&self) -> bool {
        self.value.is_array()
    }

    pub(crate) fn is_string(&self) -> bool {
        self.value.is_string()
    }

    pub(crate) fn is_number(&self) -> bool {
        self.value.is_number()
    }

    pub(crate) fn is_bool(&self) -> bool {
        self.value.is_boolean()
    }

    /// A whole number from 0 to 2³¹. Numbers such as `1.0` are whole, too.
    pub(crate) fn whole(&self) -> Result<usize> {
        let whole = self.value.as_u64().or_else(|| {
            let number = self.value.as_f64()?;
            (number.fract() == 0.0 && (0.0..=2_147_483_648.0).contains(&number))
                .then_some(number as u64)
        });
        whole
            .filter(|&number| number <= 1 << 31)
            .map(|number| number as usize)
            .ok_or_else(|| self.wrong("a whole number"))
    }

    /// A token's id.
    pub(crate) fn token(&self) -> Result<u32> {
        let id = self.whole().map_err(|_| self.wrong("a token id"))?;
        u32::try_from(id).map_err(|_| self.wrong("a token id"))
    }

    /// A token's id, or a list of them.
    pub(crate) fn tokens(&self) -> Result<Vec<u32>> {
        match self.value {
            Value::Array(_) => self.items()?.iter().map(Node::token).collect(),
            _ => Ok(vec![self.token()?]),
        }
    }

    pub(crate) fn number(&self) -> Result<f64> {
        let number = self.value.as_f64().filter(|number| number.is_finite());
        number.ok_or_else(|| self.wrong("a number"))
    }

    /// A list of three numbers.
    pub(crate) fn three(&self) -> Result<[f64; 3]> {
        let items = self.items()?;
        let numbers: Vec<f64> = items.iter().map(Node::number).collect::<Result<_>>()?;
        <[f64; 3]>::try_from(numbers)
            .map_err(|_| self.wrong("three numbers, for red, green and blue"))
    }

    pub(crate) fn flag(&self) -> Result<bool> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong("true or false"))
    }

    pub(crate) fn text(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.wrong("a text"))
    }

    /// A token's text: a text, or an object that has it as `content`.
    pub(crate) fn token_text(&self) -> Result<&'a str> {
        match self.value {
            Value::Object(_) => self.need("content", "it is the token's text")?.text(),
            _ => self.text(),
        }
    }

    pub(crate) fn items(&self) -> Result<Vec<Node<'a>>> {
        let Value::Array(items) = self.value else {
            return Err(self.wrong("a list"));
        };
        let item = |(at, value)| Node {
            file: self.file,
            path: format!("{}[{at}]", self.path),
            value,
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// Keys and values, in the file's order where serde keeps it.
    pub(crate) fn entries(&self) -> Result<Vec<(&'a str, Node<'a>)>> {
        let Value::Object(map) = self.value else {
            return Err(self.wrong("an object"));
        };
        let entry = |(key, value): (&'a String, &'a Value)| {
            let node = Node {
                file: self.file,
                path: self.joined(key),
                value,
            };
            (key.as_str(), node)
        };
        Ok(map.iter().map(entry).collect())
    }
}

/// Several places that may have a key. The first that has it counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places<'a>(pub(crate) Vec<Node<'a>>);

impl<'a> Places<'a> {
    /// The first value under `key`.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] if one of the places is no object.
    pub(crate) fn get(&self, key: &str) -> Result<Option<Node<'a>>> {
        for place in &self.0 {
            if let Some(found) = place.get(key)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Names of the files, for messages.
    pub(crate) fn files(&self) -> String {
        let mut names: Vec<&str> = self.0.iter().map(|place| place.file).collect();
        names.dedup();
        names.join(" or ")
    }
}
