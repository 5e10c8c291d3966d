//! Weights of several models in one file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use buffa::bytes::Bytes;

use super::Model;
use super::external::{External, set, text};
use super::schema::tensor_proto::{DataLocation, DataType};
use super::schema::{AttributeProto, GraphProto, NodeProto, TensorProto};
use crate::error::{Error, Result};

/// Tensors with fewer bytes stay in the models' files.
const SMALLEST: usize = 1024;

/// Tensors begin at multiples of this; large ones at pages, because they are mapped.
const ALIGN: u64 = 64;
const PAGE: u64 = 4096;

/// Copies are made in pieces of this.
const PIECE: usize = 1 << 20;

/// Writes the weights of `models` to `file`, each once, and has the models refer to it by `location`. The models come from one:
/// weights of the same name are the same. Those that are external lie in the folder `from`. Returns the bytes of each tensor in
/// the file, by name.
///
/// # Errors
/// [`ErrorKind::BadModel`](crate::ErrorKind::BadModel) naming a tensor whose place is impossible; what reading and writing give.
pub fn share_weights(
    models: &mut [Model],
    from: &Path,
    file: &Path,
    location: &str,
) -> Result<HashMap<String, u64>> {
    let io = |e: &std::io::Error| Error::io(file.display(), e);
    let mut out = std::io::BufWriter::new(File::create(file).map_err(|e| io(&e))?);
    let mut at = 0_u64;
    let mut places: HashMap<String, (u64, u64)> = HashMap::new();
    for model in models.iter() {
        model.check_external_files(from)?;
    }
    for model in models.iter_mut() {
        let graph = model.proto.graph.get_or_insert_default();
        lift_constants(graph);
        for tensor in &mut graph.initializer {
            let name = text(&tensor.name).to_owned();
            if !places.contains_key(&name) {
                let Some(bytes) = size(tensor, from)? else {
                    continue;
                };
                let align = if bytes >= PAGE { PAGE } else { ALIGN };
                let start = at.next_multiple_of(align);
                let gap = vec![0; (start - at) as usize];
                out.write_all(&gap).map_err(|e| io(&e))?;
                copy(tensor, from, bytes, &mut out).map_err(|e| e.context(file.display()))?;
                at = start + bytes;
                places.insert(name.clone(), (start, bytes));
            }
            let (start, bytes) = places[&name];
            tensor.raw_data = None;
            tensor.external_data.clear();
            tensor.data_location = Some(DataLocation::EXTERNAL);
            set(tensor, "location", location.to_owned());
            set(tensor, "offset", start.to_string());
            set(tensor, "length", bytes.to_string());
        }
    }
    out.flush().map_err(|e| io(&e))?;
    Ok(places
        .into_iter()
        .map(|(name, (_, bytes))| (name, bytes))
        .collect())
}

/// Turns large constants among the nodes into weights, which alone can lie outside.
fn lift_constants(graph: &mut GraphProto) {
    let mut lifted = Vec::new();
    graph.node.retain(|node| {
        let tensor = constant(node).filter(|tensor| {
            tensor
                .raw_data
                .as_ref()
                .is_some_and(|raw| raw.len() >= SMALLEST)
                || !tensor.external_data.is_empty()
        });
        let (Some(tensor), Some(name)) = (tensor, node.output.first()) else {
            return true;
        };
        let mut tensor = tensor.clone();
        tensor.name = Some(name.clone());
        lifted.push(tensor);
        false
    });
    graph.initializer.extend(lifted);
}

fn constant(node: &NodeProto) -> Option<&TensorProto> {
    let own = text(&node.op_type) == "Constant" && matches!(text(&node.domain), "" | "ai.onnx");
    let is_value = |attribute: &&AttributeProto| text(&attribute.name) == "value";
    node.attribute
        .iter()
        .find(is_value)
        .filter(|_| own)?
        .t
        .as_option()
}

/// Bytes of a tensor that goes into the file. Numbers in fields of their own become bytes first.
fn size(tensor: &mut TensorProto, from: &Path) -> Result<Option<u64>> {
    if let Some(external) = External::of(tensor)? {
        let path = from.join(external.location);
        let all = path
            .metadata()
            .map_err(|e| Error::io(path.display(), &e))?
            .len();
        return Ok(Some(
            external
                .length
                .unwrap_or(all.saturating_sub(external.offset)),
        ));
    }
    let of = |kind: DataType| tensor.data_type == Some(kind as i32);
    let raw: Option<Vec<u8>> = if of(DataType::FLOAT) && !tensor.float_data.is_empty() {
        Some(
            tensor
                .float_data
                .iter()
                .flat_map(|n| n.to_le_bytes())
                .collect(),
        )
    } else if of(DataType::INT64) && !tensor.int64_data.is_empty() {
        Some(
            tensor
                .int64_data
                .iter()
                .flat_map(|n| n.to_le_bytes())
                .collect(),
        )
    } else {
        None
    };
    if let Some(raw) = raw {
        (tensor.float_data, tensor.int64_data) = (Vec::new(), Vec::new());
        tensor.raw_data = Some(Bytes::from(raw));
    }
    let bytes = tensor.raw_data.as_ref().map_or(0, |raw| raw.len());
    Ok((bytes >= SMALLEST).then_some(bytes as u64))
}

fn copy(tensor: &TensorProto, from: &Path, bytes: u64, out: &mut impl Write) -> Result<()> {
    let Some(external) = External::of(tensor)? else {
        let raw = tensor.raw_data.as_deref().unwrap_or_default();
        return out.write_all(raw).map_err(|e| Error::io("weights", &e));
    };
    let path = from.join(external.location);
    let io = |e: &std::io::Error| Error::io(path.display(), e);
    let mut source = File::open(&path).map_err(|e| io(&e))?;
    source
        .seek(SeekFrom::Start(external.offset))
        .map_err(|e| io(&e))?;
    let mut left = bytes;
    let mut piece = vec![0; PIECE.min(usize::try_from(bytes).unwrap_or(PIECE))];
    while left > 0 {
        let size = piece
            .len()
            .min(usize::try_from(left).unwrap_or(piece.len()));
        source.read_exact(&mut piece[..size]).map_err(|e| io(&e))?;
        out.write_all(&piece[..size])
            .map_err(|e| Error::io("weights", &e))?;
        left -= size as u64;
    }
    Ok(())
}
