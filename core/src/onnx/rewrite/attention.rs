//! Attention as exporters spell it out: `MatMul`, a scale, a mask, `Softmax`, `MatMul`.
//!
//! The pattern is found by its operators alone. What the tensors on the way are (their sizes, the values of scales that are
//! computed from sizes) is not guessed: the caller runs the graph on made inputs and looks.

use std::collections::HashSet;

use super::super::schema::NodeProto;
use super::view::{View, attribute, is, order};

/// Steps between a product and what it reads; more are no attention that any exporter writes.
const LONGEST: usize = 24;

/// One attention.
#[derive(Debug)]
pub(super) struct Attention {
    /// The tensors that the first product reads: queries, and keys with their last two dimensions exchanged.
    pub(super) queries: String,
    pub(super) keys: String,
    pub(super) mask: Option<Mask>,
    /// Factors of the scores.
    pub(super) factors: Vec<Factor>,
    /// The second product's result.
    pub(super) result: String,
    /// The place of the second product.
    pub(super) last: usize,
}

/// What keeps rows from attending.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Mask {
    /// A number added to each score.
    Added(String),
    /// Scores count where this is true.
    Kept(String),
    /// Scores count where this is false.
    Dropped(String),
}

impl Mask {
    pub(super) fn tensor(&self) -> &str {
        match self {
            Self::Added(name) | Self::Kept(name) | Self::Dropped(name) => name,
        }
    }

    /// Whether a value of the mask lets a row attend as if there were no mask; `None` where it does neither that nor
    /// forbids it.
    pub(super) fn lets(&self, value: f32) -> Option<bool> {
        match self {
            Self::Added(_) if value == 0.0 => Some(true),
            // The softmax of that is nothing in 32 bits.
            Self::Added(_) => (value <= -1e4).then_some(false),
            Self::Kept(_) => Some(value != 0.0),
            Self::Dropped(_) => Some(value == 0.0),
        }
    }
}

/// A factor of scores, queries or keys.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Factor {
    pub(super) tensor: String,
    pub(super) divides: bool,
}

impl Attention {
    /// The attention around the `Softmax` at `at`.
    pub(super) fn around(view: &View<'_>, at: usize) -> Option<Self> {
        let softmax = view.node(at);
        let axis = attribute(softmax, "axis").and_then(|axis| axis.i);
        if !is(softmax, "Softmax") || !matches!(axis, None | Some(-1 | 3)) {
            return None;
        }
        let (mut factors, mut mask) = (Vec::new(), None);
        let product = scores(view, softmax.input.first()?, &mut factors, &mut mask, 0)?;
        let (last, second) = second_product(view, softmax.output.first()?)?;
        Some(Self {
            queries: product.input.first()?.clone(),
            keys: product.input.get(1)?.clone(),
            mask,
            factors,
            result: second.output.first()?.clone(),
            last,
        })
    }
}

/// The product that `name` is the masked and scaled result of.
fn scores<'a>(
    view: &View<'a>,
    name: &str,
    factors: &mut Vec<Factor>,
    mask: &mut Option<Mask>,
    depth: usize,
) -> Option<&'a NodeProto> {
    if depth > LONGEST {
        return None;
    }
    let (_, node) = view.maker(name)?;
    let input = |at: usize| node.input.get(at).map(String::as_str);
    if is(node, "MatMul") {
        // Products with weights are something else.
        let variable = node.input.iter().all(|name| view.constant(name).is_none());
        return variable.then_some(node);
    }
    if is(node, "Cast") || is(node, "Identity") {
        return scores(view, input(0)?, factors, mask, depth + 1);
    }
    if is(node, "Mul") || is(node, "Div") {
        let (data, factor) = scaled(view, node)?;
        factors.push(factor);
        return scores(view, data, factors, mask, depth + 1);
    }
    let ways: &[(usize, Mask)] = &if is(node, "Add") {
        [
            (0, Mask::Added(input(1)?.to_owned())),
            (1, Mask::Added(input(0)?.to_owned())),
        ]
    } else if is(node, "Where") {
        let condition = input(0)?.to_owned();
        [
            (1, Mask::Kept(condition.clone())),
            (2, Mask::Dropped(condition)),
        ]
    } else {
        return None;
    };
    for (data, own) in ways {
        if mask.is_some() || !fills(view, node, *data) {
            continue;
        }
        let (mut found, mut inner) = (factors.clone(), Some(own.clone()));
        if let Some(product) = scores(view, input(*data)?, &mut found, &mut inner, depth + 1) {
            // Factors inside the mask's sum do not scale the mask; those outside would.
            if !factors.is_empty() {
                return None;
            }
            (*factors, *mask) = (found, inner);
            return Some(product);
        }
    }
    None
}

/// Whether a `Where` puts a number in place of scores that ends their part in the softmax; an `Add` puts none.
fn fills(view: &View<'_>, node: &NodeProto, data: usize) -> bool {
    let other = node.input.get(3 - data).filter(|_| is(node, "Where"));
    other.is_none_or(|fill| view.number(fill).is_some_and(|number| number <= -1e4))
}

