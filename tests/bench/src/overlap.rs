//! `atom-bench overlap`: what working at several things at once gives, and what it costs those who wait.
//!
//! Two questions, each answered by ratios of things measured in the same run: captions made while later segments are
//! encoded against captions made afterwards; and how long a search or a question takes while 200 tokens are generated.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::Common;
use atom_core::control::{Control, Priority, TextOptions};
use atom_core::features::Features;
use atom_core::index::{Access, Store};
use atom_core::language::{GenerateOptions, LanguageModel};
use atom_core::runtime::Runtime;
use atom_core::task::search::SearchQuery;
use atom_core::trace::{Recording, SPANS, Trace};
use atom_core::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::scheduling::{Role, Usage, watch};
use crate::stats::Spread;
use crate::{packs, videos};
use atom_cli::output::{nanoseconds, print_json, print_line, table};
use atom_cli::session::Session;

/// Tokens of a generation that others come into the middle of.
const TOKENS: usize = 200;

/// What is told while somebody searches: nothing in it matters but its length.
const STORY: &str =
    "Once upon a time, in a small village near the sea, there lived an old fisherman who";

/// Searched for, one after the other, so that no answer can have been kept.
const WORDS: [&str; 24] = [
    "people riding bicycles in the street",
    "a car",
    "a man with a tie",
    "a rabbit in the grass",
    "a bird",
    "a dog on a lawn",
    "a red bus",
    "a traffic light",
    "a boat on the water",
    "a train",
    "a horse",
    "an aeroplane",
    "a laptop",
    "a cup of coffee",
    "a cat on a sofa",
    "a motorcycle",
    "a tree beside the road",
    "a telephone",
    "a shop window",
    "a butterfly",
    "a squirrel",
    "a helmet",
    "a seat belt",
    "a submarine",
];

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Videos to index; the demo's clips when absent.
    pub files: Vec<PathBuf>,
    /// Longest segment, in seconds: short ones give captions something to overlap with.
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    pub max_segment: f64,
}

#[derive(Serialize)]
struct Report {
    threads: usize,
    cores: usize,
    segments: u64,
    sequential: Mode,
    overlapped: Mode,
    /// Overlapped through sequential, of the same round.
    wall_ratio: Spread,
    cpu_ratio: Spread,
    /// No schedule of the sequential work can be shorter: its processor time on all cores.
    floor_s: f64,
    threads_of_overlapped: Vec<Role>,
    search: Search,
    question: Question,
}

#[derive(Serialize)]
struct Mode {
    wall_s: Spread,
    cpu_s: Spread,
    runnable_mean: Spread,
    runnable_max: usize,
    over_share: Spread,
    wait_share: Spread,
}

/// Searches in the middle of a generation.
#[derive(Serialize)]
struct Search {
    searches: usize,
    /// One decoder step of a token while nobody searches.
    token_ms: Spread,
    alone_ms: Spread,
    during_ms: Spread,
    /// Time from the question to the answer, in token steps as they take undisturbed.
    token_steps: Spread,
    /// Decoder steps that ended between question and answer.
    steps_ended: Spread,
    /// Searches that waited for the permit of the text encoder.
    waited: usize,
}

/// Questions, which need the decoder themselves, while three generations use it.
#[derive(Serialize)]
struct Question {
    questions: usize,
    alone_ms: Spread,
    interactive_ms: Spread,
    same_priority_ms: Spread,
    /// Interactive through same priority.
    ratio: f64,
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    let longest = nanoseconds("--max-segment", args.max_segment)?;
    let files = videos::files(&args.files)?;
    packs::caption_by_decoder(session)?;
    let runtime = session.runtime()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let folder = tempfile::tempdir().map_err(|e| Error::io("a folder for stores", &e))?;
    // What is loaded and read once is not what is measured here.
    let warm = folder.path().join("warm");
    let segments = videos::index(&runtime, &files, &warm, longest, true)?;

