//! The `atom` command: the runtime from a shell.

mod args;
mod commands;
mod output;
mod session;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::session::Session;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.global.verbose {
        // ONNX Runtime warns of every prepacked form it writes.
        0 => "warn,onnxruntime=error",
        1 => "info",
        _ => "debug",
    };
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("ATOM_LOG", level)).init();
    let json = cli.global.json;
    let mut session = Session::new(cli.global);
    match commands::dispatch(&mut session, cli.command) {
        Ok(code) => code,
        Err(error) => {
            output::print_error(&error, json);
            output::exit_code(error.kind())
        }
    }
}
