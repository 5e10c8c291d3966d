//! Cutting a graph into modules at named tensors.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Model;
use super::external::text;
use super::extract::reads;
use super::inspect::{Dimension, ElementType, Port};
use super::schema::tensor_shape_proto::{Dimension as DimProto, dimension};
use super::schema::{
    GraphProto, NodeProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use crate::error::{Error, ErrorKind, Result};

/// What is left after all cuts.
pub const REST: &str = "rest";

/// The most crossing tensors that an error names.
const NAMED: usize = 12;

/// A module to make, and the tensors that it computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The module's name.
    pub name: String,
    /// Its results.
    pub tensors: Vec<String>,
}

/// A module of a graph. Modules come in an order in which they can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// What it reads: inputs of the graph and results of modules before it.
    pub inputs: Vec<String>,
    /// What it computes.
    pub outputs: Vec<String>,
}

impl Model {
    /// The modules that `cuts` make of the graph: each from the graph's inputs and the results of other modules to its own
    /// tensors. Results of the graph that no cut names are those of a last module, [`REST`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a tensor that is not in the graph, with names like it. [`ErrorKind::InvalidArgument`] for a
    /// name or tensor that is given twice; for a module without nodes; for modules that need each other; and for a cut that
    /// does not separate, naming a node that two modules need and the tensor that would have to be cut, too.
    pub fn cut(&self, cuts: &[Cut]) -> Result<Vec<Part>> {
        let graph = self.graph();
        let cuts = with_rest(graph, cuts)?;
        let graph = Graph::new(graph);
        let mut owners: HashMap<&str, usize> = HashMap::new();
        for (at, cut) in cuts.iter().enumerate() {
            for name in &cut.tensors {
                if !graph.makers.contains_key(&name[..]) {
                    return Err(graph.no_result(name));
                }
                if owners.insert(name, at).is_some() {
                    return Err(wrong(format!("tensor {name:?} is cut twice")));
                }
            }
        }
        let mut found = Vec::new();
        for (at, cut) in cuts.iter().enumerate() {
            found.push(graph.needed(at, cut, &owners)?);
        }
        separated(&graph, &cuts, &found)?;
        let order = order(&cuts, &found, &owners)?;
        let mut parts = Vec::new();
        for at in order {
            let needed = &found[at];
            parts.push(Part {
                name: cuts[at].name.clone(),
                inputs: needed.inputs.iter().map(|&name| name.to_owned()).collect(),
                outputs: cuts[at].tensors.clone(),
            });
        }
        Ok(parts)
    }

    /// Tells the graph the types of tensors inside it, which [`extract`](Self::extract) needs of a part's inputs. Those that it
    /// tells already stay.
    pub fn declare(&mut self, ports: &[Port]) {
        let graph = self.proto.graph.get_or_insert_default();
        let told = graph
            .input
            .iter()
            .chain(&graph.output)
            .chain(&graph.value_info);
        let told: HashSet<String> = told
            .filter(|value| value.r#type.is_set())
            .map(|value| text(&value.name).to_owned())
            .collect();
        graph.value_info.retain(|value| value.r#type.is_set());
        let new = ports.iter().filter(|port| !told.contains(&port.name));
        graph.value_info.extend(new.map(value));
    }
}

fn with_rest(graph: &GraphProto, cuts: &[Cut]) -> Result<Vec<Cut>> {
    let mut names = HashSet::new();
    for cut in cuts {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if cut.name.is_empty() || cut.name.starts_with('.') || !cut.name.chars().all(fits) {
            return Err(wrong(format!("{:?} is no name for a module", cut.name))
                .remedy("use letters, digits, - and _: it becomes a file's name"));
        }
        if !names.insert(&cut.name) {
            return Err(wrong(format!("two modules are called {:?}", cut.name))
                .remedy("list the tensors of a module behind its name: NAME=TENSOR,TENSOR"));
        }
        if cut.tensors.is_empty() {
            return Err(
                wrong(format!("module {:?} has no tensor", cut.name)).remedy("give NAME=TENSOR")
            );
        }
    }
    if cuts.is_empty() {
        return Err(wrong("no cut is given".into()).remedy("give --cut NAME=TENSOR"));
    }
    let cut: HashSet<&String> = cuts.iter().flat_map(|cut| &cut.tensors).collect();
    let outputs = graph.output.iter().filter_map(|value| value.name.clone());
    let left: Vec<String> = outputs.filter(|name| !cut.contains(name)).collect();
    let mut cuts = cuts.to_vec();
    if !left.is_empty() {
        if names.contains(&REST.to_owned()) {
            return Err(wrong(format!(
                "{REST:?} is the name of what is left: {}",
                left.join(", ")
            ))
            .remedy("call that module something else"));
        }
        cuts.push(Cut {
            name: REST.to_owned(),
            tensors: left,
        });
    }
    Ok(cuts)
}

/// A graph's tensors.
struct Graph<'a> {
    graph: &'a GraphProto,
    makers: HashMap<&'a str, usize>,
    inputs: HashSet<&'a str>,
    /// Nodes that read no input of the graph, directly or through others: every module that needs them has its own.
    constant: Vec<bool>,
}

/// What a module consists of.
struct Needed<'a> {
    nodes: HashSet<usize>,
    /// In the graph's order, inputs of the graph first.
    inputs: Vec<&'a str>,
}

