//! The `atom` command: the runtime from a shell.

mod commands;
mod generate;
mod page;
mod status;

use std::process::ExitCode;

use atom_cli::program;
use atom_cli::session::Session;
use clap::Parser;

fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    let session = Session::new(cli.global, cli.store);
    program::run("atom", session, |session| {
        commands::dispatch(session, cli.command)
    })
}
