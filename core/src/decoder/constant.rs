//! Inputs with a fixed value: `[module.decoder.constants]`.

use half::f16;

use super::shape::shown;
use crate::error::Result;
use crate::ort::{DType, Dim, Port, Tensor};
use crate::pack::{Constant, Scalar};

/// Most elements of a constant.
const LARGEST: usize = 1 << 20;

/// The shape of `value` for `port`: its fixed dimensions, and 1 for the batch. The last open dimension takes the length of a
/// list.
///
/// # Errors
/// Why the port cannot read the value.
pub(super) fn shape(port: &Port, value: &Constant) -> Result<Vec<usize>, String> {
    let sizes = port.shape.iter().map(|dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbolic(_) => 1,
    });
    let mut shape: Vec<usize> = sizes.collect();
    let open = |dim: &Dim| matches!(dim, Dim::Symbolic(_));
    let (ports, last) = (shown(&port.shape), port.shape.iter().rposition(open));
    let fixed = shape
        .iter()
        .try_fold(1_usize, |n, size| n.checked_mul(*size));
    let fixed = fixed.filter(|count| (1..=LARGEST).contains(count));
    let fixed = fixed.ok_or_else(|| format!("the port's shape, {ports}, is empty or too large"))?;
    match (value, last) {
        (Constant::One(_), Some(axis)) if axis > 0 => {
            return Err(format!("the port's shape, {ports}, is open; give a list"));
        }
        (Constant::Each(scalars), Some(axis)) => shape[axis] = (scalars.len() / fixed).max(1),
        _ => {}
    }
    match unfit(port.dtype, &shape, value) {
        Some(why) => Err(format!("the port is {} {ports}: {why}", port.dtype)),
        None => Ok(shape),
    }
}

/// Why a port of this type and shape cannot read `value`, if it cannot.
fn unfit(dtype: DType, shape: &[usize], value: &Constant) -> Option<String> {
    let elements: usize = shape.iter().product();
    if let Constant::Each(scalars) = value
        && scalars.len() != elements
    {
        return Some(format!("{} numbers for {elements} elements", scalars.len()));
    }
    let range = match dtype {
        DType::U8 => Some(0..=i64::from(u8::MAX)),
        DType::I8 => Some(i64::from(i8::MIN)..=i64::from(i8::MAX)),
        DType::I32 => Some(i64::from(i32::MIN)..=i64::from(i32::MAX)),
        DType::I64 => Some(i64::MIN..=i64::MAX),
        // Whole numbers beyond these are not exact as floats.
        DType::F32 => Some(-(1 << 24)..=1 << 24),
        DType::F16 => Some(-(1 << 11)..=1 << 11),
        DType::Bool => None,
    };
    let float = matches!(dtype, DType::F32 | DType::F16);
    let fits = |scalar: &Scalar| match scalar {
        Scalar::Flag(_) => dtype == DType::Bool,
        Scalar::Whole(number) => range.as_ref().is_some_and(|range| range.contains(number)),
        Scalar::Number(number) => float && narrowed(dtype, *number).is_finite(),
    };
    let wrong = value.scalars().iter().find(|scalar| !fits(scalar))?;
    Some(match wrong {
        Scalar::Flag(flag) => format!("{flag} is no {dtype}"),
        Scalar::Whole(number) => format!("{number} is no {dtype}"),
        Scalar::Number(number) => format!("{number} is no {dtype}"),
    })
}

fn narrowed(dtype: DType, number: f64) -> f64 {
    match dtype {
        DType::F16 => f16::from_f64(number).to_f64(),
        _ => f64::from(number as f32),
    }
}

/// A tensor of `value`, in the [`shape`] that its port has for it.
pub(super) fn tensor(dtype: DType, shape: &[usize], value: &Constant) -> Result<Tensor> {
    let count = shape.iter().product();
    let scalars = value.scalars().iter().cycle().take(count);
    let bytes: Vec<u8> = scalars.flat_map(|scalar| element(dtype, *scalar)).collect();
    Tensor::from_bytes(dtype, shape, &bytes)
}

fn element(dtype: DType, scalar: Scalar) -> Vec<u8> {
    let (whole, number) = match scalar {
        Scalar::Flag(flag) => (i64::from(flag), f64::from(u8::from(flag))),
        Scalar::Whole(whole) => (whole, whole as f64),
        Scalar::Number(number) => (number as i64, number),
    };
    match dtype {
        DType::F32 => (number as f32).to_le_bytes().to_vec(),
        DType::F16 => f16::from_f64(number).to_le_bytes().to_vec(),
        DType::I64 => whole.to_le_bytes().to_vec(),
        DType::I32 => (whole as i32).to_le_bytes().to_vec(),
        DType::U8 | DType::I8 | DType::Bool => vec![whole as u8],
    }
}
