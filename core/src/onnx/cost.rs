//! What the nodes of a graph cost to compute, as far as the graph tells: the multiply-accumulates of convolutions and matrix
//! products, which take nearly all of the time.

use std::collections::{BTreeMap, HashMap};

use super::Model;
use super::external::text;
use super::schema::tensor_shape_proto::dimension;
use super::schema::type_proto;
use super::schema::{GraphProto, NodeProto, ValueInfoProto};

/// Multiply-accumulates by node.
#[derive(Debug, Clone)]
pub struct ComputeCost(HashMap<String, u64>);

/// Operators whose output has the shape of their first input.
const SAME_SHAPE: [&str; 2] = ["QuantizeLinear", "DequantizeLinear"];

impl Model {
    /// The cost of the nodes of the main graph, with the sizes `fixed` for the dimensions it leaves open. `None` where it does
    /// not tell the shapes that decide: only a graph that was exported or quantised with them does.
    pub fn compute_cost(&self, fixed: &BTreeMap<String, usize>) -> Option<ComputeCost> {
        let shapes = Shapes::of(self.graph(), fixed);
        let mut all = HashMap::new();
        for node in &self.graph().node {
            let cost = shapes.cost(node)?;
            if cost > 0 {
                let sum: &mut u64 = all.entry(text(&node.name).to_owned()).or_default();
                *sum = sum.saturating_add(cost);
            }
        }
        // Nodes without names cannot be told apart where they run.
        (!all.contains_key("")).then_some(ComputeCost(all))
    }
}

impl ComputeCost {
    /// The share of each of `parts`, lists of the names of nodes; `None` where a node that counts is in none of them.
    pub fn shares(&self, parts: &[&[String]]) -> Option<Vec<f64>> {
        let mut sums = vec![0_u64; parts.len()];
        let mut left = self.0.clone();
        for (sum, part) in sums.iter_mut().zip(parts) {
            for name in *part {
                let cost = left.remove(name.as_str()).unwrap_or_else(|| {
                    // ONNX Runtime numbers nodes that it remakes in another layout.
                    let source = name.rsplit_once("_token_").map(|(source, _)| source);
                    source.and_then(|name| left.remove(name)).unwrap_or(0)
                });
                *sum = sum.saturating_add(cost);
            }
        }
        let total = sums.iter().map(|&sum| sum as f64).sum::<f64>();
        (left.is_empty() && total > 0.0)
            .then(|| sums.iter().map(|&sum| sum as f64 / total).collect())
    }
}

struct Shapes<'a> {
    /// By the name of the value; `None`: a size is not known.
    known: HashMap<&'a str, Option<Vec<u64>>>,
    /// Which value has the shape of which other.
    same: HashMap<&'a str, &'a str>,
}

impl<'a> Shapes<'a> {
    fn of(graph: &'a GraphProto, fixed: &BTreeMap<String, usize>) -> Self {
        let mut known = HashMap::new();
        for tensor in &graph.initializer {
            let dims = tensor.dims.iter().map(|&dim| u64::try_from(dim).ok());
            known.insert(text(&tensor.name), dims.collect());
        }
        for value in graph
            .input
            .iter()
            .chain(&graph.output)
            .chain(&graph.value_info)
        {
            known.insert(text(&value.name), shape(value, fixed));
        }
        let mut same = HashMap::new();
        for node in &graph.node {
            if let (true, [output, ..], [input, ..]) = (
                SAME_SHAPE.contains(&text(&node.op_type)),
                &node.output[..],
                &node.input[..],
            ) {
                same.insert(&output[..], &input[..]);
            }
        }
        Self { known, same }
    }

    fn shape(&self, name: &str) -> Option<&[u64]> {
        let mut name = name;
        // Each step goes towards the inputs. A broken graph may have a circle.
        for _ in 0..8 {
            match (self.known.get(name), self.same.get(name)) {
                (Some(Some(shape)), _) => return Some(shape),
                (_, Some(source)) => name = source,
                _ => return None,
            }
        }
        None
    }

    /// Multiply-accumulates of `node`: 0 for all but convolutions and matrix products; `None` where a shape is not known.
    fn cost(&self, node: &NodeProto) -> Option<u64> {
        let input = |at: usize| self.shape(node.input.get(at)?);
        let output = || self.shape(node.output.first()?);
        let size = |shape: &[u64]| {
            shape
                .iter()
                .try_fold(1_u64, |all, &dim| all.checked_mul(dim))
        };
        let (positions, each) = match text(&node.op_type) {
            // Every value of the output is a sum over one filter.
            "Conv" => (size(output()?)?, size(input(1)?.get(1..)?)?),
            // Every value of the input goes through all of its filters.
            "ConvTranspose" => (size(input(0)?)?, size(input(1)?.get(1..)?)?),
            "MatMul" => (size(output()?)?, *input(0)?.last()?),
            "Gemm" => {
                let [rows, columns] = *input(0)? else {
                    return None;
                };
                let transposed = node
                    .attribute
                    .iter()
                    .any(|attribute| text(&attribute.name) == "transA" && attribute.i == Some(1));
                (size(output()?)?, if transposed { rows } else { columns })
            }
            _ => return Some(0),
        };
        positions.checked_mul(each)
    }
}

/// The shape of a value; `None` where a size is not known.
fn shape(value: &ValueInfoProto, fixed: &BTreeMap<String, usize>) -> Option<Vec<u64>> {
    let Some(type_proto::Value::TensorType(tensor)) = &value.r#type.value else {
        return None;
    };
    let dims = tensor.shape.as_option()?.dim.iter();
    dims.map(|dim| match dim.value.as_ref()? {
        dimension::Value::DimValue(size) => u64::try_from(*size).ok(),
        dimension::Value::DimParam(name) => fixed.get(name).map(|&size| size as u64),
    })
    .collect()
}

#[cfg(test)]
#[path = "cost_tests.rs"]
mod tests;
