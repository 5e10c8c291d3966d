//! Folders of onnxruntime-genai: `genai_config.json` names graphs and ports.

use std::collections::BTreeMap;

use atom_core::ort::{Dim, Port};
use atom_core::{Error, ErrorKind, Result};

use crate::captioner::{self, Captions, Parts};
use crate::config::{Document, Node, Places};
use crate::decoder::{Given, Reader};
use crate::families::Family;
use crate::graph::Graph;
use crate::plan::{Cut, Module};
use crate::prompts::GROUP;
use crate::report::Notes;
use crate::source::Export;
use crate::words::Words;

/// The keys of `decoder.inputs` and `decoder.outputs`, and those of `[module.decoder.ports]` for the same.
const PORTS: &[(&str, &str, &str)] = &[
    ("inputs", "input_ids", "input_ids"),
    ("inputs", "inputs_embeds", "inputs_embeds"),
    ("inputs", "attention_mask", "attention_mask"),
    ("inputs", "position_ids", "position_ids"),
    ("inputs", "past_key_names", "past_key"),
    ("inputs", "past_value_names", "past_value"),
    ("outputs", "logits", "logits"),
    ("outputs", "present_key_names", "present_key"),
    ("outputs", "present_value_names", "present_value"),
];

/// Whether the model sees pictures.
///
/// # Errors
/// A value of a wrong type.
pub(crate) fn sees(index: &Document) -> Result<bool> {
    let model = index.root().need("model", "it describes the model")?;
    Ok(model.get("vision")?.is_some())
}

/// The model's type, as the folder says it.
///
/// # Errors
/// [`ErrorKind::BadModel`] if it is missing.
pub(crate) fn model_type(index: &Document) -> Result<Node<'_>> {
    let model = index.root().need("model", "it describes the model")?;
    model.need("type", "it says what family the model is of")
}

/// The decoder of a folder that has no picture encoder.
///
/// # Errors
/// What is missing or wrong, by file and key or port.
pub(crate) fn text(export: &Export<'_>, index: &Document, notes: &mut Notes) -> Result<Module> {
    let words = Words::read(export.folder, &export.configs, GROUP)?;
    let graph = export.graph("decoder", "its decoder")?;
    decoder(
        export,
        index,
        &graph,
        words,
        export.configs.chat_template.clone(),
        notes,
    )
}

/// The model of a folder that has a picture encoder.
///
/// # Errors
/// What is missing or wrong, by file and key or port.
pub(crate) fn captions(
    export: &Export<'_>,
    index: &Document,
    family: &Family,
    tiles: Option<bool>,
    notes: &mut Notes,
) -> Result<Captions> {
    let model = index.root().need("model", "it describes the model")?;
    let vision = model.need("vision", "it describes the picture encoder")?;
    let embedding = model.need("embedding", "it describes the embeddings of tokens")?;
    let name = |part: &Node<'_>, side: &str, key: &str| -> Result<String> {
        let named = part
            .get(side)?
            .map(|names| names.get(key))
            .transpose()?
            .flatten();
        named.map_or(Ok(key.to_owned()), |name| name.text().map(str::to_owned))
    };
    let rows = name(&vision, "outputs", "image_features")?;
    let pixels = name(&vision, "inputs", "pixel_values")?;
    let ids = name(&embedding, "inputs", "input_ids")?;
    let embeds = name(&embedding, "outputs", "inputs_embeds")?;
    let vision =
        captioner::vision_module(export, "vision", &pixels, &[rows.as_str()], tiles, notes)?;
    let graph = export.graph("decoder", "its decoder")?;
    let tokens = tokens(export, &ids, &embeds, &graph, index, notes)?;
    let parts = Parts {
        modules: vec![vision, tokens],
        ports: Vec::new(),
        decoder: graph,
    };
    captioner::assemble(
        export,
        family,
        parts,
        notes,
        &|graph, words, template, notes| decoder(export, index, graph, words, template, notes),
    )
}

