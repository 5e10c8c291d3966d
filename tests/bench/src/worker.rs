//! Work in a process of its own: this command again, with a hidden `--worker` argument that holds the job as JSON. What it
//! prints is the result, as JSON too.

use std::process::{Command, Stdio};

use atom_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use atom_cli::output::print_json;
use atom_cli::session::Session;

/// `atom-bench NAME --worker JOB` with this process's global options, to be started.
///
/// # Errors
/// When this program's own path is not to be had.
pub fn command(session: &Session, name: &str, job: &impl Serialize) -> Result<Command> {
    let program = std::env::current_exe().map_err(|error| Error::io("this program", &error))?;
    let mut command = Command::new(program);
    command.args([name, "--json", "--worker", &text(job)?]);
    let global = &session.global;
    for (option, value) in [
        ("--pack", &global.pack),
        ("--ort-library", &global.ort_library),
    ] {
        if let Some(value) = value {
            command.arg(option).arg(value);
        }
    }
    if let Some(threads) = global.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    command.stdin(Stdio::null());
    Ok(command)
}

/// Runs such a worker to its end and returns what it printed.
///
/// # Errors
/// A worker that cannot be started, that fails (its own words are in the message) or that prints something else.
pub fn call<R: DeserializeOwned>(session: &Session, name: &str, job: &impl Serialize) -> Result<R> {
    let done = command(session, name, job)?
        .output()
        .map_err(|error| Error::io(format_args!("starting a worker for {name}"), &error))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        // The worker's error document, if it got so far.
        let error = said
            .lines()
            .rev()
            .find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let field = |name: &str| error.as_ref()?["error"][name].as_str().map(str::to_owned);
        let message = field("message").unwrap_or_else(|| format!("{}: {said}", done.status));
        let failed = Error::new(
            ErrorKind::Internal,
            format!("a worker of atom-bench {name} failed: {message}"),
        );
        return Err(match field("remedy") {
            Some(remedy) => failed.remedy(remedy),
            None => failed,
        });
    }
    if !said.is_empty() {
        log::warn!("{}", said.trim_end());
    }
    serde_json::from_slice(&done.stdout).map_err(|error| {
        Error::new(
            ErrorKind::Internal,
            format!("a worker of atom-bench {name} printed no result: {error}"),
        )
    })
}

/// The job a worker was given.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for text that is none.
pub fn job<J: DeserializeOwned>(text: &str) -> Result<J> {
    serde_json::from_str(text).map_err(|error| {
        Error::new(ErrorKind::InvalidArgument, format!("--worker: {error}"))
            .remedy("leave it out: it is for the command itself")
    })
}

/// Prints a worker's result.
///
/// # Errors
/// What printing gives.
pub fn answer(result: &impl Serialize) -> Result<()> {
    print_json(result)
}

fn text(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::new(ErrorKind::Internal, format!("writing JSON: {error}")))
}
