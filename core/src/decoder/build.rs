//! Makes the map of a loaded graph, or says why it cannot be used.

use std::collections::HashMap;

use super::names::{self, CacheNames, Pattern};
use super::shape::{self, Want, shown};
use super::{DecoderMap, Input, LayerPorts, Rows, Source, constant, width};
use crate::error::{Error, ErrorKind, Result};
use crate::ort::{DType, Port};
use crate::pack::{DecoderSpec, KvForm};

const WHOLE: &[DType] = &[DType::I64, DType::I32];
const FLOAT: &[DType] = &[DType::F32, DType::F16];

/// Atom runs one text at a time.
const BATCH: Want = Want::Size("batch", 1);

impl DecoderMap {
    /// The map of graph `file` with these ports; `spec` is the manifest's table for it.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] for a port that is missing, a port of another type or shape than the manifest calls for, and an
    /// input that Atom does not know how to feed. The error names the file, the port, and the manifest's key to correct.
    pub(crate) fn new(
        file: &str,
        spec: &DecoderSpec,
        inputs: &[Port],
        outputs: &[Port],
    ) -> Result<Self> {
        let mut graph = Graph {
            file,
            spec,
            inputs,
            outputs,
            claimed: HashMap::new(),
        };
        let rows = graph.rows()?;
        graph.optional()?;
        graph.constants()?;
        let is_input = |name: &str| inputs.iter().any(|port| port.name == name);
        let is_output = |name: &str| outputs.iter().any(|port| port.name == name);
        let own = names::cache(&spec.ports, &is_input, &is_output);
        let layers = graph.layers(&own, &Source::Past)?;
        let cross = names::cross(&spec.ports);
        let has_cross = names::names_cross(&spec.ports)
            || cross.past.iter().any(|part| is_input(&part.name.at(0)));
        let cross_layers = if has_cross {
            graph.layers(&cross, &Source::CrossPast)?
        } else {
            Vec::new()
        };
        let logits = graph.logits()?;
        let inputs = graph.classified(&[&own, &cross])?;
        let map = Self {
            file: file.to_owned(),
            spec: spec.clone(),
            inputs,
            rows,
            logits,
            layers,
            cross: cross_layers,
        };
        graph.consistent(&map, &cross)?;
        Ok(map)
    }

    /// An error about this graph.
    pub(super) fn bad(&self, what: impl std::fmt::Display) -> Error {
        bad_graph(&self.file, what)
    }
}

fn bad_graph(file: &str, what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::BadModel,
        format!("decoder graph {file:?}: {what}"),
    )
}

struct Graph<'a> {
    file: &'a str,
    spec: &'a DecoderSpec,
    inputs: &'a [Port],
    outputs: &'a [Port],
    /// What each input reads, and the manifest's key for it.
    claimed: HashMap<String, (Source, String)>,
}

impl<'a> Graph<'a> {
    fn bad(&self, what: impl std::fmt::Display) -> Error {
        bad_graph(self.file, what)
    }

    /// Records that input `name` reads from `source`; `key` is the manifest's key for it.
    fn claim(&mut self, name: &str, key: &str, source: Source) -> Result<()> {
        let before = self
            .claimed
            .insert(name.to_owned(), (source, key.to_owned()));
        match before {
            None => Ok(()),
            Some((_, other)) => Err(self
                .bad(format_args!("{other} and {key} both name input {name:?}"))
                .remedy("name each port once in [module.decoder]")),
        }
    }

