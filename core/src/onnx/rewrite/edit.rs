//! Changes to a graph: nodes added and dropped, what nothing needs any more taken out, an order that runs.

use std::collections::{HashMap, HashSet};

use buffa::bytes::Bytes;

use super::super::Model;
use super::super::external::text;
use super::super::extract::{called, reads};
use super::super::schema::attribute_proto::AttributeType;
use super::super::schema::tensor_proto::DataType;
use super::super::schema::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
};
use crate::error::Result;

/// The domain of ONNX Runtime's own operators.
pub(super) const CONTRIB: &str = "com.microsoft";

/// Nodes and constants to add to a graph, and nodes to drop.
pub(super) struct Edits {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    dropped: HashSet<usize>,
    taken: HashSet<String>,
    count: usize,
}

impl Edits {
    pub(super) fn new(graph: &GraphProto) -> Self {
        let mut taken = HashSet::new();
        take_names(&graph.node, &mut taken);
        let weights = graph.initializer.iter().map(|t| text(&t.name).to_owned());
        let inputs = graph.input.iter().map(|value| text(&value.name).to_owned());
        taken.extend(weights.chain(inputs));
        Self {
            nodes: Vec::new(),
            constants: Vec::new(),
            dropped: HashSet::new(),
            taken,
            count: 0,
        }
    }

    /// A name that no tensor has.
    pub(super) fn name(&mut self, what: &str) -> String {
        loop {
            self.count += 1;
            let name = format!("atom/{what}_{}", self.count);
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }

    pub(super) fn drop_node(&mut self, at: usize) {
        self.dropped.insert(at);
    }

    pub(super) fn constant(&mut self, tensor: TensorProto) -> String {
        let name = text(&tensor.name).to_owned();
        self.constants.push(tensor);
        name
    }

    /// A constant of whole numbers; a scalar if `dims` is empty.
    pub(super) fn whole(&mut self, dims: &[i64], values: &[i64]) -> String {
        let name = self.name("constant");
        let raw = values.iter().flat_map(|value| value.to_le_bytes());
        self.constant(tensor(&name, DataType::INT64, dims, raw.collect()))
    }

    /// A scalar of 32 bits.
    pub(super) fn whole_i32(&mut self, value: i32) -> String {
        let name = self.name("constant");
        self.constant(tensor(
            &name,
            DataType::INT32,
            &[],
            value.to_le_bytes().to_vec(),
        ))
    }

    /// A constant of 32-bit numbers.
    pub(super) fn real(&mut self, dims: &[i64], values: &[f32]) -> String {
        let name = self.name("constant");
        let raw = values.iter().flat_map(|value| value.to_le_bytes());
        self.constant(tensor(&name, DataType::FLOAT, dims, raw.collect()))
    }

    /// Adds a node of ONNX's own and returns the name of its result.
    pub(super) fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let output = self.name(operator);
        self.push(node("", operator, inputs, &[&output], attributes));
        output
    }

    pub(super) fn push(&mut self, mut node: NodeProto) {
        node.name = Some(self.name("node"));
        self.nodes.push(node);
    }

    /// Changes `model`. What its results no longer need is taken out, and nodes stand behind those that they read.
    pub(super) fn apply(self, model: &mut Model) -> Result<()> {
        let contrib = self.nodes.iter().any(uses_contrib);
        let graph = model.proto.graph.get_or_insert_default();
        let mut at = 0..;
        let mut stays = || at.next().is_some_and(|at| !self.dropped.contains(&at));
        graph.node.retain(|_| stays());
        graph.node.extend(self.nodes);
        graph.initializer.extend(self.constants);
        prune(graph);
        sort(graph)?;
        let kept: HashSet<&str> = graph
            .node
            .iter()
            .flat_map(|n| &n.output)
            .map(|n| &n[..])
            .collect();
        graph
            .value_info
            .retain(|value| kept.contains(text(&value.name)));
        model.proto.functions = called(&model.proto.functions, model.graph());
        if contrib {
            import_contrib(&mut model.proto);
        }
        Ok(())
    }
}

