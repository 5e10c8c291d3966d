//! Models that put pictures into words: a vision encoder, a decoder, and what is between them.

use std::collections::BTreeMap;

use atom_core::Result;
use atom_core::ort::{DType, Dim, Port};

use crate::config::Places;
use crate::decoder::{Given, Reader};
use crate::families::{Family, Shape};
use crate::graph::Graph;
use crate::image;
use crate::plan::{Captioner, Module, Prompts};
use crate::prompts::{self, GROUP, Prompted, Tokens};
use crate::report::Notes;
use crate::source::Export;
use crate::towers::narrow;
use crate::words::Words;

/// What a vision encoder may call a picture's rows.
const ROWS: &[&str] = &["image_features", "last_hidden_state", "image_embeds"];

/// A captioner and its modules.
pub(crate) struct Captions {
    pub(crate) modules: Vec<Module>,
    pub(crate) captioner: Captioner,
    pub(crate) caption: Prompts,
    /// `None`: it answers no questions.
    pub(crate) ask: Option<String>,
}

/// Reads the model of `export`.
///
/// # Errors
/// What is missing or wrong, by file and key or port.
pub(crate) fn read(
    export: &Export<'_>,
    family: &Family,
    tiles: Option<bool>,
    notes: &mut Notes,
) -> Result<Captions> {
    let pictures = family.shape == Shape::PictureEncoderDecoder;
    let vision = if pictures {
        "encoder_model"
    } else {
        "vision_encoder"
    };
    let vision = vision_module(export, vision, "pixel_values", ROWS, tiles, notes)?;
    let mut modules = vec![vision];
    let mut ports = Vec::new();
    if !pictures {
        let (tokens, written) = tokens_module(export)?;
        modules.push(tokens);
        ports.push(written);
    }
    if family.shape == Shape::TextEncoderDecoder {
        modules.push(encoder_module(export)?);
    }
    let decoder = decoder_graph(export, family)?;
    let first = family.shape != Shape::Decoder;
    if first && !decoder.has_input("encoder_hidden_states") {
        return Err(decoder.bad(
            format!(
                "it does not read encoder_hidden_states, as the decoder of a {} does",
                family.name
            ),
            "export the decoder with its encoder",
        ));
    }
    if !pictures && !decoder.has_input("inputs_embeds") {
        return Err(decoder.unsupported(
            "it does not read inputs_embeds, so that rows of a picture cannot stand between words",
            "export the decoder with inputs_embeds",
        ));
    }
    let parts = Parts {
        modules,
        ports,
        decoder,
    };
    let model = model_places(export)?;
    assemble(
        export,
        family,
        parts,
        notes,
        &|graph, words, template, notes| {
            let reader = Reader {
                graph,
                configs: &export.configs,
                model: model.clone(),
                given: Given::default(),
                template,
                group: GROUP,
            };
            reader.read(words, first, notes)
        },
    )
}

/// Modules and graphs of a captioner that are read.
pub(crate) struct Parts {
    /// The vision encoder first; all but the decoder.
    pub(crate) modules: Vec<Module>,
    /// What the embeddings of tokens write.
    pub(crate) ports: Vec<Port>,
    pub(crate) decoder: Graph,
}

/// What reads the decoder: from its graph, the tokenizer, and the chat template.
type ReadDecoder<'a> =
    &'a dyn Fn(&Graph, Words, Option<(String, String)>, &mut Notes) -> Result<Module>;

