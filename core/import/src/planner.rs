//! From folders to the plan of a pack.

use atom_core::{Error, ErrorKind, Result};

use crate::captioner;
use crate::config::Document;
use crate::configs::Configs;
use crate::families::{self, Family, Shape};
use crate::folder::Folder;
use crate::genai;
use crate::layout::{self, Found, Layout};
use crate::options::{For, ImportOptions};
use crate::plan::Plan;
use crate::report::Notes;
use crate::source::Export;
use crate::towers;

/// The plan of the pack that `options` ask for.
///
/// # Errors
/// As [`import`](crate::import).
pub(crate) fn plan(options: &ImportOptions) -> Result<Plan> {
    let mut plan = Plan {
        id: id(options),
        ..Plan::default()
    };
    let mut licences = Vec::new();
    let mut descriptions = Vec::new();
    // The folder that each part is from.
    let mut parts: Vec<(&'static str, String)> = Vec::new();
    let mut graphs: Vec<String> = Vec::new();
    for dir in &options.folders {
        let folder = Folder::open(dir)?;
        let found = layout::find(&folder, options.layout)?;
        graphs.push(found.graphs.names());
        let mut notes = std::mem::take(&mut plan.notes);
        let layout = found.layout;
        notes.infer(
            "layout",
            layout.name(),
            &folder.shown().display().to_string(),
        );
        let index = found.index.clone();
        if let Some(index) = index.as_ref().filter(|_| layout == Layout::Genai)
            && !genai::sees(index)?
        {
            add_text(&mut plan, &folder, found, options, index, &mut notes)?;
            licences.push(licence(&folder, &mut notes));
            descriptions.push(format!("A text decoder from {}", folder.name()));
            plan.notes = notes;
            continue;
        }
        let (export, family) = export(&folder, found, options, &mut notes)?;
        licences.push(licence(&folder, &mut notes));
        descriptions.push(format!("{} from {}", family.name, folder.name()));
        let part = if family.shape == Shape::Towers {
            "search"
        } else {
            "captions"
        };
        if let Some((_, other)) = parts.iter().find(|(own, _)| *own == part) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{other} and {} are both models for {part}, and a pack has one",
                    folder.shown().display()
                ),
            )
            .remedy("give one of them, or make a pack of each"));
        }
        parts.push((part, folder.shown().display().to_string()));
        if family.shape == Shape::Towers {
            add_towers(&mut plan, &export, &family, options, &mut notes)?;
        } else {
            add_captions(
                &mut plan,
                &export,
                &family,
                options,
                index.as_ref(),
                &mut notes,
            )?;
        }
        plan.notes = notes;
    }
    if plan.modules.is_empty() {
        let what = if options.folders.is_empty() {
            "no folder is given"
        } else {
            "the folders serve none of the tasks asked for with --for"
        };
        return Err(Error::new(ErrorKind::InvalidArgument, what)
            .remedy("give a folder with a model for them: CLIP and SigLIP index and search, vision-language models caption and ask"));
    }
    let known: Vec<&str> = graphs.iter().flat_map(|names| names.split(", ")).collect();
    let mut asked = options.precision.graphs.keys();
    if let Some(unknown) = asked.find(|name| !known.contains(&name.as_str())) {
        let what = format!("--precision names {unknown:?}, which is no graph of the folders");
        return Err(Error::new(ErrorKind::InvalidArgument, what)
            .remedy(format!("name one of {}", graphs.join(", "))));
    }
    licences.sort();
    licences.dedup();
    plan.licence = licences.join(" AND ");
    plan.description = descriptions.join("; ");
    Ok(plan)
}

impl Plan {
    /// The tasks it serves.
    pub(crate) fn served(&self) -> Vec<&'static str> {
        let tasks = &self.tasks;
        let served = [
            ("index", tasks.index.is_some()),
            ("search", tasks.search.is_some()),
            ("caption", tasks.caption.is_some()),
            ("ask", tasks.ask.is_some()),
            ("assemble", tasks.search.is_some()),
        ];
        served
            .into_iter()
            .filter_map(|(name, served)| served.then_some(name))
            .collect()
    }
}

/// Whether `task` is wanted.
fn wants(options: &ImportOptions, task: For) -> bool {
    options
        .tasks
        .as_ref()
        .is_none_or(|tasks| tasks.contains(&task))
}

fn add_towers(
    plan: &mut Plan,
    export: &Export<'_>,
    family: &Family,
    options: &ImportOptions,
    notes: &mut Notes,
) -> Result<()> {
    if !wants(options, For::Index) && !wants(options, For::Search) {
        return Ok(());
    }
    let towers = towers::read(export, family, notes)?;
    plan.tasks.index = Some(towers.vision.id);
    plan.modules.push(towers.vision);
    if wants(options, For::Search) {
        plan.tasks.search = Some(towers.search);
        plan.modules.push(towers.text);
    }
    Ok(())
}

