//! A `GroupQueryAttention` in place of a layer's attention.

use std::collections::HashMap;

use super::super::schema::tensor_proto::DataType;
use super::attention::{Factor, before_heads, joined_heads};
use super::edit::{CONTRIB, Edits, float, int, ints, node, tensor};
use super::layers::{DecoderGraph, LOOK, Layer, LayerCache};
use super::rope::Tables;
use super::view::View;
use super::{Model, Observed};

/// What all layers read.
pub(super) struct Common {
    before_last: String,
    total: String,
    tables: Vec<(Tables, [String; 2])>,
}

impl Common {
    pub(super) fn new(model: &Model, decoder: &DecoderGraph, edits: &mut Edits) -> Self {
        let mask = &decoder.attention_mask[..];
        let (one, first) = (edits.whole(&[1], &[1]), edits.whole(&[], &[1]));
        let axes_are_inputs = model.opset() >= 13;
        let counted = match axes_are_inputs {
            true => edits.node("ReduceSum", &[mask, &one], vec![int("keepdims", 0)]),
            false => edits.node(
                "ReduceSum",
                &[mask],
                vec![int("keepdims", 0), ints("axes", &[1])],
            ),
        };
        let to_i32 = || vec![int("to", DataType::INT32 as i64)];
        let counted = edits.node("Cast", &[&counted], to_i32());
        let one = edits.whole_i32(1);
        let before_last = edits.node("Sub", &[&counted, &one], Vec::new());
        let shape = edits.node("Shape", &[mask], Vec::new());
        let total = edits.node("Gather", &[&shape, &first], vec![int("axis", 0)]);
        let total = edits.node("Cast", &[&total], to_i32());
        Self {
            before_last,
            total,
            tables: Vec::new(),
        }
    }

    /// Constants of these tables; of equal ones the same.
    pub(super) fn tables(
        &mut self,
        tables: &Tables,
        kind: DataType,
        edits: &mut Edits,
    ) -> [String; 2] {
        if let Some((_, names)) = self.tables.iter().find(|(own, _)| own == tables) {
            return names.clone();
        }
        let half = tables.half.max(1);
        let names = [&tables.cosines, &tables.sines].map(|values| {
            let dims = [(values.len() / half) as i64, half as i64];
            let name = edits.name("table");
            let raw = match kind {
                DataType::FLOAT16 => {
                    let halves = values.iter().map(|&value| half::f16::from_f32(value));
                    halves.flat_map(|value| value.to_le_bytes()).collect()
                }
                _ => values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            };
            edits.constant(tensor(&name, kind, &dims, raw))
        });
        self.tables.push((tables.clone(), names.clone()));
        names
    }
}

/// One layer, and what is known about it.
pub(super) struct Parts<'a> {
    pub(super) view: &'a View<'a>,
    pub(super) layer: &'a Layer<'a>,
    pub(super) ports: &'a LayerCache,
    pub(super) decoder: &'a DecoderGraph,
    pub(super) seen: &'a HashMap<String, Observed>,
}