/// Adds the decoder to `parts`, and the prompts.
///
/// # Errors
/// As [`read`].
pub(crate) fn assemble(
    export: &Export<'_>,
    family: &Family,
    parts: Parts,
    notes: &mut Notes,
    read_decoder: ReadDecoder<'_>,
) -> Result<Captions> {
    let Parts {
        mut modules,
        ports,
        decoder,
    } = parts;
    let rules = family.captioner.clone().unwrap_or_default();
    let pictures = family.shape == Shape::PictureEncoderDecoder;
    let of = |kind: &str| {
        modules
            .iter()
            .find(|module| module.kind == kind)
            .map(|module| module.id)
    };
    let mut captioner = Captioner {
        visual_encoder: "vision",
        token_embedding: of("token-embedding"),
        encoder: of("encoder"),
        language_decoder: "decoder",
        ..Captioner::default()
    };
    let words = Words::read(export.folder, &export.configs, GROUP)?;
    let adds = words.adds_tokens();
    let tokens = Tokens::read(export, &words, &rules, family, notes)?;
    let video = modules[0]
        .preprocess
        .as_ref()
        .and_then(|preprocess| preprocess.video.clone());
    let chat = prompts::chat_template(export, &rules, &tokens, video.is_some(), notes);
    let bos = words.named(&export.configs, "bos_token")?;
    let bos = bos.and_then(|(id, _)| words.tokenizer.id_to_token(id));
    let module = read_decoder(&decoder, words, chat.text.clone(), notes)?;
    let template = chat.text.is_some();
    modules.push(module);
    widths(&modules, &decoder, &ports)?;
    let prompts = Prompted {
        export,
        rules: &rules,
        family,
        template,
        image_token: tokens.image.as_deref(),
    };
    let (caption, ask) = prompts.read(notes)?;
    if family.shape == Shape::Decoder {
        captioner.content = template.then(|| prompts::content(&chat.text, notes));
    }
    captioner.add_special_tokens = match &chat.text {
        // As transformers does: the tokenizer's own go around a prompt that does not begin with them.
        Some((text, _)) => {
            let begins = text.contains("bos_token") || bos.is_some_and(|bos| text.contains(&bos));
            (adds && !begins).then_some(true)
        }
        None => (!pictures).then_some(adds),
    };
    captioner.image_prompt = tokens.template("image_prompt", rules.image_prompt.as_deref());
    if let (Some(video), Some(token)) = (video, chat.video_token) {
        captioner.video_prompt = tokens.template("video_prompt", rules.video_prompt.as_deref());
        captioner.video = Some((video.fps, video.max_frames));
        captioner.video_token = Some(token);
    }
    captioner.image_token = tokens.image;
    Ok(Captions {
        modules,
        captioner,
        caption,
        ask,
    })
}

/// The part of `config.json` about the language model, then all of it.
fn model_places<'a>(export: &'a Export<'_>) -> Result<Places<'a>> {
    let Some(config) = &export.configs.config else {
        return Ok(Places::default());
    };
    let root = config.root();
    let mut places = Vec::new();
    for key in ["text_config", "decoder", "llm_config", "language_config"] {
        if let Some(part) = root.get(key)? {
            if !part.is_object() {
                return Err(part.wrong("an object"));
            }
            places.push(part);
        }
    }
    places.push(root);
    Ok(Places(places))
}

/// The vision encoder, graph `name`, which reads `pixels` and writes a picture's rows to the first of the outputs `rows` it has.
///
/// # Errors
/// What is missing or wrong, by file and key or port.
pub(crate) fn vision_module(
    export: &Export<'_>,
    name: &str,
    pixels: &str,
    rows: &[&str],
    tiles: Option<bool>,
    notes: &mut Notes,
) -> Result<Module> {
    let graph = export.tower(name, "its vision encoder")?;
    let mut preprocess = image::read(
        &export.configs.image()?,
        &export.configs.video()?,
        tiles,
        notes,
    )?;
    let mut inputs = graph.inputs()?;
    for port in &mut inputs {
        match port.name.as_str() {
            name if name == pixels => narrow(&graph, port, &preprocess, &export.configs)?,
            "pixel_attention_mask" => {
                let rank = port.shape.len();
                if !matches!(port.dtype, DType::Bool | DType::I64 | DType::F32)
                    || !(3..=4).contains(&rank)
                {
                    return Err(graph.unsupported(
                        format!(
                            "its input {:?} is {} of {rank} dimensions",
                            port.name, port.dtype
                        ),
                        "a mask of pixels is bool, i64 or f32, [batch, pictures, height, width]",
                    ));
                }
                for (dim, size) in port
                    .shape
                    .iter_mut()
                    .skip(rank - 2)
                    .zip([preprocess.height, preprocess.width])
                {
                    *dim = Dim::Fixed(size);
                }
                preprocess.pixel_mask = Some(port.name.clone());
            }
            other => {
                return Err(graph.unsupported(
                    format!("Atom does not know what to feed its input {other:?}"),
                    "a vision encoder reads pixel_values, and pixel_attention_mask if it has one",
                ));
            }
        }
    }
    if !inputs.iter().any(|port| port.name == pixels) {
        return Err(graph.bad(
            format!("it does not read {pixels}"),
            "export the vision encoder with pixel_values",
        ));
    }
    let Some(output) = rows.iter().find(|name| graph.has_output(name)) else {
        return Err(graph.unsupported(
            format!(
                "none of its outputs has a picture's rows: {} was expected",
                rows.join(" or ")
            ),
            "export the vision encoder with its projector",
        ));
    };
    let output = graph.output(output)?;
    notes.infer(
        "vision",
        graph.form().name(),
        &format!("{}: {}", graph.shown, graph.chosen.why),
    );
    Ok(Module {
        id: "vision",
        kind: "visual-encoder",
        source: graph.source(GROUP, "vision", None),
        precision: graph.form().precision(),
        form: graph.form().name(),
        inputs,
        outputs: vec![(output, Some("features"))],
        preprocess: Some(preprocess),
        words: None,
        decoder: None,
    })
}

