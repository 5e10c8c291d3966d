//! `atom bench pressure`: a hog takes memory beside the runtime, in one memory cgroup whose limit does not hold both.
//!
//! Twice: ungoverned, where the kernel is to kill one of them, and governed, where room is to be made before it has to. The
//! runtime meanwhile runs every module of the pack on its golden input, over and over. The cgroup is made below this
//! process's own, which takes version 1 and the right to do so.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use atom_core::os::cgroup::{CgroupFs, Version};
use atom_core::os::smaps::process_memory;
use atom_core::runtime::{MemoryOptions, Runtime, RuntimeOptions};
use atom_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::chart::{Axis, Lines};
use super::worker;
use crate::output::{bytes, print_json, print_line, table};
use crate::session::Session;

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// The runtime works alone for so long, and again once the hog is full.
const ALONE: Duration = Duration::from_secs(3);
/// What the hog takes, and what of that the limit leaves beside the runtime's working set.
const HOG: f64 = 0.45;
const ROOM: f64 = 0.25;
const MB: f64 = 1e6;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: super::Common,
    /// How fast the hog takes memory, in megabytes a second.
    #[arg(long, default_value_t = 50, value_name = "MB", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// For the command itself: a job for a worker process.
    #[arg(long, hide = true)]
    worker: Option<String>,
}

/// What a worker does.
#[derive(Debug, Serialize, Deserialize)]
enum Job {
    /// Runs modules until it is killed, or for so many seconds.
    Work {
        pack: PathBuf,
        governed: bool,
        group: Option<PathBuf>,
        seconds: Option<f64>,
    },
    /// Takes `bytes`, so many a second, and keeps them until it is killed.
    Hog {
        group: PathBuf,
        bytes: u64,
        rate: u64,
    },
}