    /// The input that `decoder.ports.KEY` names, else the input of Optimum's name, which equals the key. `None` if the graph has
    /// no such input. A name that the manifest gives must exist.
    fn find(&self, key: &str) -> Result<Option<&'a Port>> {
        let given = self.spec.ports.name(key);
        let name = given.unwrap_or(key);
        let found = self.inputs.iter().find(|port| port.name == name);
        if found.is_none() && given.is_some() {
            return Err(self
                .bad(format_args!(
                    "it has no input {name:?}, which decoder.ports.{key} names"
                ))
                .remedy("correct [module.decoder.ports] in pack.toml"));
        }
        Ok(found)
    }

    /// Checks type and dimensions of `port`, and records that it reads from `source`.
    fn take(
        &mut self,
        (key, port): (&str, &Port),
        types: &[DType],
        wants: &[Want],
        source: Source,
    ) -> Result<()> {
        self.is(port, types)?;
        self.shaped("input", port, wants)?;
        self.claim(&port.name, &format!("decoder.ports.{key}"), source)
    }

    /// The port that reads the new rows, and how.
    fn rows(&mut self) -> Result<(String, Rows)> {
        let (ids, embeds) = (self.find("input_ids")?, self.find("inputs_embeds")?);
        let wants = [BATCH, Want::Open("sequence"), Want::Any("width")];
        match (ids, embeds) {
            (Some(port), None) => {
                self.take(("input_ids", port), WHOLE, &wants[..2], Source::TokenIds)?;
                Ok((port.name.clone(), Rows::Ids(port.dtype)))
            }
            (None, Some(port)) => {
                self.take(("inputs_embeds", port), FLOAT, &wants, Source::Embeddings)?;
                Ok((port.name.clone(), Rows::Embeds(port.dtype, width(port))))
            }
            (Some(ids), Some(embeds)) => {
                let what = format!("it reads both {:?} and {:?}", ids.name, embeds.name);
                Err(self.bad(what).remedy("export a decoder that reads one of them"))
            }
            (None, None) => Err(self
                .bad("it reads neither \"input_ids\" nor \"inputs_embeds\"")
                .remedy("name the port that reads the new rows: input_ids or inputs_embeds in [module.decoder.ports]")),
        }
    }

    /// The inputs that a graph may leave out.
    fn optional(&mut self) -> Result<()> {
        let encoder = [BATCH, Want::Any("encoder rows"), Want::Any("width")];
        let mask = [BATCH, Want::Open("total")];
        for (key, types, wants, source) in [
            ("attention_mask", WHOLE, &mask[..], Source::AttentionMask),
            (
                "encoder_hidden_states",
                FLOAT,
                &encoder,
                Source::EncoderStates,
            ),
            (
                "encoder_attention_mask",
                WHOLE,
                &encoder[..2],
                Source::EncoderMask,
            ),
        ] {
            if let Some(port) = self.find(key)? {
                self.take((key, port), types, wants, source)?;
            }
        }
        if let Some(port) = self.find("position_ids")? {
            let wants = [Want::Size("numbers", 3), BATCH, Want::Open("sequence")];
            let (numbers, wants) = match port.shape.len() {
                3 => (3, &wants[..]),
                _ => (1, &wants[1..]),
            };
            let port = ("position_ids", port);
            self.take(port, WHOLE, wants, Source::Positions(numbers))?;
        }
        for (key, types, source) in [
            ("use_cache_branch", &[DType::Bool][..], Source::CacheBranch),
            ("num_logits_to_keep", WHOLE, Source::LogitsToKeep),
        ] {
            if let Some(port) = self.find(key)? {
                let wants = [Want::Size("one", 1)];
                // Optimum's flag has one dimension, its number none.
                let wants = &wants[..port.shape.len().min(1)];
                self.take((key, port), types, wants, source)?;
            }
        }
        Ok(())
    }

    fn constants(&mut self) -> Result<()> {
        let spec = self.spec;
        for (name, value) in &spec.constants {
            let key = format!("decoder.constants.{name:?}");
            let port = self.inputs.iter().find(|port| port.name == *name);
            let shape = match port {
                Some(port) => constant::shape(port, value),
                None => Err("the graph has no such input".to_owned()),
            };
            let shape = shape.map_err(|why| {
                let error = self.bad(format_args!("{key}: {why}"));
                error.remedy("correct [module.decoder.constants] in pack.toml")
            })?;
            self.claim(name, &key, Source::Constant(value.clone(), shape))?;
        }
        Ok(())
    }

    /// The ports of one kind of cache. Its inputs read from `source`.
    fn layers(&mut self, names: &CacheNames, source: &Source) -> Result<Vec<LayerPorts>> {
        (0..self.spec.layers)
            .map(|layer| {
                for part in &names.past {
                    let port = self.cache_port("input", self.inputs, part, layer)?;
                    self.cache(port, source)?;
                    let key = format!("decoder.ports.{}", part.key);
                    self.claim(&port.name, &key, source.clone())?;
                }
                for part in &names.present {
                    let port = self.cache_port("output", self.outputs, part, layer)?;
                    self.is(port, &[self.spec.kv_dtype])?;
                    let wants = match source {
                        Source::Past => self.cache_wants(Want::Any("length")),
                        // Each branch writes a shape of its own.
                        _ => ["batch", "kv_heads", "length", "head_dim"].map(Want::Any),
                    };
                    self.written(port, &wants)?;
                }
                let at = |patterns: &[Pattern; 2]| {
                    [patterns[0].name.at(layer), patterns[1].name.at(layer)]
                };
                Ok(LayerPorts {
                    past: at(&names.past),
                    present: at(&names.present),
                })
            })
            .collect()
    }

    fn cache_port(
        &self,
        side: &str,
        ports: &'a [Port],
        part: &Pattern,
        layer: usize,
    ) -> Result<&'a Port> {
        let name = part.name.at(layer);
        ports.iter().find(|port| port.name == name).ok_or_else(|| {
            self.bad(format_args!(
                "it has no {side} {name:?}, which decoder.layers = {} and decoder.ports.{} = {:?} call for",
                self.spec.layers,
                part.key,
                part.name.pattern()
            ))
            .remedy("correct them in pack.toml")
        })
    }

    /// An input of a cache: [1, kv_heads, length, head_dim].
    fn cache(&self, port: &Port, source: &Source) -> Result<()> {
        self.is(port, &[self.spec.kv_dtype])?;
        let length = match source {
            Source::CrossPast => Want::Any("encoder rows"),
            _ => Want::Open("length"),
        };
        self.shaped("input", port, &self.cache_wants(length))
    }

    fn cache_wants(&self, length: Want) -> [Want; 4] {
        [
            BATCH,
            Want::Size("kv_heads", self.spec.kv_heads),
            length,
            Want::Size("head_dim", self.spec.head_dim),
        ]
    }

    fn logits(&self) -> Result<String> {
        let given = self.spec.ports.logits.as_deref();
        let name = given.unwrap_or("logits");
        let Some(port) = self.outputs.iter().find(|port| port.name == name) else {
            return Err(self.bad(format_args!("it has no output {name:?}")).remedy(
                "name the output that holds the logits: logits in [module.decoder.ports]",
            ));
        };
        self.is(port, FLOAT)?;
        let want = [
            BATCH,
            Want::Any("sequence"),
            Want::Size("vocab", self.spec.vocab),
        ];
        self.written(port, &want)?;
        Ok(port.name.clone())
    }

    /// Every input with what it reads.
    fn classified(&mut self, caches: &[&CacheNames]) -> Result<Vec<Input>> {
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for port in self.inputs {
            let Some((source, _)) = self.claimed.remove(&port.name) else {
                let again = inputs
                    .iter()
                    .any(|input: &Input| input.port.name == port.name);
                return Err(self.unknown(port, caches, again));
            };
            inputs.push(Input {
                port: port.clone(),
                source,
            });
        }
        Ok(inputs)
    }

    /// The error about an input that nothing was recorded for.
    fn unknown(&self, port: &Port, caches: &[&CacheNames], again: bool) -> Error {
        let name = &port.name;
        if again {
            return self.bad(format_args!("it has two inputs called {name:?}"));
        }
        for part in caches.iter().flat_map(|names| &names.past) {
            if let Some(layer) = part.name.digits(name) {
                let layers = self.spec.layers;
                return self
                    .bad(format_args!(
                        "its input {name:?} is of layer {layer}, but decoder.layers = {layers}"
                    ))
                    .remedy("correct decoder.layers in pack.toml; layers are counted from 0");
            }
        }
        self.bad(format_args!(
            "Atom does not know what to feed its input {name:?}, {} {}",
            port.dtype,
            shown(&port.shape)
        ))
        .remedy(
            "if it is one of the inputs that [module.decoder.ports] has a key for, name it there; if it reads the same in \
             every step, give its value in [module.decoder.constants]; otherwise this decoder cannot be run",
        )
    }

    /// Checks the rules that concern several ports.
    fn consistent(&self, map: &DecoderMap, cross: &CacheNames) -> Result<()> {
        let has = |source: &Source| map.input(source).is_some();
        if self.spec.kv == KvForm::Shared && !has(&Source::AttentionMask) {
            return Err(self
                .bad("it has no input \"attention_mask\", which kv = \"shared\" needs: it tells how much of the cache is filled")
                .remedy("name it in [module.decoder.ports], or use kv = \"concat\""));
        }
        if self.spec.kv == KvForm::Shared && has(&Source::CacheBranch) {
            return Err(self
                .bad("it reads use_cache_branch, but a graph with branches cannot write its cache where it reads it")
                .remedy("use kv = \"concat\""));
        }
        if has(&Source::EncoderMask) && !map.reads_encoder() {
            return Err(self
                .bad("it reads encoder_attention_mask, but no encoder_hidden_states")
                .remedy("name it in [module.decoder.ports]"));
        }
        if map.cross.is_empty() {
            return Ok(());
        }
        let first = cross.past[0].name.at(0);
        if !map.reads_encoder() {
            return Err(self
                .bad(format_args!(
                    "it reads {first:?}, but no encoder_hidden_states to make that of"
                ))
                .remedy("name it in [module.decoder.ports]"));
        }
        if !has(&Source::CacheBranch) {
            return Err(self
                .bad(format_args!(
                    "it reads {first:?}, but has no use_cache_branch: nothing would make that in the first step"
                ))
                .remedy("use the export that merges both decoders, decoder_model_merged.onnx"));
        }
        Ok(())
    }

    fn is(&self, port: &Port, allowed: &[DType]) -> Result<()> {
        match shape::misfit_of_type(port, allowed) {
            None => Ok(()),
            Some(what) => Err(self.bad(what).remedy(
                "correct [module.decoder] in pack.toml, or export the decoder with such a port",
            )),
        }
    }

    /// Checks an output's shape. A graph with branches may declare none; the shape is then checked after each run.
    fn written(&self, port: &Port, wants: &[Want]) -> Result<()> {
        match port.shape.len() {
            0 => Ok(()),
            _ => self.shaped("output", port, wants),
        }
    }

    fn shaped(&self, side: &str, port: &Port, wants: &[Want]) -> Result<()> {
        match shape::misfit(port, wants) {
            None => Ok(()),
            Some(what) => Err(self.bad(format_args!("{side} {what}")).remedy(
                "correct [module.decoder] in pack.toml, or export the decoder with such a port",
            )),
        }
    }
}
