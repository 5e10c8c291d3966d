//! `atom-bench export`: a user's export of a vision-language model, imported, and what captions and questions then cost, beside
//! another program on the same files.

mod report;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use atom_core::control::{Control, Priority, TextOptions};
use atom_core::engine::{Ask, Caption, OpenStore, Operation, Pictures, Request, Response, Text};
use atom_core::frame::{Frame, FrameBuf, FrameFormat, PixelFormat};
use atom_core::index::{Access, StreamId};
use atom_core::language::LanguageModel;
use atom_core::runtime::Task;
use atom_core::task::ingest::IngestOptions;
use atom_core::{Error, ErrorKind, Result};
use atom_import::{Form, ImportOptions, Wanted};
use serde::{Deserialize, Serialize};

use report::{Report, Row, show};

use crate::common::Common;
use crate::stats::Spread;
use crate::{memory, peer, worker};
use atom_cli::output::print_json;
use atom_cli::session::Session;

/// The side of the picture.
const SIDE: u32 = 512;

const QUESTION: &str = "what is this";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// The export's folder. One of random weights and real sizes is made by real_size.py and real_folder.py in
    /// tests/fixtures/exports/tools.
    #[arg(required_unless_present = "worker")]
    pub dir: Option<PathBuf>,
    /// An export for search, so that a frame can be stored and asked about again.
    #[arg(long, value_name = "DIR")]
    pub search: Option<PathBuf>,
    /// The precision of the graphs.
    #[arg(long, default_value = "q4")]
    pub precision: String,
    /// Tokens of a caption and of an answer.
    #[arg(long, default_value_t = 30, value_name = "N")]
    pub tokens: usize,
    /// Measure the graphs as they were exported.
    #[arg(long)]
    pub keep_graphs: bool,
    /// Another program that runs the same files in turn with Atom, such as "python3 models/peer_vlm.py"; it gets the job as
    /// JSON in its last argument and prints the result.
    #[arg(long, value_name = "COMMAND")]
    pub peer: Option<String>,
    #[arg(long, hide = true)]
    pub worker: Option<String>,
}

/// What one process measures.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job {
    /// The export, for a peer that has no packs.
    dir: PathBuf,
    precision: String,
    /// Rows of 8-bit RGB, `side` x `side`.
    picture: PathBuf,
    side: u32,
    threads: usize,
    tokens: usize,
    /// The prompts, for a peer that has no tokenizer; the picture's rows stand as `image_id`.
    caption_ids: Vec<u32>,
    question_ids: Vec<u32>,
    image_id: u32,
    /// Whether memory is looked at while it runs; nothing is then timed.
    memory: bool,
}

/// What it measured. A peer answers a question from the picture's features and from keys and values of the prompt that caption
/// and question share.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    /// A picture that was never seen, to the first token and to the last.
    caption_first_s: f64,
    caption_s: f64,
    caption_ids: Vec<u32>,
    question_first_s: f64,
    question_s: f64,
    question_ids: Vec<u32>,
    peak_anon_bytes: u64,
    /// Of Atom alone: the prompts.
    #[serde(default)]
    prompts: [Vec<u32>; 2],
    #[serde(default)]
    image_id: u32,
    /// Of Atom alone: whether questions were about a stored segment.
    #[serde(default)]
    stored: bool,
}

