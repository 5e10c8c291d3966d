//! Splits the heaviest quantised matrix product of a graph by columns of the result.
//!
//! A language model ends with the product over its vocabulary, which alone has a quarter of all weights. ONNX Runtime 1.31
//! packs the weights of a node into one block on one thread, also where they lie packed on the disk. For the whole product
//! that is tens of megabytes at each load, fetched from the kernel page by page while the other threads wait. The packing
//! buffer of a part is small enough for the heap to reuse. The parts compute the same numbers.

use std::collections::{HashMap, HashSet};

use super::external::{External, set, text};
use super::schema::attribute_proto::AttributeType;
use super::schema::{AttributeProto, GraphProto, NodeProto, TensorProto};
use super::{Model, walk};

/// A node with more than this fraction (one over it) of all weights is split.
const SHARE: u64 = 8;

/// Bytes of weights in a part. Packed they are up to half as large again, which is below what the heap reuses during a load
/// ([`reuse_blocks`](crate::os::memory::reuse_blocks)).
const PART_BYTES: u64 = 5 << 19;

/// The most parts of one node; a node that needs more would have gigabytes of weights.
const MOST_PARTS: u64 = 1024;

/// The columns of a part are a multiple of this, as kernels prefer.
const COLUMN_MULTIPLE: u64 = 64;

/// A tensor whose content is a slice of another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSlice {
    /// The tensor.
    pub name: String,
    /// The tensor it is a slice of.
    pub whole: String,
    /// Where it begins in that, in bytes.
    pub offset: u64,
}

impl Model {
    /// Splits the heavy `MatMulNBits` nodes whose weights are external. Returns the tensors of the parts, which lie in the
    /// same files; none where nothing was split.
    pub fn split_matmul(&mut self) -> Vec<TensorSlice> {
        let splits = splits(self.graph());
        if splits.iter().all(Option::is_none) {
            return Vec::new();
        }
        let unused = unused_weights(self.graph(), &splits);
        let graph = &mut *self.proto.graph.get_or_insert_default();
        let (mut slices, mut parts) = (Vec::new(), Vec::new());
        for (node, split) in std::mem::take(&mut graph.node).into_iter().zip(splits) {
            match split {
                Some(split) => {
                    graph.node.extend(split.nodes);
                    for (slice, tensor) in split.tensors {
                        if !slices.contains(&slice) {
                            slices.push(slice);
                            parts.push(tensor);
                        }
                    }
                }
                None => graph.node.push(node),
            }
        }
        let kept = std::mem::take(&mut graph.initializer).into_iter();
        parts.extend(kept.filter(|tensor| !unused.contains(text(&tensor.name))));
        graph.initializer = parts;
        slices
    }
}

/// What each node of the graph is replaced by, if it is split.
fn splits(graph: &GraphProto) -> Vec<Option<Split>> {
    let tensors = graph.initializer.iter();
    let mut weights: HashMap<&str, Weights<'_>> = tensors
        .map(|tensor| (text(&tensor.name), Weights::of(tensor)))
        .collect();
    // An initializer that is an input, too, is no constant.
    for input in &graph.input {
        weights.remove(text(&input.name));
    }
    let bytes = |node: &NodeProto| -> u64 {
        let of_node = node.input.iter().filter_map(|name| weights.get(&name[..]));
        of_node.fold(0, |sum, tensor| sum.saturating_add(tensor.bytes))
    };
    let all = graph.node.iter().map(bytes).fold(0, u64::saturating_add);
    let heavy = |node: &&NodeProto| bytes(node).saturating_mul(SHARE) > all;
    let names: HashSet<&str> = graph
        .node
        .iter()
        .flat_map(|node| node.output.iter().map(String::as_str))
        .chain(graph.input.iter().map(|input| text(&input.name)))
        .chain(graph.initializer.iter().map(|tensor| text(&tensor.name)))
        .collect();
    let split = |node| {
        let node = Some(node).filter(heavy)?;
        Split::of(node, &weights, &names)
    };
    graph.node.iter().map(split).collect()
}

/// The weights that only split nodes read: they would be loaded for nothing.
fn unused_weights(graph: &GraphProto, splits: &[Option<Split>]) -> HashSet<String> {
    // Nodes with graphs in them may read anything.
    let mut nodes = graph.node.iter();
    if nodes.any(|node| walk::subgraphs(node).next().is_some()) {
        return HashSet::new();
    }
    let kept = graph.node.iter().zip(splits);
    let kept = kept.filter(|(_, split)| split.is_none());
    let used: HashSet<&String> = kept
        .flat_map(|(node, _)| &node.input)
        .chain(
            graph
                .output
                .iter()
                .filter_map(|output| output.name.as_ref()),
        )
        .collect();
    let split = splits.iter().flatten().flat_map(|split| &split.tensors);
    let wholes = split.map(|(slice, _)| &slice.whole);
    wholes
        .filter(|name| !used.contains(name))
        .cloned()
        .collect()
}

