//! `atom caption`.

use std::path::PathBuf;
use std::process::ExitCode;

use atom_cli::output::nanoseconds;
use atom_cli::session::Session;
use atom_core::control::TextOptions;
use atom_core::engine::{Caption, Operation, Pictures};
use atom_core::runtime::Task;
use atom_core::{Error, ErrorKind, Result};
use atom_media::VideoReader;

use crate::generate;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A video, or a PNG or JPEG picture, instead of --stream.
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub at: generate::At,
    /// Generate it even if the segment has a stored caption.
    #[arg(long)]
    pub fresh: bool,
    /// Everything from --at to this time, in seconds: what its keyframes agree on, and what comes or goes.
    #[arg(long, value_name = "S")]
    pub to: Option<f64>,
    /// One of the pack's named prompts, such as `detailed-caption`.
    #[arg(long, value_name = "NAME")]
    pub prompt: Option<String>,
    #[command(flatten)]
    pub generate: generate::Generate,
}

/// Most keyframes one caption looks at.
const MOST_KEYFRAMES: usize = 8;

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    let deadline = generate::deadline(&args.generate)?;
    let caption = Caption {
        pictures: match args.to {
            Some(to) => span(session, args, to)?,
            None => generate::picture(session, args.file.as_deref(), &args.at, Task::Caption)?,
        },
        options: TextOptions {
            prompt: args.prompt.clone(),
            ..args.generate.text()
        },
        fresh: args.fresh,
        store_always: true,
    };
    generate::show(session, Operation::Caption(caption), deadline)
}

/// The keyframes from --at to --to, in the order of time: of the stored segments, or a file's frames.
fn span(session: &mut Session, args: &Args, to: f64) -> Result<Pictures> {
    if let Some(file) = &args.file
        && let Some(picture) = args.at.image(file, Some(to))?
    {
        return Ok(picture);
    }
    let (at, from) = args.at.time()?;
    let end = nanoseconds("--to", to)?;
    if end <= from {
        let message = format!("--to {to} s is not after --at {at} s");
        return Err(Error::new(ErrorKind::InvalidArgument, message)
            .remedy("leave --to out to describe one time"));
    }
    match (&args.file, &args.at.stream) {
        (None, Some(stream)) => {
            let (store, handle) = session.store(false)?;
            let id = store.stream(stream)?.id;
            let mut segments = store.segments(id, Some(from), Some(end))?;
            segments.retain(|segment| (from..=end).contains(&segment.keyframe_ns));
            if segments.is_empty() {
                let message = format!("stream {stream:?} has no keyframe from {at} to {to} s");
                return Err(Error::new(ErrorKind::NotFound, message)
                    .remedy("choose a longer time inside the stream"));
            }
            let count = segments.len().min(MOST_KEYFRAMES);
            let chosen = (0..count).map(|index| segments[index * segments.len() / count].id);
            Ok(Pictures::Segments {
                store: handle,
                segments: chosen.collect(),
            })
        }
        (Some(file), None) => {
            let mut reader = VideoReader::open(file)?;
            let end = end.min(reader.info().duration_ns);
            generate::prefetch(session, Task::Caption)?;
            let (steps, length) = (MOST_KEYFRAMES as i64, (end - from).max(0));
            let times = (0..steps).map(|step| from + length * (2 * step + 1) / (2 * steps));
            let frames = times.map(|ns| reader.frame_at(ns));
            Ok(Pictures::Frames(frames.collect::<Result<_>>()?))
        }
        _ => Err(generate::which()),
    }
}
