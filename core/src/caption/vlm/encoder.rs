//! The encoder of an encoder-decoder model: pictures' rows and a prompt's embeddings in, the states that the decoder attends to
//! out.

use crate::control::Control;
use crate::decoder::whole;
use crate::error::{Error, ErrorKind, Result};
use crate::features::FeatureMap;
use crate::module::{Lease, Registry};
use crate::ort::{DType, Port, RunArgs, Tensor};

/// Runs the encoder. Loads nothing until it is used; may be used from any thread.
#[derive(Debug)]
pub(super) struct Encoder {
    registry: Registry,
    id: String,
}

impl Encoder {
    /// The encoder in module `id`.
    pub(super) fn new(registry: &Registry, id: &str) -> Self {
        Self {
            registry: registry.clone(),
            id: id.to_owned(),
        }
    }

    /// Its module.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// What it reads: the embeddings `words` of `ids` with `rows` in place of each `marker`, or after the rows if there is no
    /// marker.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] if rows and embeddings are of different width; [`ErrorKind::BadPack`] if the prompt has another
    /// number of markers than there are rows.
    pub(super) fn input(
        &self,
        ids: &[u32],
        marker: Option<u32>,
        rows: &FeatureMap,
        mut words: FeatureMap,
    ) -> Result<FeatureMap> {
        if words.rows > 0 && words.dim != rows.dim {
            let what = format!(
                "rows of features are {} wide, but embeddings of tokens {}",
                rows.dim, words.dim
            );
            return Err(Error::new(ErrorKind::BadModel, what)
                .remedy("name the module between them in captioner.connector in pack.toml"));
        }
        let Some(marker) = marker else {
            let mut all = rows.clone();
            all.rows += words.rows;
            all.data.append(&mut words.data);
            return Ok(all);
        };
        let places = ids.iter().filter(|id| **id == marker).count();
        if places != rows.rows {
            let what = format!(
                "the prompt has {places} places for rows of features, but there are {} rows",
                rows.rows
            );
            return Err(Error::new(ErrorKind::BadPack, what).remedy(
                "captioner.files.image_prompt must write the image token once for each row of a picture",
            ));
        }
        let mut next = rows.data.chunks_exact(rows.dim.max(1));
        for (place, id) in words.data.chunks_exact_mut(rows.dim.max(1)).zip(ids) {
            if *id == marker
                && let Some(row) = next.next()
            {
                place.copy_from_slice(row);
            }
        }
        Ok(words)
    }

    /// The states of `input`.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] naming a port that does not fit; [`ErrorKind::Inference`]; cancel and deadline; what loading the
    /// module returns.
    pub(super) fn run(&self, input: &FeatureMap, control: &Control) -> Result<FeatureMap> {
        let lease = self.registry.lease_with(&self.id, control)?;
        let mut given = Vec::new();
        for port in lease.inputs() {
            given.push((port.name.as_str(), self.tensor(port, input)?));
        }
        if !given.iter().any(|(_, tensor)| tensor.shape().len() == 3) {
            return Err(self.bad("it has no input of rows of embeddings, [1, length, width]"));
        }
        let output = self.output(&lease)?;
        let outputs = lease.step(control)?.run(RunArgs {
            inputs: given.iter().map(|(name, tensor)| (*name, tensor)).collect(),
            outputs: vec![output],
            in_place: Vec::new(),
            cancel: Some(&control.cancel),
            deadline: control.deadline,
        })?;
        let states = outputs.first();
        match states.map(|tensor| (tensor, tensor.shape())) {
            Some((tensor, shape)) if shape.len() == 3 && shape[0] == 1 && shape[1] > 0 => {
                Ok(FeatureMap::of_one(shape[1], shape[2], tensor.to_f32s()?))
            }
            other => Err(Error::new(
                ErrorKind::Inference,
                format!(
                    "encoder {:?}: output {output:?} is {other:?}, expected [1, length, width]",
                    self.id
                ),
            )),
        }
    }

    /// What `port` reads: the rows, or a mask of ones.
    fn tensor(&self, port: &Port, input: &FeatureMap) -> Result<Tensor> {
        let (rows, dim) = (input.rows, input.dim);
        match (port.dtype, port.shape.len()) {
            (DType::F32, 3) => Tensor::from_vec(&[1, rows, dim], input.data.clone()),
            (DType::F16, 3) => {
                let halves = input.data.iter().copied().map(half::f16::from_f32);
                Tensor::from_vec(&[1, rows, dim], halves.collect::<Vec<_>>())
            }
            (DType::I64 | DType::I32, 2) => {
                whole(port.dtype, &[1, rows], std::iter::repeat_n(1, rows))
            }
            _ => Err(self
                .bad(&format!(
                    "it has an input {:?} that Atom does not know how to feed",
                    port.name
                ))
                .remedy("an encoder reads rows of embeddings, f32 or f16, and an i64 or i32 mask")),
        }
    }

    /// The output that holds the states: the one called `last_hidden_state`, or the first.
    fn output<'a>(&self, lease: &'a Lease) -> Result<&'a str> {
        let outputs = lease.outputs();
        let named = outputs.iter().find(|port| port.name == "last_hidden_state");
        match named.or(outputs.first()) {
            Some(port) => Ok(&port.name),
            None => Err(self.bad("it has no output")),
        }
    }

    fn bad(&self, what: &str) -> Error {
        Error::new(
            ErrorKind::BadModel,
            format!("encoder {:?}: {what}", self.id),
        )
    }
}
