//! Moves the weights of a saved prepacked model to aligned offsets, those that runs read before the others.
//!
//! ONNX Runtime 1.31 writes prepacked blocks one after the other, at any offset, and maps them back from there. Its kernels
//! expect the alignment of allocated memory: at other addresses they compute garbage (`MatMulNBits`) or fault (`MatMul` with
//! AVX-512). So the blocks are moved, and the offsets in the ONNX file with them.
//!
//! The file also holds each original tensor before its prepacked blocks, for a load that packs it again. Runs do not read
//! it. With the originals at the end, what runs read comes from the disk in one piece. A [`TensorSlice`] of another tensor in
//! the file is stored in that tensor, once.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::external::{External, set, text, wrong};
use super::schema::TensorProto;
use super::split::TensorSlice;
use super::{Model, walk};
use crate::error::{Error, ErrorKind, Result};

/// The alignment of ONNX Runtime's allocator.
const ALIGN: u64 = 64;

/// Offset and length in the file of weights.
type Block = (u64, u64);

/// The new offset of each block.
struct Layout<'a> {
    /// Size of the file of weights.
    size: u64,
    /// Each block, and whether only loads read it.
    blocks: Vec<(Block, bool)>,
    /// New offsets, once all blocks are known.
    new: HashMap<Block, u64>,
    slices: &'a [TensorSlice],
    /// The block of each tensor.
    tensors: HashMap<String, Block>,
    /// Blocks that are stored in others: in which, and where.
    within: HashMap<Block, (Block, u64)>,
}

