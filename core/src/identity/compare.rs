//! What differs between two identities, for error messages.

use std::collections::{BTreeMap, BTreeSet};

use super::encode::{ABSENT, BYTES, DIGEST, FLOAT, INTEGER, LIST, RECORD, SWITCH, TEXT};
use super::{Digest, MAGIC};

/// A field that two encodings do not have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The field's name, after those of the records it is in, separated by dots.
    pub field: String,
    /// Its value in the first encoding; `None` where it is left out.
    pub first: Option<String>,
    /// Its value in the second.
    pub second: Option<String>,
}

/// The fields that differ between two encodings of [`Canonical::bytes`](super::Canonical::bytes), by name; `None` when
/// one of them is no such encoding. Empty only for equal encodings.
pub fn differences(first: &[u8], second: &[u8]) -> Option<Vec<Difference>> {
    let (first, second) = (leaves(first)?, leaves(second)?);
    let names: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let text = |leaf: Option<&Leaf<'_>>| leaf.map(|leaf| leaf.text.clone());
    let differing = names
        .into_iter()
        .filter(|name| first.get(*name) != second.get(*name));
    let difference = |name: &String| Difference {
        field: name.clone(),
        first: text(first.get(name)),
        second: text(second.get(name)),
    };
    Some(differing.map(difference).collect())
}

/// A value that is not a record.
#[derive(PartialEq)]
struct Leaf<'a> {
    kind: u8,
    payload: &'a [u8],
    text: String,
}

/// Every field that is not a record itself, by its path.
fn leaves(bytes: &[u8]) -> Option<BTreeMap<String, Leaf<'_>>> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut leaves = BTreeMap::new();
    for name in ["(domain)", "(version)", ""] {
        let (kind, payload) = take_value(&mut rest)?;
        collect(name, kind, payload, &mut leaves)?;
    }
    rest.is_empty().then_some(leaves)
}

fn collect<'a>(
    path: &str,
    kind: u8,
    payload: &'a [u8],
    leaves: &mut BTreeMap<String, Leaf<'a>>,
) -> Option<()> {
    // A nested record without fields is a leaf, so that it differs from no record.
    if kind != RECORD || (payload.is_empty() && !path.is_empty()) {
        let text = shown(kind, payload)?;
        let leaf = Leaf {
            kind,
            payload,
            text,
        };
        leaves.insert(path.to_owned(), leaf);
        return Some(());
    }
    let mut rest = payload;
    while !rest.is_empty() {
        let (name, kind, payload) = take_field(&mut rest)?;
        // A name with a dot, bracket or quote could be taken for a path.
        let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let name = match !name.is_empty() && name.chars().all(plain) {
            true => name.to_owned(),
            false => format!("{name:?}"),
        };
        let path = match path {
            "" => name,
            path => format!("{path}.{name}"),
        };
        collect(&path, kind, payload, leaves)?;
    }
    Some(())
}

/// A value as text.
fn shown(kind: u8, payload: &[u8]) -> Option<String> {
    Some(match kind {
        ABSENT => "none".to_owned(),
        INTEGER => i128::from_le_bytes(payload.try_into().ok()?).to_string(),
        // Numbers of manifests are f32: shortest text that reads back as the same f32, unless it was a double.
        FLOAT => match f64::from_le_bytes(payload.try_into().ok()?) {
            number if f64::from(number as f32) == number => (number as f32).to_string(),
            number => number.to_string(),
        },
        SWITCH => (payload == [1]).to_string(),
        TEXT => format!("{:?}", std::str::from_utf8(payload).ok()?),
        BYTES => payload.iter().map(|byte| format!("{byte:02x}")).collect(),
        DIGEST => Digest(payload.try_into().ok()?).to_string(),
        LIST => {
            let (mut rest, mut values) = (payload, Vec::new());
            while !rest.is_empty() {
                let (kind, payload) = take_value(&mut rest)?;
                values.push(shown(kind, payload)?);
            }
            format!("[{}]", values.join(", "))
        }
        RECORD => {
            let (mut rest, mut fields) = (payload, Vec::new());
            while !rest.is_empty() {
                let (name, kind, payload) = take_field(&mut rest)?;
                fields.push(format!("{name}: {}", shown(kind, payload)?));
            }
            format!("{{{}}}", fields.join(", "))
        }
        _ => return None,
    })
}

fn take_field<'a>(rest: &mut &'a [u8]) -> Option<(&'a str, u8, &'a [u8])> {
    let name = take_sized(rest)?;
    let (kind, payload) = take_value(rest)?;
    Some((std::str::from_utf8(name).ok()?, kind, payload))
}

fn take_value<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (kind, after) = rest.split_first()?;
    *rest = after;
    Some((*kind, take_sized(rest)?))
}

fn take_sized<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (bytes, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}
