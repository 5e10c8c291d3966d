//! The command line. One file a command, with its arguments.

mod ask;
mod assemble;
mod caption;
mod compile;
mod doctor;
mod embed;
mod frames;
mod index;
mod pack;
mod pack_import;
mod pack_split;
mod run;
mod search;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use atom_cli::options::GlobalOptions;
use atom_cli::session::Session;
use atom_core::{Error, ErrorKind, Result};
use clap::{Parser, Subcommand};

/// Search, caption, question and assemble video with shared on-device modules.
#[derive(Debug, Parser)]
#[command(name = "atom", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalOptions,
    /// The store's folder; `index` creates it.
    #[arg(long, global = true, value_name = "DIR", env = "ATOM_STORE")]
    pub store: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make packs and look at them.
    Pack {
        #[command(subcommand)]
        command: pack::Command,
    },
    /// Add videos to a store.
    Index(index::Args),
    /// Find the times that fit some words.
    Search(search::Args),
    /// Print the search vector of a picture or of words.
    Embed(embed::Args),
    /// Say what is to be seen in a picture, or at one time of a stream or of a video.
    Caption(caption::Args),
    /// Answer a question about a picture, or about one time of a stream or of a video.
    Ask(ask::Args),
    /// Choose clips for the lines of a script.
    Assemble(assemble::Args),
    /// Write a video's pictures as raw NV12, to feed a program that takes a camera's frames.
    Frames(frames::Args),
    /// Load every module of the pack and tell the truth about it.
    Doctor,
    /// Compile the pack's modules for NPUs ahead of time, to ship in an image.
    Compile(compile::Args),
    /// Show the memory of a running program, again and again.
    Top(top::Args),
    /// Run a script of commands in one process, so that they share their modules.
    Run(run::Args),
}

/// Runs one command of a session.
pub fn dispatch(session: &mut Session, command: Command) -> Result<ExitCode> {
    match command {
        Command::Pack { command } => pack::run(session, command),
        Command::Index(args) => index::run(session, &args),
        Command::Search(args) => search::run(session, args),
        Command::Embed(args) => embed::run(session, &args),
        Command::Caption(args) => caption::run(session, &args),
        Command::Ask(args) => ask::run(session, &args),
        Command::Assemble(args) => assemble::run(session, &args),
        Command::Frames(args) => frames::run(session, &args),
        Command::Doctor => doctor::run(session),
        Command::Compile(args) => compile::run(session, &args),
        Command::Top(args) => top::run(session, &args),
        Command::Run(args) => run::run(session, &args, line, dispatch),
    }
}

/// The command that the words of a script's line name.
fn line(words: Vec<String>) -> Result<Command> {
    let words = std::iter::once("atom".to_owned()).chain(words);
    let cli = Cli::try_parse_from(words)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, error.to_string()))?;
    if matches!(cli.command, Command::Run(_)) {
        let message = "a script cannot run another";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(cli.command)
}