impl Layout<'_> {
    /// Notes a block, or gives its new offset once that is known.
    fn place(&mut self, block: Block, only_loads: bool) -> Result<u64> {
        let (offset, length) = block;
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(broken("a block lies beyond the end of its file"));
        }
        if let Some(&new) = self.new.get(&block) {
            return Ok(new);
        }
        if let Some((whole, at)) = self.within.get(&block)
            && let Some(new) = self.new.get(whole)
        {
            return Ok(new + at);
        }
        self.blocks.push((block, only_loads));
        Ok(offset)
    }

    /// Finds the slices whose whole tensors are in the file `data`, too; they need no place of their own.
    fn find_slices(&mut self, data: &Path) -> std::io::Result<()> {
        let file = File::open(data)?;
        for slice in self.slices {
            let block = |name| self.tensors.get(name).copied();
            let (Some(block), Some(whole)) = (block(&slice.name), block(&slice.whole)) else {
                continue;
            };
            let fits = slice
                .offset
                .checked_add(block.1)
                .is_some_and(|end| end <= whole.1);
            if fits
                && slice.offset.is_multiple_of(ALIGN)
                && same(&file, block, whole.0 + slice.offset)?
            {
                self.within.insert(block, (whole, slice.offset));
            }
        }
        self.blocks
            .retain(|(block, _)| !self.within.contains_key(block));
        Ok(())
    }

    /// Gives every block its new offset. Returns the end of what runs read.
    fn assign(&mut self) -> u64 {
        self.blocks.sort_by_key(|(_, only_loads)| *only_loads);
        let (mut end, mut extent) = (0u64, 0);
        for (block, only_loads) in &self.blocks {
            if !self.new.contains_key(block) {
                let new = end.next_multiple_of(ALIGN);
                end = new + block.1;
                self.new.insert(*block, new);
            }
            if !only_loads {
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

    /// Notes the blocks of `tensor`, or writes their new offsets into it once they are known.
    fn place_tensor(&mut self, tensor: &mut TensorProto) -> Result<()> {
        let Some(External { offset, length, .. }) = External::of(tensor)? else {
            return Ok(());
        };
        let length = length.ok_or_else(|| wrong(tensor, "its external data has no length"))?;
        let name = text(&tensor.name).to_owned();
        self.tensors.insert(name, (offset, length));
        let prepacked = |key: &str| key.starts_with("prepacked_");
        let mut keys = tensor.external_data.iter().map(|entry| text(&entry.key));
        let only_loads = keys.any(prepacked);
        if !tensor
            .external_data
            .iter()
            .any(|entry| text(&entry.key) == "offset")
        {
            set(tensor, "offset", offset.to_string());
        }
        for entry in &mut tensor.external_data {
            match text(&entry.key) {
                "offset" => {
                    let new = self.place((offset, length), only_loads)?;
                    entry.value = Some(new.to_string());
                }
                key if prepacked(key) => {
                    entry.value = Some(self.place_blocks(text(&entry.value))?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// `name|offset;length;checksum|offset;length;checksum…` with new offsets.
    fn place_blocks(&mut self, value: &str) -> Result<String> {
        let unknown = || broken("prepacked blocks are not described as ONNX Runtime 1.31 does");
        let mut parts = value.split('|');
        let mut placed = parts.next().ok_or_else(unknown)?.to_owned();
        for block in parts {
            let fields: Vec<&str> = block.split(';').collect();
            let [offset, length, checksum] = fields[..] else {
                return Err(unknown());
            };
            let number = |text: &str| text.parse::<u64>().map_err(|_| unknown());
            let new = self.place((number(offset)?, number(length)?), false)?;
            placed.push_str(&format!("|{new};{length};{checksum}"));
        }
        Ok(placed)
    }
}

/// Whether the bytes of `block` are also found at `at`.
fn same(file: &File, (offset, length): Block, at: u64) -> std::io::Result<bool> {
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

/// Aligns every block of weights in the file `<model>.data`, puts what runs read first, and stores each of `slices` in the
/// tensor it is a slice of. Rewrites both files, if need be. Returns how many bytes of the file, from its start, runs read;
/// 0 without such a file.
///
/// # Errors
/// [`ErrorKind::BadModel`] when the model is not what ONNX Runtime writes; what reading and writing give.
pub fn align_external_data(model: &Path, slices: &[TensorSlice]) -> Result<u64> {
    let io = |path: &Path, e: &std::io::Error| Error::io(path.display(), e);
    let data = model.with_added_extension("data");
    let size = match fs::metadata(&data) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(io(&data, &e)),
    };
    let mut graph = Model::read(model)?;
    let mut layout = Layout {
        size,
        blocks: Vec::new(),
        new: HashMap::new(),
        slices,
        tensors: HashMap::new(),
        within: HashMap::new(),
    };
    let mut place_all = |layout: &mut Layout<'_>| {
        walk::edit_tensors(&mut graph.proto, &mut |tensor| layout.place_tensor(tensor))
            .map_err(|e| e.context(model.display()))
    };
    // The place of a block depends on all of them: the first time changes nothing.
    place_all(&mut layout)?;
    layout.find_slices(&data).map_err(|e| io(&data, &e))?;
    let extent = layout.assign();
    if !layout.moves() {
        return Ok(extent);
    }
    place_all(&mut layout)?;
    let aligned = data.with_added_extension("aligned");
    copy(&data, &aligned, &layout)
        .and_then(|()| fs::rename(&aligned, &data))
        .map_err(|e| io(&data, &e))?;
    graph.write(model)?;
    Ok(extent)
}

fn copy(from: &Path, to: &Path, layout: &Layout<'_>) -> std::io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create_new(to)?);
    let mut written = 0;
    for (offset, length, new) in layout.in_order() {
        std::io::copy(&mut std::io::repeat(0).take(new - written), &mut to)?;
        from.seek(SeekFrom::Start(offset))?;
        let copied = std::io::copy(&mut (&mut from).take(length), &mut to)?;
        written = new + copied;
    }
    to.flush()
}

fn broken(why: &str) -> Error {
    Error::new(
        ErrorKind::BadModel,
        format!("the saved model cannot be read: {why}"),
    )
}

#[cfg(test)]
#[path = "align_tests.rs"]
mod tests;
