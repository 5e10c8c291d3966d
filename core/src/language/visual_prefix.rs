//! Pictures in a decoder's prompt: rows of visual features in the place of a marker token.

use std::ops::ControlFlow;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::say::{chosen, ended_early, harmless};
use super::{GenerateOptions, Generated, Generation, LanguageModel, Message, Part};
use crate::control::{Control, TextOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::features::{FeatureMap, Features};
use crate::identity::Canonical;
use crate::module::Registry;
use crate::ort::{DType, RunArgs, Tensor};
use crate::pack::{Forms, LanguageTask, ModuleKind};

/// A decoder of `inputs_embeds`, the connector that feeds it, and the prompt of one task. Loads nothing until it is
/// used; may be used from any thread.
#[derive(Debug)]
pub struct VisualPrefix {
    registry: Registry,
    model: Arc<LanguageModel>,
    connector: Option<String>,
    /// The connector's identity, to be gone on with.
    identity: Sha256,
    image_token: String,
    prompt: String,
}

impl VisualPrefix {
    /// Reads the task's keys of `mode = "prefix"`; `model` is its decoder with its token embedding.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] when a key is missing, the image token is none of the tokenizer's, or a module is of
    /// another kind; as [`LanguageModel::new`].
    pub fn new(
        registry: &Registry,
        task: &LanguageTask,
        model: Arc<LanguageModel>,
    ) -> Result<Self> {
        let missing = |key: &str| {
            Error::new(ErrorKind::BadPack, format!("mode = \"prefix\" needs {key}"))
                .remedy("add it to the task's table in pack.toml")
        };
        if task.token_embedding.is_none() {
            return Err(missing("token_embedding"));
        }
        let image_token = task
            .image_token
            .clone()
            .ok_or_else(|| missing("image_token"))?;
        let prompt = task.prompt.clone().ok_or_else(|| missing("prompt"))?;
        if model.tokenizer().token_to_id(&image_token).is_none() {
            let message = format!("image_token {image_token:?} is not one token of the tokenizer");
            return Err(Error::new(ErrorKind::BadPack, message));
        }
        let mut identity = Sha256::new();
        if let Some(id) = &task.connector {
            let module = registry.pack().module(id)?;
            let connector = module.computation(Forms::All);
            identity.update(Canonical::of("atom.connector", 1, connector).finish().0);
            let kind = module.kind;
            if kind != ModuleKind::Connector {
                let message = format!("module {id:?} is a {}, not a connector", kind.name());
                return Err(Error::new(ErrorKind::BadPack, message));
            }
        }
        Ok(Self {
            registry: registry.clone(),
            model,
            connector: task.connector.clone(),
            identity,
            image_token,
            prompt,
        })
    }

    /// The decoder.
    pub fn model(&self) -> &LanguageModel {
        &self.model
    }

    /// Starts a generation on the task's prompt with the pictures in place: one after another where the image token
    /// stands. `question` takes the place of `{}` in the prompt. There is room for `max_tokens` more, as far as the
    /// context allows.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for features without a map, [`ErrorKind::BadPack`] when the chat template drops or
    /// repeats the image token, [`ErrorKind::BadModel`] or [`ErrorKind::Inference`] for a connector that does not fit;
    /// and as [`Generation::feed_embeds`].
    pub fn start(
        &self,
        frames: &[&Features],
        question: Option<&str>,
        max_tokens: usize,
        control: &Control,
    ) -> Result<Generation> {
        let text = match question {
            // The marker is the pack's alone.
            Some(question) => {
                let question = harmless(question).replace(&self.image_token, " ");
                self.prompt.replacen("{}", &question, 1)
            }
            None => self.prompt.clone(),
        };
        let ids = self.model.prompt(&[Message::user(text)])?;
        let marker = self.model.tokenizer().token_to_id(&self.image_token);
        let mut places = (0..ids.len()).filter(|at| Some(ids[*at]) == marker);
        let (Some(place), None) = (places.next(), places.next()) else {
            let message = format!(
                "the prompt does not have {:?} exactly once",
                self.image_token
            );
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
        self.model.begin(&parts, max_tokens, control)
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

    /// Continues the task's prompt freely, or with the likeliest of `options.choices` when there are any.
    ///
    /// # Errors
    /// As [`start`](Self::start); [`ErrorKind::InvalidArgument`] without frames or for `max_tokens` of 0. Cancel and
    /// deadline are no errors: the text so far comes back with that reason.
    pub fn say(
        &self,
        frames: &[&Features],
        question: Option<&str>,
        options: &TextOptions,
        control: &Control,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated> {
        options.check()?;
        if frames.is_empty() {
            let message = "no features to speak of: the segment has no keyframe";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let mut go = || {
            let mut generation = self.start(frames, question, options.max_tokens, control)?;
            if !options.choices.is_empty() {
                return chosen(&mut generation, &options.choices, control, on_text);
            }
            let room = self.model.context().saturating_sub(generation.position());
            let options = GenerateOptions {
                max_tokens: options.max_tokens.min(room),
                ..GenerateOptions::default()
            };
            generation.generate(&options, control, on_text)
        };
        go().or_else(ended_early)
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
        })
    }
}
