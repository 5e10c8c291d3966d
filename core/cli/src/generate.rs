//! What `caption` and `ask` share: the picture meant, and tokens shown as they come.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use atom_cli::output::{nanoseconds, print_json, print_text};
use atom_cli::session::Session;
use atom_core::control::{Control, Priority, TextOptions};
use atom_core::features::Features;
use atom_core::index::{SegmentId, Store};
use atom_core::runtime::Task;
use atom_core::task::Statement;
use atom_core::{Error, ErrorKind, Result};
use atom_media::VideoReader;
use serde::Serialize;

/// Which picture.
#[derive(Debug, clap::Args)]
pub struct At {
    /// A stream of the store.
    #[arg(long)]
    pub stream: Option<String>,
    /// The time, in seconds.
    #[arg(long, value_name = "S")]
    pub at: f64,
}

/// How text is generated.
#[derive(Debug, clap::Args)]
pub struct Generate {
    /// The most tokens to generate.
    #[arg(long, default_value_t = 48, value_name = "N")]
    pub max_tokens: usize,
    /// Give up after this many seconds and keep what there is.
    #[arg(long, value_name = "S")]
    pub deadline: Option<f64>,
    /// A text the answer may be; given several times, the answer is exactly one of them.
    #[arg(long = "choice", value_name = "TEXT")]
    pub choices: Vec<String>,
}

impl Generate {
    pub fn text(&self) -> TextOptions {
        TextOptions {
            max_tokens: self.max_tokens,
            choices: self.choices.clone(),
        }
    }
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
    tokens: usize,
    stop_reason: &'a str,
    /// What the text rests on, as the pack's captioner says it.
    grounds: &'a serde_json::Value,
    /// It was kept with the segment and not generated now.
    stored: bool,
}

/// The features of the picture meant: stored ones for a stream, fresh ones for a file.
pub fn features(
    session: &mut Session,
    file: Option<&Path>,
    at: &At,
    task: Task,
    control: &Control,
) -> Result<Features> {
    let ns = nanoseconds("--at", at.at)?;
    match (file, &at.stream) {
        (None, Some(stream)) => {
            let store = session.store(false)?;
            store.features(segment(&store, stream, at.at, ns)?)
        }
        (Some(file), None) => {
            let mut reader = VideoReader::open(file)?;
            let runtime = session.runtime()?;
            // Loaded while the video is read and the encoders run.
            runtime.prefetch(Task::Index);
            runtime.prefetch(task);
            let frame = reader.frame_at(ns)?;
            runtime.observe(&frame.as_frame()?, control)
        }
        _ => Err(which()),
    }
}

/// The segment of stream `stream` at `ns` nanoseconds, which the user wrote as `at` seconds.
pub fn segment(store: &Store, stream: &str, at: f64, ns: i64) -> Result<SegmentId> {
    let id = store.stream(stream)?.id;
    let segment = store.segment_at(id, ns)?.ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!("stream {stream:?} has nothing at {at} s"),
        )
        .remedy("choose a time inside one of its segments")
    })?;
    Ok(segment.id)
}

/// Neither a file nor a stream is named, or both are.
pub fn which() -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        "either a file or --stream says which picture",
    )
    .remedy("add --stream NAME, or a FILE, not both")
}

/// Cancel, deadline and priority as the options say.
pub fn control(options: &Generate) -> Result<Control> {
    let deadline = match options.deadline {
        None => None,
        Some(s) if s.is_finite() && (0.0..=1e6).contains(&s) => {
            Some(Instant::now() + Duration::from_secs_f64(s))
        }
        Some(s) => {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("--deadline of {s} s: 0 to 1e6 is possible"),
            ));
        }
    };
    Ok(Control {
        deadline,
        priority: Priority::Interactive,
        ..Control::default()
    })
}

/// Runs `generate`, showing its text as it comes, then prints the outcome.
pub fn show(
    session: &Session,
    generate: impl FnOnce(&mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<Statement>,
) -> Result<ExitCode> {
    let json = session.global.json;
    let mut broken = None;
    let mut print = |text: &str| {
        if !json && let Err(error) = print_text(text) {
            broken = Some(error);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    if !json {
        print_text("  ")?;
    }
    let generated = generate(&mut print);
    if !json {
        print_text("\n")?;
    }
    let generated = generated?;
    if let Some(error) = broken {
        return Err(error);
    }
    if json {
        print_json(&Text {
            text: &generated.text,
            tokens: generated.tokens,
            stop_reason: generated.stop_reason.name(),
            grounds: &generated.evidence,
            stored: generated.stored,
        })?;
    }
    Ok(ExitCode::SUCCESS)
}
