//! Outputs of visual encoders to vectors and rows.

use crate::error::{Error, ErrorKind, Result};
use crate::ort::Tensor;

/// Rows that an encoder made, run after run.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) count: usize,
    pub(super) dim: usize,
    pub(super) data: Vec<f32>,
}

impl Rows {
    /// Adds an output for `pictures` pictures: `[pictures, R, D]`, `[1, rows, D]`, `[1, pictures, R, D]` or `[rows, D]`.
    ///
    /// # Errors
    /// [`ErrorKind::Inference`] for another shape and for values that are not finite.
    pub(super) fn add(&mut self, tensor: &Tensor, pictures: usize) -> Result<()> {
        let shape = tensor.shape();
        let (rows, dim) = match shape[..] {
            [rows, dim] => (rows, dim),
            [batch, rows, dim] if batch == pictures => (batch * rows, dim),
            [1, rows, dim] => (rows, dim),
            [1, batch, rows, dim] if batch == pictures => (batch * rows, dim),
            _ => (0, 0),
        };
        let fits = rows > 0 && dim > 0 && rows.is_multiple_of(pictures);
        if !fits || (self.dim != 0 && dim != self.dim) {
            return Err(Error::new(
                ErrorKind::Inference,
                format!("has shape {shape:?} for {pictures} pictures"),
            ));
        }
        let values = tensor.to_f32s()?;
        finite(&values)?;
        self.data.extend(values);
        self.count += rows;
        self.dim = dim;
        Ok(())
    }

    /// The one vector there is.
    ///
    /// # Errors
    /// [`ErrorKind::Inference`] for several.
    pub(super) fn single(self) -> Result<Vec<f32>> {
        match self.count {
            1 => Ok(self.data),
            count => Err(Error::new(
                ErrorKind::Inference,
                format!("holds {count} vectors, and one is needed"),
            )),
        }
    }
}

/// The mean over the views of `[views, D]` or `[views, 1, D]`.
///
/// # Errors
/// [`ErrorKind::Inference`] for another shape and for values that are not finite.
pub(super) fn average(tensor: &Tensor, views: usize) -> Result<Vec<f32>> {
    let values = tensor.to_f32s()?;
    match tensor.shape()[..] {
        [batch, dim] | [batch, 1, dim] if batch == views && dim > 0 => {}
        _ => return Err(misfit(tensor, views)),
    }
    finite(&values)?;
    let mut views_of = values.chunks_exact(values.len() / views);
    let mut mean = views_of.next().map(<[f32]>::to_vec).unwrap_or_default();
    for view in views_of {
        mean.iter_mut().zip(view).for_each(|(sum, v)| *sum += v);
    }
    mean.iter_mut().for_each(|sum| *sum /= views as f32);
    Ok(mean)
}

/// The rows of the first view of `[views, N, D]`, and their number.
///
/// # Errors
/// As [`average`].
pub(super) fn first_view(tensor: &Tensor, views: usize) -> Result<(usize, Vec<f32>)> {
    let mut values = tensor.to_f32s()?;
    let rows = match tensor.shape()[..] {
        [batch, rows, dim] if batch == views && rows * dim > 0 => rows,
        _ => return Err(misfit(tensor, views)),
    };
    finite(&values)?;
    values.truncate(values.len() / views);
    Ok((rows, values))
}

fn misfit(tensor: &Tensor, views: usize) -> Error {
    Error::new(
        ErrorKind::Inference,
        format!("has shape {:?} for {views} views", tensor.shape()),
    )
}

fn finite(values: &[f32]) -> Result<()> {
    match values.iter().all(|v| v.is_finite()) {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Inference,
            "holds NaN or infinite values",
        )),
    }
}

/// `vector` at length 1.
///
/// # Errors
/// [`ErrorKind::Inference`] for a vector of length 0.
pub(super) fn normalised(mut vector: Vec<f32>) -> Result<Vec<f32>> {
    let squares: f64 = vector.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let norm = squares.sqrt();
    if norm < 1e-12 {
        return Err(Error::new(ErrorKind::Inference, "is a zero vector"));
    }
    for value in &mut vector {
        *value = (f64::from(*value) / norm) as f32;
    }
    Ok(vector)
}
