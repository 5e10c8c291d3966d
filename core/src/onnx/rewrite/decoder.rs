//! A decoder's attention as `GroupQueryAttention`, which writes new keys and values behind the old ones in one buffer. Spelled
//! out, every step copies all keys and values, and again for each head that shares them.

use std::collections::{HashMap, HashSet};

use super::super::external::text;
use super::super::inspect::{ElementType, port};
use super::super::schema::tensor_proto::DataType;
use super::attention::{Mask, before_heads, joined_heads};
use super::edit::Edits;
use super::layers::{DecoderGraph, LOOK, Layer, is_shared, layers};
use super::replace::{Common, Parts};
use super::rope::{Known, Rotation};
use super::view::View;
use super::{Model, Observe, Observed, Rewrite, Rows};
use crate::error::Result;

/// `GroupQueryAttention` takes heads of a multiple of this, and of twice that if it turns them itself.
const HEAD_MULTIPLE: usize = 8;

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
