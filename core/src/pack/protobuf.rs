//! Protobuf messages, field by field: as much of the wire format as ONNX files need.

use crate::error::{Error, ErrorKind, Result};

/// One field of a message.
pub(super) struct Field<'a> {
    pub(super) number: u64,
    /// All of it.
    pub(super) raw: &'a [u8],
    /// The content, if it has a length.
    pub(super) payload: Option<&'a [u8]>,
    /// The number, if it is one of variable length; else 0.
    pub(super) value: u64,
}

impl<'a> Field<'a> {
    /// Takes the next field off `rest`.
    pub(super) fn read(rest: &mut &'a [u8]) -> Result<Self> {
        let start = *rest;
        let tag = varint(rest)?;
        let (mut payload, mut value) = (None, 0);
        match tag & 7 {
            0 => value = varint(rest)?,
            1 => {
                take(rest, 8)?;
            }
            2 => {
                let length = varint(rest)?;
                payload = Some(take(rest, length)?);
            }
            5 => {
                take(rest, 4)?;
            }
            _ => return Err(broken("a field has an unknown form")),
        }
        Ok(Self {
            number: tag >> 3,
            raw: &start[..start.len() - rest.len()],
            payload,
            value,
        })
    }

    /// Every field of `message`, in order; the first that cannot be read is the last.
    pub(super) fn all(mut message: &'a [u8]) -> impl Iterator<Item = Result<Self>> {
        std::iter::from_fn(move || {
            if message.is_empty() {
                return None;
            }
            let field = Self::read(&mut message);
            if field.is_err() {
                message = &[];
            }
            Some(field)
        })
    }
}

/// Takes a number of variable length off `rest`.
pub(super) fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(broken("a number is too long"))
}

/// The numbers of a packed field.
pub(super) fn numbers(mut packed: &[u8]) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    while !packed.is_empty() {
        all.push(varint(&mut packed)?);
    }
    Ok(all)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Adds a field that is a number to `out`.
pub(super) fn put_number(out: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(out, number << 3);
    put_varint(out, value);
}

/// Adds a field with a length to `out`.
pub(super) fn put_field(out: &mut Vec<u8>, number: u64, payload: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

/// A message of fields with a length.
#[cfg(test)]
pub(super) fn message(fields: &[(u64, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, payload) in fields {
        put_field(&mut out, *number, payload);
    }
    out
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8]> {
    let taken = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length));
    let (taken, left) = taken.ok_or_else(|| broken("it ends in the middle of a field"))?;
    *rest = left;
    Ok(taken)
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::BadModel, format!("not an ONNX graph: {what}"))
}
