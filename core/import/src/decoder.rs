//! A language decoder's table, from its graph and the configurations.

use std::collections::BTreeMap;

use atom_core::ort::{DType, Dim, Port};
use atom_core::{Error, ErrorKind, Result};

use crate::config::{Document, Node, Places};
use crate::configs::Configs;
use crate::graph::Graph;
use crate::plan::{Decoder, Extra, Generation, Module};
use crate::report::Notes;
use crate::words::Words;

/// Inputs of a decoder that Atom feeds, by Optimum's names.
const KNOWN: &[&str] = &[
    "input_ids",
    "inputs_embeds",
    "attention_mask",
    "position_ids",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "use_cache_branch",
    "num_logits_to_keep",
];

/// What the ports of an input that Atom does not feed need.
const MISSING: &[(&str, &str)] = &[
    ("past_conv", "a convolution state beside keys and values"),
    ("past_recurrent", "a recurrent state beside keys and values"),
    (
        "past_ssm",
        "a state-space model's state beside keys and values",
    ),
    (
        "per_layer_inputs",
        "embeddings for each layer, which embed_tokens writes beside its own",
    ),
];

/// What the genai layout says of a decoder, in place of `config.json`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given<'a> {
    pub(crate) ports: BTreeMap<&'static str, String>,
    pub(crate) head_size: Option<Node<'a>>,
    pub(crate) heads: Option<Node<'a>>,
}

/// The decoder module `id` of graph `graph`.
pub(crate) struct Reader<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) configs: &'a Configs,
    /// The part of `config.json` that is about the decoder, then the whole of it.
    pub(crate) model: Places<'a>,
    pub(crate) given: Given<'a>,
    /// The chat template, and where it is from.
    pub(crate) template: Option<(String, String)>,
    /// The pack's folder for its files.
    pub(crate) group: &'a str,
}

