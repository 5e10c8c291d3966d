//! One file a command.

mod ask;
pub mod assemble;
#[path = "../../../../tests/bench/src/main.rs"]
pub mod bench;
mod caption;
mod compile;
mod doctor;
mod frames;
mod generate;
mod index;
mod pack;
mod run;
mod search;
mod top;

use std::process::ExitCode;

use atom_core::Result;

use crate::args::Command;
use crate::session::Session;

/// Runs one command of a session.
pub fn dispatch(session: &mut Session, command: Command) -> Result<ExitCode> {
    match command {
        Command::Pack { command } => pack::run(session, command),
        Command::Index(args) => index::run(session, &args),
        Command::Search(args) => search::run(session, args),
        Command::Caption(args) => caption::run(session, &args),
        Command::Ask(args) => ask::run(session, &args),
        Command::Assemble(args) => assemble::run(session, &args),
        Command::Frames(args) => frames::run(session, &args),
        Command::Doctor => doctor::run(session),
        Command::Compile(args) => compile::run(session, &args),
        Command::Top(args) => top::run(session, &args),
        Command::Run(args) => run::run(session, &args),
        Command::Bench { command } => bench::run(session, &command),
    }
}
