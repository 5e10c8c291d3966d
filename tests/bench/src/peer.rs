//! Another program that measures the same thing: it gets the job as JSON in its last argument and prints the result as JSON.

use std::process::{Command, Stdio};

use atom_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Runs `command` on `job` and returns what it printed, which `shape` describes to people.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when it cannot be started, fails (its own words are in the message) or prints something
/// else.
pub fn call<R: DeserializeOwned>(command: &str, job: &impl Serialize, shape: &str) -> Result<R> {
    let bad = |what: String| bad(command, &what, shape);
    let mut words = command.split_whitespace();
    let program = words.next().ok_or_else(|| bad("it is empty".into()))?;
    let text = serde_json::to_string(job).map_err(|error| bad(error.to_string()))?;
    let done = Command::new(program)
        .args(words)
        .arg(text)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| bad(error.to_string()))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(bad(format!("{}: {}", done.status, said.trim_end())));
    }
    serde_json::from_slice(&done.stdout).map_err(|error| bad(error.to_string()))
}

/// What is wrong with a peer.
pub fn bad(command: &str, what: &str, shape: &str) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("--peer {command:?}: {what}"),
    )
    .remedy(format!("it must print {shape}"))
}
