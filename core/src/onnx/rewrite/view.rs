//! A graph by its tensors: who makes each, who reads it, which are constant.

use std::collections::{HashMap, HashSet};

use half::f16;

use super::super::external::text;
use super::super::extract::reads;
use super::super::schema::tensor_proto::DataType;
use super::super::schema::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use super::edit::names;

/// Constants with more elements than this are weights, and are not looked into.
const SMALL: i64 = 64;

/// A graph, indexed by the names of its tensors. Graphs inside nodes count as readers, and are not looked into.
pub(super) struct View<'a> {
    graph: &'a GraphProto,
    makers: HashMap<&'a str, usize>,
    readers: HashMap<&'a str, Vec<usize>>,
    weights: HashMap<&'a str, &'a TensorProto>,
    outputs: HashSet<&'a str>,
    inputs: HashSet<&'a str>,
}

impl<'a> View<'a> {
    pub(super) fn new(graph: &'a GraphProto) -> Self {
        let (mut makers, mut readers) = (HashMap::new(), HashMap::<&str, Vec<usize>>::new());
        for (at, node) in graph.node.iter().enumerate() {
            makers.extend(names(&node.output).map(|name| (name, at)));
            for name in reads(node) {
                let readers = readers.entry(name).or_default();
                if readers.last() != Some(&at) {
                    readers.push(at);
                }
            }
        }
        let weights = graph.initializer.iter();
        let ports =
            |values: &'a [ValueInfoProto]| values.iter().map(|value| text(&value.name)).collect();
        Self {
            graph,
            makers,
            readers,
            weights: weights.map(|tensor| (text(&tensor.name), tensor)).collect(),
            outputs: ports(&graph.output),
            inputs: ports(&graph.input),
        }
    }

    pub(super) fn nodes(&self) -> &'a [NodeProto] {
        &self.graph.node
    }

    pub(super) fn node(&self, at: usize) -> &'a NodeProto {
        &self.graph.node[at]
    }

    /// The node that makes `name`, and its place.
    pub(super) fn maker(&self, name: &str) -> Option<(usize, &'a NodeProto)> {
        let at = *self.makers.get(name)?;
        Some((at, self.node(at)))
    }

    /// The node that makes `name`, if it is an `operator` of ONNX's own.
    pub(super) fn made_by(&self, name: &str, operator: &str) -> Option<(usize, &'a NodeProto)> {
        self.maker(name).filter(|(_, node)| is(node, operator))
    }

    /// Places of the nodes that read `name`.
    pub(super) fn readers(&self, name: &str) -> &[usize] {
        self.readers.get(name).map_or(&[], Vec::as_slice)
    }

    /// The only node that reads `name`; `None` also where it is a result of the graph.
    pub(super) fn reader(&self, name: &str) -> Option<(usize, &'a NodeProto)> {
        match self.readers(name) {
            [at] if !self.is_output(name) => Some((*at, self.node(*at))),
            _ => None,
        }
    }

    /// As [`reader`](Self::reader), beside nodes that ask for the size of `name` alone.
    pub(super) fn reader_of_values(&self, name: &str) -> Option<(usize, &'a NodeProto)> {
        let readers = self.readers(name).iter();
        let mut readers = readers.filter(|at| !is(self.node(**at), "Shape"));
        let at = *readers.next()?;
        let only = readers.next().is_none() && !self.is_output(name);
        only.then(|| (at, self.node(at)))
    }

    pub(super) fn is_output(&self, name: &str) -> bool {
        self.outputs.contains(name)
    }

    pub(super) fn is_input(&self, name: &str) -> bool {
        self.inputs.contains(name) && !self.weights.contains_key(name)
    }

    /// The constant tensor `name`, also through nodes that hand it on.
    pub(super) fn constant(&self, name: &str) -> Option<&'a TensorProto> {
        let mut name = name;
        for _ in 0..8 {
            if let Some(tensor) = self.weights.get(name) {
                return Some(tensor);
            }
            let (_, node) = self.maker(name)?;
            if is(node, "Constant") {
                return attribute(node, "value")?.t.as_option();
            }
            if !is(node, "Identity") {
                return None;
            }
            name = node.input.first()?;
        }
        None
    }

    /// The numbers of a small constant.
    pub(super) fn numbers(&self, name: &str) -> Option<Vec<f64>> {
        numbers(self.constant(name)?)
    }

    /// The only number of a constant.
    pub(super) fn number(&self, name: &str) -> Option<f64> {
        match self.numbers(name)?[..] {
            [number] => Some(number),
            _ => None,
        }
    }

    /// The inputs of the graph that `name` depends on.
    pub(super) fn fed_by(&self, name: &str) -> HashSet<&'a str> {
        let (mut seen, mut found, mut open) = (HashSet::new(), HashSet::new(), Vec::new());
        let mut visit = |name: &str, open: &mut Vec<usize>| {
            if let Some(input) = self.inputs.get(name).filter(|_| self.is_input(name)) {
                found.insert(*input);
            } else if let Some(&at) = self.makers.get(name)
                && seen.insert(at)
            {
                open.push(at);
            }
        };
        visit(name, &mut open);
        while let Some(at) = open.pop() {
            for name in reads(self.node(at)) {
                visit(name, &mut open);
            }
        }
        found
    }
}

/// Whether `node` is an `operator` of ONNX's own.
pub(super) fn is(node: &NodeProto, operator: &str) -> bool {
    text(&node.op_type) == operator && matches!(text(&node.domain), "" | "ai.onnx")
}

pub(super) fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    let mut attributes = node.attribute.iter();
    attributes.find(|attribute| text(&attribute.name) == name)
}

/// The order of the dimensions that a `Transpose` makes.
pub(super) fn order(node: &NodeProto) -> &[i64] {
    attribute(node, "perm").map_or(&[], |perm| &perm.ints)
}

/// The numbers of a tensor that lies in the model's file and is small.
pub(super) fn numbers(tensor: &TensorProto) -> Option<Vec<f64>> {
    let elements = tensor
        .dims
        .iter()
        .try_fold(1_i64, |all, &dim| all.checked_mul(dim))?;
    if !(0..=SMALL).contains(&elements) || !tensor.external_data.is_empty() {
        return None;
    }
    let kind = tensor.data_type?;
    let of = |code: DataType| kind == code as i32;
    let raw = tensor.raw_data.as_deref().unwrap_or_default();
    let found: Vec<f64> = if of(DataType::FLOAT) {
        let raw = raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
        raw.chain(tensor.float_data.iter().copied())
            .map(f64::from)
            .collect()
    } else if of(DataType::FLOAT16) {
        let raw = raw.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b));
        let stored = tensor.int32_data.iter().map(|&bits| bits as u16);
        raw.chain(stored)
            .map(|bits| f16::from_bits(bits).to_f64())
            .collect()
    } else if of(DataType::DOUBLE) {
        let raw = raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b));
        raw.chain(tensor.double_data.iter().copied()).collect()
    } else if of(DataType::INT64) {
        let raw = raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b));
        raw.chain(tensor.int64_data.iter().copied())
            .map(|n| n as f64)
            .collect()
    } else if of(DataType::INT32) {
        let raw = raw.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b));
        raw.chain(tensor.int32_data.iter().copied())
            .map(f64::from)
            .collect()
    } else {
        return None;
    };
    (found.len() as i64 == elements).then_some(found)
}
