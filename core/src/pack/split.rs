//! Cuts the heaviest quantised matrix product of a graph into parts, by columns of the result.
//!
//! A language model ends with the product of its vocabulary, which alone has a fourth of all weights. ONNX Runtime packs the
//! weights of a node in one block, on one thread, also where they lie packed on the disk (1.31): whole, that is tens of
//! megabytes of memory for each load, had from the kernel page by page, while the other threads have nothing left to do.
//! The parts' blocks are small enough for the heap to use again. What they compute is the same, number by number.

use std::collections::{HashMap, HashSet};

use super::protobuf::{Field, put_field, put_number};
use super::realign::{EXTERNAL_DATA, Part, entry};
use crate::error::{Error, ErrorKind, Result};

/// A node with more than this part of all weights is cut.
const SHARE: u64 = 8;

/// Bytes of weights in a part. Packed they are up to half as large again, which is below what the heap uses again during a
/// load ([`reuse_blocks`](crate::os::memory::reuse_blocks)).
const PART: u64 = 5 << 19;

/// No more parts than this of one node: its weights would be some gigabytes.
const PARTS: u64 = 1024;

/// Columns of a part are a multiple of this, as kernels like it.
const COLUMNS: u64 = 64;

/// `ModelProto.graph`.
const GRAPH: u64 = 7;
/// `GraphProto.node`, `.initializer`, `.input`.
const NODE: u64 = 1;
const INITIALIZER: u64 = 5;
const GRAPH_INPUT: u64 = 11;
/// `ValueInfoProto.name`.
const VALUE_NAME: u64 = 1;
/// `NodeProto.input`, `.output`, `.name`, `.op_type`, `.attribute`.
const INPUT: u64 = 1;
const OUTPUT: u64 = 2;
const NODE_NAME: u64 = 3;
const OP_TYPE: u64 = 4;
const ATTRIBUTE: u64 = 5;
/// `AttributeProto.name`, `.i`, `.type`, and its value for whole numbers.
const ATTRIBUTE_NAME: u64 = 1;
const ATTRIBUTE_INT: u64 = 3;
const ATTRIBUTE_TYPE: u64 = 20;
const TYPE_INT: u64 = 2;
/// `TensorProto.dims`, `.name`, `.raw_data`.
const DIMS: u64 = 1;
const NAME: u64 = 8;
const RAW_DATA: u64 = 9;

/// A graph with nodes cut.
#[derive(Debug)]
pub(crate) struct Split {
    pub(crate) model: Vec<u8>,
    /// The new tensors.
    pub(crate) parts: Vec<Part>,
}

/// `model` with its heavy `MatMulNBits` nodes cut; `None` where it has none that can be.
///
/// # Errors
/// [`ErrorKind::BadModel`] when it is no ONNX graph.
pub(crate) fn split(model: &[u8]) -> Result<Option<Split>> {
    let (mut out, mut parts) = (Vec::with_capacity(model.len()), Vec::new());
    for field in Field::all(model) {
        let field = field?;
        match (field.number, field.payload) {
            (GRAPH, Some(graph)) => {
                let cut = cut(graph, &mut parts)?;
                put_field(&mut out, GRAPH, cut.as_deref().unwrap_or(graph));
            }
            _ => out.extend_from_slice(field.raw),
        }
    }
    Ok((!parts.is_empty()).then_some(Split { model: out, parts }))
}

