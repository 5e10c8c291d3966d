//! What the worker processes do: a runtime at work, and hogs.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use atom_core::budget::pressure::{Level, Reading};
use atom_core::control::Control;
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::os::file::uncache;
use atom_core::os::smaps::process_memory;
use atom_core::runtime::{MemoryOptions, Runtime, RuntimeOptions};
use atom_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::worker;
use atom_cli::output::print_json;

/// What a worker does.
#[derive(Debug, Serialize, Deserialize)]
pub enum Job {
    /// Runs every module over and over until it is killed, or for so many seconds.
    Work {
        pack: PathBuf,
        governed: bool,
        group: Option<PathBuf>,
        seconds: Option<f64>,
    },
    /// Runs every module once, then looks at a frame ten times a second, as a camera does.
    Watch { pack: PathBuf },
    /// Takes `bytes`, so many a second, and keeps them until it is killed.
    Hog {
        group: Option<PathBuf>,
        bytes: u64,
        rate: u64,
        stall: Option<Stall>,
    },
}

/// How a hog that has all it wanted waits for memory from then on: in a group that holds a part of a file only, it reads all
/// of that over and over.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stall {
    pub group: PathBuf,
    pub file: PathBuf,
    pub bytes: u64,
}

/// Threads that stall.
const STALLING: usize = 8;

/// A line of a runtime at work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    /// Times every module has run, or frames.
    pub rounds: u64,
    /// Rounds that a module was refused its memory in.
    pub refused: u64,
    /// Anonymous bytes given back so far.
    pub returned_bytes: u64,
    /// Bytes of mapped weights given back so far.
    pub parked_bytes: u64,
    /// The most anonymous bytes it has had.
    pub peak_anon_bytes: u64,
    /// How short memory is, and which sources say so.
    pub level: String,
    pub sources: Vec<String>,
}

impl Progress {
    fn of(runtime: &Runtime, last: Option<&Self>, refused: bool) -> Self {
        let anon = process_memory().map_or(0, |memory| memory.pss_anon);
        let counters = runtime.events().counters();
        let pressure = runtime.pressure();
        let speaking = |reading: &Reading| matches!(reading, Reading::Seen { level, .. } if *level > Level::None);
        let (rounds, refusals, peak) = last.map_or((0, 0, 0), |last| {
            (last.rounds, last.refused, last.peak_anon_bytes)
        });
        Self {
            rounds: rounds + u64::from(!refused),
            refused: refusals + u64::from(refused),
            returned_bytes: counters.anon_returned_bytes,
            parked_bytes: counters.mapped_returned_bytes,
            peak_anon_bytes: peak.max(anon),
            level: pressure.level.name().to_owned(),
            sources: pressure
                .sources
                .into_iter()
                .filter(|source| speaking(&source.reading))
                .map(|source| source.source)
                .collect(),
        }
    }
}

/// The worker's part.
///
/// # Errors
/// What joining a group, opening the runtime and running modules give.
pub fn work(job: &Job) -> Result<()> {
    match job {
        Job::Hog {
            group,
            bytes,
            rate,
            stall: stalling,
        } => {
            group.as_deref().map_or(Ok(()), join)?;
            let mut held: Vec<Vec<u8>> = Vec::new();
            let step = 1_000_000;
            let began = Instant::now();
            while (held.len() * step) as u64 <= *bytes {
                held.push(vec![1; step]);
                let due = Duration::from_secs_f64((held.len() * step) as f64 / *rate as f64);
                thread::sleep(due.saturating_sub(began.elapsed()));
            }
            match stalling {
                Some(stalling) => stall(stalling)?,
                None => loop {
                    thread::park();
                },
            }
        }
        Job::Watch { pack } => {
            let runtime = Runtime::open(&RuntimeOptions::new(pack))?;
            runtime.registry().golden()?;
            let (width, height) = (640, 360);
            let pixels = vec![128; (width * height * 3) as usize];
            let format = FrameFormat::new(PixelFormat::Rgb8, width, height);
            let frame = Frame::packed(format, &pixels, 0)?;
            let mut last = None;
            loop {
                runtime.observe(&frame, &Control::default())?;
                let progress = Progress::of(&runtime, last.as_ref(), false);
                print_json(&progress)?;
                last = Some(progress);
                thread::sleep(Duration::from_millis(100));
            }
        }
        Job::Work {
            pack,
            governed,
            group,
            seconds,
        } => {
            group.as_deref().map_or(Ok(()), join)?;
            let mut options = RuntimeOptions::new(pack);
            if !governed {
                options.memory = MemoryOptions::ungoverned();
            }
            let runtime = Runtime::open(&options)?;
            let began = Instant::now();
            let mut all: Vec<Progress> = Vec::new();
            let mut last = None;
            while seconds.is_none_or(|seconds| began.elapsed().as_secs_f64() < seconds) {
                let refused = match runtime.registry().golden() {
                    Ok(_) => false,
                    Err(e) if e.kind() == ErrorKind::OutOfBudget => true,
                    Err(e) => return Err(e),
                };
                let progress = Progress::of(&runtime, last.as_ref(), refused);
                if seconds.is_some() {
                    all.push(progress.clone());
                } else {
                    print_json(&progress)?;
                }
                last = Some(progress);
            }
            worker::answer(&all)?;
        }
    }
    Ok(())
}

fn join(group: &Path) -> Result<()> {
    let file = group.join("cgroup.procs");
    fs::write(&file, std::process::id().to_string()).map_err(|e| Error::io(file.display(), &e))
}

/// Until the process is killed.
fn stall(how: &Stall) -> Result<()> {
    let error = |e: std::io::Error| Error::io(how.file.display(), &e);
    let mut file = File::create(&how.file).map_err(error)?;
    let chunk = vec![1; 1 << 20];
    for _ in 0..how.bytes >> 20 {
        file.write_all(&chunk).map_err(error)?;
    }
    file.sync_all().map_err(error)?;
    // Else it stays where it is, at the charge of the group that wrote it.
    uncache(&how.file)?;
    join(&how.group)?;
    let file = File::open(&how.file).map_err(error)?;
    thread::scope(|scope| {
        for _ in 0..STALLING {
            scope.spawn(|| {
                let mut page = vec![0; 64 << 10];
                let mut at = 0;
                loop {
                    match file.read_at(&mut page, at) {
                        Ok(0) | Err(_) => at = 0,
                        Ok(read) => at += read as u64,
                    }
                }
            });
        }
    });
    Ok(())
}
