//! `atom-bench`: what the runtime costs, as ratios of things measured in the same run, beside the limit that hardware sets.
//!
//! A program of its own, because a device needs none of it. One file or folder a measurement: it has
//! `#[derive(clap::Args)] pub struct Args` and `pub fn run(&mut Session, &Args)`, a line in [`Command`] and one in [`run`].
//! What measurements share: [`common`] options, [`limits`] of the machine, [`memory`] and its peak, [`stats`] over rounds,
//! [`videos`] and [`packs`] to work on, [`chart`]s, [`worker`] processes for what must not share a heap, and [`peer`]s to
//! compare with. What they share with the command is in the library `atom_cli`.

mod chart;
mod common;
mod decode;
mod evict;
mod export;
mod ledger;
mod limits;
mod load;
mod memory;
mod nodes;
mod overlap;
mod packs;
mod peer;
mod preprocess;
mod pressure;
mod reuse;
mod scheduling;
mod search;
mod stats;
mod videos;
mod worker;

use std::process::ExitCode;

use atom_cli::options::GlobalOptions;
use atom_cli::program;
use atom_cli::session::Session;
use atom_core::Result;
use clap::{Parser, Subcommand};

/// Measure Atom on this machine, against the limits of the machine.
#[derive(Debug, Parser)]
#[command(
    name = "atom-bench",
    version,
    propagate_version = true,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(subcommand)]
    command: Command,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
enum Command {
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
    /// Import an export of a vision-language model and measure captions and questions, beside ONNX Runtime on the same files.
    Export(export::Args),
    /// Measure loading, releasing and reloading every module, cold and warm, against plain ONNX Runtime.
    Load(load::Args),
    /// Compare the ledger with the kernel's count of the process along a script of tasks.
    Ledger(ledger::Args),
    /// Watch a hog take memory beside the runtime in a memory cgroup that does not hold both, ungoverned and governed.
    Pressure(pressure::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let session = Session::new(cli.global, None);
    program::run("atom-bench", session, |session| run(session, &cli.command))
}

fn run(session: &mut Session, command: &Command) -> Result<ExitCode> {
    match command {
        Command::Limits(args) => args.common.without_picture("limits")?,
        Command::Overlap(args) => args.common.without_picture("overlap")?,
        Command::Export(args) => args.common.without_picture("export")?,
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
        Command::Export(args) => export::run(session, args),
        Command::Load(args) => load::run(session, args),
        Command::Ledger(args) => ledger::run(session, args),
        Command::Pressure(args) => pressure::run(session, args),
    }
}
