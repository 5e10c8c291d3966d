//! An encoder's attention as `MultiHeadAttention`, which never has the scores of all rows at once in memory.

use std::collections::{HashMap, HashSet};

use super::super::external::text;
use super::super::schema::attribute_proto::AttributeType;
use super::super::schema::{AttributeProto, GraphProto, NodeProto, ValueInfoProto};
use super::attention::{Attention, Mask, Way, before_heads, joined_heads, unscaled};
use super::edit::{CONTRIB, Edits, float, int, ints, names, node};
use super::replace::scale;
use super::view::{View, is, order};
use super::{Model, Observe, Observed, Rewrite, Rows};
use crate::error::Result;

/// Heads wider than this are something else: attention among channels has as many numbers a head as there are rows.
const WIDEST_HEAD: usize = 256;

/// One attention that can be a node.
struct Site<'a> {
    attention: Attention,
    factors: Vec<super::attention::Factor>,
    /// Queries and values `[batch, heads, rows, width]`, and keys so or `[batch, rows, heads, width]`.
    sides: [(&'a str, Order); 3],
}

/// How a tensor's dimensions follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    HeadsFirst,
    RowsFirst,
}

impl Model {
    /// Rewrites attention that nothing masks. Where there is a mask that forbids nothing on made inputs, a run decides by its
    /// own mask: the new node, or the old ones.
    ///
    /// # Errors
    /// What `observe` gives, and [`ErrorKind::BadModel`](crate::ErrorKind::BadModel) where the result would be no graph.
    pub fn fuse_attention(&self, observe: &mut dyn Observe) -> Result<Rewrite> {
        let view = View::new(self.graph());
        let all = 0..view.nodes().len();
        let sites: Vec<Site<'_>> = all
            .filter_map(|at| site(&view, Attention::around(&view, at)?))
            .collect();
        if sites.is_empty() {
            return Ok(Rewrite::left("it has no attention that is spelled out"));
        }
        let seen = self.look_at(&view, &sites, observe)?;
        let mut edits = Edits::new(self.graph());
        let mut open = HashMap::new();
        let (mut count, mut guarded, mut why) = (0, 0, String::new());
        for site in &sites {
            let parts = Parts {
                view: &view,
                site,
                seen: &seen,
            };
            match parts.replace(&mut open, &mut edits) {
                Ok(()) => {
                    count += 1;
                    guarded += usize::from(site.attention.mask.is_some());
                }
                Err(left) => why = left,
            }
        }
        if count == 0 {
            return Ok(Rewrite::Left { why });
        }
        let mut model = Box::new(self.clone());
        edits.apply(&mut model)?;
        let mut what = format!(
            "{count} of {} attentions as MultiHeadAttention",
            sites.len()
        );
        if guarded > 0 {
            what += &format!(", {guarded} of them only while the mask forbids nothing");
        }
        Ok(Rewrite::Done { model, what })
    }

    fn look_at(
        &self,
        view: &View<'_>,
        sites: &[Site<'_>],
        observe: &mut dyn Observe,
    ) -> Result<HashMap<String, Observed>> {
        let mut wanted = HashSet::new();
        for site in sites {
            for (name, order) in site.sides {
                wanted.insert(name);
                wanted.extend(whole_rows(view, name, order));
            }
            wanted.extend(site.attention.mask.as_ref().map(Mask::tensor));
            wanted.extend(joined_heads(view, &site.attention.result).map(|(_, name)| name));
            let computed = site.factors.iter().map(|factor| &factor.tensor[..]);
            wanted.extend(computed.filter(|name| view.constant(name).is_none()));
        }
        let mut wanted: Vec<&str> = wanted.into_iter().collect();
        wanted.retain(|name| view.maker(name).is_some());
        wanted.sort_unstable();
        let seen = observe.observe(&self.showing(&wanted), Rows::default(), &wanted)?;
        Ok(wanted.into_iter().map(str::to_owned).zip(seen).collect())
    }
}

fn site<'a>(view: &View<'a>, attention: Attention) -> Option<Site<'a>> {
    let (_, second) = view.maker(&attention.result)?;
    let product = view.nodes().iter().find(|node| {
        is(node, "MatMul")
            && node.input.first() == Some(&attention.queries)
            && node.input.get(1) == Some(&attention.keys)
    })?;
    let (queries, own) = unscaled(view, &product.input[0]);
    let (keys, more) = unscaled(view, &product.input[1]);
    let (_, turned) = view.made_by(keys, "Transpose")?;
    let keys = match order(turned) {
        [0, 1, 3, 2] => (&turned.input[0][..], Order::HeadsFirst),
        [0, 2, 3, 1] => (&turned.input[0][..], Order::RowsFirst),
        _ => return None,
    };
    let (inner, last) = match keys.1 {
        Order::HeadsFirst => unscaled(view, keys.0),
        Order::RowsFirst => (keys.0, Vec::new()),
    };
    // A cache is a decoder's.
    let joins = |name: &'a str| {
        let end = Way::back(view, name).end();
        view.made_by(end, "Concat")
            .is_some_and(|(_, node)| node.input.iter().any(|n| view.is_input(n)))
    };
    if joins(inner) || joins(&second.input[1]) {
        return None;
    }
    let mut factors = attention.factors.clone();
    factors.extend(own.into_iter().chain(more).chain(last));
    let values = &second.input[1][..];
    let sides = [
        (queries, Order::HeadsFirst),
        (inner, keys.1),
        (values, Order::HeadsFirst),
    ];
    Some(Site {
        attention,
        factors,
        sides,
    })
}

