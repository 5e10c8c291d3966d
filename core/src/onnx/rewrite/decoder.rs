//! A decoder's attention as `GroupQueryAttention`, which writes new keys and values behind the old ones in one buffer. Spelled
//! out, every step copies all keys and values, and again for each head that shares them.

use std::collections::{HashMap, HashSet};

use super::super::external::text;
use super::super::inspect::{ElementType, port};
use super::super::schema::tensor_proto::DataType;
use super::attention::{Attention, Factor, Mask, Way, before_heads, joined_heads, unscaled};
use super::edit::{CONTRIB, Edits, float, int, ints, node, tensor};
use super::rope::{Known, Rotation, Tables};
use super::view::{View, attribute, is};
use super::{Model, Observe, Observed, Rewrite, Rows};
use crate::error::Result;

/// `GroupQueryAttention` takes heads of a multiple of this, and of twice that if it turns them itself.
const HEAD_MULTIPLE: usize = 8;

/// The run in which tensors are looked at.
const LOOK: Rows = Rows { new: 5, past: 3 };

/// The ports of a decoder, and its sizes.
#[derive(Debug, Clone)]
pub struct DecoderGraph {
    /// The input of ones: one for each position in the cache and each new one.
    pub attention_mask: String,
    /// The input of the new rows' positions.
    pub position_ids: Option<String>,
    /// The cache's ports, layer by layer.
    pub layers: Vec<LayerCache>,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// The most positions.
    pub context: usize,
}

/// The ports of a layer's keys and values, in this order.
#[derive(Debug, Clone)]
pub struct LayerCache {
    /// Those of the positions so far.
    pub past: [String; 2],
    /// Those with the new positions.
    pub present: [String; 2],
}