fn add_captions(
    plan: &mut Plan,
    export: &Export<'_>,
    family: &Family,
    options: &ImportOptions,
    index: Option<&Document>,
    notes: &mut Notes,
) -> Result<()> {
    if !wants(options, For::Caption) && !wants(options, For::Ask) {
        return Ok(());
    }
    let captions = match index {
        Some(index) => genai::captions(export, index, family, options.tiles, notes)?,
        None => captioner::read(export, family, options.tiles, notes)?,
    };
    plan.modules.extend(captions.modules);
    plan.captioner = Some(captions.captioner);
    plan.tasks.caption = wants(options, For::Caption).then_some(captions.caption);
    plan.tasks.ask = captions.ask.filter(|_| wants(options, For::Ask));
    Ok(())
}

/// A text decoder alone: a module that serves no task by itself.
fn add_text(
    plan: &mut Plan,
    folder: &Folder,
    found: Found,
    options: &ImportOptions,
    index: &Document,
    notes: &mut Notes,
) -> Result<()> {
    let export = Export {
        folder,
        graphs: found.graphs,
        configs: Configs::find(folder)?,
        wanted: &options.precision,
    };
    genai::only_known_parts(&export)?;
    if let Some(other) = plan.modules.iter().find(|module| module.id == "decoder") {
        let what = format!(
            "{} and {} are both language decoders, and a pack has one",
            other.source.shown,
            folder.shown().display()
        );
        return Err(Error::new(ErrorKind::InvalidArgument, what).remedy("make a pack of each"));
    }
    plan.modules.push(genai::text(&export, index, notes)?);
    notes.warn(format!(
        "{} is a text decoder: it serves no task by itself, and captioners of other packs can be written to use it",
        folder.shown().display()
    ));
    Ok(())
}

/// The export in `folder`, and its family.
fn export<'a>(
    folder: &'a Folder,
    found: Found,
    options: &'a ImportOptions,
    notes: &mut Notes,
) -> Result<(Export<'a>, Family)> {
    let configs = Configs::find(folder)?;
    // A model in one graph is as Optimum's; of several, none looks up the rows of tokens.
    if found.layout == Layout::Native && !found.graphs.has("model") {
        return Err(refused(folder, &found));
    }
    let node = match (&configs.config, &found.index) {
        (Some(config), _) if config.root().get("model_type")?.is_some() => config
            .root()
            .need("model_type", "it says what family the model is of")?,
        (_, Some(index)) => genai::model_type(index)?,
        (Some(config), None) => config
            .root()
            .need("model_type", "it says what family the model is of")?,
        (None, None) => {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "{} has no config.json, which says what family the model is of",
                    folder.shown().display()
                ),
            )
            .remedy("copy config.json from the model that was exported"));
        }
    };
    let mut names = vec![folder.name()];
    for key in ["_name_or_path", "name"] {
        if let Some(config) = &configs.config
            && let Some(name) = config.root().get(key)?
        {
            names.push(name.text()?.to_owned());
        }
    }
    let family = families::find(node.text()?, &node.place(), &names)?;
    notes.infer("family", &family.name, &node.place());
    let export = Export {
        folder,
        graphs: found.graphs,
        configs,
        wanted: &options.precision,
    };
    Ok((export, family))
}

fn refused(folder: &Folder, found: &Found) -> Error {
    let shown = folder.shown().display();
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "{shown} is of the layout {}: none of its graphs ({}) looks up the rows of token ids, as embed_tokens does",
            found.layout.name(),
            found.graphs.names()
        ),
    )
    .remedy("use the model's export for transformers.js, with onnx/ and config.json")
}

/// A name for the pack, from its folder's.
fn id(options: &ImportOptions) -> String {
    let name = options
        .pack
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_ascii_lowercase();
    let plain = |c: char| {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            c
        } else {
            '-'
        }
    };
    let name: String = name.chars().map(plain).take(64).collect();
    let name = name.trim_matches('-');
    if name.is_empty() {
        "imported".to_owned()
    } else {
        name.to_owned()
    }
}

/// What the model's page says of its licence.
fn licence(folder: &Folder, notes: &mut Notes) -> String {
    let page = folder
        .has("README.md")
        .then(|| folder.read("README.md").ok())
        .flatten();
    let page = page
        .map(|page| String::from_utf8_lossy(&page).into_owned())
        .unwrap_or_default();
    let head = page
        .strip_prefix("---")
        .and_then(|rest| rest.split("\n---").next())
        .unwrap_or_default();
    let found = head.lines().find_map(|line| line.strip_prefix("license:"));
    let found = found
        .map(|name| name.trim().trim_matches(['"', '\'']))
        .filter(|name| !name.is_empty());
    let Some(name) = found else {
        notes.warn(format!(
            "{} does not say the model's licence: licence in pack.toml is LicenseRef-unknown",
            folder.shown().display()
        ));
        return "LicenseRef-unknown".to_owned();
    };
    notes.infer(
        "licence",
        name,
        &format!("{}: license", folder.show("README.md")),
    );
    match name {
        "apache-2.0" => "Apache-2.0".to_owned(),
        "mit" => "MIT".to_owned(),
        "bsd-3-clause" => "BSD-3-Clause".to_owned(),
        "cc-by-4.0" => "CC-BY-4.0".to_owned(),
        other => {
            let plain = |c: char| {
                if c.is_ascii_alphanumeric() || c == '.' {
                    c
                } else {
                    '-'
                }
            };
            format!(
                "LicenseRef-{}",
                other.chars().map(plain).collect::<String>()
            )
        }
    }
}