/// The rows that were cut into the heads of `name`.
fn whole_rows<'a>(view: &View<'a>, name: &str, order: Order) -> Option<&'a str> {
    match order {
        Order::HeadsFirst => before_heads(view, name)?.1,
        Order::RowsFirst => view
            .made_by(name, "Reshape")
            .map(|(_, node)| &node.input[0][..]),
    }
}

struct Parts<'a> {
    view: &'a View<'a>,
    site: &'a Site<'a>,
    seen: &'a HashMap<String, Observed>,
}

impl Parts<'_> {
    /// `open`: by mask, the tensor that tells whether it forbids nothing.
    fn replace(&self, open: &mut HashMap<Mask, String>, edits: &mut Edits) -> Result<(), String> {
        let attention = &self.site.attention;
        let [heads, width] = self.sizes()?;
        let factor = scale(self.view, &self.site.factors, self.seen)?;
        if let Some(mask) = &attention.mask {
            let seen = self.seen.get(mask.tensor()).ok_or("a mask was not seen")?;
            if !seen
                .values
                .iter()
                .all(|value| mask.lets(*value) == Some(true))
            {
                return Err(format!("the mask {:?} forbids something", mask.tensor()));
            }
        }
        let Some((at, name)) = joined_heads(self.view, &attention.result).filter(|(_, name)| {
            self.seen
                .get(*name)
                .is_some_and(|seen| seen.shape.len() == 3 && seen.shape[2] == heads * width)
        }) else {
            return Err(format!(
                "the heads of {:?} are not joined as usual",
                attention.result
            ));
        };
        let sides = self
            .site
            .sides
            .map(|(name, order)| self.rows(name, order, heads * width, edits));
        let [queries, keys, values] = &sides;
        let attributes = vec![int("num_heads", heads as i64), float("scale", factor)];
        let fused = |output: &str| {
            node(
                CONTRIB,
                "MultiHeadAttention",
                &[queries, keys, values],
                &[output],
                attributes.clone(),
            )
        };
        let Some(mask) = &attention.mask else {
            edits.drop_node(at);
            edits.push(fused(name));
            return Ok(());
        };
        let condition = match open.get(mask) {
            Some(condition) => condition.clone(),
            None => {
                let condition = forbids_nothing(mask, edits);
                open.insert(mask.clone(), condition.clone());
                condition
            }
        };
        let stops: Vec<&str> = sides
            .iter()
            .map(String::as_str)
            .chain([mask.tensor()])
            .collect();
        let old = self.between(at, &stops);
        let result = edits.name("attended");
        let mut other = old
            .iter()
            .map(|&at| self.view.node(at).clone())
            .collect::<Vec<_>>();
        // Both branches have results of their own names.
        let renamed = edits.name("attended");
        for made in other
            .iter_mut()
            .flat_map(|node| &mut node.output)
            .filter(|made| *made == name)
        {
            made.clone_from(&renamed);
        }
        let branches = vec![
            branch("then_branch", vec![fused(&result)], &result),
            branch("else_branch", other, &renamed),
        ];
        old.iter().for_each(|at| edits.drop_node(*at));
        edits.push(node("", "If", &[&condition], &[name], branches));
        Ok(())
    }

    /// Heads, and the numbers of each.
    fn sizes(&self) -> Result<[usize; 2], String> {
        let mut found = Vec::new();
        for (name, order) in self.site.sides {
            let shape = self.seen.get(name).map_or(&[][..], |seen| &seen.shape);
            found.push(match (shape, order) {
                (&[_, heads, _, width], Order::HeadsFirst)
                | (&[_, _, heads, width], Order::RowsFirst)
                    if width <= WIDEST_HEAD =>
                {
                    [heads, width]
                }
                _ => return Err(format!("{name:?} has shape {shape:?}")),
            });
        }
        let equal = found.iter().all(|sizes| *sizes == found[0]);
        equal
            .then(|| found[0])
            .ok_or_else(|| "heads of several sizes".to_owned())
    }

    /// The rows `[batch, rows, heads * width]` of a side.
    fn rows(&self, name: &str, order: Order, row: usize, edits: &mut Edits) -> String {
        let whole = whole_rows(self.view, name, order);
        let whole = whole.filter(|name| {
            let shape = self.seen.get(*name).map(|seen| &seen.shape[..]);
            shape.is_some_and(|shape| shape.len() == 3 && shape[2] == row)
        });
        if let Some(whole) = whole {
            return whole.to_owned();
        }
        let shape = edits.whole(&[3], &[0, 0, -1]);
        let inner = match (order, before_heads(self.view, name)) {
            (Order::RowsFirst, _) => name.to_owned(),
            (Order::HeadsFirst, Some((inner, _))) => inner.to_owned(),
            (Order::HeadsFirst, None) => {
                edits.node("Transpose", &[name], vec![ints("perm", &[0, 2, 1, 3])])
            }
        };
        edits.node("Reshape", &[&inner, &shape], Vec::new())
    }

    /// The nodes that serve nothing but the node `end`, back to the tensors `stops`.
    fn between(&self, end: usize, stops: &[&str]) -> Vec<usize> {
        let mut inside = HashSet::from([end]);
        let mut open = vec![end];
        while let Some(at) = open.pop() {
            for name in names(&self.view.node(at).input).filter(|name| !stops.contains(name)) {
                let Some((maker, node)) = self.view.maker(name) else {
                    continue;
                };
                let serves = names(&node.output).all(|name| {
                    !self.view.is_output(name)
                        && !stops.contains(&name)
                        && self.view.readers(name).iter().all(|at| inside.contains(at))
                });
                if serves && inside.insert(maker) {
                    open.push(maker);
                    // What it shares with nodes seen before may be inside now.
                    open.extend(
                        inside
                            .iter()
                            .copied()
                            .filter(|at| *at != maker)
                            .collect::<Vec<_>>(),
                    );
                }
            }
        }
        let mut inside: Vec<usize> = inside.into_iter().collect();
        inside.sort_unstable();
        inside
    }
}