/// `graph` with its heavy nodes cut, and the `parts` of their weights.
fn cut(graph: &[u8], parts: &mut Vec<Part>) -> Result<Option<Vec<u8>>> {
    let (mut nodes, mut tensors) = (Vec::new(), HashMap::new());
    let mut inputs: HashSet<&[u8]> = HashSet::new();
    for field in Field::all(graph) {
        let field = field?;
        match (field.number, field.payload) {
            (NODE, Some(node)) => nodes.push(Node::read(node)?),
            (INITIALIZER, Some(tensor)) => {
                let tensor = Weights::read(tensor)?;
                tensors.insert(tensor.name, tensor);
            }
            (GRAPH_INPUT, Some(input)) => {
                inputs.extend(texts(input, VALUE_NAME)?);
            }
            _ => {}
        }
    }
    // What is an input too is no constant.
    tensors.retain(|name, _| !inputs.contains(name));
    let weights = |node: &Node<'_>| -> u64 {
        let of_node = node.inputs.iter().filter_map(|name| tensors.get(name));
        of_node.fold(0, |sum, tensor| sum.saturating_add(tensor.bytes))
    };
    let all = nodes.iter().map(weights).fold(0, u64::saturating_add);
    let cuts: Vec<Option<Cut<'_>>> = nodes
        .iter()
        .map(|node| match weights(node).saturating_mul(SHARE) > all {
            true => Cut::of(node, &tensors),
            false => None,
        })
        .collect();
    if cuts.iter().all(Option::is_none) {
        return Ok(None);
    }
    // Whole weights that no node reads any more would be loaded for nothing. Nodes with graphs in them may read anything.
    let nested = nodes.iter().any(|node| node.nested);
    let kept = nodes.iter().zip(&cuts).filter(|(_, cut)| cut.is_none());
    let used: HashSet<&[u8]> = kept.flat_map(|(node, _)| node.inputs.clone()).collect();
    let cut_up: HashSet<&[u8]> = cuts.iter().flatten().flat_map(Cut::names).collect();

    let (mut out, mut at) = (Vec::with_capacity(graph.len()), 0);
    for field in Field::all(graph) {
        let field = field?;
        match (field.number, field.payload) {
            (NODE, Some(_)) => {
                match &cuts[at] {
                    Some(cut) => cut.put(&mut out, parts),
                    None => out.extend_from_slice(field.raw),
                }
                at += 1;
            }
            (INITIALIZER, Some(tensor)) => {
                let name = Weights::read(tensor)?.name;
                if nested || used.contains(name) || !cut_up.contains(name) {
                    out.extend_from_slice(field.raw);
                }
            }
            _ => out.extend_from_slice(field.raw),
        }
    }
    Ok(Some(out))
}

struct Node<'a> {
    message: &'a [u8],
    inputs: Vec<&'a [u8]>,
    op: &'a [u8],
    /// It has attributes that are graphs.
    nested: bool,
}

impl<'a> Node<'a> {
    fn read(message: &'a [u8]) -> Result<Self> {
        let mut node = Self {
            message,
            inputs: texts(message, INPUT)?,
            op: texts(message, OP_TYPE)?
                .first()
                .copied()
                .unwrap_or_default(),
            nested: false,
        };
        for attribute in texts(message, ATTRIBUTE)? {
            for field in Field::all(attribute) {
                // `AttributeProto.g` and `.graphs`.
                node.nested |= matches!(field?.number, 6 | 11);
            }
        }
        Ok(node)
    }

    fn attribute(&self, name: &str) -> Option<u64> {
        let attributes = texts(self.message, ATTRIBUTE).ok()?;
        attributes.into_iter().find_map(|attribute| {
            let (mut found, mut value) = (false, 0);
            for field in Field::all(attribute) {
                let field = field.ok()?;
                match (field.number, field.payload) {
                    (ATTRIBUTE_NAME, Some(text)) => found = text == name.as_bytes(),
                    (ATTRIBUTE_INT, None) => value = field.value,
                    _ => {}
                }
            }
            found.then_some(value)
        })
    }
}

/// A constant tensor.
struct Weights<'a> {
    message: &'a [u8],
    name: &'a [u8],
    /// Of its content; 0 where it is numbers in the message, which only small ones are.
    bytes: u64,
    /// Where that begins in its file, if it lies in one.
    offset: Option<u64>,
    dims: Vec<u64>,
}