/// A constant tensor.
struct Weights<'a> {
    tensor: &'a TensorProto,
    /// Of its content; 0 where it is numbers in the message, which only small ones are.
    bytes: u64,
    /// Where that begins in its file, if it is external.
    offset: Option<u64>,
}

impl<'a> Weights<'a> {
    fn of(tensor: &'a TensorProto) -> Self {
        // Loading the model reports what is wrong with it.
        let external = External::of(tensor).ok().flatten();
        let raw = tensor.raw_data.as_ref().map_or(0, |raw| raw.len() as u64);
        Self {
            tensor,
            bytes: external.map_or(raw, |external| external.length.unwrap_or(0)),
            offset: external.map(|external| external.offset),
        }
    }

    /// It is external, and its first dimension and its bytes are multiples of `columns`.
    fn has_columns(&self, columns: u64) -> bool {
        let first = self.tensor.dims.first().copied().unwrap_or(0);
        let first = u64::try_from(first).unwrap_or(0);
        self.offset.is_some()
            && self.bytes > 0
            && first > 0
            && self.bytes.is_multiple_of(columns)
            && first.is_multiple_of(columns)
    }

    fn part_name(&self, from: u64) -> String {
        part_name(text(&self.tensor.name), from)
    }

    /// What belongs to the columns `from..to` of `columns`.
    fn part(&self, from: u64, to: u64, columns: u64) -> (TensorSlice, TensorProto) {
        let mut tensor = self.tensor.clone();
        tensor.name = Some(self.part_name(from));
        if let Some(first) = tensor.dims.first_mut() {
            *first = *first / columns as i64 * (to - from) as i64;
        }
        let step = self.bytes / columns;
        let offset = self.offset.unwrap_or(0) + step * from;
        set(&mut tensor, "offset", offset.to_string());
        set(&mut tensor, "length", (step * (to - from)).to_string());
        let slice = TensorSlice {
            name: self.part_name(from),
            whole: text(&self.tensor.name).to_owned(),
            offset: step * from,
        };
        (slice, tensor)
    }
}

fn part_name(name: &str, from: u64) -> String {
    format!("{name}.part{from}")
}

/// What a split node is replaced by: its parts and a node that joins their results.
struct Split {
    nodes: Vec<NodeProto>,
    tensors: Vec<(TensorSlice, TensorProto)>,
}

impl Split {
    /// `None` where the node is another or reads what cannot be split, or a name is taken.
    fn of(
        node: &NodeProto,
        weights: &HashMap<&str, Weights<'_>>,
        names: &HashSet<&str>,
    ) -> Option<Self> {
        // Inputs: A, B, scales, zero points, an order of the rows, bias.
        let ordered = node.input.get(4).is_some_and(|order| !order.is_empty());
        if text(&node.op_type) != "MatMulNBits" || ordered {
            return None;
        }
        let columns = node
            .attribute
            .iter()
            .find(|attribute| is_columns(attribute))?;
        let columns = u64::try_from(columns.i?)
            .ok()
            .filter(|&columns| columns > 0)?;
        let mut constants = Vec::new();
        for name in node.input.iter().skip(1) {
            constants.push(match name.is_empty() {
                true => None,
                false => Some(weights.get(&name[..]).filter(|w| w.has_columns(columns))?),
            });
        }
        let parts = constants
            .first()
            .copied()
            .flatten()?
            .bytes
            .div_ceil(PART_BYTES);
        if parts > MOST_PARTS {
            return None;
        }
        let step = columns.div_ceil(parts).next_multiple_of(COLUMN_MULTIPLE);
        if step >= columns {
            return None;
        }
        let (name, output) = (text(&node.name), node.output.first()?);
        let (mut nodes, mut tensors, mut results) = (Vec::new(), Vec::new(), Vec::new());
        for from in (0..columns).step_by(usize::try_from(step).ok()?) {
            let to = (from + step).min(columns);
            let mut part = node.clone();
            for (input, constant) in part.input.iter_mut().skip(1).zip(&constants) {
                if let Some(weights) = constant {
                    *input = weights.part_name(from);
                    tensors.push(weights.part(from, to, columns));
                }
            }
            results.push(part_name(output, from));
            part.output = vec![part_name(output, from)];
            part.name = Some(part_name(name, from));
            for attribute in part.attribute.iter_mut().filter(|a| is_columns(a)) {
                attribute.i = Some((to - from) as i64);
            }
            nodes.push(part);
        }
        let new = tensors.iter().map(|(slice, _)| &slice.name).chain(&results);
        if new.into_iter().any(|name| names.contains(&name[..])) {
            return None;
        }
        nodes.push(NodeProto {
            input: results,
            output: vec![output.clone()],
            name: Some(format!("{name}.parts")),
            op_type: Some("Concat".to_owned()),
            attribute: vec![AttributeProto {
                name: Some("axis".to_owned()),
                i: Some(-1),
                r#type: Some(AttributeType::INT),
                ..Default::default()
            }],
            ..Default::default()
        });
        Some(Self { nodes, tensors })
    }
}

fn is_columns(attribute: &AttributeProto) -> bool {
    text(&attribute.name) == "N"
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
