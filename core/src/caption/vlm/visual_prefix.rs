//! Pictures in a decoder's prompt: rows of visual features in place of a marker token.

use sha2::{Digest, Sha256};

use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::features::{FeatureMap, Features};
use crate::identity::Canonical;
use crate::language::{Generation, LanguageModel, Message, Part};
use crate::module::Registry;
use crate::ort::{DType, RunArgs, Tensor};
use crate::pack::Forms;

/// Puts features into prompts, through the connector if the pack has one. Loads nothing until it is used; may be used from any
/// thread.
#[derive(Debug)]
pub(super) struct VisualPrefix {
    registry: Registry,
    connector: Option<String>,
    /// Hash state after the connector's identity.
    identity: Sha256,
    image_token: String,
}

impl VisualPrefix {
    /// A prefix whose place in prompts `image_token` marks.
    ///
    /// # Errors
    /// As [`Pack::module`](crate::pack::Pack::module) for the connector.
    pub(super) fn new(
        registry: &Registry,
        connector: Option<&str>,
        image_token: &str,
    ) -> Result<Self> {
        let mut identity = Sha256::new();
        if let Some(id) = connector {
            let connector = registry.pack().module(id)?.computation(Forms::All);
            identity.update(
                Canonical::of("atom.connector", 1, connector)
                    .finish()
                    .as_bytes(),
            );
        }
        Ok(Self {
            registry: registry.clone(),
            connector: connector.map(str::to_owned),
            identity,
            image_token: image_token.to_owned(),
        })
    }

    /// The connector's module.
    pub(super) fn connector(&self) -> Option<&str> {
        self.connector.as_deref()
    }

    /// Starts a generation of `model` on `prompt` with the frames' rows, one frame after another, in place of the image token.
    /// There is room for `max_tokens` more, as far as the context allows.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for features without a map, [`ErrorKind::BadPack`] if the image token is not one token or the
    /// chat template drops or repeats it, [`ErrorKind::BadModel`] or [`ErrorKind::Inference`] for a connector that does not fit,
    /// and as [`Generation::feed_embeds`].
    pub(super) fn start(
        &self,
        model: &LanguageModel,
        prompt: &str,
        frames: &[&Features],
        max_tokens: usize,
        control: &Control,
    ) -> Result<Generation> {
        let image_token = &self.image_token;
        let Some(marker) = model.tokenizer().token_to_id(image_token) else {
            let message = format!("image_token {image_token:?} is not one token of the tokenizer");
            return Err(Error::new(ErrorKind::BadPack, message));
        };
        let ids = model.prompt(&[Message::user(prompt)])?;
        let mut places = (0..ids.len()).filter(|at| ids[*at] == marker);
        let (Some(place), None) = (places.next(), places.next()) else {
            let message = format!("the prompt does not have {image_token:?} exactly once");
            return Err(Error::new(ErrorKind::BadPack, message)
                .remedy("keep it apart from other words in pack.toml and in the chat template"));
        };
        let make: Vec<_> = frames
            .iter()
            .map(|frame| || self.rows(&frame.map, control))
            .collect();
        let mut parts = vec![Part::Ids(&ids[..place])];
        for (frame, make) in frames.iter().zip(&make) {
            parts.push(Part::Rows {
                identity: self.identity(&frame.map),
                make,
            });
        }
        parts.push(Part::Ids(&ids[place + 1..]));
        model.begin(&parts, max_tokens, control)
    }

    /// A hash of what a picture's rows depend on.
    fn identity(&self, map: &FeatureMap) -> [u8; 32] {
        let mut hash = self.identity.clone();
        for number in [map.rows, map.dim] {
            hash.update((number as u64).to_le_bytes());
        }
        for value in &map.data {
            hash.update(value.to_le_bytes());
        }
        hash.finalize().into()
    }

    /// A picture's rows for the decoder.
    fn rows(&self, map: &FeatureMap, control: &Control) -> Result<FeatureMap> {
        let size = map.rows.checked_mul(map.dim);
        if map.data.is_empty() || size != Some(map.data.len()) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the features hold no map for a connector to read",
            )
            .remedy(
                "declare an output with role = \"features\" in the visual encoder, and index again",
            ));
        }
        let Some(id) = &self.connector else {
            return Ok(map.clone());
        };
        let misfit =
            |what: String| Error::new(ErrorKind::BadModel, format!("connector {id:?}: {what}"));
        let lease = self.registry.lease_with(id, control)?;
        let (input, output) = match (lease.inputs(), lease.outputs()) {
            ([input], [output, ..]) => (input.clone(), output.name.clone()),
            (inputs, outputs) => {
                let what = format!(
                    "{} inputs and {} outputs, not one",
                    inputs.len(),
                    outputs.len()
                );
                return Err(misfit(what));
            }
        };
        let shape: &[usize] = match input.shape.len() {
            3 => &[1, map.rows, map.dim],
            2 if map.rows == 1 => &[1, map.dim],
            rank => {
                let what = format!(
                    "input {:?} of rank {rank} for {} rows",
                    input.name, map.rows
                );
                return Err(misfit(what));
            }
        };
        let features = Tensor::from_vec(shape, map.data.clone())?;
        let mut outputs = lease.step(control)?.run(RunArgs {
            inputs: vec![(input.name.as_str(), &features)],
            outputs: vec![output.as_str()],
            in_place: Vec::new(),
            cancel: Some(&control.cancel),
            deadline: control.deadline,
        })?;
        let made = outputs.pop().ok_or_else(|| misfit("no output".into()))?;
        if made.dtype() != DType::F32 {
            return Err(misfit(format!("output {output:?} is not f32")));
        }
        let (rows, dim) = match made.shape().as_slice() {
            [1, dim] => (1, *dim),
            [1, rows, dim] => (*rows, *dim),
            shape => return Err(misfit(format!("output {output:?} of shape {shape:?}"))),
        };
        Ok(FeatureMap {
            rows,
            dim,
            data: made.as_slice::<f32>()?.to_vec(),
            grid: map.grid,
            pictures: map.pictures,
        })
    }
}
