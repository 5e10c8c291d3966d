//! Cutting a model at named tensors.

use std::collections::{HashMap, HashSet};

use super::external::text;
use super::schema::{FunctionProto, GraphProto, NodeProto, ValueInfoProto};
use super::{Model, walk};
use crate::error::{Error, ErrorKind, Result};

/// The first version of the format in which an initializer need not be an input, too.
const FREE_INITIALIZERS: i64 = 4;

impl Model {
    /// The part of the model that computes the tensors `outputs` from the tensors `inputs`: their nodes, weights and
    /// functions. External weights are referred to where they lie, so the part belongs into the model's folder; two parts
    /// that need the same weights both have them.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming a tensor that is not in the graph. [`ErrorKind::InvalidArgument`] naming inputs that
    /// are missing, that no output needs, or whose type the graph does not tell.
    pub fn extract(&self, inputs: &[&str], outputs: &[&str]) -> Result<Self> {
        let whole = self.graph();
        let needed = Needed::of(whole, inputs, outputs)?;
        let mut values = HashMap::new();
        for value in whole
            .input
            .iter()
            .chain(&whole.output)
            .chain(&whole.value_info)
        {
            values.insert(text(&value.name), value);
        }
        let typed = |name: &&str| {
            let value = values.get(name).filter(|value| value.r#type.is_set());
            let value = value.map(|&value| value.clone());
            value.ok_or_else(|| {
                wrong(format!(
                    "the graph does not tell the type of tensor {name:?}"
                ))
                .remedy("run ONNX's shape inference on the model first")
            })
        };
        let any = |name: &&str| {
            let value = values.get(name).map(|&value| value.clone());
            // ONNX Runtime finds the type of an output itself.
            value.unwrap_or_else(|| ValueInfoProto {
                name: Some((*name).to_owned()),
                ..Default::default()
            })
        };
        let mut ports: Vec<ValueInfoProto> = inputs.iter().map(typed).collect::<Result<_>>()?;
        let results = outputs.iter().map(any).collect();
        let needs = |name: &Option<String>| needed.tensors.contains(text(name));
        if self.proto.ir_version.unwrap_or(0) < FREE_INITIALIZERS {
            let constants: HashSet<&str> = constants(whole).collect();
            let both = whole.input.iter();
            let both = both.filter(|v| needs(&v.name) && constants.contains(text(&v.name)));
            ports.extend(both.cloned());
        }

        let mut part = self.clone();
        part.proto.training_info.clear();
        let graph = part.proto.graph.get_or_insert_default();
        (graph.input, graph.output) = (ports, results);
        let mut at = 0..;
        let mut next = || at.next().is_some_and(|at| needed.nodes.contains(&at));
        graph.node.retain(|_| next());
        graph.initializer.retain(|tensor| needs(&tensor.name));
        let sparse = &mut graph.sparse_initializer;
        sparse.retain(|tensor| needs(&tensor.values.name));
        let is_output = |name: &Option<String>| outputs.contains(&text(name));
        let between = &mut graph.value_info;
        between.retain(|value| needs(&value.name) && !is_output(&value.name));
        let annotations = &mut graph.quantization_annotation;
        annotations.retain(|annotation| needs(&annotation.tensor_name));
        part.proto.functions = called(&self.proto.functions, part.graph());
        Ok(part)
    }

    /// The inputs that the tensors `outputs` depend on, in the graph's order. Initializers that are inputs, too, are left out.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming a tensor that is not in the graph.
    pub fn inputs_of(&self, outputs: &[&str]) -> Result<Vec<String>> {
        let graph = self.graph();
        let constants: HashSet<&str> = constants(graph).collect();
        let fed = graph.input.iter().map(|input| text(&input.name));
        let fed: Vec<&str> = fed.filter(|name| !constants.contains(name)).collect();
        // An input that is an output, too, is read by itself.
        let outputs = outputs.iter().copied().filter(|name| !fed.contains(name));
        let outputs: Vec<&str> = outputs.collect();
        let read = reached(graph, &outputs)?;
        let read = fed.into_iter().filter(|name| read.contains(name));
        Ok(read.map(str::to_owned).collect())
    }
}

/// Every tensor that `outputs` depend on, they themselves too.
fn reached<'a>(graph: &'a GraphProto, outputs: &[&'a str]) -> Result<HashSet<&'a str>> {
    let mut makers = HashMap::new();
    for (at, node) in graph.node.iter().enumerate() {
        makers.extend(node.output.iter().map(|name| (&name[..], at)));
    }
    if let Some(name) = outputs.iter().find(|name| !makers.contains_key(*name)) {
        return Err(unknown(graph, name));
    }
    let mut reached: HashSet<&str> = HashSet::new();
    let mut open = outputs.to_vec();
    while let Some(name) = open.pop() {
        if !name.is_empty()
            && reached.insert(name)
            && let Some(&at) = makers.get(name)
        {
            open.extend(reads(&graph.node[at]));
        }
    }
    Ok(reached)
}

/// What a part of a graph consists of.
struct Needed<'a> {
    /// Nodes, by their place in the graph.
    nodes: HashSet<usize>,
    /// Names of the tensors between them and of their weights.
    tensors: HashSet<&'a str>,
}

impl<'a> Needed<'a> {
    fn of(graph: &'a GraphProto, inputs: &[&'a str], outputs: &[&'a str]) -> Result<Self> {
        let mut makers = HashMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            makers.extend(node.output.iter().map(|name| (&name[..], at)));
        }
        let constants: HashSet<&str> = constants(graph).collect();
        let fed: HashSet<&str> = graph.input.iter().map(|input| text(&input.name)).collect();
        let inputs: HashSet<&str> = inputs.iter().copied().collect();
        for name in &inputs {
            if !makers.contains_key(name) && !fed.contains(name) {
                return Err(unknown(graph, name));
            }
        }
        if let Some(name) = outputs.iter().find(|name| inputs.contains(*name)) {
            return Err(wrong(format!(
                "tensor {name:?} is both an input and an output"
            )));
        }
        let mut needed = Self {
            nodes: HashSet::new(),
            tensors: HashSet::new(),
        };
        let (mut used, mut missing) = (HashSet::new(), Vec::new());
        let mut open = outputs.to_vec();
        while let Some(name) = open.pop() {
            if inputs.contains(name) {
                used.insert(name);
                continue;
            }
            if name.is_empty() || !needed.tensors.insert(name) {
                continue;
            }
            if let Some(&at) = makers.get(name) {
                if needed.nodes.insert(at) {
                    open.extend(reads(&graph.node[at]));
                }
            } else if fed.contains(name) && !constants.contains(name) {
                missing.push(name);
            } else if !constants.contains(name) {
                return Err(unknown(graph, name));
            }
        }
        if !missing.is_empty() {
            missing.sort_unstable();
            return Err(
                wrong(format!("{outputs:?} also depend on the inputs {missing:?}"))
                    .remedy("name those as inputs, too"),
            );
        }
        let mut unused: Vec<_> = inputs.difference(&used).collect();
        if !unused.is_empty() {
            unused.sort_unstable();
            return Err(wrong(format!(
                "{outputs:?} do not depend on the inputs {unused:?}"
            ))
            .remedy("leave those out"));
        }
        Ok(needed)
    }
}

