//! Two towers into one space: CLIP, SigLIP and their like.

use atom_core::ort::{Dim, Port};
use atom_core::{Error, ErrorKind, Result};

use crate::config::Node;
use crate::configs::Configs;
use crate::families::{Family, Pad};
use crate::graph::Graph;
use crate::image;
use crate::plan::{Cut, Module, Preprocess, Search, Words as TextWords};
use crate::report::Notes;
use crate::source::Export;
use crate::words::Words;

/// The pack's folder for the towers.
const GROUP: &str = "search";
/// Inputs that Atom's text encoder feeds.
const TEXT_INPUTS: &[&str] = &[
    "input_ids",
    "attention_mask",
    "position_ids",
    "token_type_ids",
];

/// The towers of an export.
pub(crate) struct Towers {
    pub(crate) vision: Module,
    pub(crate) text: Module,
    pub(crate) search: Search,
}

/// Reads the towers of `export`.
///
/// # Errors
/// What is missing or wrong, by file and key or port.
pub(crate) fn read(export: &Export<'_>, family: &Family, notes: &mut Notes) -> Result<Towers> {
    let graphs = &export.graphs;
    let split = graphs.has("vision_model") && graphs.has("text_model");
    let (vision, text) = if split {
        let vision = export.tower("vision_model", "its vision tower")?;
        (
            Part::whole(vision),
            Part::whole(export.tower("text_model", "its text tower")?),
        )
    } else if graphs.has("model") {
        let both = || export.tower("model", "both of its towers");
        let (vision, text) = (both()?, both()?);
        notes.infer("towers", "cut out of one graph", &vision.shown);
        (
            Part::of(vision, &["image_embeds"], false)?,
            Part::of(text, &["text_embeds"], true)?,
        )
    } else {
        let missing = if graphs.has("vision_model") {
            "text_model"
        } else {
            "vision_model"
        };
        export.graph(
            missing,
            &format!("{}, beside its other tower,", family.name),
        )?;
        return Err(Error::new(
            ErrorKind::Internal,
            "a graph that is missing was found",
        ));
    };
    let vision = vision_module(export, vision, notes)?;
    let text = text_module(export, family, text, notes)?;
    let dims = [&vision, &text].map(|tower| {
        tower
            .outputs
            .first()
            .and_then(|(port, _)| port.shape.last().cloned())
    });
    if let [Some(Dim::Fixed(a)), Some(Dim::Fixed(b))] = dims
        && a != b
    {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{} writes vectors of {a} numbers and {} of {b}: they are not in one space",
                vision.source.shown, text.source.shown
            ),
        )
        .remedy("export both towers with their projections: text_embeds and image_embeds"));
    }
    notes.warn(
        "search has no threshold: tasks.search.min_score = -1 in pack.toml, because a score's meaning differs between models"
            .to_owned(),
    );
    Ok(Towers {
        search: Search {
            text_encoder: text.id,
            query_template: "{}".to_owned(),
            min_score: -1.0,
        },
        vision,
        text,
    })
}

/// A tower's graph: a file, or a part of one.
struct Part {
    graph: Graph,
    cut: Option<Cut>,
    inputs: Vec<String>,
}

impl Part {
    fn whole(graph: Graph) -> Self {
        let inputs = graph.input_names().into_iter().map(str::to_owned).collect();
        Self {
            graph,
            cut: None,
            inputs,
        }
    }

    /// The part of `graph` that makes `outputs` of the inputs for texts, or of those for pictures.
    fn of(graph: Graph, outputs: &[&str], texts: bool) -> Result<Self> {
        for output in outputs {
            graph.output(output)?;
        }
        let allowed: &[&str] = if texts {
            TEXT_INPUTS
        } else {
            &["pixel_values"]
        };
        // A mask may be an input of the whole graph and of no use to this part.
        let needed = graph
            .model
            .inputs_of(outputs)
            .map_err(|e| e.context(&graph.shown))?;
        if let Some(other) = needed.iter().find(|name| !allowed.contains(&name.as_str())) {
            let side = if texts { "text" } else { "picture" };
            return Err(graph.unsupported(
                format!("its output {:?} depends on {other:?}, too, so that the {side} tower cannot be cut out", outputs[0]),
                "export the towers one by one: text_model.onnx and vision_model.onnx",
            ));
        }
        let inputs = needed;
        let outputs = outputs.iter().map(|&name| name.to_owned()).collect();
        Ok(Self {
            cut: Some(Cut {
                inputs: inputs.clone(),
                outputs,
            }),
            graph,
            inputs,
        })
    }

