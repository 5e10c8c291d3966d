//! What goes to a decoder's ports in one step, apart from rows, cache and encoder's output, which are the caller's.

use super::{DecoderMap, Input, Source, constant};
use crate::error::Result;
use crate::ort::{DType, Port, Tensor};

/// One step as a decoder sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<'a> {
    /// Positions so far.
    pub(crate) past: usize,
    /// The position of each new row. Decoders of one number read the first.
    pub(crate) positions: &'a [[i64; 3]],
    /// For how many of the last rows logits are wanted. Graphs that cannot be told decide themselves.
    pub(crate) logits: usize,
}

impl DecoderMap {
    /// The inputs that follow from `step` alone, by name.
    ///
    /// # Errors
    /// What making a tensor gives.
    pub(crate) fn feed(&self, step: &Step<'_>) -> Result<Vec<(&str, Tensor)>> {
        let mut fed = Vec::with_capacity(4);
        for Input { port, source } in &self.inputs {
            if let Some(tensor) = derived(port, source, step)? {
                fed.push((port.name.as_str(), tensor));
            }
        }
        Ok(fed)
    }
}

/// What `port` reads in `step`; `None` where that does not follow from the step.
pub(super) fn derived(port: &Port, source: &Source, step: &Step<'_>) -> Result<Option<Tensor>> {
    let rows = step.positions.len();
    Ok(Some(match source {
        Source::AttentionMask => ones(port.dtype, step.past + rows)?,
        Source::Positions(1) => {
            let positions = step.positions.iter().map(|position| position[0]);
            whole(port.dtype, &[1, rows], positions)?
        }
        Source::Positions(numbers) => {
            let positions = (0..*numbers).flat_map(|axis| {
                let positions = step.positions.iter();
                positions.map(move |position| position[axis.min(2)])
            });
            whole(port.dtype, &[*numbers, 1, rows], positions)?
        }
        Source::CacheBranch => {
            let mut flag = Tensor::zeros(DType::Bool, &single(port))?;
            flag.as_mut_slice::<u8>()?.fill(u8::from(step.past > 0));
            flag
        }
        Source::LogitsToKeep => {
            let count = std::iter::once(step.logits as i64);
            whole(port.dtype, &single(port), count)?
        }
        Source::Constant(value, shape) => constant::tensor(port.dtype, shape, value)?,
        Source::TokenIds
        | Source::Embeddings
        | Source::EncoderStates
        | Source::EncoderMask
        | Source::Past
        | Source::CrossPast => return Ok(None),
    }))
}

/// The shape of a port that holds one number.
fn single(port: &Port) -> Vec<usize> {
    vec![1; port.shape.len()]
}

/// A mask of [1, `count`] that hides nothing.
pub(super) fn ones(dtype: DType, count: usize) -> Result<Tensor> {
    whole(dtype, &[1, count], std::iter::repeat_n(1, count))
}

/// A tensor of whole numbers, i64 or i32.
pub(crate) fn whole(
    dtype: DType,
    shape: &[usize],
    values: impl Iterator<Item = i64>,
) -> Result<Tensor> {
    match dtype {
        DType::I32 => Tensor::from_vec(shape, values.map(|value| value as i32).collect()),
        _ => Tensor::from_vec(shape, values.collect::<Vec<i64>>()),
    }
}