/// Every tensor that `node` reads, also from within its graphs.
pub(super) fn reads(node: &NodeProto) -> Vec<&str> {
    let mut names: Vec<&str> = node.input.iter().map(String::as_str).collect();
    for graph in walk::subgraphs(node) {
        names.extend(captured(graph));
    }
    names
}

/// What a graph inside a node reads from outside.
fn captured(graph: &GraphProto) -> HashSet<&str> {
    let mut read: HashSet<&str> = graph.node.iter().flat_map(reads).collect();
    read.extend(graph.output.iter().map(|output| text(&output.name)));
    for node in &graph.node {
        for name in &node.output {
            read.remove(&name[..]);
        }
    }
    for input in &graph.input {
        read.remove(text(&input.name));
    }
    for name in constants(graph) {
        read.remove(name);
    }
    read
}

fn constants(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let dense = graph.initializer.iter().map(|tensor| text(&tensor.name));
    let sparse = graph.sparse_initializer.iter();
    dense.chain(sparse.map(|tensor| text(&tensor.values.name)))
}

/// Those of `functions` that the nodes of `graph` call, directly or through others.
pub(super) fn called(functions: &[FunctionProto], graph: &GraphProto) -> Vec<FunctionProto> {
    let mut called = HashSet::new();
    let mut open: Vec<&NodeProto> = graph.node.iter().collect();
    while let Some(node) = open.pop() {
        for graph in walk::subgraphs(node) {
            open.extend(&graph.node);
        }
        let calls = |function: &FunctionProto| {
            text(&function.name) == text(&node.op_type)
                && text(&function.domain) == text(&node.domain)
                && text(&function.overload) == text(&node.overload)
        };
        if let Some(at) = functions.iter().position(calls)
            && called.insert(at)
        {
            open.extend(&functions[at].node);
        }
    }
    let all = functions.iter().enumerate();
    let all = all.filter(|(at, _)| called.contains(at));
    all.map(|(_, function)| function.clone()).collect()
}

fn unknown(graph: &GraphProto, name: &str) -> Error {
    let ports = graph.input.iter().chain(&graph.output);
    let ports: Vec<&str> = ports.map(|port| text(&port.name)).collect();
    Error::new(
        ErrorKind::NotFound,
        format!("the graph has no tensor {name:?}"),
    )
    .remedy(format!("its inputs and outputs are {}", ports.join(", ")))
}

fn wrong(why: String) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("cannot cut the model: {why}"),
    )
}

#[cfg(test)]
#[path = "extract_tests.rs"]
mod tests;
