//! `atom caption`.

use std::path::PathBuf;
use std::process::ExitCode;

use atom_cli::output::nanoseconds;
use atom_cli::session::Session;
use atom_core::control::Control;
use atom_core::features::Features;
use atom_core::index::Access;
use atom_core::runtime::Task;
use atom_core::{Error, ErrorKind, Result};
use atom_media::VideoReader;

use crate::generate;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A video file, instead of --stream.
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub at: generate::At,
    /// Generate it even if the segment has a stored caption.
    #[arg(long)]
    pub fresh: bool,
    /// Everything from --at to this time, in seconds: what its keyframes agree on, and what comes or goes.
    #[arg(long, value_name = "S")]
    pub to: Option<f64>,
    #[command(flatten)]
    pub generate: generate::Generate,
}

/// Most keyframes one caption looks at.
const MOST_KEYFRAMES: usize = 8;

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    let control = generate::control(&args.generate)?;
    let options = args.generate.text();
    let (None, Some(stream), None) = (&args.file, &args.at.stream, args.to) else {
        let features = match args.to {
            Some(to) => span(session, args, to, &control)?,
            None => vec![generate::features(
                session,
                args.file.as_deref(),
                &args.at,
                Task::Caption,
                &control,
            )?],
        };
        let features: Vec<&Features> = features.iter().collect();
        let runtime = session.runtime()?;
        return generate::show(session, |on_text| {
            runtime.caption(&features, &options, &control, on_text)
        });
    };
    let ns = nanoseconds("--at", args.at.at)?;
    let store = session.store(false)?;
    let segment = generate::segment(&store, stream, args.at.at, ns)?;
    let runtime = session.runtime()?;
    generate::show(session, |on_text| {
        let fresh = args.fresh;
        let said = runtime.caption_segment(&store, segment, &options, fresh, &control, on_text)?;
        // Kept for the next time, unless somebody is writing to the store now: the lock is held for this moment only.
        if store.access() == Access::ReadOnly && !said.stored && options.choices.is_empty() {
            let kept = runtime
                .open_store(store.path(), Access::ReadWrite)
                .and_then(|store| runtime.keep_caption(&store, segment, &said));
            if let Err(error) = kept {
                log::info!("the caption is not kept: {error}");
            }
        }
        Ok(said)
    })
}

/// The features of keyframes from --at to --to, in the order of time: of the stored segments, or of a file's frames.
fn span(session: &mut Session, args: &Args, to: f64, control: &Control) -> Result<Vec<Features>> {
    let (from, end) = (nanoseconds("--at", args.at.at)?, nanoseconds("--to", to)?);
    if end <= from {
        let message = format!("--to {to} s is not after --at {} s", args.at.at);
        return Err(Error::new(ErrorKind::InvalidArgument, message)
            .remedy("leave --to out to describe one time"));
    }
    match (&args.file, &args.at.stream) {
        (None, Some(stream)) => {
            let store = session.store(false)?;
            let id = store.stream(stream)?.id;
            let mut segments = store.segments(id, Some(from), Some(end))?;
            segments.retain(|segment| (from..=end).contains(&segment.keyframe_ns));
            if segments.is_empty() {
                let message = format!(
                    "stream {stream:?} has no keyframe from {} to {to} s",
                    args.at.at
                );
                return Err(Error::new(ErrorKind::NotFound, message)
                    .remedy("choose a longer time inside the stream"));
            }
            let count = segments.len().min(MOST_KEYFRAMES);
            let chosen = (0..count).map(|index| &segments[index * segments.len() / count]);
            chosen.map(|segment| store.features(segment.id)).collect()
        }
        (Some(file), None) => {
            let mut reader = VideoReader::open(file)?;
            let end = end.min(reader.info().duration_ns);
            let runtime = session.runtime()?;
            runtime.prefetch(Task::Index);
            runtime.prefetch(Task::Caption);
            let (steps, length) = (MOST_KEYFRAMES as i64, (end - from).max(0));
            let times = (0..steps).map(|step| from + length * (2 * step + 1) / (2 * steps));
            times
                .map(|ns| runtime.observe(&reader.frame_at(ns)?.as_frame()?, control))
                .collect()
        }
        _ => Err(generate::which()),
    }
}