impl<'a> Weights<'a> {
    fn read(message: &'a [u8]) -> Result<Self> {
        let mut tensor = Self {
            message,
            name: &[],
            bytes: 0,
            offset: None,
            dims: Vec::new(),
        };
        for field in Field::all(message) {
            let field = field?;
            match (field.number, field.payload) {
                (NAME, Some(name)) => tensor.name = name,
                (RAW_DATA, Some(raw)) => tensor.bytes = raw.len() as u64,
                (EXTERNAL_DATA, Some(payload)) => match entry(payload)? {
                    ("length", length) => tensor.bytes = length.parse().unwrap_or(0),
                    ("location", _) => {
                        tensor.offset.get_or_insert(0);
                    }
                    ("offset", offset) => tensor.offset = offset.parse().ok(),
                    _ => {}
                },
                (DIMS, None) => tensor.dims.push(field.value),
                (DIMS, Some(packed)) => tensor.dims.extend(super::protobuf::numbers(packed)?),
                _ => {}
            }
        }
        Ok(tensor)
    }

    /// It lies in a file, and its first dimension and its bytes are `columns` times something.
    fn is_by(&self, columns: u64) -> bool {
        let first = self.dims.first().copied().unwrap_or(0);
        let end = self
            .offset
            .and_then(|offset| offset.checked_add(self.bytes));
        end.is_some()
            && self.bytes > 0
            && self.bytes.is_multiple_of(columns)
            && first.is_multiple_of(columns)
    }

    fn part_name(&self, from: u64) -> Vec<u8> {
        [self.name, format!(".part{from}").as_bytes()].concat()
    }

    /// What belongs to the columns `from..to` of `columns`.
    fn part(&self, from: u64, to: u64, columns: u64) -> Vec<u8> {
        let mut out = Vec::new();
        for (at, &dim) in self.dims.iter().enumerate() {
            let dim = if at == 0 {
                dim / columns * (to - from)
            } else {
                dim
            };
            put_number(&mut out, DIMS, dim);
        }
        put_field(&mut out, NAME, &self.part_name(from));
        for field in Field::all(self.message).flatten() {
            match (field.number, field.payload.map(entry)) {
                (DIMS | NAME, _) | (EXTERNAL_DATA, Some(Ok(("offset" | "length", _)))) => {}
                _ => out.extend_from_slice(field.raw),
            }
        }
        let step = self.bytes / columns;
        let offset = self.offset.unwrap_or(0) + step * from;
        for (key, value) in [("offset", offset), ("length", step * (to - from))] {
            let mut pair = Vec::new();
            put_field(&mut pair, 1, key.as_bytes());
            put_field(&mut pair, 2, value.to_string().as_bytes());
            put_field(&mut out, EXTERNAL_DATA, &pair);
        }
        out
    }
}

/// How a node is cut.
struct Cut<'a> {
    node: &'a Node<'a>,
    columns: u64,
    /// Of a part.
    step: u64,
    /// Its constants, by the place of the input.
    weights: Vec<Option<&'a Weights<'a>>>,
}

impl<'a> Cut<'a> {
    /// `None` where the node is another or reads what cannot be cut.
    fn of(node: &'a Node<'a>, tensors: &'a HashMap<&'a [u8], Weights<'a>>) -> Option<Self> {
        // Inputs: A, B, scales, zero points, an order of the rows, bias.
        if node.op != b"MatMulNBits" || node.inputs.get(4).is_some_and(|order| !order.is_empty()) {
            return None;
        }
        let columns = node.attribute("N").filter(|&columns| columns > 0)?;
        let mut weights = vec![None];
        for name in &node.inputs[1..] {
            weights.push(match name.is_empty() {
                true => None,
                false => Some(tensors.get(name).filter(|tensor| tensor.is_by(columns))?),
            });
        }
        let parts = weights.get(1).copied().flatten()?.bytes.div_ceil(PART);
        if parts > PARTS {
            return None;
        }
        let step = columns.div_ceil(parts).next_multiple_of(COLUMNS);
        let taken = weights.iter().flatten().any(|tensor| {
            let mut parts = (0..columns).step_by(step as usize);
            parts.any(|from| tensors.contains_key(&tensor.part_name(from)[..]))
        });
        (step < columns && !taken).then_some(Self {
            node,
            columns,
            step,
            weights,
        })
    }

