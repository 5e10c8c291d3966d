//! What a model is: its ports, operators, weights.

use std::collections::BTreeMap;
use std::fmt;

use buffa::Enumeration;

pub use super::schema::tensor_proto::DataType as ElementType;

use super::external::{External, text, wrong};
use super::schema::tensor_shape_proto::dimension;
use super::schema::{GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use super::{Model, walk};
use crate::error::Result;

/// ONNX's own operators, which files name by an empty text.
const OWN_DOMAIN: &str = "ai.onnx";

/// What a model's file says about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Name and version of the program that wrote it.
    pub producer: String,
    /// Version of the file format.
    pub ir_version: i64,
    /// Version of the operators of each domain; ONNX's own are `ai.onnx`.
    pub opsets: BTreeMap<String, i64>,
    /// What a run must be given. Initializers that are inputs, too, are left out.
    pub inputs: Vec<Port>,
    /// What a run computes.
    pub outputs: Vec<Port>,
    /// How many nodes each operator has, in the graph, in graphs inside nodes and in functions.
    pub operators: BTreeMap<Operator, usize>,
    /// The operators that the model defines itself.
    pub functions: Vec<Operator>,
    /// The weights of the graph and of the graphs inside its nodes.
    pub initializers: Vec<Initializer>,
    /// The files of external weights, relative to the model's folder, and the bytes that each has at least.
    pub external_files: BTreeMap<String, u64>,
}

/// The name of an operator.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operator {
    /// Who defines it; `ai.onnx` for ONNX itself.
    pub domain: String,
    /// Its type.
    pub name: String,
}

/// A tensor that a graph is given or gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// `None` where it is no tensor, or of a type that is not told or newer than this version of Atom.
    pub element: Option<ElementType>,
    /// `None` where not even the number of dimensions is told.
    pub shape: Option<Vec<Dimension>>,
}

/// The size of a dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dimension {
    /// Always this.
    Fixed(u64),
    /// Equal wherever this name is.
    Named(String),
    /// Not told.
    Open,
}

/// A tensor of weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Initializer {
    /// Its name.
    pub name: String,
    /// `None` where the type is newer than this version of Atom.
    pub element: Option<ElementType>,
    /// Its sizes.
    pub dims: Vec<u64>,
    /// Bytes of its content, in the model's file or outside.
    pub bytes: u64,
    /// The file of its content, if that is external.
    pub external: Option<String>,
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.domain != OWN_DOMAIN {
            write!(f, "{}::", self.domain)?;
        }
        f.write_str(&self.name)
    }
}

impl Model {
    /// Describes the model. External weights need not be there.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`](crate::ErrorKind::BadModel) naming the tensor that has a negative or impossible size, or lies
    /// in a file outside of the model's folder.
    pub fn inspect(&self) -> Result<Summary> {
        let proto = &self.proto;
        let graph = self.graph();
        let producer = [text(&proto.producer_name), text(&proto.producer_version)];
        let opsets = proto.opset_import.iter();
        let opsets = opsets.map(|set| (domain(&set.domain), set.version.unwrap_or(0)));
        let constant = |name: &Option<String>| graph.initializer.iter().any(|t| t.name == *name);
        let inputs = graph.input.iter().filter(|value| !constant(&value.name));
        let mut operators = BTreeMap::new();
        for node in walk::nodes(proto) {
            *operators.entry(operator(node)).or_default() += 1;
        }
        let mut initializers = Vec::new();
        add_initializers(graph, &mut initializers)?;
        Ok(Summary {
            producer: producer.join(" ").trim().to_owned(),
            ir_version: proto.ir_version.unwrap_or(0),
            opsets: opsets.collect(),
            inputs: inputs.map(port).collect(),
            outputs: graph.output.iter().map(port).collect(),
            operators,
            functions: proto
                .functions
                .iter()
                .map(|function| Operator {
                    domain: domain(&function.domain),
                    name: text(&function.name).to_owned(),
                })
                .collect(),
            initializers,
            external_files: self.external_files()?,
        })
    }
}

fn domain(domain: &Option<String>) -> String {
    match text(domain) {
        "" => OWN_DOMAIN.to_owned(),
        other => other.to_owned(),
    }
}

