//! Words to a search vector.

use super::tokenizer::Tokenizer;
use crate::control::Control;
use crate::decoder::whole;
use crate::error::{Error, ErrorKind, Result};
use crate::module::{Lease, Registry};
use crate::ort::{DType, Dim, RunArgs, Tensor};
use crate::pack::{ModuleKind, Role, TokenizerSpec};
use crate::trace;

/// Longest text, in bytes. A query is a sentence; anything near this is a mistake of the caller.
pub const MAX_QUERY_BYTES: usize = 64 << 10;

/// A text encoder of a pack. May be used from any thread; encodings take turns on the module's one session. Making
/// one loads nothing.
#[derive(Debug, Clone)]
pub struct TextEncoder {
    registry: Registry,
    id: String,
    tokenizer: Tokenizer,
    /// What the manifest says of its words.
    words: TokenizerSpec,
    /// Name of the output that is the vector.
    output: String,
}

impl TextEncoder {
    /// The text encoder `module` of the registry's pack.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a module the pack lacks; [`ErrorKind::BadPack`] for one of another kind, without a
    /// tokenizer or an output of role `embedding`, or with an unreadable tokenizer.
    pub fn new(registry: &Registry, module: &str) -> Result<Self> {
        let pack = registry.pack();
        let spec = pack.module(module)?;
        let bad = |what: &str| {
            Error::new(
                ErrorKind::BadPack,
                format!("text encoder {module:?} {what}"),
            )
        };
        if spec.kind != ModuleKind::TextEncoder {
            return Err(bad(&format!("is a {}", spec.kind.name())));
        }
        let text = spec
            .tokenizer
            .as_ref()
            .ok_or_else(|| bad("has no [module.tokenizer]"))?;
        let output = spec
            .output_with(Role::Embedding)
            .ok_or_else(|| bad("declares no output of role \"embedding\""))?;
        Ok(Self {
            registry: registry.clone(),
            id: module.to_owned(),
            tokenizer: Tokenizer::from_bytes(&pack.read(&text.file)?, text.max_tokens)
                .map_err(|error| error.context(&text.file.file))?,
            words: text.clone(),
            output: output.name.clone(),
        })
    }

    /// The encoder's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The vector of `text`, L2-normalised. Text past the tokenizer's `max_tokens` is left out, with a warning in the
    /// log.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] above [`MAX_QUERY_BYTES`] or for a text without tokens;
    /// [`ErrorKind::BadModel`] naming a port that does not fit; [`ErrorKind::Inference`] when the run fails or the
    /// vector is not finite or zero; [`ErrorKind::Cancelled`], [`ErrorKind::DeadlineExceeded`]; what loading the
    /// module returns.
    pub fn encode(&self, text: &str, control: &Control) -> Result<Vec<f32>> {
        let _span = trace::span("language", "text-encode");
        if text.len() > MAX_QUERY_BYTES {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "a text of {} bytes is too long to encode, at most {MAX_QUERY_BYTES}",
                    text.len()
                ),
            )
            .remedy("describe it in a sentence"));
        }
        let mut encoded = match self.words.lowercase {
            true => self.tokenizer.encode_truncated(&text.to_lowercase())?,
            false => self.tokenizer.encode_truncated(text)?,
        };
        if let (true, Some(end), Some(last)) =
            (encoded.truncated, self.words.end_id, encoded.ids.last_mut())
        {
            *last = end;
        }
        if encoded.truncated {
            log::warn!(
                "text encoder {:?}: only the first {} tokens of a text of {} bytes count",
                self.id,
                self.tokenizer.max_tokens(),
                text.len()
            );
        }
        if encoded.ids.is_empty() && self.words.pad_to.is_none() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "the text has no words to encode",
            ));
        }
        let lease = self.registry.lease_with(&self.id, control)?;
        let inputs = self.inputs(&lease, &encoded.ids)?;
        let args = RunArgs {
            inputs: inputs
                .iter()
                .map(|(name, tensor)| (name.as_str(), tensor))
                .collect(),
            outputs: vec![&self.output],
            in_place: Vec::new(),
            cancel: Some(&control.cancel),
            deadline: control.deadline,
        };
        let outputs = lease.step(control)?.run(args)?;
        self.vector(outputs.first())
    }

    /// What every port of the graph reads.
    fn inputs(&self, lease: &Lease, ids: &[u32]) -> Result<Vec<(String, Tensor)>> {
        // A graph of fixed length is padded, as it was when it was trained.
        let fixed = lease.inputs().iter().find_map(|port| match port.shape[..] {
            [_, Dim::Fixed(length)] if port.name == "input_ids" => Some(length),
            _ => None,
        });
        let wanted = self.words.pad_to.unwrap_or(ids.len());
        let length = fixed.unwrap_or(wanted);
        if length < wanted {
            return Err(Error::new(
                ErrorKind::BadModel,
                format!(
                    "text encoder {:?}: port \"input_ids\" takes {length} tokens, but the manifest's {}",
                    self.id,
                    match self.words.pad_to {
                        Some(length) => format!("pad_to is {length}"),
                        None => format!("max_tokens is {}", self.tokenizer.max_tokens()),
                    }
                ),
            ));
        }
        let pad = self.words.pad_id.or(self.tokenizer.pad()).unwrap_or(0);
        let pad = i64::from(pad);
        let padded = |at: usize| ids.get(at).map_or(pad, |id| i64::from(*id));
        let mut inputs = Vec::new();
        for port in lease.inputs() {
            let value: &dyn Fn(usize) -> i64 = match port.name.as_str() {
                "input_ids" => &padded,
                "attention_mask" => &|at| i64::from(at < ids.len()),
                "token_type_ids" => &|_| 0,
                "position_ids" => &|at| at as i64,
                other => {
                    return Err(Error::new(
                        ErrorKind::BadModel,
                        format!(
                            "text encoder {:?} has an input {other:?} that Atom does not know how to feed",
                            self.id
                        ),
                    ));
                }
            };
            if !matches!(port.dtype, DType::I64 | DType::I32) {
                return Err(Error::new(
                    ErrorKind::BadModel,
                    format!(
                        "text encoder {:?}: port {:?} is {}, expected i64 or i32",
                        self.id, port.name, port.dtype
                    ),
                ));
            }
            inputs.push((
                port.name.clone(),
                whole(port.dtype, &[1, length], (0..length).map(value))?,
            ));
        }
        Ok(inputs)
    }

    /// The run's output, [1, D], normalised.
    fn vector(&self, output: Option<&Tensor>) -> Result<Vec<f32>> {
        let wrong = |what: String| {
            Error::new(
                ErrorKind::Inference,
                format!("text encoder {:?}: {what}", self.id),
            )
        };
        let output = output.ok_or_else(|| wrong("it returned nothing".to_owned()))?;
        let shape = output.shape();
        if shape.len() != 2 || shape[0] != 1 || shape[1] == 0 {
            return Err(wrong(format!(
                "port {:?} returned {output:?}, expected [1, D]",
                self.output
            )));
        }
        let mut vector = output.to_f32s()?;
        let norm = vector
            .iter()
            .map(|value| f64::from(*value).powi(2))
            .sum::<f64>()
            .sqrt();
        if !norm.is_finite() || norm < 1e-12 {
            return Err(wrong(format!(
                "the vector is {}",
                if norm.is_finite() {
                    "zero"
                } else {
                    "not finite"
                }
            )));
        }
        for value in &mut vector {
            *value = (f64::from(*value) / norm) as f32;
        }
        Ok(vector)
    }
}
