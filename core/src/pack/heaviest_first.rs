//! Puts the nodes with the most weights of a saved graph before the others.
//!
//! ONNX Runtime packs the weights of a session's nodes in the order of the file, on all its threads, but each node's on one. A
//! language model ends with the node of its vocabulary, which alone has a fourth of all weights: packed last, it keeps one
//! thread busy while the others have nothing left to do. What runs when is decided by who needs whose outputs, as before.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::protobuf::{Field, put_field};
use super::realign::{EXTERNAL_DATA, entry};
use crate::error::{Error, Result};

/// A node with more than this part of all weights goes first.
const PART: u64 = 8;

/// `ModelProto.graph`.
const GRAPH: u64 = 7;
/// `GraphProto.node`, `GraphProto.initializer`.
const NODE: u64 = 1;
const INITIALIZER: u64 = 5;
/// `NodeProto.input`.
const INPUT: u64 = 1;
/// `TensorProto.name`, `TensorProto.raw_data`.
const NAME: u64 = 8;
const RAW_DATA: u64 = 9;

/// Reorders the graph in the file `model`, if that has such nodes; whether it has.
///
/// # Errors
/// [`ErrorKind::BadModel`](crate::ErrorKind::BadModel) when the file is no ONNX graph; what reading and writing give.
pub(crate) fn heaviest_first(model: &Path) -> Result<bool> {
    let io = |e: &std::io::Error| Error::io(model.display(), e);
    let before = fs::read(model).map_err(|e| io(&e))?;
    let (mut after, mut changed) = (Vec::with_capacity(before.len()), false);
    for field in Field::all(&before) {
        let field = field.map_err(|e| e.context(model.display()))?;
        match (field.number, field.payload) {
            (GRAPH, Some(graph)) => {
                let ordered = reorder(graph).map_err(|e| e.context(model.display()))?;
                changed |= ordered.is_some();
                put_field(&mut after, GRAPH, ordered.as_deref().unwrap_or(graph));
            }
            _ => after.extend_from_slice(field.raw),
        }
    }
    if changed {
        fs::write(model, after).map_err(|e| io(&e))?;
    }
    Ok(changed)
}

/// `graph` with its heavy nodes first; `None` where there are none.
fn reorder(graph: &[u8]) -> Result<Option<Vec<u8>>> {
    let (mut nodes, mut rest) = (Vec::new(), Vec::new());
    let mut sizes: HashMap<&[u8], u64> = HashMap::new();
    for field in Field::all(graph) {
        let field = field?;
        match (field.number, field.payload) {
            (NODE, Some(node)) => nodes.push((field.raw, inputs(node)?)),
            (INITIALIZER, Some(tensor)) => {
                let (name, bytes) = size(tensor)?;
                sizes.insert(name, bytes);
                rest.push(field.raw);
            }
            _ => rest.push(field.raw),
        }
    }
    let weights =
        |inputs: &[&[u8]]| -> u64 { inputs.iter().filter_map(|name| sizes.get(name)).sum() };
    let all: u64 = nodes.iter().map(|(_, inputs)| weights(inputs)).sum();
    let (heavy, light): (Vec<_>, Vec<_>) = nodes
        .iter()
        .partition(|(_, inputs)| weights(inputs).saturating_mul(PART) > all);
    if heavy.is_empty() {
        return Ok(None);
    }
    let nodes = heavy.into_iter().chain(light).map(|(raw, _)| *raw);
    Ok(Some(nodes.chain(rest).collect::<Vec<_>>().concat()))
}

/// The names of what a node reads.
fn inputs(node: &[u8]) -> Result<Vec<&[u8]>> {
    let mut names = Vec::new();
    for field in Field::all(node) {
        let field = field?;
        if let (INPUT, Some(name)) = (field.number, field.payload) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Name and bytes of a tensor; 0 bytes where they are numbers in the message, which only small ones are.
fn size(tensor: &[u8]) -> Result<(&[u8], u64)> {
    let (mut name, mut bytes): (&[u8], u64) = (&[], 0);
    for field in Field::all(tensor) {
        let field = field?;
        match (field.number, field.payload) {
            (NAME, Some(payload)) => name = payload,
            (RAW_DATA, Some(payload)) => bytes = payload.len() as u64,
            (EXTERNAL_DATA, Some(payload)) => {
                if let ("length", length) = entry(payload)? {
                    bytes = length.parse().unwrap_or(0);
                }
            }
            _ => {}
        }
    }
    Ok((name, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::pack::protobuf::message;

    /// Nodes `a`, `b` … that read weights `wa`, `wb` … of these sizes.
    fn model(sizes: &[u64]) -> Vec<u8> {
        let mut graph = Vec::new();
        for at in 0..sizes.len() {
            let letter = [b'a' + at as u8];
            let weights = [b'w', letter[0]];
            let node = message(&[(INPUT, b"x"), (INPUT, &weights), (2, &letter)]);
            put_field(&mut graph, NODE, &node);
        }
        for (at, size) in sizes.iter().enumerate() {
            let text = size.to_string();
            let length = message(&[(1, b"length"), (2, text.as_bytes())]);
            let name = [b'w', b'a' + at as u8];
            put_field(
                &mut graph,
                INITIALIZER,
                &message(&[(NAME, &name), (EXTERNAL_DATA, &length)]),
            );
        }
        let mut out = vec![0x08, 0x0a];
        put_field(&mut out, GRAPH, &graph);
        out
    }

    /// The outputs of the nodes of a model, in order.
    fn order(model: &[u8]) -> Result<String> {
        let mut names = String::new();
        for field in Field::all(model) {
            let field = field?;
            let Some(graph) = field.payload.filter(|_| field.number == GRAPH) else {
                continue;
            };
            for field in Field::all(graph) {
                let field = field?;
                let Some(node) = field.payload.filter(|_| field.number == NODE) else {
                    continue;
                };
                for field in Field::all(node) {
                    let field = field?;
                    if let (2, Some(name)) = (field.number, field.payload) {
                        names.push_str(&String::from_utf8_lossy(name));
                    }
                }
            }
        }
        Ok(names)
    }

    #[test]
    fn only_what_is_heavy_moves() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("m.onnx");
        let small = [10; 12];
        let mut one = small;
        one[10] = 100;
        let mut two = one;
        two[4] = 60;
        for (sizes, expected, moved) in [
            (small, "abcdefghijkl", false),
            (one, "kabcdefghijl", true),
            (two, "ekabcdfghijl", true),
        ] {
            let before = model(&sizes);
            fs::write(&path, &before)?;
            assert_eq!(heaviest_first(&path), Ok(moved));
            let after = fs::read(&path)?;
            assert_eq!(order(&after), Ok(expected.to_owned()));
            let sorted = |mut bytes: Vec<u8>| {
                bytes.sort_unstable();
                bytes
            };
            assert_eq!(sorted(before), sorted(after));
        }
        Ok(())
    }

    #[test]
    fn what_is_no_graph_is_refused() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("m.onnx");
        let mut cut = model(&[1, 2, 3]);
        cut.truncate(cut.len() - 3);
        for bad in [cut, vec![0xff; 30]] {
            fs::write(&path, &bad)?;
            let refused = heaviest_first(&path).map_err(|e| e.kind());
            assert_eq!(refused, Err(ErrorKind::BadModel));
            assert_eq!(fs::read(&path)?, bad);
        }
        Ok(())
    }
}
