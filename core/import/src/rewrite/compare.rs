//! Whether two graphs compute the same.

use std::fmt;

use atom_core::Result;
use atom_core::onnx::{ElementType, Model, Summary};
use atom_core::ort::{DType, Tensor};

/// How far results may part: as a fraction of the largest number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tolerance(f32);

impl Tolerance {
    /// What the order of sums changes in `graph`: little in 32 bits, more in 16; where activations are quantised as they
    /// come, a number that falls on the other side of a step changes all that follow.
    pub(crate) fn of(graph: &Model) -> Result<Self> {
        let summary = graph.inspect()?;
        let has = |name: &str| summary.operators.keys().any(|op| op.name == name);
        let quantised = ["DynamicQuantizeLinear", "QuantizeLinear"]
            .into_iter()
            .any(has);
        Ok(Self(match (quantised, in_halves(&summary)) {
            (true, _) => 0.1,
            (false, true) => 0.02,
            (false, false) => 1e-4,
        }))
    }
}

/// Whether weights of the graph are 16-bit floats.
pub(crate) fn in_halves(graph: &Summary) -> bool {
    let mut weights = graph.initializers.iter();
    weights.any(|weights| weights.element == Some(ElementType::FLOAT16))
}

/// Where results part.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Difference {
    pub(crate) output: String,
    pub(crate) largest: f32,
    pub(crate) allowed: f32,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} differs by {:.1e}, and {:.1e} is what rounding explains",
            self.output, self.largest, self.allowed
        )
    }
}

/// Holds `new` against `old`; `None` if they agree.
pub(crate) fn difference(
    output: &str,
    old: &Tensor,
    new: &Tensor,
    tolerance: Tolerance,
) -> Result<Option<Difference>> {
    let (largest, allowed) = largest_difference(old, new, tolerance)?;
    Ok((largest > allowed).then(|| Difference {
        output: output.to_owned(),
        largest,
        allowed,
    }))
}

/// The largest difference between numbers of `new` and `old`, and the one up to which they agree. Whole numbers and tensors of
/// other sizes agree or differ without end.
pub(crate) fn largest_difference(
    old: &Tensor,
    new: &Tensor,
    tolerance: Tolerance,
) -> Result<(f32, f32)> {
    let all_or_nothing = |equal| (if equal { 0.0 } else { f32::INFINITY }, 0.0);
    if old.shape() != new.shape() || old.dtype() != new.dtype() {
        return Ok(all_or_nothing(false));
    }
    match old.dtype() {
        DType::F32 | DType::F16 => {}
        DType::I64 => {
            return Ok(all_or_nothing(
                old.as_slice::<i64>()? == new.as_slice::<i64>()?,
            ));
        }
        DType::I32 => {
            return Ok(all_or_nothing(
                old.as_slice::<i32>()? == new.as_slice::<i32>()?,
            ));
        }
        DType::I8 => {
            return Ok(all_or_nothing(
                old.as_slice::<i8>()? == new.as_slice::<i8>()?,
            ));
        }
        DType::U8 | DType::Bool => {
            return Ok(all_or_nothing(
                old.as_slice::<u8>()? == new.as_slice::<u8>()?,
            ));
        }
    }
    let (old, new) = (old.to_f32s()?, new.to_f32s()?);
    let size = old.iter().fold(0.0_f32, |size, x| size.max(x.abs()));
    let mut largest = 0.0_f32;
    for (old, new) in old.iter().zip(&new) {
        // A number that is none agrees with nothing.
        let apart = (old - new).abs();
        largest = if apart.is_nan() {
            f32::INFINITY
        } else {
            largest.max(apart)
        };
    }
    Ok((largest, tolerance.0 * size))
}