/// A tensor that is true while `mask` lets every row attend to every other.
fn forbids_nothing(mask: &Mask, edits: &mut Edits) -> String {
    let keep = || vec![int("keepdims", 0)];
    let (values, none) = match mask {
        Mask::Added(name) => (edits.node("Abs", &[name], Vec::new()), 0.0),
        Mask::Kept(name) => {
            let dropped = edits.node("Not", &[name], Vec::new());
            (edits.node("Cast", &[&dropped], vec![int("to", 1)]), 0.0)
        }
        Mask::Dropped(name) => (edits.node("Cast", &[name], vec![int("to", 1)]), 0.0),
    };
    let most = edits.node("ReduceMax", &[&values], keep());
    let most = edits.node("Cast", &[&most], vec![int("to", 1)]);
    let none = edits.real(&[], &[none]);
    edits.node("Equal", &[&most, &none], Vec::new())
}

fn branch(name: &str, nodes: Vec<NodeProto>, result: &str) -> AttributeProto {
    let mut attribute = AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::GRAPH),
        ..Default::default()
    };
    *attribute.g.get_or_insert_default() = GraphProto {
        name: Some(name.to_owned()),
        node: nodes,
        output: vec![ValueInfoProto {
            name: Some(result.to_owned()),
            ..Default::default()
        }],
        ..Default::default()
    };
    debug_assert!(!text(&attribute.name).is_empty());
    attribute
}
