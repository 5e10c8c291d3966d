//! `atom-bench evict`: what evicting by worth saves against evicting what was used longest ago, on recorded uses of the
//! modules, with what this machine takes to load them.

#[cfg(test)]
mod order;
mod replay;

use std::path::PathBuf;
use std::process::ExitCode;

use atom_core::Result;
use atom_core::module::ModuleState;
use atom_core::runtime::Runtime;
use atom_core::{Error, ErrorKind};
use serde::Serialize;

use replay::{Item, Order, Outcome, Recorded, Recording, hindsight, replay};

use crate::chart::{Axis, Lines};
use atom_cli::output::{print_json, print_line, table};
use atom_cli::session::Session;

/// The recorded mixes: name and text.
const MIXES: [(&str, &str); 3] = [
    ("camera", include_str!("../../../fixtures/uses/camera.txt")),
    (
        "questions",
        include_str!("../../../fixtures/uses/questions.txt"),
    ),
    ("night", include_str!("../../../fixtures/uses/night.txt")),
];

/// Budgets, in hundredths of what all modules take.
const BUDGETS: std::ops::RangeInclusive<u64> = 40..=100;
const STEP: usize = 5;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Replay this file of recorded uses too (tests/fixtures/uses/record.py says how they are made).
    #[arg(long, value_name = "FILE")]
    pub uses: Option<PathBuf>,
    /// Take the modules' bytes and milliseconds of loading as they were recorded, instead of measuring them here.
    #[arg(long)]
    pub recorded: bool,
    /// Draw the milliseconds of reloading over the budget into this SVG file too.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    /// What the modules take and cost, by mix.
    mixes: Vec<Mix>,
    /// Sums over all mixes and budgets.
    total: Totals,
}

