//! `atom pack`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atom_cli::output::{bytes, print_json, print_line, progress, table};
use atom_cli::session::{Session, captioners};
use atom_core::caption::{CaptionerKind, Vlm};
use atom_core::pack::{Manifest, Pack, Task};
use atom_core::{Error, ErrorKind, Result, cache};
use serde::Serialize;

use super::pack_split;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the packs in a folder, or the modules of the pack given by --pack.
    List {
        /// Folder of packs; the cache's own when absent.
        dir: Option<PathBuf>,
    },
    /// Make a pack of exported models, as Hugging Face repositories have them.
    Import(super::pack_import::Args),
    /// Check every file of the pack and run every module on its golden input.
    Verify,
    /// Make modules out of one graph, cut at named tensors, and prove that they compute what it computes.
    Split(pack_split::Args),
}

pub fn run(session: &mut Session, command: Command) -> Result<ExitCode> {
    match command {
        Command::List { dir } => list(session, dir),
        Command::Import(args) => super::pack_import::run(session, args),
        Command::Verify => verify(session),
        Command::Split(args) => pack_split::run(session, &args),
    }
}

#[derive(Serialize)]
struct Packs {
    packs: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    path: String,
    id: String,
    version: String,
    licence: String,
    tasks: Vec<&'static str>,
    modules: Vec<ListedModule>,
}

#[derive(Serialize)]
struct ListedModule {
    id: String,
    kind: &'static str,
    precision: String,
    bytes: u64,
}

fn list(session: &Session, dir: Option<PathBuf>) -> Result<ExitCode> {
    let packs = match (dir, &session.global.pack) {
        (None, Some(pack)) => vec![pack.clone()],
        (dir, _) => folders(&dir.unwrap_or_else(|| cache::dir().join("packs")))?,
    };
    let packs = packs
        .iter()
        .map(|path| describe(path))
        .collect::<Result<Vec<_>>>()?;
    if session.global.json {
        print_json(&Packs { packs })?;
        return Ok(ExitCode::SUCCESS);
    }
    for pack in packs {
        print_line(&format!(
            "{} {} ({}) serves {} — {}",
            pack.id,
            pack.version,
            pack.licence,
            pack.tasks.join(", "),
            pack.path
        ))?;
        let rows: Vec<_> = pack
            .modules
            .into_iter()
            .map(|module| {
                vec![
                    module.id,
                    module.kind.to_owned(),
                    module.precision,
                    bytes(module.bytes),
                ]
            })
            .collect();
        print_line(&table(
            &["module", "kind", "precision", "size"],
            &rows,
            &[3],
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The folders below `dir` that hold a `pack.toml`, by name.
fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|error| {
        Error::io(format!("folder of packs {}", dir.display()), &error)
            .remedy("make the reference pack with `make demo`")
    })?;
    let mut found: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("pack.toml").is_file())
        .collect();
    found.sort();
    Ok(found)
}

fn describe(path: &Path) -> Result<Listed> {
    let pack = Pack::open(path)?;
    let manifest = pack.manifest();
    let modules = manifest
        .modules
        .iter()
        .map(|module| ListedModule {
            id: module.id.clone(),
            kind: module.kind.name(),
            precision: module.precision.name().to_owned(),
            bytes: module.bytes(),
        })
        .collect();
    Ok(Listed {
        path: path.display().to_string(),
        id: manifest.id.clone(),
        version: manifest.version.clone(),
        licence: manifest.licence.clone(),
        tasks: Task::ALL
            .into_iter()
            .filter(|task| manifest.tasks.has(*task) && makes(manifest, *task))
            .map(Task::name)
            .collect(),
        modules,
    })
}

/// Whether this command links what `task` of the pack needs.
fn makes(manifest: &Manifest, task: Task) -> bool {
    let kind = manifest.captioner.as_ref().map(|spec| spec.kind.as_str());
    match task {
        Task::Caption | Task::Ask => {
            kind == Some(Vlm.name()) || captioners().iter().any(|own| kind == Some(own.name()))
        }
        _ => true,
    }
}

#[derive(Serialize)]
struct Verified {
    ok: bool,
    files: usize,
    modules: Vec<VerifiedModule>,
}

#[derive(Serialize)]
struct VerifiedModule {
    id: String,
    cosine: f64,
    floor: f64,
    ok: bool,
}

fn verify(session: &mut Session) -> Result<ExitCode> {
    let pack = Pack::open(&session.pack_dir())?;
    let bar = progress(1, "checksums");
    let report = pack.verify(&mut |file, done, total| {
        bar.set_length(total);
        bar.set_message(file.to_owned());
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let runtime = session.runtime()?;
    let mut modules = Vec::new();
    for golden in runtime.golden()? {
        modules.push(VerifiedModule {
            ok: golden.cosine >= golden.floor,
            id: golden.module,
            cosine: golden.cosine,
            floor: golden.floor,
        });
    }
    let ok = modules.iter().all(|module| module.ok);
    let report = Verified {
        ok,
        files: report.files,
        modules,
    };
    if session.global.json {
        print_json(&report)?;
    } else {
        print_line(&format!("  {} files match their checksums", report.files))?;
        let rows: Vec<_> = report
            .modules
            .iter()
            .map(|module| {
                vec![
                    module.id.clone(),
                    format!("{:.6}", module.cosine),
                    format!("{}", module.floor),
                    if module.ok { "ok" } else { "FAILED" }.to_owned(),
                ]
            })
            .collect();
        print_line(&table(
            &["module", "golden cosine", "floor", ""],
            &rows,
            &[1, 2],
        ))?;
    }
    if !ok {
        return Err(Error::new(
            ErrorKind::BadModel,
            "a module's output differs from its golden output",
        )
        .remedy("build the pack again, or report the provider and library version that `atom doctor` prints"));
    }
    Ok(ExitCode::SUCCESS)
}
