//! `atom doctor`.

use std::process::ExitCode;

use atom_core::Result;
use atom_core::control::Control;
use atom_core::runtime::Status;

use crate::output::{bytes, print_json, print_line, table};
use crate::session::Session;

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
    let status = runtime.status()?;
    if session.global.json {
        print_json(&status)?;
    } else {
        print_line(&text(&status))?;
    }
    let failed = status.modules.iter().any(|module| module.error.is_some());
    Ok(if failed {
        ExitCode::from(4)
    } else {
        ExitCode::SUCCESS
    })
}

/// The report for people; `atom top` shows the same.
pub fn text(status: &Status) -> String {
    let mut lines = vec![
        format!(
            "  atom {} · ONNX Runtime {} ({}, {} threads)",
            status.version,
            status.onnxruntime.version,
            status.onnxruntime.path,
            status.onnxruntime.threads
        ),
        format!(
            "  pack {} {} serves {} ({})",
            status.pack.id,
            status.pack.version,
            status.pack.tasks.join(", "),
            status.pack.path
        ),
        modules(status),
    ];
    for module in &status.modules {
        if let Some(error) = &module.error {
            lines.push(format!("  {}: {error}", module.id));
        }
    }
    lines.extend(memory(status));
    for source in &status.pressure.sources {
        lines.push(format!(
            "  pressure {:<12} {:<9} {}",
            source.name, source.level, source.why
        ));
    }
    lines.join("\n")
}

fn modules(status: &Status) -> String {
    let rows: Vec<_> = status
        .modules
        .iter()
        .map(|module| {
            vec![
                module.id.clone(),
                module.state.clone(),
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
    table(&head, &rows, &[2, 3, 4, 5, 6])
}

/// The ledger's figures beside the kernel's.
fn memory(status: &Status) -> Vec<String> {
    let memory = &status.memory;
    let mut lines = Vec::new();
    for entry in &status.ledger {
        let of_module = entry.owner.starts_with("module ");
        if !of_module && entry.anon_bytes + entry.mapped_bytes > 0 {
            lines.push(format!(
                "  {:<28} {} anonymous, {} mapped",
                entry.owner,
                bytes(entry.anon_bytes),
                bytes(entry.mapped_bytes)
            ));
        }
    }
    let budget = memory.budget_bytes.map_or_else(
        || "no budget".to_owned(),
        |budget| format!("of {}", bytes(budget)),
    );
    lines.push(format!(
        "  ledger: {} anonymous {budget}, {} mapped · the program's own {}",
        bytes(memory.ledger_anon_bytes),
        bytes(memory.ledger_mapped_bytes),
        bytes(memory.program_anon_bytes)
    ));
    lines.push(format!(
        "  process: {} PSS, {} of it anonymous · machine: {} of {} available",
        bytes(memory.pss_bytes),
        bytes(memory.pss_anon_bytes),
        bytes(memory.machine_available_bytes),
        bytes(memory.machine_total_bytes)
    ));
    if let Some(group) = &memory.cgroup {
        let limit = group.limit_bytes.map_or_else(
            || "no limit".to_owned(),
            |limit| format!("limit {}", bytes(limit)),
        );
        lines.push(format!(
            "  cgroup: {} charged, {} of it anonymous, {limit} ({})",
            bytes(group.charge_bytes),
            bytes(group.anon_bytes),
            group.name
        ));
    }
    let counters = &status.counters;
    lines.push(format!(
        "  pressure {} · loaded {} (again {}, at once {}) · shrunk {} · parked {} · released {} · refused {}",
        status.pressure.level,
        counters.loaded,
        counters.reloaded,
        counters.thrashed,
        counters.shrunk,
        counters.parked,
        counters.released,
        counters.refused
    ));
    lines
}
