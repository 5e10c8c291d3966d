//! `atom compile`: NPU forms of a pack's modules, made on a workstation.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use atom_cli::output::{bytes, print_json, print_line, table};
use atom_cli::session::Session;
use atom_core::pack::{ArtifactCache, Provider};
use atom_core::runtime::{MemoryOptions, Runtime, RuntimeOptions};
use atom_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Chips to compile for, by QNN's numbers (`soc_model`): 36, 43, 57, 60, 69, 77, 87
    #[arg(long, value_name = "N", value_delimiter = ',', required = true)]
    pub soc: Vec<u32>,
    /// Folder for what is made; on the device it is the artifacts folder
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
}

/// Names the chip; QNN takes one for the life of a process.
const SOC: &str = "ATOM_QNN_SOC";
/// Tells a child of this command what it is.
const CHILD: &str = "ATOM_COMPILE_CHILD";

#[derive(Serialize, Deserialize)]
struct Compiled {
    soc: u32,
    module: String,
    bytes: u64,
    compile_ms: f64,
    load_ms: f64,
    placement: String,
    golden_cosine: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct Report {
    compiled: Vec<Compiled>,
}

pub fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    if let ([soc], Some(_)) = (&args.soc[..], std::env::var_os(CHILD)) {
        print_json(&Report {
            compiled: compile(session, *soc, &args.output)?,
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut report = Report {
        compiled: Vec::new(),
    };
    for &soc in &args.soc {
        report
            .compiled
            .extend(in_child(session, soc, &args.output)?);
    }
    if session.global.json {
        print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = report
        .compiled
        .iter()
        .map(|made| {
            vec![
                made.soc.to_string(),
                made.module.clone(),
                bytes(made.bytes),
                format!("{:.0} ms", made.compile_ms),
                format!("{:.0} ms", made.load_ms),
                made.placement.clone(),
                made.golden_cosine
                    .map_or_else(String::new, |cosine| format!("{cosine:.5}")),
            ]
        })
        .collect();
    let head = [
        "SoC",
        "module",
        "size",
        "compiled",
        "load",
        "placement",
        "golden",
    ];
    print_line(&table(&head, &rows, &[0, 2, 3, 4]))?;
    Ok(ExitCode::SUCCESS)
}

/// Compiles for one chip in a process of its own.
fn in_child(session: &Session, soc: u32, output: &Path) -> Result<Vec<Compiled>> {
    let failed = |what: String| Error::new(ErrorKind::Unsupported, format!("SoC {soc}: {what}"));
    let program = std::env::current_exe().map_err(|e| Error::io("this program", &e))?;
    let mut arguments: Vec<OsString> = vec!["--json".into(), "--pack".into()];
    arguments.push(session.pack_dir().into());
    if let Some(library) = &session.global.ort_library {
        arguments.extend(["--ort-library".into(), library.into()]);
    }
    arguments.extend(["compile".into(), "--soc".into(), soc.to_string().into()]);
    arguments.extend(["--output".into(), output.into()]);
    let done = Command::new(&program)
        .args(arguments)
        .env(SOC, soc.to_string())
        .env(CHILD, "1")
        .output()
        .map_err(|e| Error::io(program.display(), &e))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        // The child's error is the last line it printed.
        #[derive(Deserialize)]
        struct Said {
            error: Body,
        }
        #[derive(Deserialize)]
        struct Body {
            message: String,
        }
        let last = said.lines().rev().find(|line| line.starts_with('{'));
        let message = last.and_then(|line| serde_json::from_str::<Said>(line).ok());
        return Err(failed(message.map_or_else(
            || format!("the compiler ended with {}: {}", done.status, said.trim()),
            |said| said.error.message,
        )));
    }
    let report: Report =
        serde_json::from_slice(&done.stdout).map_err(|e| failed(format!("unreadable: {e}")))?;
    Ok(report.compiled)
}

fn compile(session: &Session, soc: u32, output: &Path) -> Result<Vec<Compiled>> {
    let mut options = RuntimeOptions::new(session.pack_dir());
    options.ort_library = session.global.ort_library.clone();
    options.artifacts = Some(output.to_owned());
    options.memory = MemoryOptions::ungoverned();
    let runtime = Runtime::open(&options)?;
    let registry = runtime.registry();
    let modules = &runtime.pack().manifest().modules;
    let wanted: Vec<_> = modules
        .iter()
        .filter(|module| module.providers.contains(&Provider::Qnn))
        .collect();
    if wanted.is_empty() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "no module of pack {} lists qnn",
                runtime.pack().manifest().id
            ),
        )
        .remedy("add \"qnn\" to a module's providers"));
    }
    let mut all = Vec::new();
    for module in wanted {
        let before = ArtifactCache::new(output).size();
        let mut times = [0.0; 2];
        let mut status = None;
        for time in &mut times {
            let began = Instant::now();
            let lease = registry.lease(&module.id)?;
            let all = began.elapsed().as_secs_f64() * 1e3;
            let mut found = registry.status().into_iter();
            let found = found.find(|status| status.id == module.id);
            let checked = found.as_ref().and_then(|status| status.golden_ms);
            *time = all - checked.unwrap_or(0.0);
            if lease.provider() != Provider::Qnn.name() {
                let why = found.map(|status| status.fallbacks.join("; "));
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("module {:?}: {}", module.id, why.unwrap_or_default()),
                ));
            }
            status = found;
            drop(lease);
            registry.release_idle(&module.id)?;
        }
        let Some(status) = status else { continue };
        all.push(Compiled {
            soc,
            module: module.id.clone(),
            bytes: ArtifactCache::new(output).size().saturating_sub(before),
            compile_ms: times[0],
            load_ms: times[1],
            placement: status.placement.unwrap_or_default(),
            golden_cosine: status.golden_cosine,
        });
    }
    Ok(all)
}
