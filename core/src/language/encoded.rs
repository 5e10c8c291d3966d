//! The encoder's side of an encoder-decoder model: the encoder's output, and the keys and values that the first step computes
//! from it.

use std::sync::{Arc, OnceLock};

use half::f16;

use super::kv::{by_layer, next_owner};
use crate::budget::{Charge, Ledger, WaitPolicy};
use crate::decoder::{DecoderMap, Source, whole, width};
use crate::error::{Error, ErrorKind, Result};
use crate::features::FeatureMap;
use crate::ort::{DType, Dim, Port, RunArgs, Tensor};

/// What every step of a generation reads of an encoder's output. Forks share it.
#[derive(Debug)]
pub(super) struct Encoded {
    map: Arc<DecoderMap>,
    states: Tensor,
    mask: Option<Tensor>,
    rows: usize,
    /// Past keys and values of the first step.
    empty: Tensor,
    /// Key and value of each layer, set by the first step. Never set if the graph has no ports for them.
    cross: OnceLock<Vec<[Tensor; 2]>>,
    charge: Charge,
}

impl Encoded {
    /// Prepares `output` for the decoder of `map`. Waits with `wait` for its memory and that of the keys and values to come.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a decoder that reads no encoder's output; [`ErrorKind::InvalidArgument`] for an output
    /// that does not fit its port; [`ErrorKind::OutOfBudget`].
    pub(super) fn new(
        map: &Arc<DecoderMap>,
        output: &FeatureMap,
        ledger: &Ledger,
        wait: &WaitPolicy<'_>,
    ) -> Result<Self> {
        let Some(port) = map.input(&Source::EncoderStates) else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the decoder reads no encoder's output",
            )
            .remedy("feed what it is to see as rows of embeddings"));
        };
        check(port, output)?;
        let (rows, shape) = (output.rows, [1, output.rows, output.dim]);
        let mask = map.input(&Source::EncoderMask);
        let mask_bytes = mask.map_or(0, |port| rows * port.dtype.size());
        let own = output.data.len() * port.dtype.size() + mask_bytes;
        let cross = map.cross_bytes(rows);
        let bytes = (own as u64).saturating_add(cross);
        let charge = ledger.charge(next_owner(), 0, 0)?;
        charge.resize_with(bytes, 0, wait)?;
        let states = match port.dtype {
            DType::F16 => {
                let halves = output.data.iter().copied().map(f16::from_f32).collect();
                Tensor::from_vec::<f16>(&shape, halves)?
            }
            _ => Tensor::from_vec(&shape, output.data.clone())?,
        };
        let mask = mask.map(|port| whole(port.dtype, &[1, rows], std::iter::repeat_n(1, rows)));
        let encoded = Self {
            map: Arc::clone(map),
            states,
            mask: mask.transpose()?,
            rows,
            empty: Tensor::zeros(map.spec().kv_dtype, &map.cache_shape(0))?,
            cross: OnceLock::new(),
            charge,
        };
        encoded.charge.set_pending(cross);
        Ok(encoded)
    }

    /// Adds the encoder's ports to a run; `first` says that it is a first step. While keys and values are not set, they are
    /// appended to the run's outputs.
    pub(super) fn bind<'a>(&'a self, first: bool, args: &mut RunArgs<'a>) {
        if let Some(port) = self.map.input(&Source::EncoderStates) {
            args.inputs.push((&port.name, &self.states));
        }
        if let (Some(port), Some(mask)) = (self.map.input(&Source::EncoderMask), &self.mask) {
            args.inputs.push((&port.name, mask));
        }
        let made = self.cross.get();
        for (layer, names) in self.map.cross().iter().enumerate() {
            for part in 0..2 {
                let known = made.filter(|_| !first).map(|made| &made[layer][part]);
                args.inputs
                    .push((&names.past[part], known.unwrap_or(&self.empty)));
                if made.is_none() {
                    args.outputs.push(&names.present[part]);
                }
            }
        }
    }

    /// How many outputs [`bind`](Self::bind) appends.
    pub(super) fn awaited(&self) -> usize {
        match self.cross.get() {
            Some(_) => 0,
            None => self.map.cross().len() * 2,
        }
    }

    /// Sets the keys and values that the first step returned, in the order of [`bind`](Self::bind).
    ///
    /// # Errors
    /// [`ErrorKind::Inference`] for tensors of another shape or type.
    pub(super) fn commit(&self, returned: Vec<Tensor>) -> Result<()> {
        let layers = self.map.cross().len();
        if layers > 0 && self.cross.get().is_none() {
            let made = by_layer(&self.map, layers, self.rows, returned)?;
            // A fork may have set the same values meanwhile.
            let _ = self.cross.set(made);
            self.charge.set_pending(0);
        }
        Ok(())
    }

    /// Bytes charged to the ledger.
    pub(super) fn bytes(&self) -> u64 {
        self.charge.bytes().0
    }
}

/// Whether `output` fits the port that reads it.
fn check(port: &Port, output: &FeatureMap) -> Result<()> {
    let (rows, dim) = (output.rows, output.dim);
    let bad = |what: String| {
        let message = format!("an encoder's output for port {:?}: {what}", port.name);
        Err(Error::new(ErrorKind::InvalidArgument, message))
    };
    if rows == 0 || rows.checked_mul(dim) != Some(output.data.len()) {
        return bad(format!(
            "{} values are not {rows} rows of {dim}",
            output.data.len()
        ));
    }
    if width(port).is_some_and(|width| width != dim) {
        return bad(format!(
            "rows of {dim}, but the port's are of {:?}",
            width(port)
        ));
    }
    if let Some(Dim::Fixed(fixed)) = port.shape.get(1)
        && *fixed != rows
    {
        return bad(format!("{rows} rows, but the port has {fixed}"));
    }
    if output.data.iter().any(|value| !value.is_finite()) {
        return bad("it holds a number that is not finite".to_owned());
    }
    Ok(())
}
