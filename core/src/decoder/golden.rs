//! The inputs of a golden run of a decoder: those its files give, and those that follow from them.

use std::collections::HashMap;

use super::feed::{derived, ones};
use super::{DecoderMap, Input, LayerPorts, Source, Step, width};
use crate::error::{Error, ErrorKind, Result};
use crate::ort::{DType, Port, Tensor};

/// Count of new rows, count of an encoder's rows, and an open width, if no file gives them.
const MADE_UP: usize = 4;

impl DecoderMap {
    /// Name and tensor of every input, in the graph's order: the tensors `given` by name, and those that follow from them. If keys
    /// and values are given, the run follows their positions; otherwise it is a first step. If nothing is given, the new rows and
    /// the encoder's output are made up.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] naming the port: two given tensors contradict each other, or an input is neither given nor follows
    /// from those that are.
    pub(crate) fn complete(
        &self,
        mut given: HashMap<String, Tensor>,
    ) -> Result<Vec<(String, Tensor)>> {
        let made_up = given.is_empty();
        let lengths = Lengths::of(self, &given)?;
        let first = i64::from(self.spec.first_position);
        let positions: Vec<[i64; 3]> = (lengths.past..lengths.past + lengths.rows)
            .map(|position| [first + position as i64; 3])
            .collect();
        let step = Step {
            past: lengths.past,
            positions: &positions,
            logits: 1,
        };
        self.inputs
            .iter()
            .map(|Input { port, source }| {
                let tensor = match given.remove(&port.name) {
                    Some(tensor) => tensor,
                    None => match derived(port, source, &step)? {
                        Some(tensor) => tensor,
                        None => self.missing(port, source, &lengths, made_up)?,
                    },
                };
                Ok((port.name.clone(), tensor))
            })
            .collect()
    }

    /// The tensor of an input that was not given and does not follow from the step.
    fn missing(
        &self,
        port: &Port,
        source: &Source,
        lengths: &Lengths,
        made_up: bool,
    ) -> Result<Tensor> {
        let wide = || width(port).unwrap_or(MADE_UP);
        match source {
            Source::Past if lengths.past == 0 => Tensor::zeros(port.dtype, &self.cache_shape(0)),
            Source::CrossPast if lengths.past == 0 => Tensor::zeros(port.dtype, &self.cache_shape(0)),
            Source::EncoderMask => ones(port.dtype, lengths.encoder),
            Source::TokenIds if made_up => {
                let id = usize::from(self.spec.vocab > 1) as i64;
                super::whole(port.dtype, &[1, lengths.rows], std::iter::repeat_n(id, lengths.rows))
            }
            Source::Embeddings if made_up => waves(port.dtype, &[1, lengths.rows, wide()]),
            Source::EncoderStates if made_up => waves(port.dtype, &[1, lengths.encoder, wide()]),
            _ => Err(self
                .bad(format_args!("[module.golden] does not give its input {:?}, which does not follow from the others", port.name))
                .remedy("add it to golden.inputs")),
        }
    }
}

/// Lengths that given tensors set.
struct Lengths {
    /// New rows.
    rows: usize,
    /// Positions so far.
    past: usize,
    /// Rows of the encoder's output.
    encoder: usize,
}

impl Lengths {
    /// The lengths in the `given` tensors.
    fn of(map: &DecoderMap, given: &HashMap<String, Tensor>) -> Result<Self> {
        let mut lengths = Self {
            rows: MADE_UP,
            past: 0,
            encoder: MADE_UP,
        };
        for source in [Source::EncoderMask, Source::EncoderStates] {
            let tensor = map.input(&source).and_then(|port| given.get(&port.name));
            if let Some(tensor) = tensor {
                lengths.encoder = length(map, tensor, 1)?;
            }
        }
        if let Some(tensor) = given.get(map.rows().0) {
            lengths.rows = length(map, tensor, 1)?;
        }
        let mut past = None;
        for name in map.layers.iter().flat_map(|layer: &LayerPorts| &layer.past) {
            let Some(tensor) = given.get(name) else {
                continue;
            };
            let own = length(map, tensor, 2)?;
            if *past.get_or_insert(own) != own {
                return Err(map
                    .bad(format_args!(
                        "[module.golden] gives {name:?} another length than the caches before it"
                    ))
                    .remedy("give all keys and values the same length"));
            }
        }
        lengths.past = past.unwrap_or(0);
        Ok(lengths)
    }
}

/// Dimension `axis` of a given tensor.
fn length(map: &DecoderMap, tensor: &Tensor, axis: usize) -> Result<usize> {
    let shape = tensor.shape();
    shape.get(axis).copied().ok_or_else(|| {
        map.bad(format_args!(
            "[module.golden] gives an input of shape {shape:?}, which has too few dimensions"
        ))
    })
}

/// Small numbers of both signs.
fn waves(dtype: DType, shape: &[usize]) -> Result<Tensor> {
    let count = shape.iter().product();
    let wave = |i: usize| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.5;
    match dtype {
        DType::F16 => {
            let halves = (0..count).map(|i| half::f16::from_f32(wave(i)));
            Tensor::from_vec::<half::f16>(shape, halves.collect())
        }
        DType::F32 => Tensor::from_vec(shape, (0..count).map(wave).collect()),
        other => Err(Error::new(
            ErrorKind::Internal,
            format!("no made-up numbers of type {other}"),
        )),
    }
}