    let (mut one, mut other): (Vec<Usage>, Vec<Usage>) = Default::default();
    for round in 0..args.common.rounds {
        // Which goes first alternates.
        let order = match round % 2 {
            0 => [false, true],
            _ => [true, false],
        };
        for overlapped in order {
            runtime.prefixes().clear();
            let store = folder.path().join(format!("{round}-{overlapped}"));
            let work = || videos::index(&runtime, &files, &store, longest, overlapped);
            let (_, usage) = watch(cores, work)?;
            if overlapped { &mut other } else { &mut one }.push(usage);
        }
    }
    let ratio =
        |of: fn(&Usage) -> f64| Spread::of(one.iter().zip(&other).map(|(a, b)| of(b) / of(a)));
    let store = runtime.open_store(&warm, Access::ReadOnly)?;
    let report = Report {
        threads: runtime.environment().threads(),
        cores,
        segments,
        wall_ratio: ratio(|usage| usage.wall_s),
        cpu_ratio: ratio(|usage| usage.cpu_s),
        floor_s: Spread::of(one.iter().map(|usage| usage.cpu_s)).median / cores as f64,
        sequential: mode(&one),
        overlapped: mode(&other),
        threads_of_overlapped: other.last().map(|u| u.roles.clone()).unwrap_or_default(),
        search: search(&runtime, &store)?,
        question: question(&runtime, &store)?,
    };
    if session.global.json {
        print_json(&report)?;
    } else {
        print_text(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn mode(usages: &[Usage]) -> Mode {
    let spread = |of: fn(&Usage) -> f64| Spread::of(usages.iter().map(of));
    Mode {
        wall_s: spread(|u| u.wall_s),
        cpu_s: spread(|u| u.cpu_s),
        runnable_mean: spread(|u| u.runnable_mean),
        runnable_max: usages.iter().map(|u| u.runnable_max).max().unwrap_or(0),
        over_share: spread(|u| u.over_share),
        wait_share: spread(|u| u.wait_share),
    }
}

fn control(priority: Priority) -> Control {
    Control {
        priority,
        ..Control::default()
    }
}

/// Generates [`TOKENS`] tokens at background priority, again and again until `done`.
fn generate(model: &LanguageModel, done: &AtomicBool) -> Result<()> {
    let ids = model.tokenizer().encode(STORY, false)?;
    let options = GenerateOptions {
        max_tokens: TOKENS,
        ..GenerateOptions::default()
    };
    let control = control(Priority::Background);
    while !done.load(Ordering::Acquire) {
        let mut generation = model.start(ids.len() + TOKENS, &control)?;
        generation.feed(&ids, &control)?;
        generation.generate(
            &options,
            &control,
            &mut |_| match done.load(Ordering::Acquire) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            },
        )?;
    }
    Ok(())
}

/// Does `work` while `count` threads generate, and records what ran.
fn amid<T>(
    runtime: &Runtime,
    count: usize,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Trace)> {
    let captioner = runtime.pack().manifest().captioner.as_ref();
    let decoder = captioner.and_then(|spec| {
        Some((
            spec.language_decoder.as_deref()?,
            spec.token_embedding.as_deref(),
        ))
    });
    let (decoder, embedding) = decoder.ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "the pack's captioner has no decoder",
        )
        .remedy("use a pack with captioner.language_decoder")
    })?;
    let model = LanguageModel::new(runtime.registry(), decoder, embedding)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|_| scope.spawn(|| generate(&model, &done)))
            .collect();
        // Into the middle.
        std::thread::sleep(Duration::from_millis(300));
        let recording = Recording::start(SPANS);
        let result = work();
        let trace = recording.map(Recording::finish);
        done.store(true, Ordering::Release);
        for thread in threads {
            let panicked = || Error::new(ErrorKind::Internal, "a generation panicked");
            thread.join().map_err(|_| panicked())??;
        }
        Ok((result?, trace?))
    })
}

fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}

fn search(runtime: &Runtime, store: &Store) -> Result<Search> {
    let interactive = control(Priority::Interactive);
    let find = |words: &str| runtime.search(store, &SearchQuery::new(words), &interactive);
    let alone = |words: &str| -> Result<f64> {
        let started = Instant::now();
        find(words)?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    };
    find("warm up")?;
    let mut alone_ms = Vec::new();
    for words in WORDS {
        alone_ms.push(alone(&format!("{words} at night"))?);
    }
    let idle = || {
        std::thread::sleep(Duration::from_millis(1000));
        Ok(())
    };
    let (_, undisturbed) = amid(runtime, 1, idle)?;
    let tokens: Vec<f64> = undisturbed
        .named("token")
        .map(|span| milliseconds(span.duration_ns))
        .collect();
    let token_ms = Spread::of(tokens);
    let searches = || {
        for (number, words) in WORDS.iter().enumerate() {
            find(words)?;
            // At another place within a step each time.
            std::thread::sleep(Duration::from_micros(23_000 + 1_700 * number as u64));
        }
        Ok(())
    };
    let (_, trace) = amid(runtime, 1, searches)?;
    let (mut during, mut ended) = (Vec::new(), Vec::new());
    let mut waited = 0;
    for search in trace.named("search") {
        during.push(milliseconds(search.duration_ns));
        let steps = trace.named("token").chain(trace.named("prefill"));
        let within = |step: &&atom_core::trace::SpanRecord| {
            search.start_ns <= step.end_ns() && step.end_ns() <= search.end_ns()
        };
        ended.push(steps.filter(within).count() as f64);
        waited += usize::from(
            trace
                .named("wait")
                .any(|wait| wait.thread == search.thread && wait.overlaps(search)),
        );
    }
    Ok(Search {
        searches: during.len(),
        token_ms,
        alone_ms: Spread::of(alone_ms),
        token_steps: Spread::of(during.iter().map(|ms| ms / token_ms.median)),
        during_ms: Spread::of(during),
        steps_ended: Spread::of(ended),
        waited,
    })
}

