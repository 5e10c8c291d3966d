//! What the nodes of an ONNX graph cost to compute, as far as the graph says: multiply-accumulates of convolutions and matrix
//! products, which is where nearly all of the time goes.

use std::collections::{BTreeMap, HashMap};

use super::protobuf::{Field, varint};
use crate::error::Result;

/// Multiply-accumulates by node.
pub(crate) struct Compute(HashMap<String, u64>);

/// Operators whose output has the shape of their first input.
const SAME_SHAPE: [&str; 2] = ["QuantizeLinear", "DequantizeLinear"];

impl Compute {
    /// Of the graph in `model`, the content of an ONNX file, with the sizes `fixed` for the dimensions it leaves open. `None`
    /// where it does not say the shapes that decide: only a graph that was exported or quantised with them does.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`](crate::ErrorKind::BadModel) when that is no ONNX file.
    pub(crate) fn of(model: &[u8], fixed: &BTreeMap<String, usize>) -> Result<Option<Self>> {
        let mut graph = Graph::default();
        for field in Field::all(model) {
            let field = field?;
            // ModelProto.graph
            if let (7, Some(payload)) = (field.number, field.payload) {
                graph.read(payload, fixed)?;
            }
        }
        let mut all = HashMap::new();
        for node in &graph.nodes {
            let Some(cost) = graph.cost(node) else {
                return Ok(None);
            };
            if cost > 0 {
                *all.entry(node.name.to_owned()).or_default() += cost;
            }
        }
        // Nodes without names cannot be told apart where they run.
        Ok((!all.contains_key("")).then_some(Self(all)))
    }

    /// The share of each of `parts`, lists of the names of nodes; `None` where a node that counts is in none of them.
    pub(crate) fn shares(&self, parts: &[&[String]]) -> Option<Vec<f64>> {
        let mut sums = vec![0_u64; parts.len()];
        let mut left = self.0.clone();
        for (sum, part) in sums.iter_mut().zip(parts) {
            for name in *part {
                *sum += left.remove(name.as_str()).unwrap_or_else(|| {
                    // ONNX Runtime numbers nodes that it remakes in another layout.
                    let source = name.rsplit_once("_token_").map(|(source, _)| source);
                    source.and_then(|name| left.remove(name)).unwrap_or(0)
                });
            }
        }
        let total: u64 = sums.iter().sum();
        (left.is_empty() && total > 0)
            .then(|| sums.iter().map(|&sum| sum as f64 / total as f64).collect())
    }
}

#[derive(Default)]
struct Graph<'a> {
    nodes: Vec<Node<'a>>,
    /// By name; `None`: a size is not known.
    shapes: HashMap<&'a str, Option<Vec<u64>>>,
    /// Which value has the shape of which other.
    same: HashMap<&'a str, &'a str>,
}

#[derive(Default)]
struct Node<'a> {
    inputs: Vec<&'a str>,
    outputs: Vec<&'a str>,
    name: &'a str,
    operator: &'a str,
    /// `Gemm`: its first input is transposed.
    transposed: bool,
}