impl Reader<'_> {
    /// Reads the decoder. `first` says whether it begins with start tokens, as encoder–decoders do.
    ///
    /// # Errors
    /// What is missing or wrong, by file and key or port.
    pub(crate) fn read(&self, words: Words, first: bool, notes: &mut Notes) -> Result<Module> {
        let graph = self.graph;
        let cache = self.cache()?;
        self.known_inputs(&cache)?;
        let logits_name = self.name("logits", "logits");
        let logits = graph.output(logits_name)?;
        let vocab = match logits.shape.last() {
            Some(Dim::Fixed(vocab)) => *vocab,
            _ => self
                .model
                .get("vocab_size")?
                .ok_or_else(|| self.missing("vocab_size", "the number of tokens"))?
                .whole()?,
        };
        let (context, place) = self.context()?;
        notes.infer("longest context", &format!("{context} tokens"), &place);
        notes.infer(
            "keys and values",
            &format!(
                "{} layers, {} heads of {}, {}",
                cache.layers, cache.heads, cache.head_dim, cache.dtype
            ),
            &format!("{}: {}", graph.shown, cache.first),
        );
        let mut decoder = Decoder {
            layers: cache.layers,
            kv_heads: cache.heads,
            head_dim: cache.head_dim,
            vocab,
            context,
            shared: false,
            kv_dtype: cache.dtype,
            bos: None,
            eos: self.eos(&words, vocab, notes)?,
            start: Vec::new(),
            chat_template: None,
            // Its cache branch may have been traced with one row, and then masks nothing among new rows.
            cached_rows: graph
                .has_input(self.name("use_cache_branch", "use_cache_branch"))
                .then_some(1),
            first_position: 0,
            exact_prefix: !graph.quantised_by_input(),
            ports: self.given.ports.clone(),
            generation: self.generation(first, context)?,
        };
        let generation = self.generation_place();
        for place in generation.iter().chain(&self.model.0) {
            if decoder.bos.is_none()
                && let Some(node) = place.get("bos_token_id")?
            {
                decoder.bos = Some(self.in_vocab(&node, vocab)?);
            }
        }
        if let Some((id, _)) = words.named(self.configs, "bos_token")? {
            decoder.bos = Some(id).filter(|id| (*id as usize) < vocab);
        }
        if first {
            let places = generation.iter().chain(&self.model.0);
            let start = places
                .map(|place| place.get("decoder_start_token_id"))
                .collect::<Result<Vec<_>>>()?;
            let Some(start) = start.into_iter().flatten().next() else {
                return Err(self.missing(
                    "decoder_start_token_id",
                    "the token that the decoder begins with",
                ));
            };
            decoder.start = start.tokens()?;
            if let Some(id) = decoder.start.iter().find(|id| **id as usize >= vocab) {
                return Err(start.wrong(&format!("a token below {vocab}, and not {id}")));
            }
            notes.infer(
                "first token",
                &format!("{:?}", decoder.start),
                &start.place(),
            );
        }
        if let Some((text, place)) = &self.template {
            notes.infer("chat template", "taken", place);
            decoder.chat_template = Some(Extra {
                target: format!("{}/chat_template.jinja", self.group),
                content: text.clone().into_bytes(),
            });
        }
        if !decoder.exact_prefix {
            notes.warn(format!(
                "{} is quantised dynamically: its results depend on how a prompt is cut into steps, so that beginnings of prompts \
                 are not shared; q4 or fp16 have no such limit",
                graph.shown
            ));
        }
        notes.infer(
            "decoder",
            graph.form().name(),
            &format!("{}: {}", graph.shown, graph.chosen.why),
        );
        Ok(Module {
            id: "decoder",
            kind: "language-decoder",
            source: graph.source(self.group, "decoder", None),
            precision: graph.form().precision(),
            form: graph.form().name(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            preprocess: None,
            words: Some(crate::plan::Words {
                max_tokens: context,
                file: words.file,
                pad_to: None,
                pad_id: None,
                lowercase: false,
                end_id: None,
            }),
            decoder: Some(decoder),
        })
    }

    /// The port that `key` names, which Optimum calls `usual`.
    fn name<'a>(&'a self, key: &str, usual: &'a str) -> &'a str {
        self.given.ports.get(key).map_or(usual, String::as_str)
    }

    fn missing(&self, key: &str, why: &str) -> Error {
        match self.model.0.first() {
            Some(first) => first.missing(key, why),
            None => Error::new(
                ErrorKind::NotFound,
                format!("the export has no config.json, which says {why} ({key})"),
            )
            .remedy("copy config.json from the model that was exported"),
        }
    }

    fn in_vocab(&self, node: &Node<'_>, vocab: usize) -> Result<u32> {
        let id = node.token()?;
        if (id as usize) < vocab {
            Ok(id)
        } else {
            Err(node.wrong(&format!(
                "a token below {vocab}, the vocabulary of {}",
                self.graph.shown
            )))
        }
    }

    /// The dimensions of keys and values, from their ports.
    fn cache(&self) -> Result<Cache> {
        let graph = self.graph;
        let keys = [
            self.name("past_key", "past_key_values.%d.key"),
            "past_key_values.%d.decoder.key",
        ];
        let has = |pattern: &&&str| graph.has_input(&pattern.replace("%d", "0"));
        let Some(pattern) = keys.iter().find(has) else {
            return Err(graph.unsupported(
                format!("it does not read keys and values of earlier tokens ({})", keys[0]),
                "use the export with a cache: decoder_model_merged.onnx, or model.onnx of --task text-generation-with-past",
            ));
        };
        let first = pattern.replace("%d", "0");
        let port = graph.input(&first)?;
        let [_, heads, _, head_dim] = &port.shape[..] else {
            return Err(graph.unsupported(
                format!("its input {first:?} has {} dimensions", port.shape.len()),
                "keys and values are [batch, heads, length, head_dim]",
            ));
        };
        let layers = (0..1024)
            .take_while(|layer| graph.has_input(&pattern.replace("%d", &layer.to_string())))
            .count();
        let heads = self.size(
            heads,
            self.given.heads.clone(),
            &["num_key_value_heads", "num_attention_heads", "n_head"],
        )?;
        let head_dim = match (head_dim, &self.given.head_size) {
            (Dim::Symbolic(_), None) if self.model.get("head_dim")?.is_none() => {
                let width = self
                    .model
                    .get("hidden_size")?
                    .ok_or_else(|| self.missing("head_dim", "the length of a head"))?;
                let count = self
                    .model
                    .get("num_attention_heads")?
                    .ok_or_else(|| self.missing("num_attention_heads", "the number of heads"))?;
                width.whole()? / count.whole()?.max(1)
            }
            (dim, given) => self.size(dim, given.clone(), &["head_dim"])?,
        };
        let dtype = match port.dtype {
            DType::F32 => "f32",
            DType::F16 => "f16",
            other => {
                return Err(graph.unsupported(
                    format!("its input {first:?} is {other}"),
                    "export keys and values as f32 or f16",
                ));
            }
        };
        Ok(Cache {
            layers,
            heads,
            head_dim,
            dtype,
            first,
        })
    }

    /// A dimension of the graph, else what the configuration says.
    fn size(&self, dim: &Dim, given: Option<Node<'_>>, keys: &[&str]) -> Result<usize> {
        if let Dim::Fixed(size) = dim {
            return Ok(*size);
        }
        if let Some(node) = given {
            return node.whole();
        }
        for key in keys {
            if let Some(node) = self.model.get(key)? {
                return node.whole();
            }
        }
        Err(self.missing(
            keys[0],
            "a dimension of keys and values that the graph leaves open",
        ))
    }

    /// Refuses a graph with an input that Atom does not feed.
    fn known_inputs(&self, cache: &Cache) -> Result<()> {
        let graph = self.graph;
        let given: Vec<&str> = self.given.ports.values().map(String::as_str).collect();
        let is_cache = |name: &str| {
            let patterns = given.iter().filter(|name| name.contains("%d"));
            let own = patterns.filter_map(|pattern| pattern.split_once("%d"));
            name.starts_with("past_key_values.")
                || own
                    .into_iter()
                    .any(|(before, after)| name.starts_with(before) && name.ends_with(after))
        };
        for port in graph.inputs()? {
            let name = port.name.as_str();
            if KNOWN.contains(&name) || given.contains(&name) || is_cache(name) {
                if name == "position_ids" && port.shape.len() == 3 {
                    return Err(graph.unsupported(
                        "its input \"position_ids\" has three rows for each token, which follow from the grid of a picture",
                        "import a model of another family, such as SmolVLM2",
                    ));
                }
                continue;
            }
            let needs = MISSING.iter().find(|(part, _)| name.starts_with(part));
            let needs = needs.map_or_else(String::new, |(_, needs)| format!(": it needs {needs}"));
            return Err(graph.unsupported(
                format!("Atom does not know what to feed its input {name:?}, {}{needs}", shown(&port)),
                "export the decoder with Optimum's ports; if one of those has another name here, import it as a genai folder that names it",
            ));
        }
        if cache.layers == 0 {
            return Err(graph.bad("it has no layers", "export the decoder again"));
        }
        Ok(())
    }

    /// The longest context, and where that is said.
    fn context(&self) -> Result<(usize, String)> {
        for key in [
            "max_position_embeddings",
            "n_positions",
            "context_length",
            "max_sequence_length",
            "n_ctx",
        ] {
            if let Some(node) = self.model.get(key)? {
                let context = node.whole()?;
                return match context {
                    1..=16_777_216 => Ok((context, node.place())),
                    _ => Err(node.wrong("1 to 16777216 tokens")),
                };
            }
        }
        if let Some(node) = self.configs.tokenizer().get("model_max_length")?
            && node.number()? <= 16_777_216.0
        {
            return Ok((node.whole()?.max(1), node.place()));
        }
        Err(self.missing("max_position_embeddings", "the longest context"))
    }

    fn generation_place(&self) -> Option<Node<'_>> {
        self.configs.generation.as_ref().map(Document::root)
    }

    /// Every token that ends a text: the union of what the configurations say. The tokenizer's own comes first: templates see it.
    fn eos(&self, words: &Words, vocab: usize, notes: &mut Notes) -> Result<Vec<u32>> {
        let mut eos = Vec::new();
        let mut from = Vec::new();
        if let Some((id, place)) = words.named(self.configs, "eos_token")?
            && (id as usize) < vocab
        {
            eos.push(id);
            from.push(place);
        }
        let generation = self.generation_place();
        for place in generation.iter().chain(&self.model.0) {
            if let Some(node) = place.get("eos_token_id")? {
                for id in node.tokens()? {
                    if id as usize >= vocab {
                        return Err(node.wrong(&format!(
                            "tokens below {vocab}, the vocabulary of {}",
                            self.graph.shown
                        )));
                    }
                    if !eos.contains(&id) {
                        eos.push(id);
                    }
                }
                from.push(node.place());
            }
        }
        if eos.is_empty() {
            return Err(Error::new(
                ErrorKind::BadModel,
                "nothing says which token ends a text: eos_token_id in generation_config.json, or eos_token in tokenizer_config.json",
            )
            .remedy("add the key, as the model that was exported has it"));
        }
        notes.infer(
            "tokens that end a text",
            &format!("{eos:?}"),
            &from.join(", "),
        );
        Ok(eos)
    }

    /// How tokens are chosen. Without generation_config.json the keys may be in config.json, as transformers reads them.
    fn generation(&self, first: bool, context: usize) -> Result<Generation> {
        let mut found = Generation::new();
        let places = match self.generation_place() {
            Some(generation) => Places(vec![generation]),
            None => self.model.clone(),
        };
        let mut whole = |key: &'static str, own: &str, plain: usize| -> Result<()> {
            if let Some(node) = places.get(own)? {
                let number = node.whole()?;
                if number != plain {
                    found.insert(key, number.to_string());
                }
            }
            Ok(())
        };
        whole("beams", "num_beams", 1)?;
        whole("no_repeat_ngram", "no_repeat_ngram_size", 0)?;
        whole("forced_first", "forced_bos_token_id", usize::MAX)?;
        whole("min_tokens", "min_new_tokens", 0)?;
        whole("top_k", "top_k", 50)?;
        for (key, own, plain) in [
            ("length_penalty", "length_penalty", 1.0),
            ("repetition_penalty", "repetition_penalty", 1.0),
            ("temperature", "temperature", 1.0),
            ("top_p", "top_p", 1.0),
        ] {
            if let Some(node) = places.get(own)? {
                let number = node.number()?;
                if number != plain {
                    found.insert(key, float(number));
                }
            }
        }
        for (key, own) in [
            ("sample", "do_sample"),
            ("early_stopping", "early_stopping"),
        ] {
            if let Some(node) = places.get(own)? {
                // "never" stops even later than false.
                let flag = if node.is_string() {
                    false
                } else {
                    node.flag()?
                };
                if flag {
                    found.insert(key, "true".to_owned());
                }
            }
        }
        if let Some(node) = places.get("forced_eos_token_id")?
            && let Some(id) = node.tokens()?.first()
        {
            found.insert("forced_last", id.to_string());
        }
        if let Some(node) = places.get("suppress_tokens")? {
            let ids: Vec<String> = node.tokens()?.iter().map(u32::to_string).collect();
            if !ids.is_empty() {
                found.insert("suppress", format!("[{}]", ids.join(", ")));
            }
        }
        if let Some(node) = places.get("max_new_tokens")? {
            found.insert("max_tokens", node.whole()?.clamp(1, context).to_string());
        } else if first && let Some(node) = places.get("max_length")? {
            // It counts the start token, too.
            found.insert(
                "max_tokens",
                node.whole()?
                    .saturating_sub(1)
                    .clamp(1, context)
                    .to_string(),
            );
        }
        Ok(found)
    }
}

/// A number as TOML has it.
pub(crate) fn float(number: f64) -> String {
    let text = number.to_string();
    if text.contains(['.', 'e', 'E']) {
        text
    } else {
        format!("{text}.0")
    }
}

fn shown(port: &Port) -> String {
    let dims: Vec<String> = port.shape.iter().map(Dim::to_string).collect();
    format!("{} [{}]", port.dtype, dims.join(", "))
}

struct Cache {
    layers: usize,
    heads: usize,
    head_dim: usize,
    dtype: &'static str,
    /// The first port of them.
    first: String,
}
