//! A runtime's state as people read it: `atom doctor` prints it once, `atom top` again and again.

use atom_cli::output::{bytes, table};
use atom_core::runtime::Status;

/// The state of a runtime, as a table and lines.
pub fn status_text(status: &Status) -> String {
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
