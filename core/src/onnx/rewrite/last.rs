//! Logits of the last row alone: the product over the vocabulary is a fifth of a prompt's arithmetic, and generation reads
//! one row of it.

use super::super::external::text;
use super::super::inspect::{Dimension, port};
use super::super::schema::tensor_shape_proto::dimension;
use super::super::schema::type_proto;
use super::Model;
use super::edit::{CONTRIB, Edits};
use super::view::{View, is};
use crate::error::Result;

/// The first version whose `Slice` reads its bounds as inputs.
const SLICE_OF_INPUTS: i64 = 10;

impl Model {
    /// Has the product that makes the output `logits`, `[batch, rows, vocabulary]`, computed for the last row only. False
    /// where the graph's end is another, which then stays.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`](crate::ErrorKind::BadModel) where the result would be no graph.
    pub fn keep_last_logits(&mut self, logits: &str) -> Result<bool> {
        let view = View::new(self.graph());
        let mut outputs = self.graph().output.iter();
        let told = outputs.find(|value| text(&value.name) == logits).map(port);
        let shape = told.and_then(|port| port.shape).unwrap_or_default();
        if let Some(Dimension::Fixed(1)) = shape.get(1) {
            return Ok(false);
        }
        let Some((at, rows)) = head(&view, logits).filter(|_| self.opset() >= SLICE_OF_INPUTS)
        else {
            return Ok(false);
        };
        let mut edits = Edits::new(self.graph());
        let bounds = [-1, i64::MAX, 1].map(|bound| edits.whole(&[1], &[bound]));
        let [from, to, axis] = &bounds;
        let last = edits.node("Slice", &[rows, from, to, axis], Vec::new());
        let mut head = view.node(at).clone();
        head.input[0] = last;
        edits.drop_node(at);
        edits.push(head);
        edits.apply(self)?;
        let graph = self.proto.graph.get_or_insert_default();
        for output in graph
            .output
            .iter_mut()
            .filter(|value| text(&value.name) == logits)
        {
            let Some(type_proto::Value::TensorType(tensor)) =
                &mut output.r#type.get_or_insert_default().value
            else {
                continue;
            };
            let shape = tensor.shape.as_option_mut();
            if let Some(rows) = shape.and_then(|shape| shape.dim.get_mut(1)) {
                rows.value = Some(dimension::Value::DimValue(1));
            }
        }
        Ok(true)
    }
}

/// The product with weights that `logits` ends with: its place, and the rows that it reads. Only nodes that treat every row
/// by itself are between it and the logits.
fn head<'a>(view: &View<'a>, logits: &str) -> Option<(usize, &'a str)> {
    let mut name = logits;
    // What else reads a tensor on the way would get one row.
    for step in 0..8 {
        let (at, node) = view.maker(name)?;
        let alone = view.readers(name).len() == usize::from(step > 0)
            && view.is_output(name) == (step == 0);
        if !alone {
            return None;
        }
        let contrib = text(&node.domain) == CONTRIB && text(&node.op_type) == "MatMulNBits";
        if contrib || is(node, "MatMul") || is(node, "MatMulInteger") {
            // Weights lie in the file, or are computed from what does.
            let weights = view.fed_by(node.input.get(1)?).is_empty();
            return weights.then(|| (at, &node.input[0][..]));
        }
        let of_each_row = ["Cast", "Mul", "Div", "Add", "Tanh", "Identity"];
        if !of_each_row.iter().any(|op| is(node, op)) {
            return None;
        }
        // The other operand is the same for every row: one number, a row of the vocabulary, or the scale of a whole tensor.
        let variable = |name: &&String| !view.fed_by(name).is_empty();
        let mut inputs = node
            .input
            .iter()
            .filter(variable)
            .filter(|name| !is_scale(view, name));
        name = inputs.next()?;
        if inputs.next().is_some() {
            return None;
        }
    }
    None
}

/// Whether `name` is a dynamically quantised tensor's scale, one number for all rows, or that times another constant.
fn is_scale(view: &View<'_>, name: &str) -> bool {
    match view.maker(name) {
        Some((_, node)) if is(node, "DynamicQuantizeLinear") => {
            node.output.get(1).map(String::as_str) == Some(name)
        }
        Some((_, node)) if is(node, "Mul") => node
            .input
            .iter()
            .all(|name| view.constant(name).is_some() || is_scale(view, name)),
        _ => false,
    }
}