fn operator(node: &NodeProto) -> Operator {
    Operator {
        domain: domain(&node.domain),
        name: text(&node.op_type).to_owned(),
    }
}

fn element(code: Option<i32>) -> Option<ElementType> {
    let known = ElementType::from_i32(code?)?;
    (known != ElementType::UNDEFINED).then_some(known)
}

pub(super) fn port(value: &ValueInfoProto) -> Port {
    let tensor = match &value.r#type.value {
        Some(type_proto::Value::TensorType(tensor)) => Some(tensor),
        _ => None,
    };
    let shape = tensor.and_then(|tensor| tensor.shape.as_option());
    let dimension = |dim: &Option<dimension::Value>| match dim {
        Some(dimension::Value::DimValue(size)) => {
            u64::try_from(*size).map_or(Dimension::Open, Dimension::Fixed)
        }
        Some(dimension::Value::DimParam(name)) if !name.is_empty() => {
            Dimension::Named(name.clone())
        }
        _ => Dimension::Open,
    };
    Port {
        name: text(&value.name).to_owned(),
        element: element(tensor.and_then(|tensor| tensor.elem_type)),
        shape: shape.map(|shape| shape.dim.iter().map(|dim| dimension(&dim.value)).collect()),
    }
}

fn add_initializers(graph: &GraphProto, found: &mut Vec<Initializer>) -> Result<()> {
    for tensor in &graph.initializer {
        found.push(initializer(tensor)?);
    }
    for node in &graph.node {
        for graph in walk::subgraphs(node) {
            add_initializers(graph, found)?;
        }
    }
    Ok(())
}

fn initializer(tensor: &TensorProto) -> Result<Initializer> {
    let dims = tensor.dims.iter().map(|&dim| u64::try_from(dim));
    let dims: Vec<u64> = dims
        .collect::<Result<_, _>>()
        .map_err(|_| wrong(tensor, "a dimension is negative"))?;
    let elements = dims
        .iter()
        .try_fold(1_u64, |all, &dim| all.checked_mul(dim));
    let elements = elements.ok_or_else(|| wrong(tensor, "it is larger than any file"))?;
    let element = element(tensor.data_type);
    let needs = element
        .and_then(bits)
        .and_then(|bits| elements.checked_mul(bits));
    let needs = needs.map(|bits| bits.div_ceil(8));
    let external = External::of(tensor)?;
    let lies = match (&external, &tensor.raw_data) {
        (Some(external), _) => external.length,
        (None, Some(raw)) => Some(raw.len() as u64),
        (None, None) => None,
    };
    if let (Some(needs), Some(lies)) = (needs, lies)
        && needs != lies
    {
        let why = format!("its shape takes {needs} bytes, and it has {lies}");
        return Err(wrong(tensor, &why));
    }
    Ok(Initializer {
        name: text(&tensor.name).to_owned(),
        element,
        dims,
        bytes: lies.or(needs).unwrap_or(0),
        external: external.map(|external| external.location.to_owned()),
    })
}

/// The bits of an element in `raw_data` and in external files; `None` for texts.
fn bits(element: ElementType) -> Option<u64> {
    use ElementType as E;
    Some(match element {
        E::UINT2 | E::INT2 => 2,
        E::UINT4 | E::INT4 | E::FLOAT4E2M1 => 4,
        E::FLOAT6E2M3 | E::FLOAT6E3M2 => 6,
        E::UINT8 | E::INT8 | E::BOOL | E::FLOAT8E8M0 => 8,
        E::FLOAT8E4M3FN | E::FLOAT8E4M3FNUZ | E::FLOAT8E5M2 | E::FLOAT8E5M2FNUZ => 8,
        E::UINT16 | E::INT16 | E::FLOAT16 | E::BFLOAT16 => 16,
        E::UINT32 | E::INT32 | E::FLOAT => 32,
        E::UINT64 | E::INT64 | E::DOUBLE | E::COMPLEX64 => 64,
        E::COMPLEX128 => 128,
        E::UNDEFINED | E::STRING => return None,
    })
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;
