//! A hog outside the runtime's memory cgroup: it takes the machine's memory until less than half of that is available, and then
//! stalls in a group of its own, so that the kernel's figure for stalls (PSI) rises. Nobody is near a limit: that figure alone
//! is to make the runtime give back.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use atom_core::os::{memory, psi};
use atom_core::{Error, ErrorKind, Result};
use serde::Serialize;

use super::job::{Job, Progress, Stall};
use super::process::{ALONE, Group, LOOK, MB, Running};
use crate::chart::{Axis, Lines};
use atom_cli::output::{bytes, print_line, table};
use atom_cli::session::Session;

/// What of the machine's memory the hog leaves.
const LEFT: f64 = 0.45;
/// What the group holds that the hog stalls in, and the file it reads there.
const HELD: u64 = 32 << 20;
const READ: u64 = 64 << 20;

/// One look.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    at_s: f64,
    runtime_bytes: u64,
    available_bytes: u64,
    /// Percent of the last ten seconds that some task stalled for memory.
    psi_some: f64,
    returned_bytes: u64,
    parked_bytes: u64,
    level: String,
    sources: Vec<String>,
    rounds: u64,
}

#[derive(Serialize)]
pub struct Report {
    hog_bytes: u64,
    rate_bytes_per_s: u64,
    killed: Option<&'static str>,
    /// When the hog began to stall.
    stalls_from_s: f64,
    /// When the runtime first gave something back.
    first_return: Option<Sample>,
    most_psi_some: f64,
    least_available_bytes: u64,
    returned_bytes: u64,
    parked_bytes: u64,
    samples: Vec<Sample>,
}

/// Watches a runtime give back.
///
/// # Errors
/// [`ErrorKind::Unsupported`] where there is no PSI or no cgroup can be made; what starting the processes gives.
pub fn run(session: &Session, pack: PathBuf, rate: u64) -> Result<Report> {
    psi::read(Path::new(psi::SYSTEM))?;
    let machine = memory::machine();
    let hog_bytes = (machine.available as f64 - machine.total as f64 * LEFT).max(0.0) as u64;
    let group = Group::new("stall", HELD)?;
    // Not in the temporary folder, which may be memory itself.
    let cache = atom_core::cache::dir();
    let folder = tempfile::tempdir_in(&cache)
        .map_err(|e| Error::io(format_args!("a folder in {}", cache.display()), &e))?;
    let job = Job::Watch { pack };
    let mut runtime = Running::start(session, &job)?;
    let told = runtime.lines();
    let began = Instant::now();
    let (mut hog, mut last): (Option<Running>, Option<Progress>) = (None, None);
    let (mut full_at, mut returned_at) = (None, None);
    let mut samples: Vec<Sample> = Vec::new();
    let killed = loop {
        thread::sleep(LOOK);
        while let Ok(line) = told.try_recv() {
            last = serde_json::from_str(&line).ok().or(last);
        }
        let at = began.elapsed();
        let known = last.as_ref();
        samples.push(Sample {
            at_s: at.as_secs_f64(),
            runtime_bytes: runtime.anon_bytes(),
            available_bytes: memory::machine().available,
            psi_some: psi::read(Path::new(psi::SYSTEM))?.some.avg10,
            returned_bytes: known.map_or(0, |last| last.returned_bytes),
            parked_bytes: known.map_or(0, |last| last.parked_bytes),
            level: known.map_or_else(String::new, |last| last.level.clone()),
            sources: known.map_or_else(Vec::new, |last| last.sources.clone()),
            rounds: known.map_or(0, |last| last.rounds),
        });
        if runtime.killed()? {
            break Some("runtime");
        }
        if let Some(hog) = &mut hog {
            if hog.killed()? {
                break Some("hog");
            }
            if hog.anon_bytes() >= hog_bytes {
                full_at.get_or_insert(at);
            }
        } else if at >= ALONE && known.is_some() {
            let job = Job::Hog {
                group: None,
                bytes: hog_bytes,
                rate,
                stall: Some(Stall {
                    group: group.0.clone(),
                    file: folder.path().join("read"),
                    bytes: READ,
                }),
            };
            hog = Some(Running::start(session, &job)?);
        }
        let returned = known.is_some_and(|last| last.returned_bytes + last.parked_bytes > 0);
        if returned && returned_at.is_none() {
            returned_at = Some(at);
        }
        if returned_at.is_some_and(|first| at >= first + ALONE * 2) {
            break None;
        }
        // Longer, and modules would be parked because they are idle.
        if full_at.is_some_and(|full| at >= full + ALONE * 10) {
            return Err(Error::new(
                ErrorKind::Internal,
                "half a minute of stalls, and nothing was given back",
            ));
        }
    };
    drop(hog);
    drop(runtime);
    let most = samples.iter().map(|s| s.psi_some).fold(0.0, f64::max);
    let least = samples.iter().map(|s| s.available_bytes).min();
    let first = samples
        .iter()
        .find(|s| s.returned_bytes + s.parked_bytes > 0);
    Ok(Report {
        hog_bytes,
        rate_bytes_per_s: rate,
        killed,
        stalls_from_s: full_at.map_or(0.0, |at| at.as_secs_f64()),
        first_return: first.cloned(),
        most_psi_some: most,
        least_available_bytes: least.unwrap_or(0),
        returned_bytes: last.as_ref().map_or(0, |last| last.returned_bytes),
        parked_bytes: last.as_ref().map_or(0, |last| last.parked_bytes),
        samples,
    })
}

impl Report {
    pub fn show(&self) -> Result<()> {
        print_line(&format!(
            "hog {} at {}/s, then it stalls: reads {} in a group of {}",
            bytes(self.hog_bytes),
            bytes(self.rate_bytes_per_s),
            bytes(READ),
            bytes(HELD)
        ))?;
        let first = self.first_return.as_ref();
        let row = vec![
            self.killed.unwrap_or("nobody").to_owned(),
            format!("{:.0} %", self.most_psi_some),
            bytes(self.least_available_bytes),
            first.map_or("-".into(), |s| {
                format!("{:.1} s", s.at_s - self.stalls_from_s)
            }),
            first.map_or("-".into(), |s| format!("{:.0} %", s.psi_some)),
            first.map_or("-".into(), |s| {
                format!("{} by {}", s.level, s.sources.join(", "))
            }),
            bytes(self.returned_bytes),
            bytes(self.parked_bytes),
        ];
        let head = [
            "killed",
            "most PSI",
            "least available",
            "first return after",
            "PSI then",
            "level then",
            "returned",
            "parked",
        ];
        print_line(&table(&head, &[row], &[1, 2, 3, 4, 6, 7]))
    }

    pub fn draw(&self, path: &Path) -> Result<()> {
        let series = |name: &str, of: fn(&Sample) -> f64| {
            let points = self.samples.iter().map(|s| (s.at_s, of(s)));
            (name.to_owned(), points.collect())
        };
        Lines {
            title: "A runtime while a hog outside its cgroup takes memory and stalls",
            x: Axis {
                label: "seconds",
                log: false,
            },
            y: Axis {
                label: "MB, percent",
                log: false,
            },
            series: vec![
                series("runtime, anonymous MB", |s| s.runtime_bytes as f64 / MB),
                series("parked so far, MB", |s| s.parked_bytes as f64 / MB),
                series("stalls, % of 10 s (PSI some)", |s| s.psi_some),
                series("available, 100 MB", |s| {
                    s.available_bytes as f64 / MB / 100.0
                }),
            ],
            limits: Vec::new(),
        }
        .draw(path)
    }
}