impl Parts<'_> {
    pub(super) fn replace(
        &self,
        common: &Common,
        kind: DataType,
        tables: Option<[String; 2]>,
        edits: &mut Edits,
    ) -> Result<(), String> {
        let (layer, decoder) = (self.layer, self.decoder);
        let heads = self.heads(layer.queries, None)?;
        let width = decoder.head_dim;
        for name in layer.new {
            self.heads(name, Some(decoder.kv_heads))?;
        }
        if !heads.is_multiple_of(decoder.kv_heads) {
            return Err(format!("{heads} heads share {} of keys", decoder.kv_heads));
        }
        let turned = layer.turned.filter(|_| tables.is_some());
        let sources = turned.map_or([layer.queries, layer.new[0]], |turned| {
            turned.map(|t| t.source)
        });
        let queries = self.rows(sources[0], heads, edits);
        let keys = self.rows(sources[1], decoder.kv_heads, edits);
        let values = self.rows(layer.new[1], decoder.kv_heads, edits);
        let [queries, keys, values] = [queries, keys, values].map(|rows| match layer.inner {
            Some(_) => edits.node("Cast", &[&rows], vec![int("to", kind as i64)]),
            None => rows,
        });
        let (joined_result, joined) = self.result(heads, edits);
        let result = match layer.inner {
            Some(inner) => {
                let result = edits.name("attended");
                let to = vec![int("to", inner)];
                edits.push(node("", "Cast", &[&result], &[&joined_result], to));
                result
            }
            None => joined_result.clone(),
        };
        let [cosines, sines] = tables.unwrap_or_default();
        let turns = i64::from(!cosines.is_empty());
        let positions = decoder.position_ids.as_deref().filter(|_| turns == 1);
        let inputs = [
            &queries,
            &keys,
            &values,
            &self.ports.past[0],
            &self.ports.past[1],
            &common.before_last[..],
            &common.total,
            &cosines,
            &sines,
            positions.unwrap_or_default(),
        ];
        let inputs = &inputs[..inputs
            .iter()
            .rposition(|name| !name.is_empty())
            .map_or(0, |at| at + 1)];
        let outputs = [&result[..], &self.ports.present[0], &self.ports.present[1]];
        let attributes = vec![
            int("num_heads", heads as i64),
            int("kv_num_heads", decoder.kv_heads as i64),
            float("scale", self.scale()?),
            int("do_rotary", turns),
        ];
        edits.push(node(
            CONTRIB,
            "GroupQueryAttention",
            inputs,
            &outputs,
            attributes,
        ));
        if !joined {
            let shape = edits.whole(&[4], &[0, 0, heads as i64, width as i64]);
            let apart = edits.node("Reshape", &[&joined_result, &shape], Vec::new());
            let order = vec![ints("perm", &[0, 2, 1, 3])];
            edits.push(node(
                "",
                "Transpose",
                &[&apart],
                &[&layer.attention.result],
                order,
            ));
            edits.drop_node(layer.attention.last);
        }
        layer.joins.iter().for_each(|at| edits.drop_node(*at));
        Ok(())
    }

    /// How many heads `name` has, which is `[1, heads, rows, width]`.
    fn heads(&self, name: &str, expected: Option<usize>) -> Result<usize, String> {
        match self.seen.get(name).map(|seen| &seen.shape[..]) {
            Some(&[1, heads, rows, width])
                if rows == LOOK.new
                    && width == self.decoder.head_dim
                    && expected.is_none_or(|expected| expected == heads) =>
            {
                Ok(heads)
            }
            other => Err(format!(
                "{name:?} has shape {:?}",
                other.unwrap_or_default()
            )),
        }
    }

    /// The rows `[1, rows, heads * width]` of `name`, which is `[1, heads, rows, width]`.
    fn rows(&self, name: &str, heads: usize, edits: &mut Edits) -> String {
        let row = heads * self.decoder.head_dim;
        let whole = edits.whole(&[3], &[0, 0, -1]);
        match before_heads(self.view, name) {
            Some((_, Some(rows))) if self.has_shape(rows, &[1, LOOK.new, row]) => rows.to_owned(),
            Some((inner, _)) => edits.node("Reshape", &[inner, &whole], Vec::new()),
            None => {
                let order = vec![ints("perm", &[0, 2, 1, 3])];
                let ordered = edits.node("Transpose", &[name], order);
                edits.node("Reshape", &[&ordered, &whole], Vec::new())
            }
        }
    }

    fn has_shape(&self, name: &str, shape: &[usize]) -> bool {
        self.seen.get(name).is_some_and(|seen| seen.shape == shape)
    }

    /// The name of the result, and whether that is what joins the heads made.
    fn result(&self, heads: usize, edits: &mut Edits) -> (String, bool) {
        let shape = [1, LOOK.new, heads * self.decoder.head_dim];
        match joined_heads(self.view, &self.layer.attention.result) {
            Some((at, name)) if self.has_shape(name, &shape) => {
                edits.drop_node(at);
                (name.to_owned(), true)
            }
            _ => (edits.name("attended"), false),
        }
    }

    fn scale(&self) -> Result<f64, String> {
        scale(self.view, &self.layer.factors, self.seen)
    }
}

/// The product of `factors`.
pub(super) fn scale(
    view: &View<'_>,
    factors: &[Factor],
    seen: &HashMap<String, Observed>,
) -> Result<f64, String> {
    let mut product = 1.0;
    for factor in factors {
        let seen = seen
            .get(&factor.tensor)
            .filter(|seen| seen.values.len() == 1);
        let number = view.number(&factor.tensor);
        let number = number.or_else(|| seen.map(|seen| f64::from(seen.values[0])));
        let Some(number) = number.filter(|number| number.is_finite() && *number != 0.0) else {
            return Err(format!("the scale {:?} is no number", factor.tensor));
        };
        product *= if factor.divides { 1.0 / number } else { number };
    }
    Ok(product)
}