    fn module(&self, id: &'static str, kind: &'static str, names: &[&str]) -> Result<Module> {
        let graph = &self.graph;
        let has = |name: &&&str| match &self.cut {
            Some(cut) => cut.outputs.iter().any(|own| own == **name),
            None => graph.has_output(name),
        };
        let Some(output) = names.iter().find(has) else {
            let outputs: Vec<&str> = graph
                .summary
                .outputs
                .iter()
                .map(|port| port.name.as_str())
                .collect();
            return Err(graph.unsupported(
                format!(
                    "none of its outputs is the tower's vector: {} was expected, and it writes {}",
                    names.join(" or "),
                    outputs.join(", ")
                ),
                "export the tower with its projection or pooler",
            ));
        };
        let output = graph.output(output)?;
        if output.shape.len() != 2 && !output.shape.is_empty() {
            return Err(graph.unsupported(
                format!(
                    "its output {:?} has {} dimensions, and a vector has two: [batch, length]",
                    output.name,
                    output.shape.len()
                ),
                "export the tower with its projection or pooler",
            ));
        }
        let inputs = self
            .inputs
            .iter()
            .map(|name| graph.input(name))
            .collect::<Result<_>>()?;
        Ok(Module {
            id,
            kind,
            source: graph.source(GROUP, id, self.cut.clone()),
            precision: graph.form().precision(),
            form: graph.form().name(),
            inputs,
            outputs: vec![(output, Some("embedding"))],
            preprocess: None,
            words: None,
            decoder: None,
        })
    }
}

fn vision_module(export: &Export<'_>, part: Part, notes: &mut Notes) -> Result<Module> {
    let mut module = part.module(
        "search-vision",
        "visual-encoder",
        &["image_embeds", "pooler_output"],
    )?;
    if let Some(other) = module
        .inputs
        .iter()
        .find(|port| port.name != "pixel_values")
    {
        return Err(part.graph.unsupported(
            format!("Atom does not know what to feed its input {:?}", other.name),
            "a vision tower reads pixel_values alone: export it so",
        ));
    }
    let preprocess = image::read(
        &export.configs.image()?,
        &export.configs.video()?,
        None,
        notes,
    )?;
    if let Some(pixels) = module.inputs.first_mut() {
        narrow(&part.graph, pixels, &preprocess, &export.configs)?;
    }
    notes.infer(
        "search-vision",
        part.graph.form().name(),
        &format!("{}: {}", part.graph.shown, part.graph.chosen.why),
    );
    module.preprocess = Some(preprocess);
    Ok(module)
}

/// Gives the port for pixels the sizes that preprocessing makes, which the graph may leave open.
///
/// # Errors
/// [`ErrorKind::BadModel`] if the graph fixes others.
pub(crate) fn narrow(
    graph: &Graph,
    port: &mut Port,
    preprocess: &Preprocess,
    configs: &Configs,
) -> Result<()> {
    let rank = port.shape.len();
    if !(4..=5).contains(&rank) {
        return Err(graph.unsupported(
            format!("its input {:?} has {rank} dimensions", port.name),
            "pixels are [batch, 3, height, width] or [batch, pictures, 3, height, width]",
        ));
    }
    let wanted = [3, preprocess.height, preprocess.width];
    for (dim, size) in port.shape.iter_mut().skip(rank - 3).zip(wanted) {
        match dim {
            Dim::Fixed(own) if *own != size => {
                let places = configs.image()?.files();
                return Err(graph.bad(
                    format!(
                        "its input {:?} reads {own} where the image processor makes {size} ({} x {} pixels of 3 channels)",
                        port.name, preprocess.width, preprocess.height
                    ),
                    &format!("correct size or crop_size in {places}"),
                ));
            }
            _ => *dim = Dim::Fixed(size),
        }
    }
    Ok(())
}