/// A line of a runtime at work.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Progress {
    /// Times every module has run.
    rounds: u64,
    /// Rounds that a module was refused its memory in.
    refused: u64,
    /// Anonymous bytes given back so far.
    returned_bytes: u64,
    /// The most anonymous bytes it has had.
    peak_anon_bytes: u64,
}

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
struct Report {
    working_set_bytes: u64,
    hog_bytes: u64,
    rate_bytes_per_s: u64,
    limit_bytes: u64,
    ungoverned: Run,
    governed: Run,
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    if let Some(job) = &args.worker {
        work(&worker::job(job)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let pack = session.pack_dir();
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
        rate: u64::from(args.rate) * 1_000_000,
        limit,
    };
    let report = Report {
        working_set_bytes: working_set,
        hog_bytes: hog,
        rate_bytes_per_s: scene.rate,
        limit_bytes: limit,
        ungoverned: scene.run(false)?,
        governed: scene.run(true)?,
    };
    if let Some(path) = &args.common.svg {
        report.draw(path)?;
    }
    if session.global.json {
        print_json(&report)?;
    } else {
        report.show()?;
    }
    Ok(ExitCode::SUCCESS)
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
        let group = Group::new(self.limit)?;
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
        let (mut last, mut full_at) = (None, None);
        let killed = loop {
            thread::sleep(LOOK);
            while let Ok(line) = told.try_recv() {
                last = serde_json::from_str::<Progress>(&line).ok().or(last);
            }
            let at = began.elapsed();
            let hog_bytes = hog.as_ref().map_or(0, Running::anon_bytes);
            samples.push(Sample {
                at_s: at.as_secs_f64(),
                runtime_bytes: runtime.anon_bytes(),
                hog_bytes,
                returned_bytes: last.map_or(0, |last| last.returned_bytes),
                rounds: last.map_or(0, |last| last.rounds),
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
                    group: group.0.clone(),
                    bytes: self.hog,
                    rate: self.rate,
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
            returned_bytes: last.map_or(0, |last| last.returned_bytes),
            refused: last.map_or(0, |last| last.refused),
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
    fn show(&self) -> Result<()> {
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

    fn draw(&self, path: &std::path::Path) -> Result<()> {
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

/// A memory cgroup below this process's own, gone with the value.
struct Group(PathBuf);

impl Group {
    fn new(limit: u64) -> Result<Self> {
        let refused = |why: String| {
            Error::new(
                ErrorKind::Unsupported,
                format!("no memory cgroup can be made here: {why}"),
            )
            .remedy("run it as root in a version 1 memory cgroup")
        };
        let own = CgroupFs::default().memory()?;
        if own.version() != Version::V1 {
            return Err(refused(
                "in version 2 a group with processes has no children".into(),
            ));
        }
        let name = format!("atom-pressure-{}", std::process::id());
        let group = Self(own.path().join(name));
        fs::create_dir(&group.0).map_err(|e| refused(e.to_string()))?;
        let file = group.0.join("memory.limit_in_bytes");
        fs::write(&file, limit.to_string()).map_err(|e| Error::io(file.display(), &e))?;
        // Where swap is counted, none.
        let _ = fs::write(
            group.0.join("memory.memsw.limit_in_bytes"),
            limit.to_string(),
        );
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last of its processes may be on its way out.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(LOOK);
        }
        log::warn!("{} is left over", self.0.display());
    }
}

/// A worker under way, killed with the value.
struct Running(Child);

impl Running {
    fn start(session: &Session, job: &Job) -> Result<Self> {
        let child = worker::command(session, "pressure", job)?
            .stdout(Stdio::piped())
            .spawn();
        child
            .map(Self)
            .map_err(|e| Error::io("starting a worker for pressure", &e))
    }

    /// What it prints, line by line.
    fn lines(&mut self) -> mpsc::Receiver<String> {
        let (send, receive) = mpsc::channel();
        if let Some(out) = self.0.stdout.take() {
            thread::spawn(move || {
                let lines = BufReader::new(out).lines().map_while(|line| line.ok());
                for line in lines {
                    if send.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        receive
    }

    fn anon_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
        let kilobytes = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse().ok());
        kilobytes.map_or(0, |kb: u64| kb * 1024)
    }

    /// # Errors
    /// When it ended in another way.
    fn killed(&mut self) -> Result<bool> {
        let ended = self.0.try_wait();
        match ended.map_err(|e| Error::io("a worker", &e))? {
            None => Ok(false),
            Some(status) if status.signal() == Some(9) => Ok(true),
            Some(status) => Err(Error::new(
                ErrorKind::Internal,
                format!("a worker of bench pressure failed: {status}"),
            )),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The worker's part.
fn work(job: &Job) -> Result<()> {
    let join = |group: &PathBuf| {
        let file = group.join("cgroup.procs");
        fs::write(&file, std::process::id().to_string()).map_err(|e| Error::io(file.display(), &e))
    };
    match job {
        Job::Hog { group, bytes, rate } => {
            join(group)?;
            let mut held: Vec<Vec<u8>> = Vec::new();
            let step = 1_000_000;
            while (held.len() * step) as u64 <= *bytes {
                held.push(vec![1; step]);
                thread::sleep(Duration::from_secs_f64(step as f64 / *rate as f64));
            }
            loop {
                thread::park();
            }
        }
        Job::Work {
            pack,
            governed,
            group,
            seconds,
        } => {
            group.as_ref().map_or(Ok(()), join)?;
            let mut options = RuntimeOptions::new(pack);
            if !governed {
                options.memory = MemoryOptions::ungoverned();
            }
            let runtime = Runtime::open(&options)?;
            let began = Instant::now();
            let mut all = Vec::new();
            let mut progress = Progress {
                rounds: 0,
                refused: 0,
                returned_bytes: 0,
                peak_anon_bytes: 0,
            };
            while seconds.is_none_or(|seconds| began.elapsed().as_secs_f64() < seconds) {
                let refused = match runtime.registry().golden() {
                    Ok(_) => 0,
                    Err(e) if e.kind() == ErrorKind::OutOfBudget => 1,
                    Err(e) => return Err(e),
                };
                let anon = process_memory().map_or(0, |memory| memory.pss_anon);
                progress = Progress {
                    rounds: progress.rounds + 1 - refused,
                    refused: progress.refused + refused,
                    returned_bytes: runtime.events().counters().anon_returned_bytes,
                    peak_anon_bytes: progress.peak_anon_bytes.max(anon),
                };
                if seconds.is_some() {
                    all.push(progress);
                } else {
                    print_json(&progress)?;
                }
            }
            worker::answer(&all)
        }
    }
}
