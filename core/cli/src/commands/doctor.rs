//! `atom doctor`.

use std::process::ExitCode;

use atom_core::Result;
use atom_core::control::Control;
use serde::Serialize;

use crate::output::{bytes, print_json, print_line, table};
use crate::session::Session;

#[derive(Serialize)]
struct Report {
    version: &'static str,
    onnxruntime: Library,
    pack: Pack,
    modules: Vec<Module>,
    ledger: Vec<Entry>,
    prefixes: Prefixes,
    memory: Memory,
}

#[derive(Serialize)]
struct Library {
    version: String,
    path: String,
    threads: usize,
}

#[derive(Serialize)]
struct Pack {
    id: String,
    version: String,
    path: String,
    tasks: Vec<&'static str>,
}

#[derive(Serialize)]
struct Module {
    id: String,
    kind: &'static str,
    state: &'static str,
    loads: u64,
    runs: u64,
    /// Anonymous and mapped bytes together.
    bytes: u64,
    anon_bytes: u64,
    mapped_bytes: u64,
    provider: Option<String>,
    placement: Option<String>,
    load_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    owner: String,
    anon_bytes: u64,
    mapped_bytes: u64,
}

/// Beginnings of prompts kept for the next.
#[derive(Serialize)]
struct Prefixes {
    hits: u64,
    misses: u64,
    reused_tokens: u64,
    fed_tokens: u64,
    evicted: u64,
    entries: usize,
    bytes: u64,
    limit_bytes: u64,
}

#[derive(Serialize)]
struct Memory {
    pss_bytes: u64,
    pss_anon_bytes: u64,
    rss_bytes: u64,
    machine_total_bytes: u64,
    machine_available_bytes: u64,
}

pub fn run(session: &mut Session) -> Result<ExitCode> {
    // In a script the runtime has worked already: report it as it is. On its own, load everything first.
    let fresh = session.opened().is_none();
    let runtime = session.runtime()?;
    if fresh {
        for module in &runtime.pack().manifest().modules {
            // A module that fails stays in the report with its reason.
            if let Err(error) = runtime
                .registry()
                .lease_with(&module.id, &Control::default())
            {
                log::warn!("{error}");
            }
        }
    }
    let memory = atom_core::os::smaps::process_memory()?;
    let machine = atom_core::os::memory::machine();
    let environment = runtime.environment();
    let prefixes = runtime.prefixes().stats();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        onnxruntime: Library {
            version: environment.version().to_owned(),
            path: environment.library().display().to_string(),
            threads: environment.threads(),
        },
        pack: Pack {
            id: runtime.pack().manifest().id.clone(),
            version: runtime.pack().manifest().version.clone(),
            path: runtime.pack().dir().display().to_string(),
            tasks: runtime.pack().manifest().tasks.served(),
        },
        modules: runtime
            .modules()
            .into_iter()
            .map(|status| Module {
                bytes: status.anon_bytes + status.mapped_bytes,
                id: status.id,
                kind: status.kind.name(),
                state: status.state.name(),
                loads: status.loads,
                runs: status.runs,
                anon_bytes: status.anon_bytes,
                mapped_bytes: status.mapped_bytes,
                provider: status.provider,
                placement: status.placement,
                load_ms: status.load_ms,
                error: status.error,
            })
            .collect(),
        ledger: runtime
            .ledger()
            .snapshot()
            .into_iter()
            .map(|entry| Entry {
                owner: entry.owner.to_string(),
                anon_bytes: entry.anon_bytes,
                mapped_bytes: entry.mapped_bytes,
            })
            .collect(),
        prefixes: Prefixes {
            hits: prefixes.hits,
            misses: prefixes.misses,
            reused_tokens: prefixes.reused_tokens,
            fed_tokens: prefixes.fed_tokens,
            evicted: prefixes.evicted,
            entries: prefixes.entries,
            bytes: prefixes.bytes,
            limit_bytes: prefixes.limit_bytes,
        },
        memory: Memory {
            pss_bytes: memory.pss,
            pss_anon_bytes: memory.pss_anon,
            rss_bytes: memory.rss,
            machine_total_bytes: machine.total,
            machine_available_bytes: machine.available,
        },
    };
    let failed = report.modules.iter().any(|module| module.error.is_some());
    if session.global.json {
        print_json(&report)?;
    } else {
        print_text(&report)?;
    }
    Ok(if failed {
        ExitCode::from(4)
    } else {
        ExitCode::SUCCESS
    })
}

fn print_text(report: &Report) -> Result<()> {
    print_line(&format!(
        "  atom {} · ONNX Runtime {} ({}, {} threads)",
        report.version,
        report.onnxruntime.version,
        report.onnxruntime.path,
        report.onnxruntime.threads
    ))?;
    print_line(&format!(
        "  pack {} {} serves {} ({})",
        report.pack.id,
        report.pack.version,
        report.pack.tasks.join(", "),
        report.pack.path
    ))?;
    let rows: Vec<_> = report
        .modules
        .iter()
        .map(|module| {
            vec![
                module.id.clone(),
                module.state.to_owned(),
                module.loads.to_string(),
                module.runs.to_string(),
                bytes(module.anon_bytes),
                bytes(module.mapped_bytes),
                module
                    .load_ms
                    .map_or_else(String::new, |ms| format!("{ms:.0} ms")),
                module.placement.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let head = [
        "module",
        "state",
        "loads",
        "runs",
        "anonymous",
        "mapped",
        "load",
        "placement",
    ];
    print_line(&table(&head, &rows, &[2, 3, 4, 5, 6]))?;
    for module in &report.modules {
        if let Some(error) = &module.error {
            print_line(&format!("  {}: {error}", module.id))?;
        }
    }
    print_line(&format!(
        "  process: {} PSS, {} of it anonymous · machine: {} of {} available",
        bytes(report.memory.pss_bytes),
        bytes(report.memory.pss_anon_bytes),
        bytes(report.memory.machine_available_bytes),
        bytes(report.memory.machine_total_bytes)
    ))
}
