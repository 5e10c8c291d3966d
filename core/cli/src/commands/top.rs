//! `atom top`: the state another program writes down, shown as it changes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use atom_cli::output::{is_terminal, print_json, print_line};
use atom_cli::session::Session;
use atom_core::runtime::Status;
use atom_core::{Error, ErrorKind, Result};

use crate::status::status_text;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the program writes: `--status-file` of `atom`, `status_file` of the C interface.
    pub file: PathBuf,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = interval)]
    pub every: f64,
    /// Look once.
    #[arg(long)]
    pub once: bool,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("0.1 to 3600 is possible".to_owned())
    }
}

/// A state older than this is of a program that has ended, or hangs.
const STALE: Duration = Duration::from_secs(5);
/// Events shown below the rest.
const EVENTS: usize = 12;
/// Cursor home, clear to the end of the screen.
const HOME: &str = "\x1b[H\x1b[J";

pub fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    loop {
        let (status, age) = read(args)?;
        if session.global.json {
            print_json(&status)?;
        } else {
            let screen = is_terminal() && !args.once;
            let clear = if screen { HOME } else { "" };
            print_line(&format!("{clear}{}", page(&status, age)))?;
        }
        if args.once {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(Duration::from_secs_f64(args.every));
    }
}

fn read(args: &Args) -> Result<(Status, Duration)> {
    let file = &args.file;
    let text = std::fs::read(file).map_err(|e| {
        Error::io(file.display(), &e).remedy(
            "start the program with a status file: `atom --status-file FILE …`, or status_file of atom_runtime_options",
        )
    })?;
    let status = serde_json::from_slice(&text).map_err(|e| {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("{} is no status file of this version: {e}", file.display()),
        )
    })?;
    let written = std::fs::metadata(file).and_then(|metadata| metadata.modified());
    let age = written
        .ok()
        .and_then(|at| SystemTime::now().duration_since(at).ok());
    Ok((status, age.unwrap_or_default()))
}

fn page(status: &Status, age: Duration) -> String {
    let mut text = status_text(status);
    if age > STALE {
        text.push_str(&format!(
            "\n  written {} s ago: the program has ended or hangs",
            age.as_secs()
        ));
    }
    let skipped = status.events.len().saturating_sub(EVENTS);
    for event in &status.events[skipped..] {
        text.push_str(&format!("\n  {:>7.1} s ago  {}", event.ago_s, event.text));
    }
    text
}