/// Found attention of one layer.
struct Layer<'a> {
    attention: Attention,
    /// Queries as the first product reads them, without their scale.
    queries: &'a str,
    factors: Vec<Factor>,
    /// Keys and values of the new rows.
    new: [&'a str; 2],
    /// Nodes that make keys and values with those of the new rows.
    joins: Vec<usize>,
    turned: Option<[Rotation<'a>; 2]>,
    /// The type of keys and values inside the graph, where that is not their ports'.
    inner: Option<i64>,
}

impl Model {
    /// Rewrites a decoder so that one buffer is past and present of each layer's keys and values. Its inputs stay. The mask
    /// must then be all ones, as it is for a batch of one.
    ///
    /// # Errors
    /// What `observe` gives, and [`ErrorKind::BadModel`](crate::ErrorKind::BadModel) where the result would be no graph.
    pub fn share_cache(
        &self,
        decoder: &DecoderGraph,
        observe: &mut dyn Observe,
    ) -> Result<Rewrite> {
        let view = View::new(self.graph());
        if decoder.layers.iter().all(|layer| is_shared(&view, layer)) {
            return Ok(Rewrite::Done {
                model: Box::new(self.clone()),
                what: "keys and values share one buffer already".into(),
            });
        }
        let mut layers = match layers(&view, decoder) {
            Ok(layers) => layers,
            Err(why) => return Ok(Rewrite::left(why)),
        };
        let Some(kind) = self.cache_type(decoder) else {
            return Ok(Rewrite::left("its keys and values are neither f32 nor f16"));
        };
        if !decoder.head_dim.is_multiple_of(HEAD_MULTIPLE) {
            let why = format!("heads of {} numbers, no multiple of 8", decoder.head_dim);
            return Ok(Rewrite::left(why));
        }
        for mask in layers.iter().map(|layer| &layer.attention.mask) {
            if mask.is_none() {
                return Ok(Rewrite::left("a layer has no causal mask"));
            }
        }
        let masks: HashSet<&Mask> = layers
            .iter()
            .filter_map(|l| l.attention.mask.as_ref())
            .collect();
        for mask in masks {
            if !self.is_causal(mask, decoder.context, observe)? {
                let why = format!("the mask {:?} is more than causal", mask.tensor());
                return Ok(Rewrite::left(why));
            }
        }
        let seen = self.look(&view, &layers, observe)?;
        let mut known = Known::default();
        for layer in &mut layers {
            if let Some(turned) = layer.turned
                && !self.turns(&turned, layer, &seen, decoder, &mut known, observe)?
            {
                layer.turned = None;
            }
        }
        let mut edits = Edits::new(self.graph());
        let mut common = Common::new(self, decoder, &mut edits);
        let mut inside = 0;
        for (layer, ports) in layers.iter().zip(&decoder.layers) {
            let tables = match layer.turned {
                Some([rotation, _]) => {
                    inside += 1;
                    known.of(self, &rotation, decoder.context, decoder.head_dim, observe)?
                }
                None => None,
            };
            let tables = tables.map(|tables| common.tables(tables, kind, &mut edits));
            let parts = Parts {
                view: &view,
                layer,
                ports,
                decoder,
                seen: &seen,
            };
            if let Err(why) = parts.replace(&common, kind, tables, &mut edits) {
                return Ok(Rewrite::left(why));
            }
        }
        let mut model = Box::new(self.clone());
        edits.apply(&mut model)?;
        let view = View::new(model.graph());
        if let Some(layer) = decoder.layers.iter().find(|layer| !is_shared(&view, layer)) {
            let why = format!("{:?} is read by more than attention", layer.past[0]);
            return Ok(Rewrite::left(why));
        }
        let what = format!(
            "attention of {} layers as GroupQueryAttention, positions turned inside {inside} of them; keys and values share one buffer",
            layers.len()
        );
        Ok(Rewrite::Done { model, what })
    }

    fn cache_type(&self, decoder: &DecoderGraph) -> Option<DataType> {
        let name = &decoder.layers.first()?.past[0];
        let mut inputs = self.graph().input.iter();
        let input = inputs.find(|value| text(&value.name) == name)?;
        match port(input).element? {
            ElementType::FLOAT => Some(DataType::FLOAT),
            ElementType::FLOAT16 => Some(DataType::FLOAT16),
            _ => None,
        }
    }

    /// Whether `mask`, with a mask of ones given, lets every row attend to those before it and itself, and to no others.
    fn is_causal(&self, mask: &Mask, context: usize, observe: &mut dyn Observe) -> Result<bool> {
        let part = self.computing(mask.tensor())?;
        let end = context.saturating_sub(2).max(1);
        for (new, past) in [(1, 0), (5, 0), (1, 6), (4, 3), (2, end)] {
            let rows = Rows { new, past };
            let seen = observe.observe(&part, rows, &[mask.tensor()])?;
            let [seen] = &seen[..] else {
                return Ok(false);
            };
            let total = new + past;
            if seen.values.len() != new * total || seen.shape.last() != Some(&total) {
                return Ok(false);
            }
            let right = |(at, value): (usize, &f32)| {
                mask.lets(*value) == Some(at % total <= past + at / total)
            };
            if !seen.values.iter().enumerate().all(right) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Runs the graph once and looks at what the layers' attention reads and makes.
    fn look(
        &self,
        view: &View<'_>,
        layers: &[Layer<'_>],
        observe: &mut dyn Observe,
    ) -> Result<HashMap<String, Observed>> {
        let mut names = HashSet::new();
        for layer in layers {
            names.extend([layer.queries, layer.new[0], layer.new[1]]);
            for name in [layer.queries, layer.new[0], layer.new[1]] {
                names.extend(before_heads(view, name).and_then(|(_, whole)| whole));
            }
            names.extend(layer.turned.iter().flatten().flat_map(|turned| {
                let whole = before_heads(view, turned.source).and_then(|(_, whole)| whole);
                [Some(turned.source), whole].into_iter().flatten()
            }));
            let computed = layer.factors.iter().map(|factor| &factor.tensor[..]);
            names.extend(computed.filter(|name| view.constant(name).is_none()));
            names.extend(joined_heads(view, &layer.attention.result).map(|(_, name)| name));
        }
        // A weight or an input cannot be a result.
        let mut names: Vec<&str> = names.into_iter().collect();
        names.retain(|name| view.maker(name).is_some());
        names.sort_unstable();
        let seen = observe.observe(&self.showing(&names), LOOK, &names)?;
        Ok(names.into_iter().map(str::to_owned).zip(seen).collect())
    }

    /// Whether queries and keys of `layer` are turned by tables that the position alone decides.
    fn turns(
        &self,
        turned: &[Rotation<'_>; 2],
        layer: &Layer<'_>,
        seen: &HashMap<String, Observed>,
        decoder: &DecoderGraph,
        known: &mut Known,
        observe: &mut dyn Observe,
    ) -> Result<bool> {
        if !decoder.head_dim.is_multiple_of(2 * HEAD_MULTIPLE) {
            return Ok(false);
        }
        for (rotation, after) in turned.iter().zip([layer.queries, layer.new[0]]) {
            let tables = known.of(self, rotation, decoder.context, decoder.head_dim, observe)?;
            let (Some(tables), Some(before), Some(after)) =
                (tables, seen.get(rotation.source), seen.get(after))
            else {
                return Ok(false);
            };
            if !Rotation::turns(tables, before, after, LOOK.past) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether nothing but `GroupQueryAttention` reads the layer's past and makes its present.
fn is_shared(view: &View<'_>, layer: &LayerCache) -> bool {
    let mut sides = layer.past.iter().zip(&layer.present);
    sides.all(|(past, present)| {
        let (Some((_, reader)), Some((_, maker))) = (view.reader(past), view.maker(present)) else {
            return false;
        };
        reader == maker
            && text(&reader.op_type) == "GroupQueryAttention"
            && text(&reader.domain) == CONTRIB
            && view.readers(present).is_empty()
    })
}

/// The attention of every layer, in their order.
fn layers<'a>(view: &View<'a>, decoder: &DecoderGraph) -> Result<Vec<Layer<'a>>, String> {
    let mut found: HashMap<usize, Layer<'a>> = HashMap::new();
    for at in 0..view.nodes().len() {
        let Some(attention) = Attention::around(view, at) else {
            continue;
        };
        if let Some((index, layer)) = layer(view, attention, decoder)
            && found.insert(index, layer).is_some()
        {
            return Err(format!("layer {index} attends twice to its past"));
        }
    }
    let of = |index| {
        let missing = || {
            let past = decoder
                .layers
                .get(index)
                .map(|layer: &LayerCache| &layer.past[0][..]);
            format!("no attention over {:?} was found", past.unwrap_or_default())
        };
        found.remove(&index).ok_or_else(missing)
    };
    (0..decoder.layers.len()).map(of).collect()
}

fn layer<'a>(
    view: &View<'a>,
    attention: Attention,
    decoder: &DecoderGraph,
) -> Option<(usize, Layer<'a>)> {
    // From the node, whose names live as long as the graph.
    let (_, second) = view.maker(&attention.result)?;
    let values = Way::back(view, &second.input[1]);
    let product = view.nodes().iter().find(|node| {
        is(node, "MatMul")
            && node.input.first() == Some(&attention.queries)
            && node.input.get(1) == Some(&attention.keys)
    })?;
    let keys = Way::back(view, &product.input[1]);
    let (key_join, value_join) = (
        Join::making(view, keys.end())?,
        Join::making(view, values.end())?,
    );
    (key_join.inner == value_join.inner).then_some(())?;
    let index = decoder
        .layers
        .iter()
        .position(|layer| layer.past[0] == key_join.past)?;
    (decoder.layers[index].past[1] == value_join.past).then_some(())?;
    if !values.factors.is_empty() {
        return None;
    }
    let (queries, own) = unscaled(view, &product.input[0]);
    let mut factors = attention.factors.clone();
    factors.extend(own.into_iter().chain(keys.factors));
    let mut joins = vec![key_join.at, value_join.at];
    for (present, join) in decoder.layers[index]
        .present
        .iter()
        .zip([key_join.at, value_join.at])
    {
        joins.extend(handed_on(view, present, join)?);
    }
    let turned = Rotation::making(view, queries)
        .zip(Rotation::making(view, key_join.new))
        .map(|(queries, keys)| [queries, keys]);
    let new = [key_join.new, value_join.new];
    let layer = Layer {
        attention,
        queries,
        factors,
        new,
        joins,
        turned,
        inner: key_join.inner,
    };
    Some((index, layer))
}

/// A node that puts new rows behind a past.
struct Join<'a> {
    at: usize,
    past: &'a str,
    new: &'a str,
    /// The type that the past is read as, where it is turned into another.
    inner: Option<i64>,
}

impl<'a> Join<'a> {
    fn making(view: &View<'a>, name: &str) -> Option<Self> {
        let (at, node) = view.made_by(name, "Concat")?;
        let axis = attribute(node, "axis")?.i?;
        let [past, new] = &node.input[..] else {
            return None;
        };
        let (past, inner) = match view.made_by(past, "Cast") {
            Some((_, cast)) => (&cast.input[0], Some(attribute(cast, "to")?.i?)),
            None => (past, None),
        };
        (matches!(axis, 2 | -2) && view.is_input(past)).then_some(Self {
            at,
            past,
            new,
            inner,
        })
    }
}

/// The nodes that hand the result of the node `join` on to the output `present`; `None` where that is another's.
fn handed_on(view: &View<'_>, present: &str, join: usize) -> Option<Vec<usize>> {
    let (mut name, mut nodes) = (present, Vec::new());
    while nodes.len() < 4 {
        let (at, node) = view.maker(name)?;
        if at == join {
            return Some(nodes);
        }
        (is(node, "Identity") || is(node, "Cast")).then_some(())?;
        nodes.push(at);
        name = &node.input[0];
    }
    None
}

/// What all layers read.
struct Common {
    before_last: String,
    total: String,
    tables: Vec<(Tables, [String; 2])>,
}

impl Common {
    fn new(model: &Model, decoder: &DecoderGraph, edits: &mut Edits) -> Self {
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
    fn tables(&mut self, tables: &Tables, kind: DataType, edits: &mut Edits) -> [String; 2] {
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
struct Parts<'a> {
    view: &'a View<'a>,
    layer: &'a Layer<'a>,
    ports: &'a LayerCache,
    decoder: &'a DecoderGraph,
    seen: &'a HashMap<String, Observed>,
}

impl Parts<'_> {
    fn replace(
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
