//! A decoder's ports: what the graph has, held against what the manifest says.

use crate::error::{Error, ErrorKind, Result};
use crate::ort::{DType, Dim, Port};
use crate::pack::{DecoderSpec, KvForm};

/// How the decoder takes its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// `input_ids`, of this type.
    Ids(DType),
    /// `inputs_embeds`, of this type and, if the graph fixes it, this width.
    Embeds(DType, Option<usize>),
}

/// Names of one layer's cache, key then value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerPorts {
    pub(crate) past: [String; 2],
    pub(crate) present: [String; 2],
}

/// The ports of a decoder, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecoderPorts {
    pub(crate) rows: Rows,
    pub(crate) attention_mask: Option<DType>,
    pub(crate) position_ids: Option<DType>,
    pub(crate) layers: Vec<LayerPorts>,
}

pub(crate) const INPUT_IDS: &str = "input_ids";
pub(crate) const INPUTS_EMBEDS: &str = "inputs_embeds";
pub(crate) const ATTENTION_MASK: &str = "attention_mask";
pub(crate) const POSITION_IDS: &str = "position_ids";
pub(crate) const LOGITS: &str = "logits";

impl DecoderPorts {
    /// Checks the ports of module `id` against the manifest's numbers. `embedding` tells whether the task names a
    /// token-embedding module.
    pub(crate) fn check(
        id: &str,
        spec: &DecoderSpec,
        inputs: &[Port],
        outputs: &[Port],
        embedding: bool,
    ) -> Result<Self> {
        let found = Found {
            id,
            inputs,
            outputs,
        };
        let layers = (0..spec.layers)
            .map(|layer| {
                let names =
                    |side: &str| ["key", "value"].map(|part| format!("{side}.{layer}.{part}"));
                LayerPorts {
                    past: names("past_key_values"),
                    present: names("present"),
                }
            })
            .collect::<Vec<_>>();
        for layer in &layers {
            for (past, present) in layer.past.iter().zip(&layer.present) {
                found.cache(found.input(past)?, spec)?;
                found.cache(found.output(present)?, spec)?;
            }
        }
        let ports = Self {
            rows: found.rows(embedding)?,
            attention_mask: found.optional(ATTENTION_MASK)?,
            position_ids: found.optional(POSITION_IDS)?,
            layers,
        };
        if ports.attention_mask.is_none() && spec.kv == KvForm::Shared {
            return Err(found.bad(format!(
                "it has no input {ATTENTION_MASK:?}, which kv = \"shared\" needs to know how much of the cache is filled"
            )));
        }
        found.logits(spec)?;
        for port in inputs {
            let known = [INPUT_IDS, INPUTS_EMBEDS, ATTENTION_MASK, POSITION_IDS]
                .contains(&port.name.as_str())
                || ports
                    .layers
                    .iter()
                    .any(|layer| layer.past.contains(&port.name));
            if !known {
                return Err(found.bad(format!(
                    "it has an input {:?} that Atom does not know how to feed (the manifest says {} layers)",
                    port.name, spec.layers
                )));
            }
        }
        Ok(ports)
    }
}

struct Found<'a> {
    id: &'a str,
    inputs: &'a [Port],
    outputs: &'a [Port],
}

impl<'a> Found<'a> {
    fn bad(&self, what: String) -> Error {
        Error::new(
            ErrorKind::BadModel,
            format!("language decoder {:?}: {what}", self.id),
        )
        .remedy("export it with the port names of Hugging Face Optimum, and give [module.decoder] its numbers")
    }

