//! What a manifest must satisfy beyond its grammar. Every message names the key.

use std::collections::{HashMap, HashSet};

use super::file_ref::FileRef;
use super::manifest::Manifest;
use super::spec::{DetectorSpec, ModuleKind, ModuleSpec, PortSpec, Role, TokenizerSpec};
use super::validate_values::{bad, file, golden, name, require, size, within};
use super::{validate_captioner, validate_decoder, validate_preprocess, validate_providers};
use crate::error::Result;
use crate::ort::Dim;

pub(super) fn manifest(manifest: &Manifest) -> Result<()> {
    name("id", &manifest.id)?;
    for (key, value) in [
        ("version", &manifest.version),
        ("licence", &manifest.licence),
    ] {
        require(!value.trim().is_empty(), key, "is empty", "give it a value")?;
    }
    if manifest.modules.is_empty() {
        return bad("module", "is empty", "a pack has at least one [[module]]");
    }
    let mut kinds = HashMap::new();
    for module in &manifest.modules {
        name("module.id", &module.id)?;
        if kinds.insert(module.id.as_str(), module.kind).is_some() {
            return bad(
                "module.id",
                format_args!("{:?} occurs twice", module.id),
                "ids are unique",
            );
        }
    }
    for spec in &manifest.modules {
        module(spec).map_err(|e| e.context(format_args!("module {:?}", spec.id)))?;
    }
    tasks(manifest, &kinds)?;
    same_file_same_hash(manifest)
}

fn same_file_same_hash(manifest: &Manifest) -> Result<()> {
    let mut seen: HashMap<&str, &FileRef> = HashMap::new();
    for file in manifest.files() {
        let first = seen.entry(&file.file).or_insert(file);
        require(
            *first == file,
            "file",
            format_args!(
                "{:?} is declared twice, with different sha256 or bytes",
                file.file
            ),
            "correct one of them",
        )?;
    }
    Ok(())
}

fn tasks(manifest: &Manifest, kinds: &HashMap<&str, ModuleKind>) -> Result<()> {
    let refers = |key: &str, id: &str, kind: ModuleKind| match kinds.get(id) {
        Some(found) if *found == kind => Ok(()),
        Some(found) => bad(
            key,
            format_args!("= {id:?} is a {}", found.name()),
            format!("name a module of kind {:?}", kind.name()),
        ),
        None => bad(
            key,
            format_args!("= {id:?} is no module"),
            "name a [[module]]'s id",
        ),
    };
    let eyes = manifest.captioner.as_ref();
    if let Some(id) = eyes.and_then(|spec| spec.visual_encoder.as_deref()) {
        let key = "captioner.visual_encoder";
        refers(key, id, ModuleKind::VisualEncoder)?;
        let spec = manifest.modules.iter().find(|module| module.id == id);
        require(
            spec.is_some_and(|spec| spec.output_with(Role::Features).is_some()),
            key,
            format_args!("= {id:?} has no output with role = \"features\""),
            "declare it: it is what the captioner reads",
        )?;
    }
    let by_id = |id: &str| manifest.modules.iter().find(|module| module.id == id);
    if let Some(index) = &manifest.tasks.index {
        refers(
            "tasks.index.visual_encoder",
            &index.visual_encoder,
            ModuleKind::VisualEncoder,
        )?;
        for (at, detector) in index.detectors.iter().enumerate() {
            refers("tasks.index.detectors", detector, ModuleKind::Detector)?;
            require(
                !index.detectors[..at].contains(detector),
                "tasks.index.detectors",
                format_args!("names {detector:?} twice"),
                "name each detector once",
            )?;
        }
    }
    if let Some(ask) = &manifest.tasks.ask {
        require(
            ask.prompts.is_empty(),
            "tasks.ask.prompts",
            "has no meaning",
            "only captions have named prompts: move it to [tasks.caption.prompts]",
        )?;
    }
    for prompt in manifest
        .tasks
        .caption
        .iter()
        .flat_map(|task| task.prompts.keys())
    {
        self::name("tasks.caption.prompts", prompt)?;
    }
    if let Some(search) = &manifest.tasks.search {
        refers(
            "tasks.search.text_encoder",
            &search.text_encoder,
            ModuleKind::TextEncoder,
        )?;
        require(
            search.query_template.matches("{}").count() == 1,
            "tasks.search.query_template",
            format_args!("= {:?}", search.query_template),
            "it holds {} once, where the query goes",
        )?;
        within("tasks.search.min_score", search.min_score.into(), -1.0, 1.0)?;
        let encoder = manifest
            .tasks
            .index
            .as_ref()
            .and_then(|i| by_id(&i.visual_encoder));
        require(
            encoder.is_some_and(|encoder| encoder.output_with(Role::Embedding).is_some()),
            "tasks.search",
            "needs [tasks.index] whose visual encoder has an output with role = \"embedding\"",
            "declare it, or leave [tasks.search] out",
        )?;
    }
    match &manifest.captioner {
        Some(spec) => validate_captioner::captioner(spec, refers),
        None => {
            let served = [
                ("caption", &manifest.tasks.caption),
                ("ask", &manifest.tasks.ask),
            ];
            match served.iter().find(|(_, task)| task.is_some()) {
                Some((name, _)) => bad(
                    format_args!("tasks.{name}"),
                    "needs a [captioner]",
                    "add the table, with the kind of captioner that serves the task",
                ),
                None => Ok(()),
            }
        }
    }
}