/// What a peer must print.
const ANSWER: &str = "{\"caption_first_s\", \"caption_s\", \"caption_ids\": […], \"question_first_s\", \"question_s\", \"question_ids\": […], \"peak_anon_bytes\"}";

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    if let Some(text) = &args.worker {
        let job: Job = worker::job(text)?;
        let made = match job.memory {
            false => measure(session, &job)?,
            true => {
                let every = Duration::from_millis(10);
                let (mut made, peak) = memory::peak(every, || measure(session, &job))?;
                made.peak_anon_bytes = peak.anon_pss_bytes;
                made
            }
        };
        worker::answer(&made)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = compare(session, args)?;
    if session.global.json {
        print_json(&report)?;
    } else {
        show(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(session: &mut Session, args: &Args) -> Result<Report> {
    let dir = args.dir.clone().unwrap_or_default();
    let dir = std::fs::canonicalize(&dir).map_err(|e| Error::io(dir.display(), &e))?;
    // Beside the export, so that weights can be links.
    let beside = dir.parent().unwrap_or(&dir);
    let work = tempfile::tempdir_in(beside).map_err(|e| Error::io(beside.display(), &e))?;
    let (pack, picture) = (work.path().join("pack"), work.path().join("picture.rgb"));
    let start = Instant::now();
    import(session, args, &dir, &pack)?;
    let import_s = start.elapsed().as_secs_f64();
    std::fs::write(&picture, pixels(3)).map_err(|e| Error::io(picture.display(), &e))?;
    let threads = session
        .global
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    session.global.pack = Some(pack.clone());
    let mut job = Job {
        dir,
        precision: args.precision.clone(),
        picture,
        side: SIDE,
        threads,
        tokens: args.tokens,
        caption_ids: Vec::new(),
        question_ids: Vec::new(),
        image_id: 0,
        memory: true,
    };
    // The first run also writes the prepacked forms, and tells the prompts.
    let first: Measured = worker::call(session, "export", &job)?;
    [job.caption_ids, job.question_ids] = first.prompts;
    job.image_id = first.image_id;
    let again: Measured = worker::call(session, "export", &job)?;
    let memory = again.peak_anon_bytes;
    let peer = |job: &Job| {
        args.peer
            .as_ref()
            .map(|command| peer::call(command, job, ANSWER))
    };
    let peer_memory: Option<Measured> = peer(&job).transpose()?;
    job.memory = false;
    let (mut ours, mut theirs): (Vec<Measured>, Vec<Measured>) = (Vec::new(), Vec::new());
    for _ in 0..args.common.rounds {
        ours.push(worker::call(session, "export", &job)?);
        theirs.extend(peer(&job).transpose()?);
    }
    let row = |what, unit, of: &dyn Fn(&Measured) -> f64| Row {
        what,
        unit,
        atom: Spread::of(ours.iter().map(of)),
        peer: (!theirs.is_empty()).then(|| Spread::of(theirs.iter().map(of))),
        over_peer: (!theirs.is_empty()).then(|| {
            Spread::of(
                ours.iter()
                    .zip(&theirs)
                    .map(|(own, peer)| of(own) / of(peer)),
            )
        }),
    };
    let later = |total: f64, first: f64| 1e3 * (total - first) / (args.tokens.max(2) - 1) as f64;
    let mut rows = vec![
        row("caption, to the first token", "ms", &|m| {
            1e3 * m.caption_first_s
        }),
        row("caption, whole", "ms", &|m| 1e3 * m.caption_s),
        row("a token after the first", "ms", &|m| {
            later(m.caption_s, m.caption_first_s)
        }),
        row("further question, to the first token", "ms", &|m| {
            1e3 * m.question_first_s
        }),
        row("further question, whole", "ms", &|m| 1e3 * m.question_s),
    ];
    let peer_memory = peer_memory.map(|made| made.peak_anon_bytes as f64 / 1e6);
    let one = |value: f64| Spread::of([value]);
    rows.push(Row {
        what: "peak anonymous memory",
        unit: "MB",
        atom: one(memory as f64 / 1e6),
        peer: peer_memory.map(one),
        over_peer: peer_memory.map(|peer| one(memory as f64 / 1e6 / peer)),
    });
    let equal = |of: &dyn Fn(&Measured) -> &Vec<u32>| {
        let mut pairs = ours.iter().zip(&theirs);
        (!theirs.is_empty()).then(|| pairs.all(|(own, peer)| of(own) == of(peer)))
    };
    Ok(Report {
        precision: args.precision.clone(),
        tokens: args.tokens,
        picture_rows: job
            .caption_ids
            .iter()
            .filter(|id| **id == job.image_id)
            .count(),
        prompt_tokens: job.caption_ids.len(),
        import_s,
        question_about_stored_segment: again.stored,
        rows,
        caption_ids_equal: equal(&|made| &made.caption_ids),
        question_ids_equal: equal(&|made| &made.question_ids),
        question_over_caption: Spread::of(ours.iter().map(|m| m.question_s / m.caption_s)),
    })
}

fn import(session: &Session, args: &Args, dir: &Path, pack: &Path) -> Result<()> {
    let form = Form::named(&args.precision).ok_or_else(|| {
        let why = format!("--precision {:?} is none", args.precision);
        Error::new(ErrorKind::InvalidArgument, why).remedy("give fp32, fp16, int8, q4 or q4f16")
    })?;
    let wanted = match &args.search {
        // The search tower has what it has.
        Some(_) => ["vision_encoder", "embed_tokens", "decoder_model_merged"]
            .map(|graph| format!("{graph}={}", form.name()))
            .join(","),
        None => form.name().to_owned(),
    };
    let options = ImportOptions {
        folders: args
            .search
            .iter()
            .cloned()
            .chain([dir.to_owned()])
            .collect(),
        pack: pack.to_owned(),
        precision: Wanted::parse(&wanted)?,
        tiles: Some(false),
        link: true,
        keep_graphs: args.keep_graphs,
        ort_library: session.global.ort_library.clone(),
        threads: session.global.threads,
        ..ImportOptions::default()
    };
    atom_import::import(&options, &Control::default()).map(|_| ())
}

/// The token in whose place a picture's rows are.
fn image_id(session: &mut Session) -> Result<u32> {
    let runtime = session.runtime()?;
    let none = || {
        Error::new(
            ErrorKind::Unsupported,
            "the export makes no captions of pictures",
        )
    };
    let captioner = runtime
        .pack()
        .manifest()
        .captioner
        .as_ref()
        .ok_or_else(none)?;
    let token = captioner.image_token.as_deref().ok_or_else(none)?;
    let decoder = captioner.language_decoder.as_deref().ok_or_else(none)?;
    let embedding = captioner.token_embedding.as_deref();
    let model = LanguageModel::new(runtime.registry(), decoder, embedding)?;
    model.tokenizer().token_to_id(token).ok_or_else(none)
}

/// A picture that is not of one colour.
fn pixels(seed: u32) -> Vec<u8> {
    let wave = |at: u32, by: u32| ((at * by + seed * 57) % 256) as u8;
    let pixel = |at: u32| {
        let (x, y) = (at % SIDE, at / SIDE);
        [wave(x, 1), wave(y, 2), wave(x ^ y, 1 + seed % 3)]
    };
    (0..SIDE * SIDE).flat_map(pixel).collect()
}

fn measure(session: &mut Session, job: &Job) -> Result<Measured> {
    session.global.threads = Some(job.threads);
    let format = FrameFormat::new(PixelFormat::Rgb8, job.side, job.side);
    let frame = |pixels: Vec<u8>| FrameBuf::from_vec(format, pixels, 0);
    let picture = std::fs::read(&job.picture).map_err(|e| Error::io(job.picture.display(), &e))?;
    // Another picture first: pages of the weights, ONNX Runtime's arena.
    say(
        session,
        caption(Pictures::Images(vec![frame(pixels(9))?]), 4),
    )?;
    let first = say(
        session,
        caption(Pictures::Images(vec![frame(picture.clone())?]), job.tokens),
    )?;
    let stored = stored(session, format, &picture)?;
    let question = |pictures| {
        Operation::Ask(Ask {
            pictures,
            question: QUESTION.to_owned(),
            options: options(job.tokens),
            store_always: false,
        })
    };
    let pictures = match &stored {
        Some((pictures, _)) => {
            // What a caption of the segment leaves is what a further question finds.
            say(session, caption(pictures.clone(), job.tokens))?;
            pictures.clone()
        }
        None => Pictures::Images(vec![frame(picture)?]),
    };
    let answer = say(session, question(pictures))?;
    Ok(Measured {
        caption_first_s: first.first_s,
        caption_s: first.whole_s,
        caption_ids: first.text.token_ids,
        question_first_s: answer.first_s,
        question_s: answer.whole_s,
        question_ids: answer.text.token_ids,
        peak_anon_bytes: 0,
        prompts: [first.text.prompt_ids, answer.text.prompt_ids],
        image_id: image_id(session)?,
        stored: stored.is_some(),
    })
}

/// Stores the picture as a segment, if the pack has a search tower.
fn stored(
    session: &mut Session,
    format: FrameFormat,
    picture: &[u8],
) -> Result<Option<(Pictures, tempfile::TempDir)>> {
    let runtime = session.runtime()?;
    if !runtime.serves(Task::Index) {
        return Ok(None);
    }
    let folder = tempfile::tempdir().map_err(|e| Error::io("a folder for a store", &e))?;
    let store = runtime.open_store(folder.path(), Access::ReadWrite)?;
    let indexing = runtime.ingest(&store, &IngestOptions::new("camera", picture.len()))?;
    for at in 0..4 {
        indexing.push_wait(&Frame::packed(format, picture, at * 250_000_000)?)?;
    }
    let stream: StreamId = indexing.stream();
    indexing.finish()?;
    let segments = store.segments(stream, None, None)?;
    drop((indexing, store));
    let segment = segments.first().ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            "a frame was indexed, and there is no segment",
        )
    })?;
    let open = Operation::OpenStore(OpenStore {
        path: folder.path().display().to_string(),
        access: Access::ReadWrite,
    });
    let store = match respond(session, open, &mut |_| ControlFlow::Continue(()))? {
        Response::Store(info) => info.store,
        other => {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("a store opens as {other:?}"),
            ));
        }
    };
    let pictures = Pictures::Segments {
        store,
        segments: vec![segment.id],
    };
    Ok(Some((pictures, folder)))
}

fn options(tokens: usize) -> TextOptions {
    TextOptions {
        max_tokens: Some(tokens),
        ..TextOptions::default()
    }
}

fn caption(pictures: Pictures, tokens: usize) -> Operation {
    Operation::Caption(Caption {
        pictures,
        options: options(tokens),
        fresh: true,
        store_always: false,
    })
}

struct Said {
    first_s: f64,
    whole_s: f64,
    text: Text,
}

fn say(session: &mut Session, operation: Operation) -> Result<Said> {
    let start = Instant::now();
    let mut first_s = None;
    let response = respond(session, operation, &mut |_| {
        first_s.get_or_insert_with(|| start.elapsed().as_secs_f64());
        ControlFlow::Continue(())
    })?;
    let whole_s = start.elapsed().as_secs_f64();
    let text: Text = response.try_into()?;
    Ok(Said {
        first_s: first_s.unwrap_or(whole_s),
        whole_s,
        text,
    })
}

fn respond(
    session: &mut Session,
    operation: Operation,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Response> {
    let request = Request {
        priority: Priority::Interactive,
        deadline_ms: None,
        text_events: true,
        operation,
    };
    session.run_request(request, on_text)
}
