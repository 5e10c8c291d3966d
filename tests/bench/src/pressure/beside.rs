//! A hog in the runtime's own memory cgroup, whose limit does not hold both.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use atom_core::{Error, ErrorKind, Result};
use serde::Serialize;

use super::job::{Job, Progress};
use super::process::{ALONE, Group, LOOK, MB, Running};
use crate::chart::{Axis, Lines};
use crate::worker;
use atom_cli::output::{bytes, print_line, table};
use atom_cli::session::Session;

/// What the hog takes, and what of that the limit leaves beside the runtime's working set.
const HOG: f64 = 0.45;
const ROOM: f64 = 0.25;

/// One look at both.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    at_s: f64,
    runtime_bytes: u64,
    hog_bytes: u64,
    returned_bytes: u64,
    rounds: u64,
}

/// How a run ended.
#[derive(Debug, Serialize)]
struct Run {
    /// Whom the kernel killed.
    killed: Option<&'static str>,
    seconds: f64,
    /// The hog had all it wanted.
    hog_full: bool,
    /// What both had when memory was given back first, as a part of the limit.
    first_return_at: Option<f64>,
    returned_bytes: u64,
    /// Rounds that a module was refused its memory in.
    refused: u64,
    /// Rounds a second while the runtime was alone, and once the hog was full.
    alone_rounds_per_s: f64,
    beside_rounds_per_s: f64,
    samples: Vec<Sample>,
}

#[derive(Serialize)]
pub struct Report {
    working_set_bytes: u64,
    hog_bytes: u64,
    rate_bytes_per_s: u64,
    limit_bytes: u64,
    ungoverned: Run,
    governed: Run,
}

/// Does it twice: ungoverned, where the kernel is to kill one of them, and governed.
///
/// # Errors
/// [`ErrorKind::Unsupported`] where no cgroup can be made; what starting the processes gives.
pub fn run(session: &Session, pack: PathBuf, rate: u64) -> Result<Report> {
    let job = Job::Work {
        pack: pack.clone(),
        governed: false,
        group: None,
        seconds: Some(ALONE.as_secs_f64()),
    };
    // Makes what the first loads make once, too.
    let free: Vec<Progress> = worker::call(session, "pressure", &job)?;
    let working_set = free.last().map_or(0, |last| last.peak_anon_bytes);
    let hog = (working_set as f64 * HOG) as u64;
    let limit = working_set + (hog as f64 * ROOM) as u64;
    let scene = Scene {
        session,
        pack,
        hog,
        rate,
        limit,
    };
    Ok(Report {
        working_set_bytes: working_set,
        hog_bytes: hog,
        rate_bytes_per_s: scene.rate,
        limit_bytes: limit,
        ungoverned: scene.run(false)?,
        governed: scene.run(true)?,
    })
}

struct Scene<'a> {
    session: &'a Session,
    pack: PathBuf,
    hog: u64,
    rate: u64,
    limit: u64,
}

