//! GELU's approximation by `tanh` as one node. ONNX Runtime fuses some spellings of it when it loads a graph; PyTorch writes
//! another, which then takes eight passes over the widest tensor of a layer.
//!
//! No spelling is known here either: what lies between a tensor and a later one is evaluated as a function of one number,
//! and compared with the function itself.

use std::collections::HashMap;

use super::Model;
use super::edit::{CONTRIB, Edits, node};
use super::view::{View, is};
use crate::error::Result;

/// Nodes of one function.
const MOST_NODES: usize = 24;

/// Where functions are compared.
const SAMPLES: [f64; 9] = [-6.0, -2.5, -1.0, -0.3, 0.0, 0.2, 0.9, 2.1, 5.0];

impl Model {
    /// Puts `FastGelu` in place of every GELU that is spelled out with `Tanh`; how many there were.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`](crate::ErrorKind::BadModel) where the result would be no graph.
    pub fn fuse_gelu(&mut self) -> Result<usize> {
        let view = View::new(self.graph());
        let mut edits = Edits::new(self.graph());
        let mut count = 0;
        for tanh in view.nodes().iter().filter(|node| is(node, "Tanh")) {
            if let Some((from, to, at)) = around(&view, tanh.output.first().map_or("", |n| n)) {
                edits.drop_node(at);
                edits.push(node(CONTRIB, "FastGelu", &[&from], &[&to], Vec::new()));
                count += 1;
            }
        }
        if count > 0 {
            edits.apply(self)?;
        }
        Ok(count)
    }
}

/// The argument and the result of the GELU around a `Tanh`, and the node that makes the result.
fn around(view: &View<'_>, tanh: &str) -> Option<(String, String, usize)> {
    let arguments = before(view, tanh);
    let mut name = tanh;
    // Behind it are `+ 1`, `* x` and `* 0.5`, in some order.
    for _ in 0..4 {
        let (at, node) = view.reader(name)?;
        (is(node, "Add") || is(node, "Mul")).then_some(())?;
        name = node.output.first()?;
        let fits = |argument: &&String| {
            let mut samples = SAMPLES.iter();
            samples.all(|&x| {
                let of = Function { view, argument, x };
                of.value(name, &mut HashMap::new())
                    .is_some_and(|y| (y - gelu(x)).abs() < 1e-4)
            })
        };
        if let Some(argument) = arguments.iter().find(fits) {
            return Some((argument.clone(), name.to_owned(), at));
        }
    }
    None
}

fn gelu(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

/// The tensors that `name` is computed from by arithmetic, nearest first.
fn before(view: &View<'_>, name: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = std::collections::VecDeque::from([name.to_owned()]);
    while let Some(name) = open.pop_front().filter(|_| found.len() < MOST_NODES) {
        let Some((_, node)) = view.maker(&name).filter(|(_, node)| is_arithmetic(node)) else {
            continue;
        };
        for input in node
            .input
            .iter()
            .filter(|name| view.constant(name).is_none())
        {
            if !found.contains(input) {
                found.push(input.clone());
                open.push_back(input.clone());
            }
        }
    }
    found
}

fn is_arithmetic(node: &super::super::schema::NodeProto) -> bool {
    ["Add", "Mul", "Div", "Pow", "Tanh"]
        .iter()
        .any(|op| is(node, op))
}

/// Tensors as functions of one other, element by element.
struct Function<'a> {
    view: &'a View<'a>,
    argument: &'a str,
    x: f64,
}

impl Function<'_> {
    fn value(&self, name: &str, known: &mut HashMap<String, f64>) -> Option<f64> {
        if name == self.argument {
            return Some(self.x);
        }
        if let Some(value) = known.get(name) {
            return Some(*value);
        }
        if known.len() > MOST_NODES {
            return None;
        }
        if self.view.constant(name).is_some() {
            return self.view.number(name);
        }
        let (_, node) = self
            .view
            .maker(name)
            .filter(|(_, node)| is_arithmetic(node))?;
        let mut inputs = Vec::new();
        // Marked before its inputs: a circle ends.
        known.insert(name.to_owned(), f64::NAN);
        for input in &node.input {
            inputs.push(self.value(input, known)?);
        }
        let value = match (node.op_type.as_deref()?, &inputs[..]) {
            ("Add", [a, b]) => a + b,
            ("Mul", [a, b]) => a * b,
            ("Div", [a, b]) => a / b,
            ("Pow", [a, b]) => a.powf(*b),
            ("Tanh", [a]) => a.tanh(),
            _ => return None,
        };
        known.insert(name.to_owned(), value);
        Some(value)
    }
}