/// The product of the probabilities `name` and the values, and its place.
fn second_product<'a>(view: &View<'a>, name: &str) -> Option<(usize, &'a NodeProto)> {
    let mut name = name;
    for _ in 0..LONGEST {
        let (at, node) = match view.readers(name) {
            // Newer exporters put 0 where a row that attends to nothing gave no number.
            [one, other] if !view.is_output(name) => {
                let (check, rest) = [(one, other), (other, one)]
                    .into_iter()
                    .find(|(at, _)| is(view.node(**at), "IsNaN"))?;
                let flag = view.node(*check).output.first()?;
                let chosen = view.node(*rest);
                let fits = is(chosen, "Where")
                    && chosen.input.first() == Some(flag)
                    && chosen.input.get(2).map(String::as_str) == Some(name)
                    && view.readers(flag).len() == 1;
                fits.then_some((*rest, chosen))?
            }
            _ => view.reader(name)?,
        };
        if is(node, "MatMul") {
            let fits = node.input.first().map(String::as_str) == Some(name);
            let weights = view.constant(node.input.get(1)?).is_some();
            return (fits && !weights).then_some((at, node));
        }
        if !["Cast", "Identity", "Dropout", "Where"]
            .iter()
            .any(|op| is(node, op))
        {
            return None;
        }
        name = node.output.first()?;
    }
    None
}

/// The tensor that a `Mul` or `Div` scales, and by what.
fn scaled<'a>(view: &View<'a>, node: &'a NodeProto) -> Option<(&'a str, Factor)> {
    let [one, other] = &node.input[..] else {
        return None;
    };
    let divides = is(node, "Div");
    let factor = |tensor: &str| Factor {
        tensor: tensor.to_owned(),
        divides,
    };
    if is_factor(view, other) {
        return Some((one, factor(other)));
    }
    (!divides && is_factor(view, one)).then(|| (&other[..], factor(one)))
}

/// Whether `name` is one number: a constant, or computed from sizes and constants alone.
fn is_factor(view: &View<'_>, name: &str) -> bool {
    if view.constant(name).is_some() {
        return view.number(name).is_some();
    }
    let (mut open, mut seen) = (vec![name], HashSet::new());
    let mut sizes = false;
    while let Some(name) = open.pop() {
        if view.constant(name).is_some() || name.is_empty() || !seen.insert(name) {
            continue;
        }
        let Some((_, node)) = view.maker(name) else {
            return false;
        };
        if is(node, "Shape") {
            sizes = true;
            continue;
        }
        const OF_NUMBERS: [&str; 11] = [
            "Gather",
            "Slice",
            "Cast",
            "Sqrt",
            "Div",
            "Mul",
            "Reciprocal",
            "Pow",
            "Squeeze",
            "Unsqueeze",
            "Identity",
        ];
        if !OF_NUMBERS.iter().any(|op| is(node, op)) {
            return false;
        }
        open.extend(node.input.iter().map(String::as_str));
    }
    sizes
}

/// The tensors on the way from a product back to what made its input.
#[derive(Debug)]
pub(super) struct Way<'a> {
    /// From the product's input on, each the input of the node that made the one before.
    pub(super) tensors: Vec<&'a str>,
    /// Factors on the way.
    pub(super) factors: Vec<Factor>,
}

impl<'a> Way<'a> {
    /// From `name` back through nodes that only scale, order or repeat.
    pub(super) fn back(view: &View<'a>, name: &'a str) -> Self {
        let mut way = Self {
            tensors: vec![name],
            factors: Vec::new(),
        };
        const ORDERING: [&str; 7] = [
            "Transpose",
            "Reshape",
            "Expand",
            "Unsqueeze",
            "Squeeze",
            "Identity",
            "Cast",
        ];
        let mut name = name;
        while way.tensors.len() < LONGEST {
            let Some((_, node)) = view.maker(name) else {
                break;
            };
            if ORDERING.iter().any(|op| is(node, op)) {
                name = &node.input[0];
            } else if (is(node, "Mul") || is(node, "Div"))
                && let Some((data, factor)) = scaled(view, node)
            {
                way.factors.push(factor);
                name = data;
            } else {
                break;
            }
            way.tensors.push(name);
        }
        way
    }

    /// Where it ends.
    pub(super) fn end(&self) -> &'a str {
        self.tensors[self.tensors.len() - 1]
    }
}

/// From `name` back through nodes that scale it.
pub(super) fn unscaled<'a>(view: &View<'a>, name: &'a str) -> (&'a str, Vec<Factor>) {
    let (mut name, mut factors) = (name, Vec::new());
    while let Some((_, node)) = view.maker(name).filter(|_| factors.len() < LONGEST) {
        let scales = is(node, "Mul") || is(node, "Div");
        let Some((data, factor)) = scaled(view, node).filter(|_| scales) else {
            break;
        };
        factors.push(factor);
        name = data;
    }
    (name, factors)
}

/// `name` before its heads came first, in `[batch, rows, heads, width]`; the whole row of `[batch, rows, heads * width]`,
/// where that is what was cut into heads.
pub(super) fn before_heads<'a>(view: &View<'a>, name: &str) -> Option<(&'a str, Option<&'a str>)> {
    let (_, node) = view.made_by(name, "Transpose")?;
    (order(node) == [0, 2, 1, 3]).then_some(())?;
    let inner = &node.input[0];
    let whole = view
        .made_by(inner, "Reshape")
        .map(|(_, node)| &node.input[0][..]);
    Some((inner, whole))
}

/// The node that joins the heads of `result` into `[batch, rows, heads * width]`, and what it makes.
pub(super) fn joined_heads<'a>(view: &View<'a>, result: &str) -> Option<(usize, &'a str)> {
    let (_, ordered) = view.reader_of_values(result)?;
    (is(ordered, "Transpose") && order(ordered) == [0, 2, 1, 3]).then_some(())?;
    let (at, joined) = view.reader_of_values(ordered.output.first()?)?;
    is(joined, "Reshape").then(|| (at, &joined.output[0][..]))
}
