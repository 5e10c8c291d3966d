//! `atom-bench pressure`: a hog takes memory beside the runtime, in one memory cgroup whose limit does not hold both, or outside
//! it ([`outside`]).
//!
//! [Beside it](beside) twice: ungoverned, where the kernel is to kill one of them, and governed, where room is to be made before
//! it has to. The runtime meanwhile runs every module of the pack on its golden input, over and over. Cgroups are made below this
//! process's own, which takes version 1 and the right to do so.

mod beside;
mod job;
mod outside;
mod process;

use std::process::ExitCode;

use crate::common::Common;
use atom_core::Result;

use crate::worker;
use atom_cli::output::print_json;
use atom_cli::session::Session;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// How fast the hog takes memory, in megabytes a second; 50, or 400 outside.
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: Option<u32>,
    /// Have the hog take the machine's memory, all but 45 %, outside the runtime's cgroup, and stall there.
    #[arg(long)]
    outside: bool,
    /// For the command itself: a job for a worker process.
    #[arg(long, hide = true)]
    worker: Option<String>,
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    if let Some(job) = &args.worker {
        job::work(&worker::job(job)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let pack = session.pack_dir();
    let rate = |usual| u64::from(args.rate.unwrap_or(usual)) * 1_000_000;
    let (json, svg) = (session.global.json, args.common.svg.as_deref());
    if args.outside {
        let report = outside::run(session, pack, rate(400))?;
        svg.map_or(Ok(()), |path| report.draw(path))?;
        if json {
            print_json(&report)?;
        } else {
            report.show()?;
        }
    } else {
        let report = beside::run(session, pack, rate(50))?;
        svg.map_or(Ok(()), |path| report.draw(path))?;
        if json {
            print_json(&report)?;
        } else {
            report.show()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
