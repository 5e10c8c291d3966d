//! The attention of a decoder's layers: which is whose.

use std::collections::HashMap;

use super::super::external::text;
use super::Rows;
use super::attention::{Attention, Factor, Way, unscaled};
use super::edit::CONTRIB;
use super::rope::Rotation;
use super::view::{View, attribute, is};

/// The run in which tensors are looked at.
pub(super) const LOOK: Rows = Rows { new: 5, past: 3 };

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
pub(super) struct Layer<'a> {
    pub(super) attention: Attention,
    /// Queries as the first product reads them, without their scale.
    pub(super) queries: &'a str,
    pub(super) factors: Vec<Factor>,
    /// Keys and values of the new rows.
    pub(super) new: [&'a str; 2],
    /// Nodes that make keys and values with those of the new rows.
    pub(super) joins: Vec<usize>,
    pub(super) turned: Option<[Rotation<'a>; 2]>,
    /// The type of keys and values inside the graph, where that is not their ports'.
    pub(super) inner: Option<i64>,
}

/// Whether nothing but `GroupQueryAttention` reads the layer's past and makes its present.
pub(super) fn is_shared(view: &View<'_>, layer: &LayerCache) -> bool {
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
pub(super) fn layers<'a>(
    view: &View<'a>,
    decoder: &DecoderGraph,
) -> Result<Vec<Layer<'a>>, String> {
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