/// A module without settings of its own, which reads and writes these ports.
/// A module without settings of its own.
pub(crate) fn plain(
    graph: &Graph,
    id: &'static str,
    kind: &'static str,
    reads: &[&str],
    writes: &str,
) -> Result<Module> {
    if let Some(other) = graph
        .input_names()
        .into_iter()
        .find(|name| !reads.contains(name))
    {
        return Err(graph.unsupported(
            format!("Atom does not know what to feed its input {other:?}"),
            &format!("it reads {}: export it so", reads.join(", ")),
        ));
    }
    if let Some(other) = graph
        .summary
        .outputs
        .iter()
        .find(|port| port.name != writes)
        && other.name == "per_layer_inputs"
    {
        return Err(graph.unsupported(
            "it writes per_layer_inputs, too, which Atom's decoders do not read",
            "import a model of another family, such as SmolVLM2",
        ));
    }
    Ok(Module {
        id,
        kind,
        source: graph.source(GROUP, id, None),
        precision: graph.form().precision(),
        form: graph.form().name(),
        inputs: graph.inputs()?,
        outputs: vec![(graph.output(writes)?, None)],
        preprocess: None,
        words: None,
        decoder: None,
    })
}

fn tokens_module(export: &Export<'_>) -> Result<(Module, Port)> {
    let graph = export.graph("embed_tokens", "its embeddings of tokens")?;
    let module = plain(
        &graph,
        "tokens",
        "token-embedding",
        &["input_ids"],
        "inputs_embeds",
    )?;
    let written = graph.output("inputs_embeds")?;
    Ok((module, written))
}

fn encoder_module(export: &Export<'_>) -> Result<Module> {
    let graph = export.graph("encoder_model", "its text encoder")?;
    plain(
        &graph,
        "encoder",
        "encoder",
        &["inputs_embeds", "attention_mask"],
        "last_hidden_state",
    )
}

/// The decoder's graph. A decoder that keeps no keys and values of the encoder's rows can begin with an empty cache, so that the
/// graph with a past is enough for it.
fn decoder_graph(export: &Export<'_>, family: &Family) -> Result<Graph> {
    let graphs = &export.graphs;
    if graphs.has("decoder_model_merged") {
        return export.graph("decoder_model_merged", "its decoder");
    }
    if graphs.has("decoder_with_past_model") {
        let graph = export.graph("decoder_with_past_model", "its decoder")?;
        let begins_empty = match family.shape {
            Shape::PictureEncoderDecoder => graph.has_input("encoder_hidden_states"),
            _ => true,
        };
        let keeps_cross = graph
            .input_names()
            .iter()
            .any(|name| name.contains(".encoder."));
        if begins_empty && !keeps_cross {
            return Ok(graph);
        }
        return Err(graph.unsupported(
            "its first step is in another graph, decoder_model.onnx, and Atom runs a decoder from one graph",
            "merge both into decoder_model_merged.onnx: optimum.onnx.merge_decoders in Python, or export with a current Optimum, \
             which does it",
        ));
    }
    if graphs.has("decoder_model") {
        return export.graph("decoder_model", "its decoder");
    }
    export.graph("decoder_model_merged", "its decoder")
}

/// Sees that what one module writes is as wide as what the next reads.
fn widths(modules: &[Module], decoder: &Graph, ports: &[Port]) -> Result<()> {
    let width = |port: &Port| match port.shape.last() {
        Some(Dim::Fixed(width)) => Some(*width),
        _ => None,
    };
    let reads = ["inputs_embeds", "encoder_hidden_states"];
    let reads: BTreeMap<&str, Port> = reads
        .into_iter()
        .filter(|name| decoder.has_input(name))
        .map(|name| Ok((name, decoder.input(name)?)))
        .collect::<Result<_>>()?;
    for written in ports {
        if let (Some(a), Some(b)) = (width(written), reads.get("inputs_embeds").and_then(width))
            && a != b
        {
            let from = modules
                .iter()
                .find(|module| module.kind == "token-embedding");
            let from = from.map_or_else(String::new, |module| module.source.shown.clone());
            return Err(decoder.bad(
                format!(
                    "its input \"inputs_embeds\" takes rows of {b} numbers, and {from} writes {a}"
                ),
                "use graphs of one export",
            ));
        }
    }
    Ok(())
}
