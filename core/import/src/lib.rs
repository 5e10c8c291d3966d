//! Folders of exported models, as users have them, to packs.
//!
//! An import has two stages. The first reads configurations and graphs, and makes a plan of the pack: its modules, their ports,
//! how pictures and words go in. It writes nothing. The second writes the pack into a hidden folder beside its place, runs every
//! module once, keeps what they make as golden outputs, and moves the folder to its place.
//!
//! A family of models is data: `families/*.toml` says what `config.json` calls it, how its graphs are joined and what its prompts
//! look like; `processors.toml` says what image processors do. Code has the mechanisms alone. What the code does not know is an
//! error that names file and key or port.

mod captioner;
mod config;
mod configs;
mod decoder;
mod families;
mod folder;
mod genai;
mod graph;
mod graphs;
mod image;
mod layout;
mod made;
mod manifest;
mod options;
mod place;
mod plan;
mod planner;
mod prompts;
mod prove;
mod report;
pub mod rewrite;
mod source;
pub mod split;
mod towers;
mod tune;
mod words;

use std::collections::BTreeMap;
use std::path::Path;

use atom_core::control::Control;
use atom_core::ort::{Dim, Environment, EnvironmentOptions, Port};
use atom_core::pack::{FileRef, Manifest};
use atom_core::{Error, ErrorKind, Result};

pub use graphs::{Form, Wanted};
pub use layout::Layout;
pub use options::{For, ImportOptions};
pub use report::{Inferred, Report, ReportedModule, ReportedPort};

use place::{Files, Site};
use plan::{Module, Plan};
use prove::Proof;

/// Makes a pack of exported models.
///
/// Nothing is left behind if it fails or is cancelled.
///
/// # Errors
/// [`ErrorKind::NotFound`] for what is missing,
/// [`ErrorKind::BadModel`] for files that are wrong,
/// [`ErrorKind::Unsupported`] for models that Atom cannot run,
/// [`ErrorKind::AlreadyExists`] for a pack that is there; each names file and key or port.
pub fn import(options: &ImportOptions, control: &Control) -> Result<Report> {
    let mut plan = planner::plan(options)?;
    checked(&plan, options)?;
    control.check()?;
    let mut site = Site::begin(&options.pack, options.link)?;
    site.fill(&plan, control)?;
    let environment = Environment::open(&EnvironmentOptions {
        library: options.ort_library.clone(),
        threads: options.threads,
    })?;
    let mut notes = plan.notes.clone();
    let mut proof = prove::run(&mut plan, &mut site, environment, control, &mut notes)?;
    manifest::write(&mut site, &plan, &proof.goldens)?;
    if !options.keep_graphs {
        tune::run(&mut plan, &mut site, &mut proof, control, &mut notes)?;
    }
    plan.notes = notes;
    manifest::write(&mut site, &plan, &proof.goldens)?;
    prove::again(&site.dir, environment)?;
    control.check()?;
    let files = site.files.clone();
    let pack = site.finish()?;
    Ok(report(&pack, &plan, &files, &proof))
}

/// The text of the `pack.toml` that an import would write, with made-up hashes and without golden outputs. It reads
/// configurations and graphs, runs nothing and writes nothing.
///
/// # Errors
/// As [`import`].
pub fn describe(options: &ImportOptions) -> Result<String> {
    checked(&planner::plan(options)?, options)
}

/// The manifest of `plan`, with made-up hashes, if it is one that Atom accepts. A number that is whole, but larger than any model
/// has it, is found here, before anything is run.
fn checked(plan: &Plan, options: &ImportOptions) -> Result<String> {
    let mut files = Files::new();
    let mut note = |target: &str| {
        let file = FileRef {
            file: target.to_owned(),
            sha256: "0".repeat(64),
            bytes: 1,
        };
        files.insert(target.to_owned(), file);
    };
    for module in &plan.modules {
        note(&module.source.target);
        module
            .source
            .data_targets()
            .iter()
            .for_each(|target| note(target));
        module
            .words
            .iter()
            .for_each(|words| note(&words.file.target));
        let template = module
            .decoder
            .iter()
            .filter_map(|decoder| decoder.chat_template.as_ref());
        template.for_each(|template| note(&template.target));
    }
    if let Some(captioner) = &plan.captioner {
        let templates = captioner.image_prompt.iter().chain(&captioner.video_prompt);
        templates.for_each(|template| note(&template.target));
    }
    let text = manifest::text(plan, &files, &BTreeMap::new());
    match Manifest::parse(&text) {
        Ok(_) => Ok(text),
        Err(e) => {
            let folders = options.folders.iter().map(|folder| folder.display());
            let folders: Vec<String> = folders.map(|folder| folder.to_string()).collect();
            let what = format!(
                "{}: no pack can have what its configurations say: {}",
                folders.join(" and "),
                e.message()
            );
            Err(Error::new(ErrorKind::BadModel, what).remedy(
                "correct that value in the configuration it is from, such as generation_config.json or preprocessor_config.json",
            ))
        }
    }
}

fn report(pack: &Path, plan: &Plan, files: &Files, proof: &Proof) -> Report {
    let bytes = |target: &str| files.get(target).map_or(0, |file| file.bytes);
    let module = |module: &Module| ReportedModule {
        id: module.id.to_owned(),
        kind: module.kind,
        from: module.source.shown.clone(),
        precision: module.form,
        bytes: bytes(&module.source.target)
            + module
                .source
                .data_targets()
                .iter()
                .map(|target| bytes(target))
                .sum::<u64>(),
        inputs: module.inputs.iter().map(|port| shown(port, None)).collect(),
        outputs: module
            .outputs
            .iter()
            .map(|(port, role)| shown(port, *role))
            .collect(),
        cosine_to_best: proof.cosines.get(module.id).copied(),
    };
    Report {
        pack: pack.display().to_string(),
        id: plan.id.clone(),
        tasks: plan.served(),
        modules: plan.modules.iter().map(module).collect(),
        bytes: files.values().map(|file| file.bytes).sum(),
        inferred: plan.notes.inferred.clone(),
        warnings: plan.notes.warnings.clone(),
    }
}

fn shown(port: &Port, role: Option<&'static str>) -> ReportedPort {
    ReportedPort {
        name: port.name.clone(),
        dtype: port.dtype.to_string(),
        shape: port.shape.iter().map(Dim::to_string).collect(),
        role,
    }
}
