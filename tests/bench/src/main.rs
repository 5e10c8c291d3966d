//! `atom bench`: what the runtime costs, as ratios of things measured in the same run, beside the limit that hardware sets.
//!
//! One file a subcommand. It has `#[derive(clap::Args)] pub struct Args` and `pub fn run(&mut Session, &Args)`, and a line in
//! [`Command`] and in [`run`]. What they share: [`Common`] options, [`limits`] of the machine, [`memory`] and its peak,
//! [`stats`] over rounds, [`videos`], [`chart`]s, [`worker`] processes for what must not share a heap, and [`peer`]s to compare with.

mod chart;
mod decode;
mod evict;
mod ledger;
mod limits;
mod load;
mod memory;
mod nodes;
mod overlap;
mod peer;
mod preprocess;
mod pressure;
mod reuse;
mod scheduling;
mod search;
mod stats;
mod videos;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atom_core::{Error, ErrorKind, Result};
use clap::Subcommand;

use crate::session::Session;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure the machine itself: memory bandwidth, arithmetic, reading the pack.
    Limits(limits::Args),
    /// Measure what loading modules once and sharing them saves, against reloading them for every subtask.
    Reuse(reuse::Args),
    /// Captions while indexing against captions afterwards, and searches and questions while text is generated.
    Overlap(overlap::Args),
    /// Measure the language decoder: reading prompts and generating, against what reading its weights allows.
    Decode(decode::Args),
    /// Measure searches by the size of the store: latency, recall, bytes read, against an exact scan.
    Search(search::Args),
    /// Replay recorded uses of the modules: reloads under a budget, evicting by worth against least recently used.
    Evict(evict::Args),
    /// Measure frames to the visual encoder's input: time by size and format, and how near the result is to Pillow's.
    Preprocess(preprocess::Args),
    /// Measure loading, releasing and reloading every module, cold and warm, against plain ONNX Runtime.
    Load(load::Args),
    /// Compare the ledger with the kernel's count of the process along a script of tasks.
    Ledger(ledger::Args),
    /// Watch a hog take memory beside the runtime in a memory cgroup that does not hold both, ungoverned and governed.
    Pressure(pressure::Args),
}

/// Options of every measurement.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Measure everything this often, in turn; tables show medians.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Draw the result into this SVG file too.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

impl Common {
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when a picture is asked for.
    fn without_picture(&self, name: &str) -> Result<()> {
        if self.svg.is_none() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("bench {name} draws no picture"),
        )
        .remedy("leave --svg out"))
    }
}

pub fn run(session: &mut Session, command: &Command) -> Result<ExitCode> {
    match command {
        Command::Limits(args) => args.common.without_picture("limits")?,
        Command::Overlap(args) => args.common.without_picture("overlap")?,
        _ => {}
    }
    match command {
        Command::Limits(args) => limits::run(session, args),
        Command::Reuse(args) => reuse::run(session, args),
        Command::Overlap(args) => overlap::run(session, args),
        Command::Decode(args) => decode::run(session, args),
        Command::Search(args) => search::run(session, args),
        Command::Evict(args) => evict::run(session, args),
        Command::Preprocess(args) => preprocess::run(session, args),
        Command::Load(args) => load::run(session, args),
        Command::Ledger(args) => ledger::run(session, args),
        Command::Pressure(args) => pressure::run(session, args),
    }
}

/// The copy of the pack in folder `pack` whose weights lie inside the graphs, beside it.
///
/// # Errors
/// [`ErrorKind::NotFound`] when the set-up has not made it.
fn embedded(pack: &Path) -> Result<PathBuf> {
    let name = pack.file_name().unwrap_or_default().to_string_lossy();
    let plain = pack.with_file_name(format!("{name}-embedded"));
    if plain.join("pack.toml").is_file() {
        return Ok(plain);
    }
    Err(Error::new(
        ErrorKind::NotFound,
        format!("{} is missing, which is compared with", plain.display()),
    )
    .remedy("python3 models/setup.py bench"))
}
