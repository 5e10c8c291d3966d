//! `atom-bench ledger`: what the ledger owns beside what the kernel counts, along a script of tasks.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::Common;
use atom_core::budget::pressure::Level;
use atom_core::control::{Control, TextOptions};
use atom_core::features::Features;
use atom_core::index::Access;
use atom_core::os::smaps;
use atom_core::runtime::Runtime;
use atom_core::task::assemble::AssembleQuery;
use atom_core::task::search::SearchQuery;
use atom_core::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::chart::{Axis, Lines};
use crate::{packs, videos};
use atom_cli::output::{bytes, print_json, print_line, table};
use atom_cli::session::Session;

/// How often both are looked at for the picture.
const LOOK: Duration = Duration::from_millis(20);
/// Each step is given so long before it is judged: once a second what is free in the heap is given back.
const REST: Duration = Duration::from_millis(1500);
const LONGEST_NS: i64 = 2_000_000_000;
const MB: f64 = 1e6;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Videos to index; the demo's clips when absent.
    pub files: Vec<PathBuf>,
}

/// Both, after a step.
#[derive(Serialize)]
struct Row {
    step: &'static str,
    ledger_bytes: u64,
    kernel_bytes: u64,
    /// Ledger over kernel, less 1.
    off: f64,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
    worst_off: f64,
    #[serde(skip)]
    curve: Vec<(f64, Both)>,
}

#[derive(Clone, Copy)]
struct Both {
    ledger: u64,
    kernel: u64,
}

impl Both {
    fn of(runtime: &Runtime, kernel: u64) -> Self {
        let entries = runtime.ledger().snapshot();
        let owned = entries.iter().map(|e| e.anon_bytes - e.pending_bytes);
        Self {
            // What the process had before is its own.
            ledger: owned.sum::<u64>() + runtime.program_anon_bytes(),
            kernel,
        }
    }
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    let files = videos::files(&args.files)?;
    packs::caption_by_decoder(session)?;
    let runtime = session.runtime()?;
    if session.global.ungoverned {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "an ungoverned runtime gives nothing back",
        )
        .remedy("leave --ungoverned out"));
    }
    let report = along(&runtime, &files)?;
    if let Some(path) = &args.common.svg {
        report.draw(path)?;
    }
    if session.global.json {
        print_json(&report)?;
    } else {
        report.show()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Works through the script, looking all the time.
fn along(runtime: &Runtime, files: &[PathBuf]) -> Result<Report> {
    let (done, began) = (AtomicBool::new(false), Instant::now());
    let mut rows = Vec::new();
    let (worked, curve) = thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut curve = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let kernel = smaps::anonymous().unwrap_or(0);
                curve.push((began.elapsed().as_secs_f64(), Both::of(runtime, kernel)));
                thread::sleep(LOOK);
            }
            curve
        });
        let mut look = |step| {
            thread::sleep(REST);
            let both = Both::of(runtime, smaps::process_memory()?.pss_anon);
            rows.push(Row {
                step,
                ledger_bytes: both.ledger,
                kernel_bytes: both.kernel,
                off: both.ledger as f64 / both.kernel as f64 - 1.0,
            });
            Ok(())
        };
        let worked = script(runtime, files, &mut look);
        done.store(true, Ordering::Relaxed);
        (worked, looks.join().unwrap_or_default())
    });
    worked?;
    Ok(Report {
        worst_off: rows.iter().map(|row| row.off.abs()).fold(0.0, f64::max),
        rows,
        curve,
    })
}

fn script(
    runtime: &Runtime,
    files: &[PathBuf],
    look: &mut dyn FnMut(&'static str) -> Result<()>,
) -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::io("a folder for a store", &e))?;
    let path = folder.path().join("store");
    look("opened")?;
    videos::index(runtime, files, &path, LONGEST_NS, false)?;
    look("indexed")?;
    let store = runtime.open_store(&path, Access::ReadOnly)?;
    let control = Control::default();
    let mut features: Vec<Features> = Vec::new();
    for stream in store.streams()? {
        for segment in store.segments(stream.id, None, None)? {
            features.push(store.features(segment.id)?);
        }
    }
    let first: Vec<&Features> = features.iter().take(1).collect();
    let text = TextOptions::default();
    let search = || runtime.search(&store, &SearchQuery::new("a bicycle"), &control);
    let caption = || {
        let listen = &mut |_: &str| ControlFlow::Continue(());
        runtime.caption(&first, &text, &control, listen)
    };
    let ask = |words: &str| {
        let listen = &mut |_: &str| ControlFlow::Continue(());
        runtime.ask(&first, words, &text, &control, listen)
    };
    let assemble = || {
        let query = AssembleQuery {
            script: "a bicycle in the street\na rabbit".to_owned(),
            ..AssembleQuery::default()
        };
        runtime.assemble(&store, &query, &control)
    };
    search()?;
    look("search")?;
    caption()?;
    look("caption")?;
    ask("Is there a car?")?;
    look("ask")?;
    assemble()?;
    look("assemble")?;
    runtime.trim(Level::Low);
    look("low pressure")?;
    relaxed(runtime);
    search()?;
    ask("How many people are there?")?;
    look("used again")?;
    runtime.trim(Level::Critical);
    look("critical pressure")?;
    relaxed(runtime);
    caption()?;
    look("caption again")?;
    runtime.trim(Level::Critical);
    look("critical again")
}

/// Waits until what the application has said of pressure is forgotten: else what is used next goes again at once.
fn relaxed(runtime: &Runtime) {
    let began = Instant::now();
    while runtime.pressure().level > Level::None && began.elapsed() < Duration::from_secs(30) {
        thread::sleep(LOOK);
    }
}

impl Report {
    fn show(&self) -> Result<()> {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                vec![
                    row.step.to_owned(),
                    bytes(row.ledger_bytes),
                    bytes(row.kernel_bytes),
                    format!("{:+.1} %", row.off * 100.0),
                ]
            })
            .collect();
        print_line(&table(
            &["after", "ledger", "kernel", "off"],
            &rows,
            &[1, 2, 3],
        ))
    }

    fn draw(&self, path: &std::path::Path) -> Result<()> {
        let series = |name: &str, of: fn(&Both) -> u64| {
            let points = self
                .curve
                .iter()
                .map(|(at, both)| (*at, of(both) as f64 / MB));
            (name.to_owned(), points.collect())
        };
        Lines {
            title: "Anonymous memory: what the ledger owns, what the kernel counts",
            x: Axis {
                label: "seconds",
                log: false,
            },
            y: Axis {
                label: "MB",
                log: false,
            },
            series: vec![
                series("kernel (RssAnon)", |both| both.kernel),
                series("ledger", |both| both.ledger),
            ],
            limits: Vec::new(),
        }
        .draw(path)
    }
}