#[derive(Debug, Serialize)]
struct Mix {
    name: String,
    uses: usize,
    modules: Vec<Module>,
    /// All modules together.
    working_set_bytes: u64,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Module {
    id: String,
    anon_bytes: u64,
    mapped_bytes: u64,
    load_ms: f64,
}

/// One budget, one way of counting.
#[derive(Debug, Serialize)]
struct Row {
    /// "anon": anonymous bytes, as the budget counts. "all": mapped ones too, as memory pressure does.
    bytes: &'static str,
    budget_percent: u64,
    budget_bytes: u64,
    worth: Counts,
    lru: Counts,
    /// Milliseconds of reloading that no order can do better than, not refusing more.
    hindsight_reload_ms: f64,
}

#[derive(Debug, Serialize)]
struct Counts {
    served: u64,
    refused: u64,
    reloads: u64,
    thrashed: u64,
    reload_ms: f64,
}

impl From<Outcome> for Counts {
    fn from(outcome: Outcome) -> Self {
        Self {
            served: outcome.served,
            refused: outcome.refused,
            reloads: outcome.reloads,
            thrashed: outcome.thrashed,
            reload_ms: outcome.reload_ms,
        }
    }
}

#[derive(Debug, Default, Serialize)]
struct Totals {
    worth_reload_ms: f64,
    lru_reload_ms: f64,
    worth_reloads: u64,
    lru_reloads: u64,
    worth_thrashed: u64,
    lru_thrashed: u64,
    hindsight_reload_ms: f64,
    /// Milliseconds of reloading by worth, against least recently used; absent when neither reloaded.
    ratio: Option<f64>,
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    let mut mixes = Vec::new();
    for (name, text) in MIXES {
        mixes.push((name.to_owned(), Recording::parse(text)?));
    }
    if let Some(file) = &args.uses {
        let text = std::fs::read_to_string(file).map_err(|e| Error::io(file.display(), &e))?;
        let named = |e: Error| e.context(file.display());
        mixes.push((
            file.display().to_string(),
            Recording::parse(&text).map_err(named)?,
        ));
    }
    if !args.recorded {
        let measured = measure(&session.runtime()?)?;
        for (name, mix) in &mut mixes {
            for module in &mut mix.modules {
                *module = measured
                    .iter()
                    .find(|m| m.name == module.name)
                    .cloned()
                    .ok_or_else(|| {
                        let message = format!("{name}: the pack has no module {:?}", module.name);
                        Error::new(ErrorKind::Unsupported, message)
                            .remedy("give the pack it was recorded with, or --recorded")
                    })?;
            }
        }
    }
    let mixes = mixes.into_iter().map(|(name, mix)| replayed(name, &mix));
    let mixes = mixes.collect::<Result<Vec<_>>>()?;
    let total = totals(&mixes);
    let report = Report { mixes, total };
    if let Some(path) = &args.svg {
        draw(&report, path)?;
    }
    if session.global.json {
        print_json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What each module takes after a run, and the milliseconds of its load: of the second one, as a reload is.
fn measure(runtime: &Runtime) -> Result<Vec<Recorded>> {
    let registry = runtime.registry();
    let ids: Vec<String> = registry.status().into_iter().map(|m| m.id).collect();
    for id in &ids {
        drop(registry.lease(id)?);
    }
    // A run grows the arena; what has no golden input stays as it was loaded.
    registry.golden()?;
    let ran = registry.status();
    for id in &ids {
        registry.release_idle(id)?;
        drop(registry.lease(id)?);
    }
    let again = registry.status();
    let pairs = ran.into_iter().zip(again);
    Ok(pairs
        .filter(|(_, again)| again.state == ModuleState::Resident)
        .map(|(ran, again)| Recorded {
            name: ran.id,
            anon_bytes: ran.anon_bytes,
            mapped_bytes: ran.mapped_bytes,
            load_ms: again.load_ms.unwrap_or(0.0),
        })
        .collect())
}

fn replayed(name: String, mix: &Recording) -> Result<Mix> {
    let mut rows = Vec::new();
    for (bytes, of) in [
        ("anon", (|m| m.anon_bytes) as fn(&Recorded) -> u64),
        ("all", |m| m.anon_bytes + m.mapped_bytes),
    ] {
        let item = |m: &Recorded| Item {
            name: m.name.clone(),
            bytes: of(m),
            load_ms: m.load_ms,
        };
        let items: Vec<Item> = mix.modules.iter().map(item).collect();
        let all: u64 = items.iter().map(|item| item.bytes).sum();
        for percent in BUDGETS.step_by(STEP) {
            let budget = all / 100 * percent + all % 100;
            let outcome = |order| replay(&items, &mix.uses, budget, order).into();
            rows.push(Row {
                bytes,
                budget_percent: percent,
                budget_bytes: budget,
                worth: outcome(Order::Worth),
                lru: outcome(Order::LeastRecentlyUsed),
                hindsight_reload_ms: hindsight(&items, &mix.uses, budget)?.1,
            });
        }
    }
    let module = |m: &Recorded| Module {
        id: m.name.clone(),
        anon_bytes: m.anon_bytes,
        mapped_bytes: m.mapped_bytes,
        load_ms: m.load_ms,
    };
    Ok(Mix {
        name,
        uses: mix.uses.len(),
        modules: mix.modules.iter().map(module).collect(),
        working_set_bytes: mix
            .modules
            .iter()
            .map(|m| m.anon_bytes + m.mapped_bytes)
            .sum(),
        rows,
    })
}

fn totals(mixes: &[Mix]) -> Totals {
    let mut total = Totals::default();
    for row in mixes.iter().flat_map(|mix| &mix.rows) {
        total.worth_reload_ms += row.worth.reload_ms;
        total.lru_reload_ms += row.lru.reload_ms;
        total.worth_reloads += row.worth.reloads;
        total.lru_reloads += row.lru.reloads;
        total.worth_thrashed += row.worth.thrashed;
        total.lru_thrashed += row.lru.thrashed;
        total.hindsight_reload_ms += row.hindsight_reload_ms;
    }
    if total.lru_reload_ms > 0.0 {
        total.ratio = Some(total.worth_reload_ms / total.lru_reload_ms);
    }
    total
}

fn print(report: &Report) -> Result<()> {
    for mix in &report.mixes {
        print_line(&format!("  {}: {} uses", mix.name, mix.uses))?;
        let mut rows = Vec::new();
        for row in &mix.rows {
            let counts = |c: &Counts| {
                [
                    c.reloads.to_string(),
                    c.thrashed.to_string(),
                    format!("{:.0}", c.reload_ms),
                    c.refused.to_string(),
                ]
            };
            let mut cells = vec![
                row.bytes.to_owned(),
                format!("{} %", row.budget_percent),
                format!("{:.1}", row.budget_bytes as f64 / 1e6),
            ];
            cells.extend(counts(&row.worth));
            cells.extend(counts(&row.lru));
            cells.push(format!("{:.0}", row.hindsight_reload_ms));
            rows.push(cells);
        }
        let head = [
            "bytes",
            "budget",
            "MB",
            "reloads",
            "thrash",
            "ms",
            "refused",
            "lru: reloads",
            "thrash",
            "ms",
            "refused",
            "least ms",
        ];
        print_line(&table(&head, &rows, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]))?;
    }
    let total = &report.total;
    let ratio = total
        .ratio
        .map_or_else(String::new, |r| format!(": {r:.2} of it"));
    print_line(&format!(
        "  in all {:.0} ms of reloading by worth ({} reloads, {} thrash), {:.0} ms least recently used ({}, {}){ratio}; {:.0} ms at the least",
        total.worth_reload_ms,
        total.worth_reloads,
        total.worth_thrashed,
        total.lru_reload_ms,
        total.lru_reloads,
        total.lru_thrashed,
        total.hindsight_reload_ms,
    ))
}

fn draw(report: &Report, path: &std::path::Path) -> Result<()> {
    let mut series = Vec::new();
    for mix in &report.mixes {
        for (name, of) in [
            ("worth", (|row| row.worth.reload_ms) as fn(&Row) -> f64),
            ("lru", |row| row.lru.reload_ms),
            ("at the least", |row| row.hindsight_reload_ms),
        ] {
            let rows = mix.rows.iter().filter(|row| row.bytes == "anon");
            let points = rows.map(|row| (row.budget_percent as f64, of(row) / 1e3));
            series.push((format!("{}, {name}", mix.name), points.collect()));
        }
    }
    let lines = Lines {
        title: "Reloading under a budget on anonymous memory",
        x: Axis {
            label: "budget, % of what all modules take",
            log: false,
        },
        y: Axis {
            label: "seconds of reloading",
            log: false,
        },
        series,
        limits: Vec::new(),
    };
    lines.draw(path)
}