fn question(runtime: &Runtime, store: &Store) -> Result<Question> {
    let mut pictures: Vec<Features> = Vec::new();
    for stream in store.streams()? {
        for segment in store.segments(stream.id, None, None)? {
            pictures.push(store.features(segment.id)?);
        }
    }
    pictures.truncate(8);
    // Each with a question of its own, so that nothing but the system prompt is kept from another.
    let ask_all = |priority: Priority, about: &str| -> Result<Vec<f64>> {
        let control = control(priority);
        let options = TextOptions::default();
        let mut times = Vec::new();
        for (number, features) in pictures.iter().enumerate() {
            let words = format!("Is there a {about} or a {}?", WORDS[number]);
            let started = Instant::now();
            runtime.ask(&[features], &words, &options, &control, &mut |_| {
                ControlFlow::Continue(())
            })?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times)
    };
    // The contexts are in the cache from here on, for all three alike.
    ask_all(Priority::Interactive, "table")?;
    let alone = ask_all(Priority::Interactive, "chair")?;
    let (first, _) = amid(runtime, 3, || ask_all(Priority::Interactive, "lamp"))?;
    let (last, _) = amid(runtime, 3, || ask_all(Priority::Background, "door"))?;
    let (interactive, same) = (Spread::of(first), Spread::of(last));
    Ok(Question {
        questions: alone.len(),
        alone_ms: Spread::of(alone),
        ratio: interactive.median / same.median,
        interactive_ms: interactive,
        same_priority_ms: same,
    })
}

fn print_text(report: &Report) -> Result<()> {
    let row = |name: &str, mode: &Mode| {
        vec![
            name.to_owned(),
            mode.wall_s.show(2),
            mode.cpu_s.show(2),
            mode.runnable_mean.show(2),
            mode.runnable_max.to_string(),
            format!("{:.0} %", mode.over_share.median * 100.0),
            format!("{:.0} %", mode.wait_share.median * 100.0),
        ]
    };
    print_line(&format!(
        "  {} segments indexed and captioned; {} threads, {} cores",
        report.segments, report.threads, report.cores
    ))?;
    let head = [
        "captions", "wall s", "cpu s", "runnable", "most", "> cores", "waiting",
    ];
    let rows = [
        row("afterwards", &report.sequential),
        row("meanwhile", &report.overlapped),
    ];
    print_line(&table(&head, &rows, &[1, 2, 3, 4, 5, 6]))?;
    print_line(&format!(
        "  meanwhile / afterwards: wall {}, processor {}; limit: {:.2} s, the processor time on all cores",
        report.wall_ratio.show(2),
        report.cpu_ratio.show(2),
        report.floor_s
    ))?;
    let rows: Vec<_> = report
        .threads_of_overlapped
        .iter()
        .map(|role| {
            vec![
                role.name.clone(),
                role.threads.to_string(),
                format!("{:.2}", role.run_s),
                format!("{:.2}", role.wait_s),
            ]
        })
        .collect();
    let head = ["thread", "number", "ran s", "waited s"];
    print_line(&table(&head, &rows, &[1, 2, 3]))?;
    let search = &report.search;
    print_line(&format!(
        "  {} searches amid {TOKENS} tokens: {} ms, alone {} ms; a token {} ms",
        search.searches,
        search.during_ms.show(1),
        search.alone_ms.show(1),
        search.token_ms.show(1)
    ))?;
    print_line(&format!(
        "    in token steps {}, steps that ended meanwhile {}, {} waited for a permit",
        search.token_steps.show(2),
        search.steps_ended.show(0),
        search.waited
    ))?;
    let question = &report.question;
    print_line(&format!(
        "  {} questions amid three generations: {} ms with priority, {} ms without (ratio {:.2}), alone {} ms",
        question.questions,
        question.interactive_ms.show(0),
        question.same_priority_ms.show(0),
        question.ratio,
        question.alone_ms.show(0)
    ))
}