    fn input(&self, name: &str) -> Result<&'a Port> {
        self.port(self.inputs, name, "input")
    }

    fn output(&self, name: &str) -> Result<&'a Port> {
        self.port(self.outputs, name, "output")
    }

    fn port(&self, ports: &'a [Port], name: &str, side: &str) -> Result<&'a Port> {
        ports
            .iter()
            .find(|port| port.name == name)
            .ok_or_else(|| self.bad(format!("it has no {side} {name:?}")))
    }

    /// One tensor of the cache: [1, kv_heads, length, head_dim].
    fn cache(&self, port: &Port, spec: &DecoderSpec) -> Result<()> {
        self.is(port, &[spec.kv_dtype])?;
        let shape = [
            ("batch", Some(1)),
            ("kv_heads", Some(spec.kv_heads)),
            ("length", None),
            ("head_dim", Some(spec.head_dim)),
        ];
        self.shaped(port, &shape)
    }

    fn rows(&self, embedding: bool) -> Result<Rows> {
        let ids = self.inputs.iter().find(|port| port.name == INPUT_IDS);
        let embeds = self.inputs.iter().find(|port| port.name == INPUTS_EMBEDS);
        match (ids, embeds) {
            (Some(port), None) => {
                self.is(port, &[DType::I64, DType::I32])?;
                self.shaped(port, &[("batch", Some(1)), ("sequence", None)])?;
                Ok(Rows::Ids(port.dtype))
            }
            (None, Some(port)) => {
                self.is(port, &[DType::F32, DType::F16])?;
                self.shaped(
                    port,
                    &[("batch", Some(1)), ("sequence", None), ("width", None)],
                )?;
                if !embedding {
                    return Err(self.bad(format!(
                        "it reads {INPUTS_EMBEDS:?}, so the task needs a `token_embedding` module"
                    )));
                }
                let width = match port.shape[2] {
                    Dim::Fixed(width) => Some(width),
                    Dim::Symbolic(_) => None,
                };
                Ok(Rows::Embeds(port.dtype, width))
            }
            (Some(_), Some(_)) => Err(self.bad(format!(
                "it has both {INPUT_IDS:?} and {INPUTS_EMBEDS:?}; one is expected"
            ))),
            (None, None) => Err(self.bad(format!(
                "it has neither {INPUT_IDS:?} nor {INPUTS_EMBEDS:?}"
            ))),
        }
    }

    /// A whole-number input of shape [1, n] that the graph may lack.
    fn optional(&self, name: &str) -> Result<Option<DType>> {
        let Some(port) = self.inputs.iter().find(|port| port.name == name) else {
            return Ok(None);
        };
        self.is(port, &[DType::I64, DType::I32])?;
        self.shaped(port, &[("batch", Some(1)), ("sequence", None)])?;
        Ok(Some(port.dtype))
    }

    fn logits(&self, spec: &DecoderSpec) -> Result<()> {
        let port = self.output(LOGITS)?;
        self.is(port, &[DType::F32, DType::F16])?;
        let shape = [
            ("batch", Some(1)),
            ("sequence", None),
            ("vocab", Some(spec.vocab)),
        ];
        self.shaped(port, &shape)
    }

    fn is(&self, port: &Port, allowed: &[DType]) -> Result<()> {
        if allowed.contains(&port.dtype) {
            return Ok(());
        }
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        Err(self.bad(format!(
            "port {:?} is {}, expected {}",
            port.name,
            port.dtype,
            allowed.join(" or ")
        )))
    }

    /// Holds a port's dimensions against the expected ones; what the graph leaves open is right.
    fn shaped(&self, port: &Port, expected: &[(&str, Option<usize>)]) -> Result<()> {
        let fits = port.shape.len() == expected.len()
            && port
                .shape
                .iter()
                .zip(expected)
                .all(|(dim, (_, size))| match (dim, size) {
                    (Dim::Fixed(have), Some(want)) => have == want,
                    _ => true,
                });
        // A length that must vary cannot be fixed by the graph.
        let varies = port
            .shape
            .iter()
            .zip(expected)
            .all(|(dim, (name, _))| !(*name == "length" && matches!(dim, Dim::Fixed(_))));
        if fits && varies {
            return Ok(());
        }
        let want: Vec<String> = expected
            .iter()
            .map(|(name, size)| match size {
                Some(size) => format!("{name} {size}"),
                None => (*name).to_owned(),
            })
            .collect();
        let have: Vec<String> = port.shape.iter().map(ToString::to_string).collect();
        Err(self.bad(format!(
            "port {:?} has shape [{}], expected [{}]",
            port.name,
            have.join(", "),
            want.join(", ")
        )))
    }
}
