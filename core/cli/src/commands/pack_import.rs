//! `atom pack import`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use atom_cli::output::{bytes, print_json, print_line, table};
use atom_cli::session::Session;
use atom_core::control::Control;
use atom_core::{Error, ErrorKind, Result};
use atom_import::{For, ImportOptions, Layout, Report, ReportedPort, Wanted};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folders with exported models. Several make one pack, such as a SigLIP for search and a SmolVLM for captions.
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The pack's folder. It must not exist.
    #[arg(short, long = "out", value_name = "PACK")]
    output: PathBuf,
    /// The tasks to serve: index, search, caption, ask. All that the models can, if absent.
    #[arg(long = "for", value_name = "TASKS", value_delimiter = ',', value_parser = task)]
    tasks: Vec<For>,
    /// The precision to take: fp32, fp16, int8, q4 or q4f16, also for one graph: `q4,vision_encoder=fp16`. The best there is, if
    /// absent.
    #[arg(long, value_name = "PRECISION", value_parser = precision)]
    precision: Option<Wanted>,
    /// Whether pictures are cut into tiles, each of them a run of the vision encoder. As the model's configuration says, if absent.
    #[arg(long, value_name = "on|off", value_parser = tiles)]
    tiles: Option<bool>,
    /// The layout to take where a folder has several: genai, transformers, transformers.js or optimum.
    #[arg(long, value_name = "LAYOUT", value_parser = layout)]
    layout: Option<Layout>,
    /// Make hard links of weights in place of copies. The models must then not be changed in place.
    #[arg(long)]
    link: bool,
    /// Take graphs as they are. Otherwise attention, activations and logits are rewritten to faster operators, where the rewritten
    /// graph is seen to compute the same.
    #[arg(long)]
    keep_graphs: bool,
}

fn task(name: &str) -> Result<For, String> {
    For::named(name)
        .ok_or_else(|| format!("{name:?} is no task: index, search, caption and ask are"))
}

fn precision(text: &str) -> Result<Wanted, String> {
    Wanted::parse(text)
        .map_err(|e| format!("{}; {}", e.message(), e.remedy_text().unwrap_or_default()))
}

fn tiles(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("{other:?} is neither on nor off")),
    }
}

fn layout(name: &str) -> Result<Layout, String> {
    Layout::named(name).ok_or_else(|| {
        format!("{name:?} is no layout: genai, transformers, transformers.js and optimum are")
    })
}

pub fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let control = Control::default();
    cancel_on_signal(&control)?;
    let options = ImportOptions {
        folders: args.dirs,
        pack: args.output,
        tasks: (!args.tasks.is_empty()).then_some(args.tasks),
        precision: args.precision.unwrap_or_default(),
        tiles: args.tiles,
        layout: args.layout,
        link: args.link,
        keep_graphs: args.keep_graphs,
        ort_library: session.global.ort_library.clone(),
        threads: session.global.threads,
    };
    let report = atom_import::import(&options, &control)?;
    if session.global.json {
        print_json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Cancels `control` on Ctrl-C, so that the import removes what it has written.
fn cancel_on_signal(control: &Control) -> Result<()> {
    let failed = |e: std::io::Error| Error::new(ErrorKind::Io, format!("watching for Ctrl-C: {e}"));
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(failed)?;
    let cancel = control.cancel.clone();
    let watch = move || {
        if signals.forever().next().is_some() {
            cancel.cancel();
        }
    };
    // It waits until the process ends.
    thread::Builder::new()
        .name("atom-signals".into())
        .spawn(watch)
        .map_err(failed)?;
    Ok(())
}

fn print(report: &Report) -> Result<()> {
    print_line(&format!(
        "{} serves {} — {}, {}",
        report.id,
        report.tasks.join(", "),
        bytes(report.bytes),
        report.pack
    ))?;
    let rows: Vec<_> = report
        .modules
        .iter()
        .map(|module| {
            vec![
                module.id.clone(),
                module.kind.to_owned(),
                module.precision.to_owned(),
                bytes(module.bytes),
                module
                    .cosine_to_best
                    .map_or_else(String::new, |cosine| format!("{cosine:.5}")),
                module.from.clone(),
            ]
        })
        .collect();
    let columns = [
        "module",
        "kind",
        "precision",
        "size",
        "cosine to best",
        "from",
    ];
    print_line(&table(&columns, &rows, &[3, 4]))?;
    let ports: Vec<_> = report
        .modules
        .iter()
        .flat_map(|module| {
            let side = |ports: &[ReportedPort], side: &str| -> Vec<Vec<String>> {
                let row = |port: &ReportedPort| {
                    let role = port
                        .role
                        .map_or_else(String::new, |role| format!(" ({role})"));
                    vec![
                        module.id.clone(),
                        side.to_owned(),
                        format!("{}{role}", port.name),
                        format!("{} [{}]", port.dtype, port.shape.join(", ")),
                    ]
                };
                ports.iter().map(row).collect()
            };
            let mut rows = side(&module.inputs, "reads");
            rows.extend(side(&module.outputs, "writes"));
            rows
        })
        .collect();
    print_line(&table(&["module", "", "port", "type"], &ports, &[]))?;
    let inferred: Vec<_> = report
        .inferred
        .iter()
        .map(|inferred| {
            vec![
                inferred.what.clone(),
                inferred.value.clone(),
                inferred.from.clone(),
            ]
        })
        .collect();
    print_line(&table(&["inferred", "as", "from"], &inferred, &[]))?;
    for warning in &report.warnings {
        print_line(&format!("  note: {warning}"))?;
    }
    Ok(())
}
