//! The inputs of one step that follow from its positions: masks, positions, flags, constants. The caller adds the new rows, the
//! cache and the encoder's output.

use super::{DecoderMap, Input, Source, constant};
use crate::error::Result;
use crate::ort::{DType, Port, Tensor};

/// One step as a decoder sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<'a> {
    /// Positions so far.
    pub(crate) past: usize,
    /// The position of each new row. A decoder of one coordinate reads the first.
    pub(crate) positions: &'a [[i64; 3]],
    /// How many of the last rows get logits, if the graph has an input for it.
    pub(crate) logits: usize,
}

impl DecoderMap {
    /// Name and tensor of every input that follows from `step`.
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

/// The tensor of an input in `step`; `None` if it does not follow from the step.
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

/// A mask of [1, `count`] ones.
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
