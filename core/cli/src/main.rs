//! The `atom` command: the runtime from a shell.

mod args;
mod commands;
mod output;
mod page;
mod session;

use std::process::ExitCode;

use atom_core::Result;
use atom_core::trace::{self, TraceFile};
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
    output::keep_output();
    let json = cli.global.json;
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            output::print_error(&error, json);
            output::exit_code(error.kind())
        }
    }
}

/// Runs the command, and writes the trace whether it succeeds or not.
fn run(cli: Cli) -> Result<ExitCode> {
    let trace = cli.global.trace.as_deref();
    let trace = trace
        .map(|path| TraceFile::create(path, trace::SPANS))
        .transpose()?;
    let mut session = Session::new(cli.global);
    let done = commands::dispatch(&mut session, cli.command);
    if let Some(trace) = trace {
        let written = trace.finish();
        if let (Ok(_), Err(error)) = (&done, written) {
            return Err(error);
        }
    }
    done
}
