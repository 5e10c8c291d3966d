//! Values and records of the canonical encoding.

use std::collections::BTreeMap;

use super::Digest;

pub(super) const ABSENT: u8 = 0;
pub(super) const INTEGER: u8 = 1;
pub(super) const FLOAT: u8 = 2;
pub(super) const SWITCH: u8 = 3;
pub(super) const TEXT: u8 = 4;
pub(super) const BYTES: u8 = 5;
pub(super) const DIGEST: u8 = 6;
pub(super) const LIST: u8 = 7;
pub(super) const RECORD: u8 = 8;

/// One encoded value: type, length and payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(Vec<u8>);

impl Value {
    fn new(kind: u8, payload: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(9 + payload.len());
        bytes.push(kind);
        bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        bytes.extend_from_slice(payload);
        Self(bytes)
    }

    /// No value.
    pub fn absent() -> Self {
        Self::new(ABSENT, &[])
    }

    /// Bytes that are neither a text nor a digest.
    pub fn bytes(bytes: &[u8]) -> Self {
        Self::new(BYTES, bytes)
    }

    /// A list of values.
    pub fn list(values: impl IntoIterator<Item = Value>) -> Self {
        let mut payload = Vec::new();
        for value in values {
            payload.extend_from_slice(&value.0);
        }
        Self::new(LIST, &payload)
    }

    fn is_absent(&self) -> bool {
        self.0.first() == Some(&ABSENT)
    }

    /// Type, length and payload.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What has a canonical encoding.
pub trait Encode {
    /// The encoding.
    fn value(&self) -> Value;
}

/// Named fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record(BTreeMap<String, Value>);

impl Record {
    /// A record without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field; an absent value leaves it out. A second field of the same name replaces the first.
    pub fn field<T: Encode + ?Sized>(&mut self, name: &str, value: &T) -> &mut Self {
        let value = value.value();
        if value.is_absent() {
            self.0.remove(name);
        } else {
            self.0.insert(name.to_owned(), value);
        }
        self
    }

    /// Adds a field unless it encodes like `default`.
    pub fn unless_default<T, D>(&mut self, name: &str, value: &T, default: &D) -> &mut Self
    where
        T: Encode + ?Sized,
        D: Encode + ?Sized,
    {
        if value.value() != default.value() {
            self.field(name, value);
        }
        self
    }
}

impl Encode for Record {
    fn value(&self) -> Value {
        let mut payload = Vec::new();
        for (name, value) in &self.0 {
            payload.extend_from_slice(&(name.len() as u64).to_le_bytes());
            payload.extend_from_slice(name.as_bytes());
            payload.extend_from_slice(&value.0);
        }
        Value::new(RECORD, &payload)
    }
}

impl Encode for Value {
    fn value(&self) -> Value {
        self.clone()
    }
}

impl<T: Encode + ?Sized> Encode for &T {
    fn value(&self) -> Value {
        (**self).value()
    }
}

macro_rules! integers {
    ($($type:ty)*) => {
        $(impl Encode for $type {
            fn value(&self) -> Value {
                // At most 64 bits, so no number is lost.
                Value::new(INTEGER, &(*self as i128).to_le_bytes())
            }
        })*
    };
}
integers!(u8 u16 u32 u64 usize i8 i16 i32 i64);

impl Encode for f64 {
    fn value(&self) -> Value {
        let settled = match *self {
            number if number.is_nan() => 0x7ff8_0000_0000_0000,
            // Also for -0.0.
            0.0 => 0,
            number => number.to_bits(),
        };
        Value::new(FLOAT, &settled.to_le_bytes())
    }
}

impl Encode for f32 {
    fn value(&self) -> Value {
        f64::from(*self).value()
    }
}

impl Encode for bool {
    fn value(&self) -> Value {
        Value::new(SWITCH, &[u8::from(*self)])
    }
}

impl Encode for str {
    fn value(&self) -> Value {
        Value::new(TEXT, self.as_bytes())
    }
}

impl Encode for String {
    fn value(&self) -> Value {
        self.as_str().value()
    }
}

impl Encode for Digest {
    fn value(&self) -> Value {
        Value::new(DIGEST, self.as_bytes())
    }
}

impl<T: Encode> Encode for [T] {
    fn value(&self) -> Value {
        Value::list(self.iter().map(T::value))
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn value(&self) -> Value {
        self.as_slice().value()
    }
}

impl<T: Encode, const N: usize> Encode for [T; N] {
    fn value(&self) -> Value {
        self.as_slice().value()
    }
}

/// Absent, or as the value in it; so never put an option into an option.
impl<T: Encode> Encode for Option<T> {
    fn value(&self) -> Value {
        self.as_ref().map_or_else(Value::absent, T::value)
    }
}

/// A record with a field for each entry.
impl<T: Encode> Encode for BTreeMap<String, T> {
    fn value(&self) -> Value {
        let mut record = Record::new();
        for (name, value) in self {
            record.field(name, value);
        }
        record.value()
    }
}

/// Declares the encoding of a struct as a record. Every field of the struct is named once, so that the compiler refuses a
/// new field until somebody has decided about it:
///
/// - `field`: always encoded, under its own name; `field as "name"`: under another;
/// - `field = default`: left out when it encodes like `default`;
/// - under `ignoring`: decides no result.
macro_rules! encode_struct {
    ($type:ident { $($field:ident $(as $name:literal)? $(= $default:expr)?),* $(,)? }
     $(ignoring { $($ignored:ident),* $(,)? })?) => {
        impl $crate::identity::Encode for $type {
            fn value(&self) -> $crate::identity::Value {
                let Self { $($field,)* $($($ignored: _,)*)? } = self;
                let mut record = $crate::identity::Record::new();
                $($crate::identity::encode_struct!(
                    @field record, $field, [$($name)?], [$($default)?]
                );)*
                $crate::identity::Encode::value(&record)
            }
        }
    };
    (@field $record:ident, $field:ident, [], [$($default:expr)?]) => {
        $crate::identity::encode_struct!(@add $record, $field, stringify!($field), [$($default)?])
    };
    (@field $record:ident, $field:ident, [$name:literal], [$($default:expr)?]) => {
        $crate::identity::encode_struct!(@add $record, $field, $name, [$($default)?])
    };
    (@add $record:ident, $field:ident, $name:expr, []) => {
        $record.field($name, $field)
    };
    (@add $record:ident, $field:ident, $name:expr, [$default:expr]) => {
        $record.unless_default($name, $field, &$default)
    };
}
pub(crate) use encode_struct;

/// Declares the encoding of an enum without payloads: a text for each variant, independent of its Rust name.
macro_rules! encode_names {
    ($type:ident { $($variant:ident = $name:literal),* $(,)? }) => {
        impl $crate::identity::Encode for $type {
            fn value(&self) -> $crate::identity::Value {
                let name = match self { $(Self::$variant => $name,)* };
                $crate::identity::Encode::value(name)
            }
        }
    };
}
pub(crate) use encode_names;