impl<'a> Graph<'a> {
    fn new(graph: &'a GraphProto) -> Self {
        let mut makers = HashMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            let names = node.output.iter().filter(|name| !name.is_empty());
            makers.extend(names.map(|name| (&name[..], at)));
        }
        let weights: HashSet<&str> = graph.initializer.iter().map(|t| text(&t.name)).collect();
        let inputs = graph.input.iter().map(|value| text(&value.name));
        let inputs: HashSet<&str> = inputs.filter(|name| !weights.contains(name)).collect();
        // Forward from the inputs, so that a graph in any order is understood.
        let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            for name in reads(node) {
                readers.entry(name).or_default().push(at);
            }
        }
        let mut constant = vec![true; graph.node.len()];
        let mut open: Vec<&str> = inputs.iter().copied().collect();
        while let Some(name) = open.pop() {
            for &at in readers.get(name).map_or(&[][..], Vec::as_slice) {
                if std::mem::replace(&mut constant[at], false) {
                    open.extend(graph.node[at].output.iter().map(String::as_str));
                }
            }
        }
        Self {
            graph,
            makers,
            inputs,
            constant,
        }
    }

    fn needed<'b>(
        &'b self,
        own: usize,
        cut: &'b Cut,
        owners: &HashMap<&'b str, usize>,
    ) -> Result<Needed<'b>> {
        let (mut nodes, mut inputs) = (HashSet::new(), BTreeSet::new());
        let mut open: Vec<&str> = cut.tensors.iter().map(String::as_str).collect();
        let mut seen = HashSet::new();
        while let Some(name) = open.pop() {
            if name.is_empty() || !seen.insert(name) {
                continue;
            }
            match (owners.get_key_value(name), self.makers.get(name)) {
                (Some((name, owner)), _) if *owner != own => {
                    inputs.insert((1, *name));
                }
                (_, Some(&at)) => {
                    if nodes.insert(at) {
                        open.extend(reads(&self.graph.node[at]));
                    }
                }
                _ => {
                    if let Some(&name) = self.inputs.get(name) {
                        inputs.insert((0, name));
                    }
                }
            }
        }
        if nodes.iter().all(|&at| self.constant[at]) {
            return Err(wrong(format!(
                "module {:?} would be empty: nothing that an input decides makes {:?}",
                cut.name, cut.tensors
            ))
            .remedy("cut at a tensor that depends on an input"));
        }
        let inputs = inputs.into_iter().map(|(_, name)| name).collect();
        Ok(Needed { nodes, inputs })
    }

    fn no_result(&self, name: &str) -> Error {
        if self.inputs.contains(name) {
            return wrong(format!(
                "{name:?} is an input of the graph: a module of it would be empty"
            ))
            .remedy("cut at a tensor that a node makes");
        }
        if self
            .graph
            .initializer
            .iter()
            .any(|tensor| text(&tensor.name) == name)
        {
            return wrong(format!(
                "{name:?} is a weight: a module of it would be empty"
            ))
            .remedy("cut at a tensor that a node makes");
        }
        let mut near: Vec<(usize, &str)> = self
            .makers
            .keys()
            .map(|known| (distance(name, known), *known))
            .collect();
        near.sort_unstable();
        let near: Vec<&str> = near.into_iter().take(5).map(|(_, known)| known).collect();
        Error::new(
            ErrorKind::NotFound,
            format!("the graph has no tensor {name:?}"),
        )
        .remedy(format!("names like it are {}", near.join(", ")))
    }
}

