//! What `caption` and `ask` share: the picture meant, and tokens shown as they come.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use atom_cli::output::{nanoseconds, print_json, print_text};
use atom_cli::session::Session;
use atom_core::control::{Priority, TextOptions};
use atom_core::engine::{Operation, Pictures, Request, Text};
use atom_core::index::{SegmentId, Store};
use atom_core::runtime::Task;
use atom_core::{Error, ErrorKind, Result};
use atom_media::{VideoReader, is_picture, read_picture};
use serde::Serialize;

/// Which picture.
#[derive(Debug, clap::Args)]
pub struct At {
    /// A stream of the store.
    #[arg(long)]
    pub stream: Option<String>,
    /// The time in a stream or a video, in seconds.
    #[arg(long, value_name = "S")]
    pub at: Option<f64>,
}

impl At {
    /// The time, in seconds and in nanoseconds.
    pub fn time(&self) -> Result<(f64, i64)> {
        let at = self.at.ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "no time is named")
                .remedy("add --at SECONDS: which moment of the stream or the video is meant")
        })?;
        Ok((at, nanoseconds("--at", at)?))
    }

    /// The picture in `file`; `None` if that is a video.
    pub fn image(&self, file: &Path, to: Option<f64>) -> Result<Option<Pictures>> {
        if !is_picture(file)? {
            return Ok(None);
        }
        let given = [("--at", self.at), ("--to", to)];
        if let Some((option, _)) = given.iter().find(|(_, time)| time.is_some()) {
            let message = format!("{} is a picture, and {option} names a time", file.display());
            return Err(Error::new(ErrorKind::InvalidArgument, message)
                .remedy(format!("leave {option} out, or give a video")));
        }
        Ok(Some(Pictures::Images(vec![read_picture(file)?])))
    }
}

/// How text is generated.
#[derive(Debug, clap::Args)]
pub struct Generate {
    /// The most tokens to generate; 48 if the pack does not say it.
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Give up after this many seconds and keep what there is.
    #[arg(long, value_name = "S")]
    pub deadline: Option<f64>,
    /// A text the answer may be; given several times, the answer is exactly one of them.
    #[arg(long = "choice", value_name = "TEXT")]
    pub choices: Vec<String>,
    /// Texts that a beam search follows at once; 1 is greedy. The pack decides when absent.
    #[arg(long, value_name = "N")]
    pub beams: Option<usize>,
    /// Draw tokens at random, from logits divided by this; 0 takes the likeliest. The pack decides when absent.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Draw among the K likeliest tokens; 0: among all.
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw among the likeliest tokens whose probabilities together reach P.
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Start of the random sequence: the same seed draws the same text.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl Generate {
    pub fn text(&self) -> TextOptions {
        TextOptions {
            max_tokens: self.max_tokens,
            choices: self.choices.clone(),
            beams: self.beams,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
            ..TextOptions::default()
        }
    }
}

#[derive(Serialize)]
struct Generated<'a> {
    text: &'a str,
    tokens: u64,
    /// The tokens of the prompt, as the decoder or encoder reads them; the picture's rows stand as its token.
    prompt_ids: &'a [u32],
    /// The tokens generated, without the one that ended the text.
    token_ids: &'a [u32],
    stop_reason: &'a str,
    /// What the text rests on, as the pack's captioner says it.
    grounds: serde_json::Value,
    /// It was kept with the segment and not generated now.
    stored: bool,
}

/// The picture meant: a stored segment of a stream, a picture's file, or a frame of a video's.
pub fn picture(
    session: &mut Session,
    file: Option<&Path>,
    at: &At,
    task: Task,
) -> Result<Pictures> {
    match (file, &at.stream) {
        (None, Some(stream)) => {
            let (at, ns) = at.time()?;
            let (store, handle) = session.store(false)?;
            Ok(Pictures::Segments {
                segments: vec![segment(&store, stream, at, ns)?],
                store: handle,
            })
        }
        (Some(file), None) => {
            if let Some(picture) = at.image(file, None)? {
                return Ok(picture);
            }
            let (_, ns) = at.time()?;
            let mut reader = VideoReader::open(file)?;
            prefetch(session, task)?;
            Ok(Pictures::Frames(vec![reader.frame_at(ns)?]))
        }
        _ => Err(which()),
    }
}

/// Loads what `task` needs while a video is read.
pub fn prefetch(session: &mut Session, task: Task) -> Result<()> {
    let runtime = session.runtime()?;
    runtime.prefetch_for_text();
    runtime.prefetch(task);
    Ok(())
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

/// When --deadline, counted from now, has passed.
pub fn deadline(options: &Generate) -> Result<Option<Instant>> {
    match options.deadline {
        None => Ok(None),
        Some(s) if s.is_finite() && (0.0..=1e6).contains(&s) => {
            Ok(Some(Instant::now() + Duration::from_secs_f64(s)))
        }
        Some(s) => Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("--deadline of {s} s: 0 to 1e6 is possible"),
        )),
    }
}

/// Runs `operation`, showing its text as it comes, then prints the outcome.
pub fn show(
    session: &mut Session,
    operation: Operation,
    deadline: Option<Instant>,
) -> Result<ExitCode> {
    let json = session.global.json;
    let mut broken = None;
    let mut print = |text: &str| {
        if let Err(error) = print_text(text) {
            broken = Some(error);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    if !json {
        print_text("  ")?;
    }
    let request = Request {
        priority: Priority::Interactive,
        // Rounded up, so that what is left is not nothing.
        deadline_ms: deadline.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            left.as_micros().div_ceil(1000) as u64
        }),
        text_events: !json,
        operation,
    };
    let response = session.run_request(request, &mut print);
    if !json {
        print_text("\n")?;
    }
    let generated: Text = response?.try_into()?;
    if let Some(error) = broken {
        return Err(error);
    }
    if json {
        let grounds = serde_json::from_str(&generated.evidence)
            .map_err(|error| Error::new(ErrorKind::Internal, format!("evidence: {error}")))?;
        print_json(&Generated {
            text: &generated.text,
            tokens: generated.tokens,
            prompt_ids: &generated.prompt_ids,
            token_ids: &generated.token_ids,
            stop_reason: generated.stop_reason.name(),
            grounds,
            stored: generated.stored,
        })?;
    }
    Ok(ExitCode::SUCCESS)
}
