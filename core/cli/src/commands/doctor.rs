//! `atom doctor`.

use std::process::ExitCode;

use atom_core::Result;
use atom_core::control::Control;
use atom_core::runtime::Status;
use atom_core::runtime::status::Module;

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
    let mut status = runtime.status()?;
    if fresh {
        // What a provider keeps of memory shows once its sessions are gone.
        for module in &status.modules {
            if module.provider.as_deref().is_some_and(|name| name != "cpu") {
                runtime.registry().release_idle(&module.id)?;
            }
        }
    }
    status.providers = runtime.providers();
    if session.global.json {
        print_json(&status)?;
    } else {
        print_line(&text(&status))?;
    }
    let any = |what: fn(&Module) -> bool| status.modules.iter().any(what);
    Ok(if any(|module| module.error.is_some()) {
        ExitCode::from(4)
    } else if any(|module| !module.fallbacks.is_empty()) {
        ExitCode::from(FALLEN_BACK)
    } else {
        ExitCode::SUCCESS
    })
}

/// Everything works, but not all of it where the pack would have it.
const FALLEN_BACK: u8 = 9;

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
    if !status.providers.is_empty() {
        lines.push(providers(status));
    }
    for module in &status.modules {
        for why in &module.fallbacks {
            lines.push(format!("  {}: {why}", module.id));
        }
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

/// Who can run graphs here, and why the others cannot.
fn providers(status: &Status) -> String {
    let rows = status.providers.iter().map(|provider| {
        let presence = &provider.presence;
        let devices: Vec<_> = presence
            .devices
            .iter()
            .map(|device| {
                let emulated = if device.emulated { ", emulated" } else { "" };
                format!("{} {}{emulated}", device.kind, device.vendor)
            })
            .collect();
        let state = match (&presence.missing, &presence.library) {
            (None, _) => "usable",
            (Some(_), Some(_)) => "unusable",
            (Some(_), None) => "absent",
        };
        let mut why = presence
            .missing
            .clone()
            .or_else(|| presence.version.clone())
            .unwrap_or_default();
        if provider.floor_bytes > 0 {
            why.push_str(&format!(
                "; keeps {} after its last session",
                bytes(provider.floor_bytes)
            ));
        }
        vec![
            presence.provider.name().to_owned(),
            state.to_owned(),
            devices.join(", "),
            why,
        ]
    });
    let rows: Vec<_> = rows.collect();
    table(
        &["provider", "state", "device", "version, or why not"],
        &rows,
        &[],
    )
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
                module
                    .golden_cosine
                    .map_or_else(String::new, |cosine| format!("{cosine:.5}")),
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
        "golden",
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
        "  pressure {} · loaded {} (again {}, at once {}) · shrunk {} · parked {} · released {} · refused {} · tables read {}, released {}",
        status.pressure.level,
        counters.loaded,
        counters.reloaded,
        counters.thrashed,
        counters.shrunk,
        counters.parked,
        counters.released,
        counters.refused,
        counters.tables_read,
        counters.tables_released
    ));
    lines
}
