//! From the text of a `pack.toml` to a manifest that holds together.

use super::manifest::Manifest;
use super::{replaced, validate};
use crate::error::{Error, ErrorKind, Result};

impl Manifest {
    /// Parses and validates the text of a `pack.toml`.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] naming the key and what it must be; [`ErrorKind::Unsupported`] for a newer schema.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |e: toml::de::Error| {
            Error::new(ErrorKind::BadPack, e.to_string().trim_end().to_owned())
        };
        check_nesting(text)?;
        let table: toml::Table = toml::from_str(text).map_err(bad)?;
        // First, so that a newer manifest is called newer and not full of unknown keys.
        let schema = match table.get("schema") {
            Some(schema) => Some(schema.as_integer().ok_or_else(|| {
                Error::new(
                    ErrorKind::BadPack,
                    format!("schema is {}, not a number", schema.type_str()),
                )
            })?),
            None => None,
        };
        match schema {
            Some(1) => {}
            Some(other) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("schema = {other}: this Atom reads schema 1"),
                )
                .remedy("use a newer Atom, or a pack made for this one"));
            }
            None => {
                return Err(Error::new(ErrorKind::BadPack, "schema is missing")
                    .remedy("begin pack.toml with schema = 1"));
            }
        }
        replaced::check(&table)?;
        let manifest: Self = toml::from_str(text).map_err(bad)?;
        validate::manifest(&manifest)?;
        Ok(manifest)
    }
}

/// Refuses text that opens more brackets than any manifest nests: the TOML parser takes quadratic time over a long run of
/// them, minutes for 100 kB. Brackets in strings count too, which no real manifest has enough of to matter.
fn check_nesting(text: &str) -> Result<()> {
    const DEEPEST: usize = 32;
    let mut depth = 0_usize;
    for (number, line) in text.lines().enumerate() {
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > DEEPEST {
                return Err(Error::new(
                    ErrorKind::BadPack,
                    format!("line {}: nested more than {DEEPEST} deep", number + 1),
                ));
            }
        }
    }
    Ok(())
}