impl Scene<'_> {
    fn run(&self, governed: bool) -> Result<Run> {
        let group = Group::new("pressure", self.limit)?;
        let work = Job::Work {
            pack: self.pack.clone(),
            governed,
            group: Some(group.0.clone()),
            seconds: None,
        };
        let mut runtime = Running::start(self.session, &work)?;
        let told = runtime.lines();
        let began = Instant::now();
        let mut hog: Option<Running> = None;
        let mut samples: Vec<Sample> = Vec::new();
        let (mut last, mut full_at): (Option<Progress>, _) = (None, None);
        let killed = loop {
            thread::sleep(LOOK);
            while let Ok(line) = told.try_recv() {
                last = serde_json::from_str(&line).ok().or(last);
            }
            let at = began.elapsed();
            let hog_bytes = hog.as_ref().map_or(0, Running::anon_bytes);
            samples.push(Sample {
                at_s: at.as_secs_f64(),
                runtime_bytes: runtime.anon_bytes(),
                hog_bytes,
                returned_bytes: last.as_ref().map_or(0, |last| last.returned_bytes),
                rounds: last.as_ref().map_or(0, |last| last.rounds),
            });
            if runtime.killed()? {
                break Some("runtime");
            }
            if let Some(hog) = &mut hog {
                if hog.killed()? {
                    break Some("hog");
                }
            } else if at >= ALONE {
                let job = Job::Hog {
                    group: Some(group.0.clone()),
                    bytes: self.hog,
                    rate: self.rate,
                    stall: None,
                };
                hog = Some(Running::start(self.session, &job)?);
            }
            if full_at.is_none() && hog_bytes >= self.hog {
                full_at = Some(at);
            }
            if full_at.is_some_and(|full| at >= full + ALONE) {
                break None;
            }
            if at > ALONE * 20 {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!("after {} s the hog has {}", at.as_secs(), bytes(hog_bytes)),
                ));
            }
        };
        let (alone, beside) = (ALONE.as_secs_f64(), full_at.map(|at| at.as_secs_f64()));
        let first = samples.iter().find(|sample| sample.returned_bytes > 0);
        Ok(Run {
            killed,
            seconds: began.elapsed().as_secs_f64(),
            hog_full: full_at.is_some(),
            first_return_at: first
                .map(|at| (at.runtime_bytes + at.hog_bytes) as f64 / self.limit as f64),
            returned_bytes: last.as_ref().map_or(0, |last| last.returned_bytes),
            refused: last.as_ref().map_or(0, |last| last.refused),
            alone_rounds_per_s: rate(&samples, 0.0, alone),
            beside_rounds_per_s: beside.map_or(0.0, |from| rate(&samples, from, f64::INFINITY)),
            samples,
        })
    }
}

/// Rounds a second between two times.
fn rate(samples: &[Sample], from: f64, to: f64) -> f64 {
    let mut within = samples.iter().filter(|s| s.at_s >= from && s.at_s < to);
    let Some(first) = within.next() else {
        return 0.0;
    };
    within.next_back().map_or(0.0, |last| {
        (last.rounds - first.rounds) as f64 / (last.at_s - first.at_s)
    })
}

impl Report {
    pub fn show(&self) -> Result<()> {
        print_line(&format!(
            "working set {}, hog {} at {}/s, limit {}",
            bytes(self.working_set_bytes),
            bytes(self.hog_bytes),
            bytes(self.rate_bytes_per_s),
            bytes(self.limit_bytes)
        ))?;
        let row = |name: &str, run: &Run| {
            vec![
                name.to_owned(),
                run.killed.unwrap_or("nobody").to_owned(),
                if run.hog_full { "yes" } else { "no" }.to_owned(),
                run.first_return_at
                    .map_or("-".into(), |at| format!("{:.0} %", at * 100.0)),
                bytes(run.returned_bytes),
                run.refused.to_string(),
                format!("{:.1}", run.alone_rounds_per_s),
                format!("{:.1}", run.beside_rounds_per_s),
            ]
        };
        let rows = [
            row("ungoverned", &self.ungoverned),
            row("governed", &self.governed),
        ];
        let head = [
            "",
            "killed",
            "hog full",
            "first return at",
            "returned",
            "refused",
            "rounds/s alone",
            "beside the hog",
        ];
        print_line(&table(&head, &rows, &[3, 4, 5, 6, 7]))
    }

    pub fn draw(&self, path: &Path) -> Result<()> {
        let series = |name: &str, run: &Run, of: fn(&Sample) -> u64| {
            let points = run.samples.iter().map(|s| (s.at_s, of(s) as f64 / MB));
            (name.to_owned(), points.collect())
        };
        let both = |s: &Sample| s.runtime_bytes + s.hog_bytes;
        Lines {
            title: "Memory of a runtime and of a hog in one cgroup",
            x: Axis {
                label: "seconds",
                log: false,
            },
            y: Axis {
                label: "anonymous MB",
                log: false,
            },
            series: vec![
                series("governed runtime", &self.governed, |s| s.runtime_bytes),
                series("hog beside it", &self.governed, |s| s.hog_bytes),
                series("both, governed", &self.governed, both),
                series("both, ungoverned, until killed", &self.ungoverned, both),
            ],
            limits: vec![("the cgroup's limit".into(), self.limit_bytes as f64 / MB)],
        }
        .draw(path)
    }
}
