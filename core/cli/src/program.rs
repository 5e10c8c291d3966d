//! The frame of a program: log, standard output, trace, and the exit code.

use std::process::ExitCode;

use atom_core::Result;
use atom_core::trace::{self, TraceFile};

use crate::output;
use crate::session::Session;

/// Does `work` as the program called `name`. Prints the error it returns on standard error, and turns it into the exit code
/// of its kind.
pub fn run(
    name: &str,
    session: Session,
    work: impl FnOnce(&mut Session) -> Result<ExitCode>,
) -> ExitCode {
    let json = session.global.json;
    let level = match session.global.verbose {
        // ONNX Runtime warns of every prepacked form it writes.
        0 => "warn,onnxruntime=error",
        1 => "info",
        _ => "debug",
    };
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("ATOM_LOG", level)).init();
    output::keep_output();
    match traced(session, work) {
        Ok(code) => code,
        Err(error) => {
            output::print_error(name, &error, json);
            output::exit_code(error.kind())
        }
    }
}

/// Does `work`, and writes the trace whether it succeeds or not.
fn traced(
    mut session: Session,
    work: impl FnOnce(&mut Session) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let trace = session.global.trace.as_deref();
    let trace = trace
        .map(|path| TraceFile::create(path, trace::SPANS))
        .transpose()?;
    let done = work(&mut session);
    if let Some(trace) = trace {
        let written = trace.finish();
        if let (Ok(_), Err(error)) = (&done, written) {
            return Err(error);
        }
    }
    done
}
