//! Moves the weights of a saved prepacked form to aligned places, those that runs read before the others.
//!
//! ONNX Runtime 1.31 writes prepacked blocks one after the other, wherever that is, and maps them back from there. Its
//! kernels take them to be aligned as memory is: elsewhere they compute garbage (`MatMulNBits`) or fault (`MatMul` with
//! AVX-512). So offsets are rewritten here, in the few fields of the ONNX file that hold them.
//!
//! What is prepacked lies in the file as it was, too, each tensor before its blocks, for a load to pack it again. Runs do
//! without: with that at the end, what they read is read from the disk in one piece. A tensor that is a [`Part`] of another in
//! the file lies there already.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::protobuf::{Field, put_field};
use crate::error::{Error, ErrorKind, Result};

/// What ONNX Runtime's allocator aligns blocks to when it packs them.
const ALIGN: u64 = 64;

/// The messages on the way to where offsets are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
}

impl Message {
    /// What field `number` of this message holds, if it leads to offsets.
    fn child(self, number: u64) -> Option<Self> {
        match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Graph, 1) => Some(Self::Node),
            (Self::Graph, 5) => Some(Self::Tensor),
            (Self::Node, 5) => Some(Self::Attribute),
            _ => None,
        }
    }
}

/// `TensorProto.name`.
const NAME: u64 = 8;
/// `TensorProto.external_data`.
pub(super) const EXTERNAL_DATA: u64 = 13;

/// A tensor whose content is a piece of another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) whole: String,
    /// Where it begins in that, in bytes.
    pub(crate) at: u64,
}

/// Where each block goes.
struct Moves<'a> {
    /// Size of the file the blocks lie in.
    size: u64,
    /// (offset, length) of each block, and whether loads alone read it.
    blocks: Vec<((u64, u64), bool)>,
    /// Their new offsets, once all are known.
    new: HashMap<(u64, u64), u64>,
    parts: &'a [Part],
    /// The block of each tensor.
    tensors: HashMap<String, (u64, u64)>,
    /// Blocks that lie in others: in which, and where.
    within: HashMap<(u64, u64), ((u64, u64), u64)>,
}

impl Moves<'_> {
    fn place(&mut self, offset: u64, length: u64, loads_alone: bool) -> Result<u64> {
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(broken("a block lies beyond the end of its file"));
        }
        if let Some(&new) = self.new.get(&(offset, length)) {
            return Ok(new);
        }
        if let Some((whole, at)) = self.within.get(&(offset, length))
            && let Some(new) = self.new.get(whole)
        {
            return Ok(new + at);
        }
        self.blocks.push(((offset, length), loads_alone));
        Ok(offset)
    }

    /// Finds the parts of tensors that are in the file themselves; they need no place of their own.
    fn find_parts(&mut self, data: &Path) -> std::io::Result<()> {
        let file = File::open(data)?;
        for part in self.parts {
            let block = |name| self.tensors.get(name).copied();
            let (Some(block), Some(whole)) = (block(&part.name), block(&part.whole)) else {
                continue;
            };
            let fits = part
                .at
                .checked_add(block.1)
                .is_some_and(|end| end <= whole.1);
            if fits && part.at.is_multiple_of(ALIGN) && same(&file, block, whole.0 + part.at)? {
                self.within.insert(block, (whole, part.at));
            }
        }
        self.blocks
            .retain(|(block, _)| !self.within.contains_key(block));
        Ok(())
    }

    /// Gives every block its place; how far those go that runs read.
    fn assign(&mut self) -> u64 {
        self.blocks.sort_by_key(|(_, loads_alone)| *loads_alone);
        let (mut end, mut extent) = (0u64, 0);
        for (block, loads_alone) in &self.blocks {
            if !self.new.contains_key(block) {
                let new = end.next_multiple_of(ALIGN);
                end = new + block.1;
                self.new.insert(*block, new);
            }
            if !loads_alone {
                extent = end;
            }
        }
        extent
    }

    fn moves(&self) -> bool {
        self.new.iter().any(|((offset, _), new)| offset != new)
    }

    /// Offset, length and new offset of each block, in the new order.
    fn in_order(&self) -> Vec<(u64, u64, u64)> {
        let all = self.new.iter().map(|(block, new)| (block.0, block.1, *new));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(_, length, new)| (*new, *length));
        all
    }
}

/// The block's bytes are also found at `at`.
fn same(file: &File, (offset, length): (u64, u64), at: u64) -> std::io::Result<bool> {
    let (mut one, mut other) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    let mut done = 0;
    while done < length {
        let size = one.len().min((length - done) as usize);
        file.read_exact_at(&mut one[..size], offset + done)?;
        file.read_exact_at(&mut other[..size], at + done)?;
        if one[..size] != other[..size] {
            return Ok(false);
        }
        done += size as u64;
    }
    Ok(true)
}