fn module(module: &ModuleSpec) -> Result<()> {
    validate_providers::graph("", &module.model, &module.data)?;
    validate_providers::providers(module)?;
    ports("inputs", &module.inputs)?;
    ports("outputs", &module.outputs)?;
    if let Some(port) = module.inputs.iter().find(|port| port.role != Role::None) {
        return bad(
            "inputs.role",
            format_args!("of {:?} has no meaning", port.name),
            "only outputs have roles",
        );
    }
    let kind = module.kind;
    let decodes = kind == ModuleKind::LanguageDecoder;
    let sees = matches!(kind, ModuleKind::VisualEncoder | ModuleKind::Detector);
    let reads = matches!(kind, ModuleKind::TextEncoder | ModuleKind::LanguageDecoder);
    for (key, given, wanted) in [
        ("preprocess", module.preprocess.is_some(), sees),
        ("tokenizer", module.tokenizer.is_some(), reads),
        ("decoder", module.decoder.is_some(), decodes),
        (
            "detector",
            module.detector.is_some(),
            kind == ModuleKind::Detector,
        ),
    ] {
        if wanted && !given {
            let needs = format!("a {} needs [module.{key}]", kind.name());
            return bad(key, "is missing", needs);
        }
        if given && !wanted {
            let reason = format!("has no meaning for a {}", kind.name());
            return bad(key, reason, "remove it, or correct kind");
        }
    }
    if !decodes {
        for (key, list) in [("inputs", &module.inputs), ("outputs", &module.outputs)] {
            require(
                !list.is_empty(),
                key,
                "is empty",
                "declare the graph's ports",
            )?;
        }
    }
    if let Some(spec) = &module.preprocess {
        validate_preprocess::preprocess(spec, module)?;
    }
    if let Some(tokenizer) = &module.tokenizer {
        file("tokenizer.file", &tokenizer.file)?;
        size("tokenizer.max_tokens", tokenizer.max_tokens, 1 << 24)?;
        padding(tokenizer, kind)?;
    }
    if let Some(spec) = &module.decoder {
        validate_decoder::decoder(spec)?;
    }
    if let Some(spec) = &module.detector {
        detector(spec, &module.outputs)?;
    }
    if let Some(spec) = &module.golden {
        golden("golden", spec, module)?;
    }
    Ok(())
}

fn padding(spec: &TokenizerSpec, kind: ModuleKind) -> Result<()> {
    let keys = [
        ("pad_to", spec.pad_to.is_some()),
        ("pad_id", spec.pad_id.is_some()),
        ("end_id", spec.end_id.is_some()),
        ("lowercase", spec.lowercase),
    ];
    if let (false, Some((key, _))) = (
        kind == ModuleKind::TextEncoder,
        keys.iter().find(|(_, given)| *given),
    ) {
        let why = format!("has no meaning for a {}", kind.name());
        return bad(format_args!("tokenizer.{key}"), why, "remove it");
    }
    match spec.pad_to {
        Some(length) => require(
            (spec.max_tokens..=MOST_PADDED).contains(&length),
            "tokenizer.pad_to",
            format_args!("= {length}"),
            &format!("it is tokenizer.max_tokens or more, up to {MOST_PADDED}"),
        ),
        None => Ok(()),
    }
}

/// Longest text that padding makes.
const MOST_PADDED: usize = 1 << 16;

fn ports(key: &str, ports: &[PortSpec]) -> Result<()> {
    let mut names = HashSet::new();
    for port in ports {
        require(
            !port.name.is_empty(),
            format_args!("{key}.name"),
            "is empty",
            "name the port",
        )?;
        require(
            names.insert(&port.name),
            format_args!("{key}.name"),
            format_args!("= {:?} occurs twice", port.name),
            "names are unique",
        )?;
        let valid = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size > 0,
            Dim::Symbolic(name) => !name.is_empty(),
        };
        require(
            port.shape.iter().all(valid),
            format_args!("{key}.shape"),
            format_args!("of {:?} has a 0 or an empty name", port.name),
            "give sizes from 1, or names for what each run decides",
        )?;
    }
    for role in [Role::Embedding, Role::Posteriors, Role::Features] {
        let count = ports.iter().filter(|port| port.role == role).count();
        require(
            count <= 1,
            format_args!("{key}.role"),
            format_args!("{role:?} occurs {count} times"),
            "give each role to one port",
        )?;
    }
    Ok(())
}

fn detector(spec: &DetectorSpec, outputs: &[PortSpec]) -> Result<()> {
    require(
        !spec.labels.is_empty(),
        "detector.labels",
        "is empty",
        "name the classes",
    )?;
    within("detector.min_score", spec.min_score.into(), 0.0, 1.0)?;
    within("detector.nms_iou", spec.nms_iou.into(), 0.0, 1.0)?;
    for (name, rank) in [("boxes", 3), ("scores", 2), ("classes", 2)] {
        require(
            outputs
                .iter()
                .any(|port| port.name == name && port.shape.len() == rank),
            "outputs",
            format_args!("lack {name:?} of {rank} dimensions"),
            "a detector writes boxes [batch, N, 4], scores [batch, N] and classes [batch, N]",
        )?;
    }
    Ok(())
}
