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

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = r#"
        layers = 2
        kv_heads = 3
        head_dim = 64
        vocab = 100
        context = 50
        kv = "concat"
        kv_dtype = "f32"
        eos = [2]
    "#;

    fn port(name: &str, dtype: DType, shape: &[Option<usize>]) -> Port {
        let dim = |size: &Option<usize>| match size {
            Some(size) => Dim::Fixed(*size),
            None => Dim::Symbolic("n".to_owned()),
        };
        Port {
            name: name.to_owned(),
            dtype,
            shape: shape.iter().map(dim).collect(),
        }
    }

    /// The ports of a decoder as `SPEC` has it.
    fn ports() -> (Vec<Port>, Vec<Port>) {
        let whole = |name| port(name, DType::I64, &[None, None]);
        let mut inputs = vec![whole(INPUT_IDS), whole(ATTENTION_MASK), whole(POSITION_IDS)];
        let mut outputs = vec![port(LOGITS, DType::F32, &[None, None, Some(100)])];
        for layer in 0..2 {
            for part in ["key", "value"] {
                let cache = |side: &str| {
                    let name = format!("{side}.{layer}.{part}");
                    port(&name, DType::F32, &[None, Some(3), None, Some(64)])
                };
                inputs.push(cache("past_key_values"));
                outputs.push(cache("present"));
            }
        }
        (inputs, outputs)
    }

    fn check(
        spec: &str,
        inputs: &[Port],
        outputs: &[Port],
        embedding: bool,
    ) -> Result<DecoderPorts> {
        let spec: DecoderSpec = toml::from_str(spec).expect("spec");
        DecoderPorts::check("speaker", &spec, inputs, outputs, embedding)
    }

    #[test]
    fn a_decoder_as_declared_is_taken() {
        let (inputs, outputs) = ports();
        let found = check(SPEC, &inputs, &outputs, false).expect("ports");
        assert_eq!(found.rows, Rows::Ids(DType::I64));
        assert_eq!(found.position_ids, Some(DType::I64));
        assert_eq!(
            found.layers[1].past,
            ["past_key_values.1.key", "past_key_values.1.value"]
        );
        // Neither mask nor positions; embeddings of a known width.
        let mut embeds = inputs[3..].to_vec();
        embeds.push(port(INPUTS_EMBEDS, DType::F16, &[Some(1), None, Some(56)]));
        let found = check(SPEC, &embeds, &outputs, true).expect("ports");
        assert_eq!(found.rows, Rows::Embeds(DType::F16, Some(56)));
        assert_eq!((found.attention_mask, found.position_ids), (None, None));
    }

    #[test]
    fn every_misfit_names_the_port_and_what_was_expected() {
        let (inputs, outputs) = ports();
        let wrong = |spec: &str, inputs: &[Port], outputs: &[Port], words: &[&str]| {
            let error = check(spec, inputs, outputs, false).expect_err("a misfit");
            assert_eq!(error.kind(), ErrorKind::BadModel);
            for word in words.iter().chain(&["speaker"]) {
                assert!(
                    error.message().contains(word),
                    "{word:?} is not in: {error}"
                );
            }
        };
        let spec = |from: &str, to: &str| SPEC.replace(from, to);
        let p0 = "past_key_values.0.key";
        wrong(
            &spec("layers = 2", "layers = 3"),
            &inputs,
            &outputs,
            &["past_key_values.2.key"],
        );
        wrong(
            &spec("layers = 2", "layers = 1"),
            &inputs,
            &outputs,
            &["past_key_values.1.key"],
        );
        wrong(
            &spec("heads = 3", "heads = 4"),
            &inputs,
            &outputs,
            &[p0, "[n, 3, n, 64]", "kv_heads 4"],
        );
        wrong(
            &spec("dim = 64", "dim = 32"),
            &inputs,
            &outputs,
            &[p0, "head_dim 32"],
        );
        wrong(
            &spec("\"f32\"", "\"f16\""),
            &inputs,
            &outputs,
            &[p0, "f32", "expected f16"],
        );
        wrong(
            &spec("= 100", "= 99"),
            &inputs,
            &outputs,
            &["logits", "vocab 99"],
        );
        wrong(
            &spec("concat", "shared"),
            &inputs[3..],
            &outputs,
            &["input_ids"],
        );
        let no_mask: Vec<Port> = inputs
            .iter()
            .filter(|p| p.name != ATTENTION_MASK)
            .cloned()
            .collect();
        wrong(
            &spec("concat", "shared"),
            &no_mask,
            &outputs,
            &[ATTENTION_MASK, "shared"],
        );
        wrong(SPEC, &inputs, &outputs[1..], &["no output \"logits\""]);
        wrong(SPEC, &inputs, &outputs[..4], &["present.1.value"]);

        let with = |extra: Port| [&inputs[..], &[extra]].concat();
        let embeds = port(INPUTS_EMBEDS, DType::F32, &[None, None, None]);
        wrong(SPEC, &with(embeds.clone()), &outputs, &["both"]);
        wrong(
            SPEC,
            &[&inputs[1..], &[embeds]].concat(),
            &outputs,
            &["token_embedding"],
        );
        wrong(
            SPEC,
            &with(port("use_cache", DType::Bool, &[])),
            &outputs,
            &["use_cache"],
        );
        let with = |at: usize, changed: Port| {
            let mut inputs = inputs.clone();
            inputs[at] = changed;
            inputs
        };
        wrong(
            SPEC,
            &with(0, port(INPUT_IDS, DType::F32, &[None, None])),
            &outputs,
            &["i64 or i32"],
        );
        wrong(
            SPEC,
            &with(2, port(POSITION_IDS, DType::I64, &[None])),
            &outputs,
            &["[n]", "sequence"],
        );
        let fixed = port(p0, DType::F32, &[None, Some(3), Some(128), Some(64)]);
        wrong(
            SPEC,
            &with(3, fixed),
            &outputs,
            &[p0, "[n, 3, 128, 64]", "length"],
        );
        let batch = port(p0, DType::F32, &[Some(4), Some(3), None, Some(64)]);
        wrong(SPEC, &with(3, batch), &outputs, &[p0, "batch 1"]);
    }
}