/// Sees that every block of weights in the file `<model>.data` is aligned and in order and that no `parts` lie there twice,
/// rewriting `model` and that file if need be; how much of that file runs read, from its start.
///
/// # Errors
/// [`ErrorKind::BadModel`] when the file is not what ONNX Runtime writes; what reading and writing give.
pub(crate) fn realign(model: &Path, parts: &[Part]) -> Result<u64> {
    let io = |path: &Path, e: &std::io::Error| Error::io(path.display(), e);
    let data = model.with_added_extension("data");
    let size = match fs::metadata(&data) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(io(&data, &e)),
    };
    let graph = fs::read(model).map_err(|e| io(model, &e))?;
    let mut moves = Moves {
        size,
        blocks: Vec::new(),
        new: HashMap::new(),
        parts,
        tensors: HashMap::new(),
        within: HashMap::new(),
    };
    let rewritten = |moves: &mut Moves<'_>| {
        rewrite(Message::Model, &graph, moves).map_err(|e| e.context(model.display()))
    };
    // Where a block goes depends on all of them.
    rewritten(&mut moves)?;
    moves.find_parts(&data).map_err(|e| io(&data, &e))?;
    let extent = moves.assign();
    if !moves.moves() {
        return Ok(extent);
    }
    let graph = rewritten(&mut moves)?;
    let aligned = data.with_added_extension("aligned");
    copy(&data, &aligned, &moves)
        .and_then(|()| fs::rename(&aligned, &data))
        .map_err(|e| io(&data, &e))?;
    fs::write(model, graph).map_err(|e| io(model, &e))?;
    Ok(extent)
}

fn copy(from: &Path, to: &Path, moves: &Moves<'_>) -> std::io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create_new(to)?);
    let mut written = 0;
    for (offset, length, new) in moves.in_order() {
        std::io::copy(&mut std::io::repeat(0).take(new - written), &mut to)?;
        from.seek(SeekFrom::Start(offset))?;
        let copied = std::io::copy(&mut (&mut from).take(length), &mut to)?;
        written = new + copied;
    }
    to.flush()
}

/// `message` of type `kind` with its offsets replaced.
fn rewrite(kind: Message, message: &[u8], moves: &mut Moves<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(message.len() + 64);
    // Offsets come after the lengths they need, so a tensor's entries are gathered first.
    let mut external = Vec::new();
    let mut name: &[u8] = &[];
    let mut rest = message;
    while !rest.is_empty() {
        let field = Field::read(&mut rest)?;
        match (field.payload, kind.child(field.number)) {
            (Some(payload), Some(child)) => {
                let inner = rewrite(child, payload, moves)?;
                put_field(&mut out, field.number, &inner);
            }
            (Some(payload), None) if kind == Message::Tensor && field.number == EXTERNAL_DATA => {
                external.push(entry(payload)?);
            }
            (Some(payload), None) if kind == Message::Tensor && field.number == NAME => {
                name = payload;
                out.extend_from_slice(field.raw);
            }
            _ => out.extend_from_slice(field.raw),
        }
    }
    if external.is_empty() {
        return Ok(out);
    }
    let number = |name: &str| {
        let entry = external.iter().find(|(key, _)| *key == name);
        entry.and_then(|(_, value)| value.parse::<u64>().ok())
    };
    let (offset, length) = (number("offset").unwrap_or(0), number("length"));
    let length = length.ok_or_else(|| broken("a tensor of external data has no length"))?;
    let name = String::from_utf8_lossy(name).into_owned();
    moves.tensors.insert(name, (offset, length));
    let prepacked = external
        .iter()
        .any(|(key, _)| key.starts_with("prepacked_"));
    for (key, value) in &external {
        let value = match *key {
            "offset" => moves.place(offset, length, prepacked)?.to_string(),
            key if key.starts_with("prepacked_") => move_blocks(value, moves)?,
            _ => (*value).to_owned(),
        };
        let mut entry = Vec::new();
        put_field(&mut entry, 1, key.as_bytes());
        put_field(&mut entry, 2, value.as_bytes());
        put_field(&mut out, EXTERNAL_DATA, &entry);
    }
    Ok(out)
}

/// `name|offset;length;checksum|offset;length;checksum…` with new offsets.
fn move_blocks(value: &str, moves: &mut Moves<'_>) -> Result<String> {
    let unknown = || broken("prepacked blocks are not described as ONNX Runtime 1.31 does");
    let mut parts = value.split('|');
    let mut moved = parts.next().ok_or_else(unknown)?.to_owned();
    for block in parts {
        let fields: Vec<&str> = block.split(';').collect();
        let [offset, length, checksum] = fields[..] else {
            return Err(unknown());
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| unknown());
        let new = moves.place(number(offset)?, number(length)?, false)?;
        moved.push_str(&format!("|{new};{length};{checksum}"));
    }
    Ok(moved)
}

/// Key and value of a `StringStringEntryProto`.
pub(super) fn entry(mut message: &[u8]) -> Result<(&str, &str)> {
    let (mut key, mut value) = ("", "");
    while !message.is_empty() {
        let field = Field::read(&mut message)?;
        let text = field.payload.map(std::str::from_utf8);
        match (field.number, text) {
            (1, Some(Ok(text))) => key = text,
            (2, Some(Ok(text))) => value = text,
            _ => return Err(broken("an entry is not two texts")),
        }
    }
    Ok((key, value))
}

