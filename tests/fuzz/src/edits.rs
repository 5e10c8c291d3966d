//! Bytes as a list of changes to JSON files: what a fuzzer learns about one key holds for all.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// The fuzzer's bytes, from first to last.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    /// The next one.
    pub fn one(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next `N`.
    pub fn some<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number below `limit`, of two bytes.
    pub fn below(&mut self, limit: usize) -> Option<usize> {
        Some(usize::from(u16::from_le_bytes(self.some()?)) % limit.max(1))
    }
}

/// Keys and short texts of `value`, which are worth trying elsewhere.
pub fn words(value: &Value, found: &mut BTreeSet<String>) {
    let mut add = |text: &str| {
        if text.len() <= 40 {
            found.insert(text.to_owned());
        }
    };
    match value {
        Value::String(text) => add(text),
        Value::Array(items) => items.iter().take(50).for_each(|item| words(item, found)),
        Value::Object(map) => {
            map.keys().take(50).for_each(|key| add(key));
            map.values().take(50).for_each(|value| words(value, found));
        }
        _ => {}
    }
}

/// Changes one value of `value`, as the bytes say; `None` at their end.
pub fn change(value: &mut Value, bytes: &mut Bytes<'_>, words: &[String]) -> Option<()> {
    let step = bytes.one()?;
    let at = bytes.below(usize::MAX)?;
    match value {
        Value::Object(map) if !map.is_empty() && step < 200 => {
            let at = at % map.len();
            change(map.values_mut().nth(at)?, bytes, words)
        }
        Value::Array(list) if !list.is_empty() && step < 200 => {
            let at = at % list.len();
            change(&mut list[at], bytes, words)
        }
        Value::Object(map) if step < 215 => {
            let key = map.keys().nth(at % map.len().max(1)).cloned();
            map.remove(&key?);
            Some(())
        }
        Value::Object(map) if step < 235 => {
            let word = words[at % words.len()].clone();
            map.insert(word, made(bytes, words)?);
            Some(())
        }
        Value::Array(list) if step < 215 => {
            list.truncate(at % (list.len() + 1));
            Some(())
        }
        Value::Array(list) if step < 235 => {
            list.push(made(bytes, words)?);
            Some(())
        }
        other => {
            *other = made(bytes, words)?;
            Some(())
        }
    }
}

fn made(bytes: &mut Bytes<'_>, words: &[String]) -> Option<Value> {
    Some(match bytes.one()? % 32 {
        0 => json!(null),
        1 => json!(true),
        2 => json!(false),
        3 => json!(-1),
        4 => json!(1e300),
        5 => json!(5e-324),
        6 => json!(u64::MAX),
        7 => json!(1_u64 << 32),
        8 => json!(1_u64 << 31),
        9 => json!(""),
        10 => json!([]),
        11 => json!({}),
        12 => json!([0, 0, 0]),
        13 => json!({"content": made(bytes, words)?}),
        14 => json!([made(bytes, words)?]),
        15 => json!([made(bytes, words)?, made(bytes, words)?]),
        16 => json!({words[bytes.below(words.len())?].as_str(): made(bytes, words)?}),
        17..=20 => json!(bytes.one()?),
        21 => json!(u32::from_le_bytes(bytes.some()?)),
        22 => json!(f64::from_bits(u64::from_le_bytes(bytes.some()?))),
        23 => json!(f32::from_bits(u32::from_le_bytes(bytes.some()?))),
        24 => {
            let text: Vec<u8> = (0..bytes.one()? % 32).map_while(|_| bytes.one()).collect();
            json!(String::from_utf8_lossy(&text))
        }
        25 => json!(words[bytes.below(words.len())?].repeat(usize::from(bytes.one()?))),
        _ => json!(words[bytes.below(words.len())?]),
    })
}
