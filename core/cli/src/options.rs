//! The options of both programs: how the runtime is opened, and what is printed.

use std::path::PathBuf;

use atom_core::runtime::Budget;
use clap::Args;

/// Options that every command takes.
#[derive(Debug, Args, Clone)]
pub struct GlobalOptions {
    /// The pack's folder.
    #[arg(long, global = true, value_name = "DIR", env = "ATOM_PACK")]
    pub pack: Option<PathBuf>,
    /// Print one JSON document for each command, and nothing else on standard output.
    #[arg(long, global = true)]
    pub json: bool,
    /// ONNX Runtime's library.
    #[arg(long, global = true, value_name = "FILE", env = "ATOM_ORT_LIBRARY")]
    pub ort_library: Option<PathBuf>,
    /// Threads ONNX Runtime may use; every core when absent.
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// The most anonymous memory models, generations and caches may hold: `300M`, a share of the cgroup's or the machine's
    /// memory such as `80%`, or `none`.
    #[arg(long, global = true, value_name = "SIZE", default_value = "90%", value_parser = budget)]
    pub budget: Budget,
    /// Let memory be: no budget, no watch on pressure, nothing idle is given up.
    #[arg(long, global = true, conflicts_with = "budget")]
    pub ungoverned: bool,
    /// Write the runtime's state to FILE once a second, for `atom top`.
    #[arg(long, global = true, value_name = "FILE", env = "ATOM_STATUS_FILE")]
    pub status_file: Option<PathBuf>,
    /// Write what ran when on which thread to FILE, as Chrome trace JSON.
    #[arg(long, global = true, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Say more on standard error; twice for debugging. `ATOM_LOG` sets it finer.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// `512M`, `0.5G`, `80%`, `none`.
fn budget(text: &str) -> Result<Budget, String> {
    if text == "none" {
        return Ok(Budget::Unlimited);
    }
    let (number, unit) = text.split_at(
        text.trim_end_matches(char::is_alphabetic)
            .trim_end_matches('%')
            .len(),
    );
    let wrong = || format!("{text:?} is no size: 300M, 0.5G, 80% and none are");
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let factor = match unit {
        "%" if number > 0.0 && number <= 100.0 => return Ok(Budget::Share(number / 100.0)),
        "" | "B" => 1.0,
        "k" | "kB" | "K" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        _ => return Err(wrong()),
    };
    if !(number >= 0.0 && number * factor < u64::MAX as f64) {
        return Err(wrong());
    }
    Ok(Budget::Bytes((number * factor) as u64))
}