/// The embeddings of tokens. genai's graph also puts the picture's rows in place, which is done outside of it here.
fn tokens(
    export: &Export<'_>,
    ids: &str,
    embeds: &str,
    decoder: &Graph,
    index: &Document,
    notes: &mut Notes,
) -> Result<Module> {
    let graph = export.graph("embedding", "its embeddings of tokens")?;
    graph.input(ids)?;
    if graph.input_names() == [ids] {
        return captioner::plain(&graph, "tokens", "token-embedding", &[ids], embeds);
    }
    let Some(rows) = graph.model.lookup_of(ids) else {
        return Err(graph.unsupported(
            format!("it does not look {ids:?} up in a table of weights, so that its embeddings cannot be had without a picture"),
            "export the embeddings of tokens by themselves, from input_ids to inputs_embeds",
        ));
    };
    notes.infer(
        "embeddings of tokens",
        &format!("cut out at {rows:?}"),
        &graph.shown,
    );
    let reads = named(index, "inputs", "inputs_embeds")?;
    let written = decoder.input(reads.as_deref().unwrap_or("inputs_embeds"))?;
    let width = written.shape.last().cloned();
    let output = Port {
        name: rows.clone(),
        dtype: written.dtype,
        shape: [
            Dim::Symbolic("batch_size".to_owned()),
            Dim::Symbolic("sequence_length".to_owned()),
        ]
        .into_iter()
        .chain(width)
        .collect(),
    };
    let cut = Cut {
        inputs: vec![ids.to_owned()],
        outputs: vec![rows],
    };
    Ok(Module {
        id: "tokens",
        kind: "token-embedding",
        source: graph.source(GROUP, "tokens", Some(cut)),
        precision: graph.form().precision(),
        form: graph.form().name(),
        inputs: vec![graph.input(ids)?],
        outputs: vec![(output, None)],
        preprocess: None,
        words: None,
        decoder: None,
    })
}

/// The decoder's port that `key` names.
fn named(index: &Document, side: &str, key: &str) -> Result<Option<String>> {
    let decoder = index
        .root()
        .need("model", "it describes the model")?
        .need("decoder", "it describes the decoder")?;
    let names = decoder
        .get(side)?
        .map(|names| names.get(key))
        .transpose()?
        .flatten();
    names.map(|name| name.text().map(str::to_owned)).transpose()
}

fn decoder(
    export: &Export<'_>,
    index: &Document,
    graph: &Graph,
    words: Words,
    template: Option<(String, String)>,
    notes: &mut Notes,
) -> Result<Module> {
    let root = index.root();
    let model = root.need("model", "it describes the model")?;
    let decoder = model.need("decoder", "it describes the decoder")?;
    let mut ports = BTreeMap::new();
    for (side, key, own) in PORTS {
        let Some(name) = named(index, side, key)? else {
            continue;
        };
        if name.contains('%') && name.matches("%d").count() != 1 {
            let names = decoder.need(side, "it names ports")?;
            return Err(names
                .need(key, "it names a port")?
                .wrong("a name with one %d, for the layer"));
        }
        let first = name.replace("%d", "0");
        let there = if *side == "inputs" {
            graph.has_input(&first)
        } else {
            graph.has_output(&first)
        };
        // The configuration names ports that a graph with fused positions does not have.
        if there && !usual(key, &name) {
            ports.insert(*own, name);
        }
    }
    let search = root.get("search")?;
    let config = export.configs.config.iter().map(Document::root);
    let places = search
        .into_iter()
        .chain([decoder.clone(), model])
        .chain(config);
    let reader = Reader {
        graph,
        configs: &export.configs,
        model: Places(places.collect()),
        given: Given {
            ports,
            head_size: decoder.get("head_size")?,
            heads: decoder.get("num_key_value_heads")?,
        },
        template,
        group: GROUP,
    };
    reader.read(words, false, notes)
}

/// Whether a port has Optimum's name, which a pack need not tell.
fn usual(key: &str, name: &str) -> bool {
    match key {
        "past_key_names" => name == "past_key_values.%d.key",
        "past_value_names" => name == "past_key_values.%d.value",
        "present_key_names" => name == "present.%d.key",
        "present_value_names" => name == "present.%d.value",
        key => name == key,
    }
}

/// The error about a part that Atom has no use for.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for speech and encoders.
pub(crate) fn only_known_parts(export: &Export<'_>) -> Result<()> {
    for part in ["speech", "encoder"] {
        if export.graphs.has(part) {
            let shown = export.folder.show("genai_config.json");
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{shown}: model.{part} is not known"),
            )
            .remedy("import a model of pictures and words, or of words alone"));
        }
    }
    Ok(())
}
