//! Rotary positions, spelled out: `x * cos + rotated(x) * sin`, where `rotated` exchanges the halves of a head and negates
//! what comes first.

use std::collections::HashMap;

use super::view::{View, attribute, is};
use super::{Model, Observe, Observed, Rows};
use crate::error::Result;

/// Bytes of the largest table of cosines or sines. They lie in the model's file.
const LARGEST_TABLE: usize = 16 << 20;

/// How far a rotated number may be from what the tables give, as a fraction of the largest.
const CLOSE: f32 = 2e-3;

/// A rotation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rotation<'a> {
    /// What is rotated.
    pub(super) source: &'a str,
    pub(super) cosines: &'a str,
    pub(super) sines: &'a str,
}

impl<'a> Rotation<'a> {
    /// The rotation that makes `name`.
    pub(super) fn making(view: &View<'a>, name: &str) -> Option<Self> {
        let (_, sum) = view.made_by(name, "Add")?;
        let [one, other] = &sum.input[..] else {
            return None;
        };
        [(one, other), (other, one)]
            .into_iter()
            .find_map(|(plain, turned)| {
                let (_, turned) = view.made_by(turned, "Mul")?;
                let [a, b] = &turned.input[..] else {
                    return None;
                };
                let mut ways = [(a, b), (b, a)].into_iter();
                let (source, sines) = ways
                    .find_map(|(turned, sines)| Some((halves_exchanged(view, turned)?, sines)))?;
                let (_, plain) = view.made_by(plain, "Mul")?;
                let [a, b] = &plain.input[..] else {
                    return None;
                };
                let cosines = match (a == source, b == source) {
                    (true, false) => b,
                    (false, true) => a,
                    _ => return None,
                };
                Some(Self {
                    source,
                    cosines: table(view, cosines),
                    sines: table(view, sines),
                })
            })
    }

    /// Whether `after` is `before` turned by these tables; both are `[1, heads, rows, width]`.
    pub(super) fn turns(tables: &Tables, before: &Observed, after: &Observed, past: usize) -> bool {
        let (width, half) = (tables.half * 2, tables.half);
        if before.shape != after.shape || before.shape.last() != Some(&width) {
            return false;
        }
        let Some(&rows) = before.shape.get(2) else {
            return false;
        };
        let largest = after.values.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        let heads = before
            .values
            .chunks_exact(width)
            .zip(after.values.chunks_exact(width));
        heads.enumerate().all(|(at, (x, turned))| {
            let from = (past + at % rows.max(1)) * half;
            let (Some(cos), Some(sin)) = (
                tables.cosines.get(from..from + half),
                tables.sines.get(from..from + half),
            ) else {
                return false;
            };
            (0..half).all(|i| {
                let first = x[i] * cos[i] - x[i + half] * sin[i];
                let second = x[i + half] * cos[i] + x[i] * sin[i];
                (first - turned[i]).abs() <= CLOSE * largest
                    && (second - turned[i + half]).abs() <= CLOSE * largest
            })
        })
    }
}

/// What `name` is the exchanged halves of, the first negated.
fn halves_exchanged<'a>(view: &View<'a>, name: &str) -> Option<&'a String> {
    let (_, joined) = view.made_by(name, "Concat")?;
    let axis = attribute(joined, "axis")?.i?;
    let [negated, first] = &joined.input[..] else {
        return None;
    };
    let (_, negated) = view.made_by(negated, "Neg")?;
    let part_of = |name: &str| {
        let (_, node) = view.maker(name)?;
        (is(node, "Split") || is(node, "Slice")).then(|| &node.input[0])
    };
    let source = part_of(negated.input.first()?)?;
    (matches!(axis, -1 | 3) && part_of(first)? == source).then_some(source)
}

/// The tensor behind nodes that only hand `name` on.
fn table<'a>(view: &View<'a>, name: &'a str) -> &'a str {
    let mut name = name;
    while let Some((_, node)) = view.maker(name) {
        if !["Unsqueeze", "Cast", "Identity", "Reshape"]
            .iter()
            .any(|op| is(node, op))
        {
            break;
        }
        name = &node.input[0];
    }
    name
}

/// Cosines and sines of every position, `[positions, half]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tables {
    pub(super) half: usize,
    pub(super) cosines: Vec<f32>,
    pub(super) sines: Vec<f32>,
}

/// The tables that a graph computes, by the names of its cosines and sines.
#[derive(Default)]
pub(super) struct Known(HashMap<(String, String), Option<Tables>>);

impl Known {
    /// Those of `rotation` for `context` positions of heads of `width`; `None` where they depend on more than the position.
    pub(super) fn of(
        &mut self,
        model: &Model,
        rotation: &Rotation<'_>,
        context: usize,
        width: usize,
        observe: &mut dyn Observe,
    ) -> Result<Option<&Tables>> {
        let key = (rotation.cosines.to_owned(), rotation.sines.to_owned());
        if !self.0.contains_key(&key) {
            let found = tables(model, rotation, context, width, observe)?;
            self.0.insert(key.clone(), found);
        }
        Ok(self.0.get(&key).and_then(Option::as_ref))
    }
}

fn tables(
    model: &Model,
    rotation: &Rotation<'_>,
    context: usize,
    width: usize,
    observe: &mut dyn Observe,
) -> Result<Option<Tables>> {
    let half = width / 2;
    if context * half * size_of::<f32>() > LARGEST_TABLE {
        return Ok(None);
    }
    let mut sides = Vec::new();
    for name in [rotation.cosines, rotation.sines] {
        let part = model.computing(name)?;
        let mut at = |rows: Rows| -> Result<Option<Vec<f32>>> {
            let seen = observe.observe(&part, rows, &[name])?;
            let [seen] = &seen[..] else {
                return Ok(None);
            };
            Ok(first_halves(&seen.values, rows.new, half))
        };
        let all = Rows {
            new: context,
            past: 0,
        };
        let Some(table) = at(all)? else {
            return Ok(None);
        };
        // The same numbers whatever runs beside them.
        for rows in [
            Rows { new: 3, past: 2 },
            Rows {
                new: 1,
                past: context - 1,
            },
        ] {
            let from = rows.past * half;
            if at(rows)?.as_deref() != table.get(from..from + rows.new * half) {
                return Ok(None);
            }
        }
        sides.push(table);
    }
    let [cosines, sines] = <[Vec<f32>; 2]>::try_from(sides).unwrap_or_default();
    Ok(Some(Tables {
        half,
        cosines,
        sines,
    }))
}

/// The first half of each of `rows` rows, if the second is equal.
fn first_halves(values: &[f32], rows: usize, half: usize) -> Option<Vec<f32>> {
    if values.len() != rows * half * 2 {
        return None;
    }
    let mut found = Vec::with_capacity(rows * half);
    for row in values.chunks_exact(half * 2) {
        let (first, second) = row.split_at(half);
        if first != second {
            return None;
        }
        found.extend_from_slice(first);
    }
    Some(found)
}