/// Refuses modules that have nodes in common.
fn separated(graph: &Graph<'_>, cuts: &[Cut], found: &[Needed<'_>]) -> Result<()> {
    for (one, first) in found.iter().enumerate() {
        for (other, second) in found.iter().enumerate().skip(one + 1) {
            let both = first.nodes.intersection(&second.nodes).copied();
            let both: HashSet<usize> = both.filter(|&at| !graph.constant[at]).collect();
            if both.is_empty() {
                continue;
            }
            // Tensors that common nodes make and others read.
            let mut crossing: Vec<(&str, usize, usize)> = Vec::new();
            for needed in [first, second] {
                let mut outside: Vec<usize> = needed.nodes.difference(&both).copied().collect();
                outside.sort_unstable();
                for reader in outside {
                    for name in reads(&graph.graph.node[reader]) {
                        let maker = graph.makers.get(name).filter(|at| both.contains(at));
                        if let Some(&maker) = maker
                            && !crossing.iter().any(|(known, ..)| *known == name)
                        {
                            crossing.push((name, maker, reader));
                        }
                    }
                }
            }
            crossing.sort_unstable_by_key(|&(_, maker, _)| maker);
            let names: Vec<&str> = crossing
                .iter()
                .map(|(name, ..)| *name)
                .take(NAMED)
                .collect();
            let (one, other) = (&cuts[one].name, &cuts[other].name);
            let Some(&(name, maker, reader)) = crossing.last() else {
                return Err(wrong(format!("modules {one:?} and {other:?} are the same")));
            };
            let [maker, reader] = [maker, reader].map(|at| node_name(&graph.graph.node[at]));
            return Err(wrong(format!(
                "the cuts do not separate {one:?} from {other:?}: tensor {name:?}, which node {maker} makes and node {reader} reads, crosses between them"
            ))
            .remedy(format!(
                "cut that tensor, too, in one of both or in a module of its own; those that cross are {}",
                names.join(", ")
            )));
        }
    }
    Ok(())
}

/// An order in which modules can run.
fn order(cuts: &[Cut], found: &[Needed<'_>], owners: &HashMap<&str, usize>) -> Result<Vec<usize>> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < cuts.len() {
        let ready = (0..cuts.len()).find(|at| {
            let owner = |name: &&str| owners.get(name).copied();
            let mut before = found[*at].inputs.iter().filter_map(owner);
            !order.contains(at) && before.all(|owner| order.contains(&owner))
        });
        let Some(ready) = ready else {
            let stuck = cuts
                .iter()
                .enumerate()
                .filter(|(at, _)| !order.contains(at));
            let stuck: Vec<&str> = stuck.map(|(_, cut)| &cut.name[..]).collect();
            return Err(wrong(format!("modules {} need each other", stuck.join(" and ")))
                .remedy("put tensors that depend on each other through another module into modules of their own"));
        };
        order.push(ready);
    }
    Ok(order)
}

fn node_name(node: &NodeProto) -> String {
    match text(&node.name) {
        "" => format!("{} without a name", text(&node.op_type)),
        name => format!("{name:?} ({})", text(&node.op_type)),
    }
}

fn value(port: &Port) -> ValueInfoProto {
    let dim = |dim: &Dimension| DimProto {
        value: match dim {
            Dimension::Fixed(size) => i64::try_from(*size).ok().map(dimension::Value::DimValue),
            Dimension::Named(name) => Some(dimension::Value::DimParam(name.clone())),
            Dimension::Open => None,
        },
        ..Default::default()
    };
    let mut tensor = type_proto::Tensor {
        elem_type: port.element.map(|element: ElementType| element as i32),
        ..Default::default()
    };
    if let Some(shape) = &port.shape {
        *tensor.shape.get_or_insert_default() = TensorShapeProto {
            dim: shape.iter().map(dim).collect(),
            ..Default::default()
        };
    }
    let mut value = ValueInfoProto {
        name: Some(port.name.clone()),
        ..Default::default()
    };
    *value.r#type.get_or_insert_default() = TypeProto {
        value: Some(type_proto::Value::from(tensor)),
        ..Default::default()
    };
    value
}

/// How many letters differ, at most.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, own) in other.iter().enumerate() {
            let change = diagonal + usize::from(letter != *own);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

fn wrong(why: String) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("cannot cut the model: {why}"),
    )
}
