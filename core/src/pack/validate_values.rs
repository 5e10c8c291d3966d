//! What single values of a manifest must satisfy: files, sizes, golden tensors. Every message names the key.

use std::fmt::Display;

use super::file_ref::FileRef;
use super::files;
use super::spec::{GoldenSpec, ModuleKind, ModuleSpec};
use crate::error::{Error, ErrorKind, Result};

/// `key` is wrong: what it is, and what it must be.
pub(super) fn bad<T>(
    key: impl Display,
    what: impl Display,
    remedy: impl Into<String>,
) -> Result<T> {
    Err(Error::new(ErrorKind::BadPack, format!("{key} {what}")).remedy(remedy))
}

pub(super) fn require(
    holds: bool,
    key: impl Display,
    what: impl Display,
    remedy: &str,
) -> Result<()> {
    if holds {
        Ok(())
    } else {
        bad(key, what, remedy)
    }
}

pub(super) fn name(key: &str, id: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    require(
        !id.is_empty() && id.len() <= 64 && id.chars().all(plain),
        key,
        format_args!("= {id:?} is not a name"),
        "use 1 to 64 of a-z, 0-9 and -",
    )
}

pub(super) fn file(key: &str, file: &FileRef) -> Result<()> {
    if let Some(why) = files::bad_name(&file.file) {
        return bad(
            format_args!("{key}.file"),
            format_args!("= {:?} {why}", file.file),
            "name a file inside the pack, by a path relative to pack.toml",
        );
    }
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    require(
        file.sha256.len() == 64 && file.sha256.bytes().all(hex),
        format_args!("{key}.sha256"),
        format_args!("= {:?} is not a SHA-256", file.sha256),
        "give 64 lower-case hexadecimal digits, as sha256sum prints them",
    )?;
    require(
        file.bytes > 0,
        format_args!("{key}.bytes"),
        "= 0",
        "give the file's size",
    )
}

pub(super) fn size(key: &str, value: usize, limit: usize) -> Result<()> {
    require(
        (1..=limit).contains(&value),
        key,
        format_args!("= {value}"),
        &format!("it is 1 to {limit}"),
    )
}

pub(super) fn within(key: &str, value: f64, low: f64, high: f64) -> Result<()> {
    require(
        (low..=high).contains(&value),
        key,
        format_args!("= {value}"),
        &format!("it is {low} to {high}"),
    )
}

pub(super) fn golden(key: &str, spec: &GoldenSpec, module: &ModuleSpec) -> Result<()> {
    within(&format!("{key}.cosine"), spec.cosine, 0.0, 1.0)?;
    for (side, declared, given) in [
        ("inputs", &module.inputs, &spec.inputs),
        ("outputs", &module.outputs, &spec.outputs),
    ] {
        let key = format!("{key}.{side}");
        require(
            !given.is_empty(),
            &key,
            "is empty",
            "give at least one tensor",
        )?;
        for port in given {
            file(&format!("{key}.file"), &port.file)?;
            let spec = declared.iter().find(|spec| spec.name == port.port);
            // A decoder's ports may follow from [module.decoder] instead.
            require(
                spec.is_some() || module.kind == ModuleKind::LanguageDecoder,
                format_args!("{key}.port"),
                format_args!("= {:?} is no declared port", port.port),
                "name a declared port",
            )?;
            let elements = port
                .shape
                .iter()
                .try_fold(1u64, |n, &d| n.checked_mul(d as u64));
            let bytes = spec.and_then(|spec| elements?.checked_mul(spec.dtype.size() as u64));
            require(
                elements.is_some() && bytes.is_none_or(|bytes| bytes == port.file.bytes),
                format_args!("{key}.file.bytes"),
                format_args!("= {} does not fit shape {:?}", port.file.bytes, port.shape),
                "the file holds the raw elements and nothing else",
            )?;
        }
    }
    Ok(())
}
