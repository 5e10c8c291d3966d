//! `atom-bench reuse`: what loading once and sharing saves, over the same work done in several ways.
//!
//! The work: of each video index eight keyframes, search twice in words that never come again, caption one keyframe in
//! exactly 24 tokens and answer a question on it in exactly 16. Each way runs in a process of its own, after a warm-up
//! that leaves every file in the page cache, in turn with the others; what they say must be the same to the bit.

mod job;
mod report;
mod subtasks;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::common::Common;
use atom_core::frame::Frame;
use atom_core::{Error, ErrorKind, Result, cache};
use atom_media::VideoReader;

use crate::{limits, packs, worker};
use atom_cli::output::progress;
use atom_cli::session::Session;
use job::{Clip, Job, Outcome, Outputs, Sharing};
use report::{Mode, Report};

/// Keyframes of each video.
const KEYFRAMES: usize = 8;

/// What is asked of each video; no text twice.
const CLIPS: [(&str, [&str; 2], &str); 3] = [
    (
        "bikes.mp4",
        ["people riding bicycles in the street", "a parked car"],
        "Is there a bicycle?",
    ),
    (
        "bigbuckbunny.mp4",
        ["a rabbit in a meadow", "a bird"],
        "What kind of animal is it?",
    ),
    (
        "carphone.mp4",
        ["a man in a suit", "a telephone"],
        "How many people are there?",
    ),
];

/// A way to do the work.
#[derive(Debug, Clone, Copy)]
struct Way {
    name: &'static str,
    sharing: Sharing,
    /// Weights lie in the .onnx files and are loaded plainly; else they are our prepacked form.
    plain: bool,
    /// Captions and answers read the features that indexing stored; else they start from the picture, as a captioner
    /// that shares nothing has to.
    features: bool,
}

const fn way(name: &'static str, sharing: Sharing, plain: bool, features: bool) -> Way {
    Way {
        name,
        sharing,
        plain,
        features,
    }
}

/// The last is ours. The one before it is handed our features, so that it differs from ours in nothing but loading.
const WAYS: [Way; 6] = [
    way("reload", Sharing::Reload, true, false),
    way("reload_prepacked", Sharing::Reload, false, false),
    way("unshared", Sharing::Unshared, true, false),
    way("unshared_prepacked", Sharing::Unshared, false, false),
    way("reload_features", Sharing::Reload, false, true),
    way("shared", Sharing::Shared, false, true),
];

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Videos worked on.
    #[arg(long, default_value_t = CLIPS.len(), value_name = "N", value_parser = videos)]
    pub videos: usize,
    #[arg(long, hide = true)]
    worker: Option<String>,
}

fn videos(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=CLIPS.len()).contains(&count) => Ok(count),
        _ => Err(format!("1 to {} are possible", CLIPS.len())),
    }
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    if let Some(job) = &args.worker {
        worker::answer(&subtasks::run(&worker::job(job)?)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let packs = packs(session)?;
    let folder = tempfile::tempdir().map_err(|error| Error::io("a temporary folder", &error))?;
    let frames = folder.path().join("frames.i420");
    let clips = clips(args.videos, &frames)?;
    let runner = Runner {
        session,
        folder: folder.path(),
        packs,
        clips,
        frames,
    };

    let rounds = args.common.rounds as usize;
    let ends = [WAYS[0], WAYS[WAYS.len() - 1]];
    let turns = ends.len() + (WAYS.len() + ends.len()) * rounds + WAYS.len();
    let bar = progress(turns as u64, "reuse");
    let turn = |way: Way, how: How| {
        let outcome = runner.call(way, how);
        bar.inc(1);
        outcome
    };
    let mut modes: Vec<Mode> = WAYS.iter().map(|way| Mode::new(way.name)).collect();
    let mut end_to_end: Vec<Mode> = ends.iter().map(|way| Mode::new(way.name)).collect();
    // Of both packs, so that all files are cached and checked; the videos are, by `clips`.
    for way in ends {
        turn(way, How::Timed)?;
    }
    for round in 0..rounds {
        // Each round begins with another mode, so that none always follows the same one.
        for step in 0..WAYS.len() {
            let at = (round + step) % WAYS.len();
            modes[at].add(turn(WAYS[at], How::Timed)?)?;
        }
        for (way, made) in ends.iter().zip(&mut end_to_end) {
            made.add(turn(*way, How::EndToEnd)?)?;
        }
    }
    for (way, made) in WAYS.iter().zip(&mut modes) {
        made.watch(turn(*way, How::Watched)?)?;
    }
    bar.finish_and_clear();
    for made in [&modes, &end_to_end] {
        let shared = &made[made.len() - 1];
        for other in made {
            equal(other.name, &other.outputs, shared.name, &shared.outputs)?;
        }
    }
    let report = Report::new(
        modes,
        end_to_end,
        runner.weights()?,
        limits::measure(session.global.threads),
    );
    report.print(session)?;
    if let Some(path) = &args.common.svg {
        report.draw(path)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// From decoded keyframes, for its time.
    Timed,
    /// The same, for its memory.
    Watched,
    /// From the files, for its time.
    EndToEnd,
}

struct Runner<'a> {
    session: &'a Session,
    folder: &'a Path,
    packs: Packs,
    clips: Vec<Clip>,
    frames: PathBuf,
}

struct Packs {
    plain: PathBuf,
    prepacked: PathBuf,
}

impl Runner<'_> {
    fn call(&self, way: Way, how: How) -> Result<Outcome> {
        let store = tempfile::tempdir_in(self.folder)
            .map_err(|error| Error::io("a temporary folder", &error))?;
        let packs = &self.packs;
        let job = Job {
            sharing: way.sharing,
            pack: if way.plain {
                packs.plain.clone()
            } else {
                packs.prepacked.clone()
            },
            clips: self.clips.clone(),
            frames: (how != How::EndToEnd).then(|| self.frames.clone()),
            store: store.path().to_owned(),
            features: way.features,
            memory: how == How::Watched,
            ort_library: self.session.global.ort_library.clone(),
            threads: self.session.global.threads,
        };
        worker::call(self.session, "reuse", &job)
    }

    /// Bytes of every module's weights, each counted once, and seconds of reading them once from the page cache.
    fn weights(&self) -> Result<(u64, f64)> {
        let pack = atom_core::pack::Pack::open(&self.packs.prepacked)?;
        let (mut bytes, mut seconds) = (0, 0.0);
        for file in pack.manifest().modules.iter().flat_map(|m| m.weights()) {
            bytes += file.bytes;
            seconds += file.bytes as f64 / limits::file_read(&pack.path(file), false)?;
        }
        Ok((bytes, seconds))
    }
}