    fn names(&self) -> impl Iterator<Item = &'a [u8]> {
        self.weights.iter().flatten().map(|tensor| tensor.name)
    }

    /// Adds the parts and what puts their results together, and their weights but for those that are `parts` already.
    fn put(&self, graph: &mut Vec<u8>, parts: &mut Vec<Part>) {
        let outputs = texts(self.node.message, OUTPUT).unwrap_or_default();
        let output = outputs.first().copied().unwrap_or_default();
        let name = texts(self.node.message, NODE_NAME).unwrap_or_default();
        let name = name.first().copied().unwrap_or_default();
        let mut whole = Vec::new();
        for from in (0..self.columns).step_by(self.step as usize) {
            let to = (from + self.step).min(self.columns);
            let suffixed =
                |text: &[u8]| -> Vec<u8> { [text, format!(".part{from}").as_bytes()].concat() };
            let mut part = Vec::new();
            for (at, input) in self.node.inputs.iter().enumerate() {
                let Some(weights) = self.weights[at] else {
                    put_field(&mut part, INPUT, input);
                    continue;
                };
                let name = weights.part_name(from);
                put_field(&mut part, INPUT, &name);
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let this = Part {
                    name: text(&name),
                    whole: text(weights.name),
                    at: weights.bytes / self.columns * from,
                };
                if !parts.contains(&this) {
                    put_field(graph, INITIALIZER, &weights.part(from, to, self.columns));
                    parts.push(this);
                }
            }
            put_field(&mut part, OUTPUT, &suffixed(output));
            put_field(&mut part, NODE_NAME, &suffixed(name));
            for field in Field::all(self.node.message).flatten() {
                match field.number {
                    INPUT | OUTPUT | NODE_NAME => {}
                    ATTRIBUTE if is_columns(field.payload) => {
                        put_field(&mut part, ATTRIBUTE, &number("N", to - from));
                    }
                    _ => part.extend_from_slice(field.raw),
                }
            }
            put_field(graph, NODE, &part);
            put_field(&mut whole, INPUT, &suffixed(output));
        }
        put_field(&mut whole, OUTPUT, output);
        put_field(&mut whole, NODE_NAME, &[name, b".parts"].concat());
        put_field(&mut whole, OP_TYPE, b"Concat");
        // The last one; negative numbers take ten bytes.
        put_field(&mut whole, ATTRIBUTE, &number("axis", u64::MAX));
        put_field(graph, NODE, &whole);
    }
}

fn is_columns(attribute: Option<&[u8]>) -> bool {
    let names = attribute.map(|attribute| texts(attribute, ATTRIBUTE_NAME));
    matches!(names, Some(Ok(names)) if names == [b"N"])
}

/// An attribute that is a whole number.
fn number(name: &str, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_field(&mut out, ATTRIBUTE_NAME, name.as_bytes());
    put_number(&mut out, ATTRIBUTE_INT, value);
    put_number(&mut out, ATTRIBUTE_TYPE, TYPE_INT);
    out
}

/// The contents of the fields `number`.
fn texts(message: &[u8], number: u64) -> Result<Vec<&[u8]>> {
    let mut found = Vec::new();
    for field in Field::all(message) {
        let field = field?;
        if field.number == number {
            let payload = field.payload.ok_or_else(|| {
                Error::new(
                    ErrorKind::BadModel,
                    "not an ONNX graph: a field has the wrong form",
                )
            })?;
            found.push(payload);
        }
    }
    Ok(found)
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