/// Adds the names of `nodes` and of what they make, also inside their graphs.
fn take_names(nodes: &[NodeProto], taken: &mut HashSet<String>) {
    for node in nodes {
        taken.extend(node.name.iter().chain(&node.output).cloned());
        for graph in super::super::walk::subgraphs(node) {
            let weights = graph.initializer.iter();
            taken.extend(weights.map(|tensor| text(&tensor.name).to_owned()));
            take_names(&graph.node, taken);
        }
    }
}

/// Those that are not left out.
pub(super) fn names(names: &[String]) -> impl Iterator<Item = &str> {
    names
        .iter()
        .map(String::as_str)
        .filter(|name| !name.is_empty())
}

fn uses_contrib(node: &NodeProto) -> bool {
    text(&node.domain) == CONTRIB
        || super::super::walk::subgraphs(node).any(|graph| graph.node.iter().any(uses_contrib))
}

fn import_contrib(model: &mut ModelProto) {
    let mut sets = model.opset_import.iter();
    if !sets.any(|set| text(&set.domain) == CONTRIB) {
        model.opset_import.push(OperatorSetIdProto {
            domain: Some(CONTRIB.to_owned()),
            version: Some(1),
            ..Default::default()
        });
    }
}

/// Takes out nodes and weights that no result needs.
fn prune(graph: &mut GraphProto) {
    let mut makers = HashMap::new();
    for (at, node) in graph.node.iter().enumerate() {
        makers.extend(names(&node.output).map(|name| (name, at)));
    }
    let (mut needed, mut kept) = (HashSet::new(), HashSet::new());
    let mut open: Vec<&str> = graph.output.iter().map(|value| text(&value.name)).collect();
    while let Some(name) = open.pop() {
        if kept.insert(name.to_owned())
            && let Some(&at) = makers.get(name)
            && needed.insert(at)
        {
            open.extend(reads(&graph.node[at]));
        }
    }
    let mut at = 0..;
    let mut stays = || at.next().is_some_and(|at| needed.contains(&at));
    graph.node.retain(|_| stays());
    graph
        .initializer
        .retain(|tensor| kept.contains(text(&tensor.name)));
}

/// Puts nodes behind those that make what they read; otherwise they keep their order.
fn sort(graph: &mut GraphProto) -> Result<()> {
    let nodes = std::mem::take(&mut graph.node);
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (at, node) in nodes.iter().enumerate() {
        makers.extend(names(&node.output).map(|name| (name, at)));
    }
    // Depth first, without recursion: a graph may be a chain of a hundred thousand nodes.
    let (mut state, mut order) = (vec![0_u8; nodes.len()], Vec::with_capacity(nodes.len()));
    for start in 0..nodes.len() {
        let mut open = vec![start];
        while let Some(&at) = open.last() {
            if state[at] == 0 {
                state[at] = 1;
                let before = reads(&nodes[at]);
                let before = before.iter().filter_map(|name| makers.get(name)).copied();
                let mut before: Vec<usize> = before.filter(|&at| state[at] != 2).collect();
                if before.iter().any(|&at| state[at] == 1) {
                    return Err(super::super::bad("its nodes form a circle"));
                }
                before.sort_unstable_by(|a, b| b.cmp(a));
                open.extend(before);
            } else {
                open.pop();
                if std::mem::replace(&mut state[at], 2) == 1 {
                    order.push(at);
                }
            }
        }
    }
    let mut nodes: Vec<Option<NodeProto>> = nodes.into_iter().map(Some).collect();
    graph.node = order.iter().filter_map(|&at| nodes[at].take()).collect();
    Ok(())
}

pub(super) fn tensor(name: &str, kind: DataType, dims: &[i64], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(kind as i32),
        dims: dims.to_vec(),
        raw_data: Some(Bytes::from(raw)),
        ..Default::default()
    }
}

pub(super) fn node(
    domain: &str,
    operator: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: Vec<AttributeProto>,
) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    NodeProto {
        input: owned(inputs),
        output: owned(outputs),
        op_type: Some(operator.to_owned()),
        domain: (!domain.is_empty()).then(|| domain.to_owned()),
        attribute: attributes,
        ..Default::default()
    }
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        r#type: Some(AttributeType::INT),
        ..Default::default()
    }
}

pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::INTS),
        ..Default::default()
    }
}

pub(super) fn float(name: &str, value: f64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        f: Some(value as f32),
        r#type: Some(AttributeType::FLOAT),
        ..Default::default()
    }
}