fn broken(why: &str) -> Error {
    Error::new(
        ErrorKind::BadModel,
        format!("the saved form cannot be read: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::protobuf::message;

    /// A graph with one tensor of these entries, between fields that must stay as they are.
    fn model(entries: &[(&str, &str)]) -> Vec<u8> {
        let entries: Vec<Vec<u8>> = entries
            .iter()
            .map(|(key, value)| message(&[(1, key.as_bytes()), (2, value.as_bytes())]))
            .collect();
        let mut tensor = message(&[(8, b"w")]);
        for entry in &entries {
            put_field(&mut tensor, EXTERNAL_DATA, entry);
        }
        // A varint and a fixed32 field too.
        tensor.extend([0x70, 0x01, 0x25, 1, 2, 3, 4]);
        let graph = message(&[(2, b"g"), (5, &tensor)]);
        let mut out = vec![0x08, 0x96, 0x01];
        put_field(&mut out, 7, &graph);
        out
    }

    #[test]
    fn blocks_move_to_aligned_places() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("m.onnx");
        let data = dir.path().join("m.onnx.data");
        let bytes: Vec<u8> = (0..=255).collect();
        fs::write(&data, &bytes)?;
        let before = [
            ("location", "d"),
            ("offset", "0"),
            ("length", "100"),
            ("prepacked_0", "K+1|100;7;0|107;3;9"),
        ];
        let after = [
            ("location", "d"),
            ("offset", "128"),
            ("length", "100"),
            ("prepacked_0", "K+1|0;7;0|64;3;9"),
        ];
        fs::write(&path, model(&before))?;
        assert_eq!(realign(&path, &[]), Ok(67));
        // The order of fields may change, their content may not.
        let sorted = |bytes: Vec<u8>| {
            let mut bytes = bytes;
            bytes.sort_unstable();
            bytes
        };
        assert_eq!(sorted(fs::read(&path)?), sorted(model(&after)));
        let moved = fs::read(&data)?;
        assert_eq!(moved[..7], bytes[100..107]);
        assert_eq!(moved[64..67], bytes[107..110]);
        assert_eq!(moved[128..], bytes[..100]);
        assert_eq!(realign(&path, &[]), Ok(67));
        assert_eq!(fs::read(&data)?, moved);
        Ok(())
    }

    #[test]
    fn parts_of_what_is_there_are_not_kept_twice() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (path, data) = (dir.path().join("m.onnx"), dir.path().join("m.onnx.data"));
        let tensor = |name: &[u8], offset: &str, length: &str| {
            let mut tensor = message(&[(NAME, name)]);
            for (key, value) in [("offset", offset), ("length", length)] {
                let entry = message(&[(1, key.as_bytes()), (2, value.as_bytes())]);
                put_field(&mut tensor, EXTERNAL_DATA, &entry);
            }
            tensor
        };
        let model = |first: &str, second: &str| {
            let tensors = [
                tensor(b"w.1", first, "64"),
                tensor(b"w", "0", "256"),
                tensor(b"w.2", second, "64"),
            ];
            message(&[(
                7,
                &message(&tensors.each_ref().map(|tensor| (5, &tensor[..]))),
            )])
        };
        let part = |name: &str, at| Part {
            name: name.to_owned(),
            whole: "w".to_owned(),
            at,
        };
        let whole: Vec<u8> = (0..=255).collect();
        // The first is what it is said to be, the second is not.
        let bytes = [&whole[..], &whole[64..128], &whole[64..128]].concat();
        fs::write(&data, &bytes)?;
        fs::write(&path, model("256", "320"))?;
        let parts = [part("w.1", 64), part("w.2", 128), part("none", 0)];
        assert_eq!(realign(&path, &parts), Ok(320));
        assert_eq!(fs::read(&path)?, model("64", "256"));
        assert_eq!(fs::read(&data)?, bytes[..320]);
        Ok(())
    }

    #[test]
    fn what_is_not_understood_is_refused() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("m.onnx");
        fs::write(dir.path().join("m.onnx.data"), [0; 64])?;
        let mut cut = model(&[("offset", "0"), ("length", "64")]);
        cut.truncate(cut.len() - 3);
        for bad in [
            model(&[("offset", "1"), ("length", "64")]),
            model(&[("offset", "18446744073709551615"), ("length", "64")]),
            model(&[("offset", "0")]),
            model(&[("offset", "0"), ("length", "64"), ("prepacked_0", "K|1;2")]),
            model(&[
                ("offset", "0"),
                ("length", "64"),
                ("prepacked_0", "K|x;2;3"),
            ]),
            cut,
            vec![0xff; 30],
        ] {
            fs::write(&path, &bad)?;
            assert_eq!(
                realign(&path, &[]).map_err(|e| e.kind()),
                Err(ErrorKind::BadModel)
            );
        }
        Ok(())
    }
}
