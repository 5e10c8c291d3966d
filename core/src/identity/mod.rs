//! Identities: a canonical encoding of everything that decides a result, and its hash.
//!
//! A stored vector, detection or caption is valid as long as the identity of what made it stays the same. An identity must
//! therefore change whenever the result can change, and at no other time: not when a Rust type or field is renamed, when
//! fields change their order, or when a new field has the value that describes what Atom did before the field existed.
//!
//! # Format
//!
//! An identity is the SHA-256 of these bytes. All integers are little-endian.
//!
//! ```text
//! identity = "atom identity\n" value(text: domain) value(integer: version) value(record)
//! value    = type: u8, length of the payload in bytes: u64, payload
//! field    = length of the name in bytes: u64, name, value
//! ```
//!
//! | type | payload |
//! |---|---|
//! | 0 absent | empty; an optional element of a list |
//! | 1 integer | 16 bytes, two's complement; the same for every Rust type that holds the number |
//! | 2 float | 8 bytes, IEEE 754 double; `f32` is widened, -0.0 becomes 0.0, every NaN becomes `0x7ff8000000000000` |
//! | 3 switch | 1 byte, 0 or 1 |
//! | 4 text | UTF-8 |
//! | 5 bytes | as they are |
//! | 6 digest | 32 bytes |
//! | 7 list | its values, one after another |
//! | 8 record | its fields, sorted by the bytes of their names; each name once |
//!
//! Types and lengths precede every payload, so two different records never have the same encoding.
//!
//! A field whose value equals its default is left out, and so is an absent one. A new field with a default that describes
//! the earlier behaviour leaves every identity as it was. Names in the encoding are written out where the encoding is
//! declared and are independent of Rust's names.
//!
//! `domain` says what is identified (`"atom.embedding"`), `version` which rules made the record. Raise the version when
//! the same record would lead to another result, for example after a change of an algorithm.
//!
//! ```
//! use atom_core::identity::{Canonical, Digest};
//! let identity = |filter: &str, tiles: u32| -> Digest {
//!     let mut canonical = Canonical::new("example", 1);
//!     canonical.field("filter", filter).field("mean", &[0.5_f32, 0.5, 0.5]);
//!     canonical.unless_default("tiles", &tiles, &1_u32); // added later: 1 is what was done before
//!     canonical.finish()
//! };
//! assert_eq!(identity("bicubic", 1), identity("bicubic", 1));
//! assert_ne!(identity("bicubic", 1), identity("bilinear", 1));
//! assert_ne!(identity("bicubic", 1), identity("bicubic", 4));
//! ```

mod compare;
mod digest;
mod encode;

use sha2::{Digest as _, Sha256};

pub use compare::{Difference, differences};
pub use digest::Digest;
pub use encode::{Encode, Record, Value};
pub(crate) use encode::{encode_names, encode_struct};

/// First bytes of what is hashed.
const MAGIC: &[u8] = b"atom identity\n";

/// An identity being built: a domain, a version and a record of named fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonical {
    domain: String,
    version: u32,
    record: Record,
}

impl Canonical {
    /// An identity without fields. `domain` and `version` keep identities of different things apart.
    pub fn new(domain: &str, version: u32) -> Self {
        Self::of(domain, version, Record::new())
    }

    /// An identity of the fields of `record`.
    pub fn of(domain: &str, version: u32, record: Record) -> Self {
        Self {
            domain: domain.to_owned(),
            version,
            record,
        }
    }

    /// Adds a field; an absent value leaves it out. A second field of the same name replaces the first.
    pub fn field<T: Encode + ?Sized>(&mut self, name: &str, value: &T) -> &mut Self {
        self.record.field(name, value);
        self
    }

    /// Adds a field unless it encodes like `default`.
    pub fn unless_default<T, D>(&mut self, name: &str, value: &T, default: &D) -> &mut Self
    where
        T: Encode + ?Sized,
        D: Encode + ?Sized,
    {
        self.record.unless_default(name, value, default);
        self
    }

    /// The encoding, as the module's documentation describes it. [`differences`] reads it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for value in [
            self.domain.value(),
            self.version.value(),
            self.record.value(),
        ] {
            bytes.extend_from_slice(value.as_bytes());
        }
        bytes
    }

    /// The identity: the SHA-256 of [`bytes`](Self::bytes).
    pub fn finish(&self) -> Digest {
        Digest(Sha256::digest(self.bytes()).into())
    }
}

#[cfg(test)]
mod tests;