impl<'a> Graph<'a> {
    fn read(&mut self, graph: &'a [u8], fixed: &BTreeMap<String, usize>) -> Result<()> {
        for field in Field::all(graph) {
            let field = field?;
            let Some(payload) = field.payload else {
                continue;
            };
            match field.number {
                1 => {
                    let node = Node::read(payload)?;
                    if let (true, [output, ..], [input, ..]) = (
                        SAME_SHAPE.contains(&node.operator),
                        &node.outputs[..],
                        &node.inputs[..],
                    ) {
                        self.same.insert(output, input);
                    }
                    self.nodes.push(node);
                }
                5 => {
                    let (name, dims) = tensor(payload)?;
                    self.shapes.insert(name, Some(dims));
                }
                // Inputs, outputs, values between.
                11..=13 => {
                    let (name, shape) = value_info(payload, fixed)?;
                    self.shapes.insert(name, shape);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn shape(&self, name: &str) -> Option<&[u64]> {
        let mut name = name;
        // Each step goes towards the inputs; a graph that goes round is no graph.
        for _ in 0..8 {
            match (self.shapes.get(name), self.same.get(name)) {
                (Some(Some(shape)), _) => return Some(shape),
                (_, Some(source)) => name = source,
                _ => return None,
            }
        }
        None
    }

    /// Multiply-accumulates of `node`: 0 for all but convolutions and matrix products; `None` where a shape is not known.
    fn cost(&self, node: &Node<'_>) -> Option<u64> {
        let input = |at: usize| self.shape(node.inputs.get(at)?);
        let output = || self.shape(node.outputs.first()?);
        let size = |shape: &[u64]| {
            shape
                .iter()
                .try_fold(1_u64, |all, &dim| all.checked_mul(dim))
        };
        let (positions, each) = match node.operator {
            // Every value of the output is a sum over one filter.
            "Conv" => (size(output()?)?, size(input(1)?.get(1..)?)?),
            // Every value of the input goes through all of its filters.
            "ConvTranspose" => (size(input(0)?)?, size(input(1)?.get(1..)?)?),
            "MatMul" => (size(output()?)?, *input(0)?.last()?),
            "Gemm" => {
                let [rows, columns] = *input(0)? else {
                    return None;
                };
                let inner = if node.transposed { rows } else { columns };
                (size(output()?)?, inner)
            }
            _ => return Some(0),
        };
        positions.checked_mul(each)
    }
}

impl<'a> Node<'a> {
    fn read(message: &'a [u8]) -> Result<Self> {
        let mut node = Self::default();
        for field in Field::all(message) {
            let field = field?;
            let Some(payload) = field.payload else {
                continue;
            };
            match field.number {
                1 => node.inputs.push(text(payload)),
                2 => node.outputs.push(text(payload)),
                3 => node.name = text(payload),
                4 => node.operator = text(payload),
                5 => node.transposed |= transposes(payload)?,
                _ => {}
            }
        }
        Ok(node)
    }
}

/// Whether an attribute is `transA = 1`.
fn transposes(attribute: &[u8]) -> Result<bool> {
    let (mut named, mut set) = (false, false);
    for field in Field::all(attribute) {
        let field = field?;
        match field.number {
            1 => named = field.payload == Some(b"transA"),
            3 => set = field.value == 1,
            _ => {}
        }
    }
    Ok(named && set)
}

/// Name and dimensions of a `TensorProto`.
fn tensor(message: &[u8]) -> Result<(&str, Vec<u64>)> {
    let (mut name, mut dims) = ("", Vec::new());
    for field in Field::all(message) {
        let field = field?;
        match (field.number, field.payload) {
            (1, None) => dims.push(field.value),
            // Packed, as newer writers do.
            (1, Some(mut packed)) => {
                while !packed.is_empty() {
                    dims.push(varint(&mut packed)?);
                }
            }
            (8, Some(payload)) => name = text(payload),
            _ => {}
        }
    }
    Ok((name, dims))
}

/// Name and shape of a `ValueInfoProto`; no shape where a size is not known.
fn value_info<'a>(
    message: &'a [u8],
    fixed: &BTreeMap<String, usize>,
) -> Result<(&'a str, Option<Vec<u64>>)> {
    let (mut name, mut shape) = ("", None);
    for field in Field::all(message) {
        let field = field?;
        match (field.number, field.payload) {
            (1, Some(payload)) => name = text(payload),
            // TypeProto.tensor_type.shape
            (2, Some(payload)) => {
                if let Some(dims) = inner(payload, 1)?
                    .map(|t| inner(t, 2))
                    .transpose()?
                    .flatten()
                {
                    shape = dimensions(dims, fixed)?;
                }
            }
            _ => {}
        }
    }
    Ok((name, shape))
}

fn dimensions(shape: &[u8], fixed: &BTreeMap<String, usize>) -> Result<Option<Vec<u64>>> {
    let mut dims = Vec::new();
    for field in Field::all(shape) {
        let field = field?;
        let (1, Some(dim)) = (field.number, field.payload) else {
            continue;
        };
        let mut size = None;
        for field in Field::all(dim) {
            let field = field?;
            match (field.number, field.payload) {
                (1, None) => size = Some(field.value),
                (2, Some(name)) => size = fixed.get(text(name)).map(|&size| size as u64),
                _ => {}
            }
        }
        let Some(size) = size else { return Ok(None) };
        dims.push(size);
    }
    Ok(Some(dims))
}

/// The content of the last field `number` of `message`.
fn inner(message: &[u8], number: u64) -> Result<Option<&[u8]>> {
    let mut found = None;
    for field in Field::all(message) {
        let field = field?;
        if field.number == number {
            found = field.payload;
        }
    }
    Ok(found)
}

/// What is no text names nothing.
fn text(payload: &[u8]) -> &str {
    std::str::from_utf8(payload).unwrap_or_default()
}

#[cfg(test)]
#[path = "compute_tests.rs"]
mod tests;