fn text_module(
    export: &Export<'_>,
    family: &Family,
    part: Part,
    notes: &mut Notes,
) -> Result<Module> {
    let mut module = part.module(
        "search-text",
        "text-encoder",
        &["text_embeds", "pooler_output"],
    )?;
    let graph = &part.graph;
    if let Some(other) = module
        .inputs
        .iter()
        .find(|port| !TEXT_INPUTS.contains(&port.name.as_str()))
    {
        return Err(graph.unsupported(
            format!("Atom does not know what to feed its input {:?}", other.name),
            "a text tower reads input_ids, and attention_mask if it has one: export it so",
        ));
    }
    let ids = module.inputs.iter().find(|port| port.name == "input_ids");
    let Some(ids) = ids else {
        return Err(graph.unsupported(
            "it does not read input_ids",
            "export the text tower with input_ids",
        ));
    };
    let fixed = match ids.shape.get(1) {
        Some(Dim::Fixed(length)) => Some(*length),
        _ => None,
    };
    module.words = Some(words(export, family, fixed, graph, notes)?);
    notes.infer(
        "search-text",
        graph.form().name(),
        &format!("{}: {}", graph.shown, graph.chosen.why),
    );
    Ok(module)
}

/// How texts become tokens for a text tower.
fn words(
    export: &Export<'_>,
    family: &Family,
    fixed: Option<usize>,
    graph: &Graph,
    notes: &mut Notes,
) -> Result<TextWords> {
    let configs = &export.configs;
    let Some(rules) = &family.towers else {
        return Err(Error::new(
            ErrorKind::Internal,
            format!("family {} has no rules for towers", family.name),
        ));
    };
    let words = Words::read(export.folder, configs, GROUP)?;
    let text_config = match &configs.config {
        Some(config) => config.root().get("text_config")?,
        None => None,
    };
    let positions = match &text_config {
        Some(config) => config.get("max_position_embeddings")?,
        None => None,
    };
    let mut max_tokens = words.longest(configs, positions, notes)?;
    if let Some(fixed) = fixed
        && fixed != max_tokens
    {
        max_tokens = fixed;
        notes.infer(
            "longest text",
            &format!("{fixed} tokens"),
            &format!("{}: input_ids", graph.shown),
        );
    }
    let end = words.last();
    let pads = rules.pad == Pad::Always || fixed.is_some();
    let pad_id = match (pads, rules.pad_id) {
        (false, _) => None,
        (true, Some(id)) => Some(id),
        (true, None) => Some(pad_token(&words, configs, text_config.as_ref())?),
    };
    let lowercase = rules.lowercase && lowercases(&words, configs, notes)?;
    if pads {
        let from = format!("family {}", family.name);
        notes.infer(
            "padding of texts",
            &format!("to {max_tokens} with token {}", pad_id.unwrap_or(0)),
            &from,
        );
    }
    Ok(TextWords {
        file: words.file,
        max_tokens,
        pad_to: pads.then_some(max_tokens),
        pad_id,
        lowercase,
        end_id: end,
    })
}

fn pad_token(words: &Words, configs: &Configs, text_config: Option<&Node<'_>>) -> Result<u32> {
    if let Some((id, _)) = words.named(configs, "pad_token")? {
        return Ok(id);
    }
    if let Some(node) = text_config
        .map(|config| config.get("pad_token_id"))
        .transpose()?
        .flatten()
    {
        return node.token();
    }
    Err(Error::new(
        ErrorKind::BadModel,
        format!(
            "{} has no pad_token, and the text tower reads texts of one length",
            configs.tokenizer().files()
        ),
    )
    .remedy("add \"pad_token\" to tokenizer_config.json"))
}

/// Whether texts are to be put into lower case, because the tokenizer does not do it.
fn lowercases(words: &Words, configs: &Configs, notes: &mut Notes) -> Result<bool> {
    if let Some(node) = configs.tokenizer().get("do_lower_case")?
        && !node.flag()?
    {
        return Ok(false);
    }
    let mixed = words.tokenizer.encode("A Photo OF a CAT", false)?;
    let lower = words.tokenizer.encode("a photo of a cat", false)?;
    if mixed == lower {
        return Ok(false);
    }
    notes.infer(
        "lower case",
        "texts are put into lower case",
        "tokenizer.json keeps case, and the family was trained without",
    );
    Ok(true)
}