/// The pack, and beside it the copy of it with plain weights.
fn packs(session: &Session) -> Result<Packs> {
    let prepacked = session.pack_dir();
    let plain = packs::embedded(&prepacked)?;
    Ok(Packs { plain, prepacked })
}

/// Decodes the videos once and writes their keyframes, evenly spread, into the file `frames`.
fn clips(count: usize, frames: &Path) -> Result<Vec<Clip>> {
    let fail = |error: std::io::Error| Error::io(frames.display(), &error);
    let mut out = BufWriter::new(File::create(frames).map_err(fail)?);
    let mut offset = 0;
    let mut clips = Vec::new();
    for (name, queries, question) in CLIPS.iter().take(count) {
        let file = cache::dir().join("videos").join(name);
        let mut reader = VideoReader::open(&file)
            .map_err(|error| error.remedy("python3 models/setup.py bench"))?;
        let info = reader.info().clone();
        let step = (info.frames as usize / KEYFRAMES).max(1);
        let mut clip = Clip {
            name: (*name).to_owned(),
            file,
            width: info.width,
            height: info.height,
            times_ns: Vec::new(),
            offset,
            queries: queries.map(str::to_owned).to_vec(),
            question: (*question).to_owned(),
            at_ns: 0,
        };
        let mut index = 0;
        while let Some(frame) = reader.next_frame()? {
            if index % step == 0 && clip.times_ns.len() < KEYFRAMES {
                let frame = frame.as_frame()?;
                offset += write(&frame, &mut out).map_err(fail)?;
                clip.times_ns.push(frame.timestamp_ns());
            }
            index += 1;
        }
        clip.at_ns = clip.times_ns[clip.times_ns.len() / 2];
        clips.push(clip);
    }
    out.flush().map_err(fail)?;
    Ok(clips)
}

/// Writes the planes of a packed frame; how many bytes that is.
fn write(frame: &Frame<'_>, out: &mut impl Write) -> std::io::Result<u64> {
    let mut bytes = 0;
    for plane in (0..frame.format().pixels.planes()).map(|index| frame.plane(index)) {
        out.write_all(plane.data)?;
        bytes += plane.data.len() as u64;
    }
    Ok(bytes)
}

/// # Errors
/// [`ErrorKind::Inference`] naming the first kind of output that differs.
fn equal(name: &str, ours: &Outputs, other: &str, theirs: &Outputs) -> Result<()> {
    let parts = [
        ("embeddings", ours.embeddings == theirs.embeddings),
        ("hits", ours.hits == theirs.hits),
        ("captions", ours.captions == theirs.captions),
        ("answers", ours.answers == theirs.answers),
    ];
    match parts.iter().find(|(_, equal)| !equal) {
        None => Ok(()),
        Some((what, _)) => Err(Error::new(
            ErrorKind::Inference,
            format!("the {what} of {name} and {other} differ, so their times cannot be compared"),
        )
        .remedy(
            "python3 models/setup.py bench, or see what `atom pack verify` says of both packs",
        )),
    }
}
