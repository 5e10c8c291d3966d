//! The exports in `fixtures/exports`: what Hugging Face's classes make of their pictures, and packs written by hand of them.

use std::fs;
use std::path::{Path, PathBuf};

use atom_core::frame::FrameBuf;
use atom_media::read_picture;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::root;

/// The folder of export `name`, or `inputs`.
pub fn export(name: &str) -> PathBuf {
    root().join("tests/fixtures/exports").join(name)
}

/// `expected/expected.json` of export `name`.
///
/// # Panics
/// When it cannot be read.
pub fn expected(name: &str) -> Value {
    let path = export(name).join("expected/expected.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The picture called `name` among the inputs.
///
/// # Panics
/// When it cannot be read.
pub fn input(name: &str) -> FrameBuf {
    let path = export("inputs").join(format!("{name}.png"));
    read_picture(&path).unwrap_or_else(|e| panic!("{e}"))
}

/// The numbers of an `.npy` file of f32 or f16, and its shape.
///
/// # Panics
/// When it is none.
pub fn npy(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(bytes.starts_with(b"\x93NUMPY\x01"), "{}", path.display());
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let head = String::from_utf8_lossy(&bytes[10..10 + length]);
    let data = &bytes[10 + length..];
    let values = if head.contains("'<f4'") {
        let values = data.as_chunks::<4>().0;
        values.iter().map(|b| f32::from_le_bytes(*b)).collect()
    } else if head.contains("'<f2'") {
        let values = data.as_chunks::<2>().0;
        values
            .iter()
            .map(|b| half(u16::from_le_bytes(*b)))
            .collect()
    } else {
        panic!("{}: {head}", path.display());
    };
    let shape = head.split_once("'shape': (").map_or("", |(_, rest)| rest);
    let shape = shape.split_once(')').map_or("", |(shape, _)| shape);
    let sizes = shape.split(',').map(str::trim).filter(|s| !s.is_empty());
    let shape: Vec<usize> = sizes
        .map(|s| s.parse().unwrap_or_else(|e| panic!("{s:?}: {e}")))
        .collect();
    (shape, values)
}

/// A normal IEEE half-precision number.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    sign * match exponent {
        0 => mantissa * 2f32.powi(-24),
        _ => (1.0 + mantissa / 1024.0) * 2f32.powi(exponent - 15),
    }
}

/// Cosine between two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y));
        products.sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Writes a pack into `dir`: `toml` with each `@FILE` in place of a file's table, a path below `source`. Files are copied.
///
/// # Panics
/// When one cannot be read or written.
pub fn write_pack(dir: &Path, source: &Path, toml: &str) {
    let mut text = String::new();
    for (at, part) in toml.split('@').enumerate() {
        if at == 0 {
            text += part;
            continue;
        }
        let end = part.find([' ', ',', '\n', ']', '}']).unwrap_or(part.len());
        let (path, rest) = part.split_at(end);
        let bytes = fs::read(source.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let name = path.rsplit('/').next().unwrap_or(path);
        fs::write(dir.join(name), &bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let hash: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let size = bytes.len();
        text += &format!("{{ file = {name:?}, sha256 = {hash:?}, bytes = {size} }}{rest}");
    }
    fs::write(dir.join("pack.toml"), text).unwrap_or_else(|e| panic!("pack.toml: {e}"));
}
