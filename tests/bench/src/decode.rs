//! `atom-bench decode`: tokens a second of the language decoder, beside what reading its weights from memory would allow.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use crate::common::Common;
use atom_core::control::Control;
use atom_core::language::{GenerateOptions, LanguageModel};
use atom_core::pack::{DecoderSpec, ModuleSpec, Pack};
use atom_core::trace::Recording;
use atom_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::chart::{Axis, Lines};
use crate::stats::Spread;
use crate::{limits, nodes, peer, worker};
use atom_cli::output::{print_json, print_line, table};
use atom_cli::session::Session;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Prompt lengths to read.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 64, 256], value_name = "N,…")]
    pub prefill: Vec<usize>,
    /// Lengths of the text that is continued.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 512, 1536], value_name = "N,…")]
    pub context: Vec<usize>,
    /// Tokens to generate behind each.
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub tokens: usize,
    /// Another program that measures the same graph in turn with Atom, such as "python3 models/peer_decode.py"; it gets
    /// the job as JSON in its last argument and prints the result.
    #[arg(long, value_name = "COMMAND")]
    pub peer: Option<String>,
    /// Also time every node of the graph: what a token and a prompt cost, by operator.
    #[arg(long)]
    pub nodes: bool,
    #[arg(long, hide = true)]
    pub worker: Option<String>,
}

/// What one process measures.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job {
    /// The graph, for a peer that has no packs.
    model: String,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    threads: usize,
    prefill: Vec<usize>,
    context: Vec<usize>,
    tokens: usize,
    nodes: bool,
}

/// What it measured; a peer gives the first two.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    /// Seconds to read each prompt of `Job::prefill`.
    prefill_s: Vec<f64>,
    /// For each of `Job::context`.
    decode: Vec<Decoded>,
    #[serde(default)]
    nodes: Vec<nodes::Profile>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Decoded {
    tokens: usize,
    seconds: f64,
    /// Of these, within ONNX Runtime's runs.
    #[serde(default)]
    run_s: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    limits: limits::Limits,
    weights_bytes: u64,
    kv_bytes_per_position: u64,
    tokens: usize,
    rows: Vec<Row>,
    nodes: Vec<nodes::Profile>,
}

/// One kind of work on one number of threads.
#[derive(Debug, Serialize)]
struct Row {
    threads: usize,
    work: &'static str,
    /// Tokens read, or tokens before the first generated one.
    length: usize,
    tokens_per_s: Spread,
    ms_per_token: f64,
    /// Part of the time that is not within ONNX Runtime's runs.
    outside_runs: Option<f64>,
    /// When every weight and the whole past are read from memory once a token.
    limit_tokens_per_s: Option<f64>,
    of_limit: Option<f64>,
    peer_tokens_per_s: Option<Spread>,
    /// Atom's tokens a second over the peer's of the same round.
    over_peer: Option<Spread>,
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    if let Some(text) = &args.worker {
        worker::answer(&measure(session, &worker::job(text)?)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = compare(session, args)?;
    if let Some(path) = &args.common.svg {
        draw(&report).draw(path)?;
    }
    if session.global.json {
        print_json(&report)?;
    } else {
        show(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The pack's decoder, and the module that embeds its tokens if it reads embeddings.
fn decoder(pack: &Pack) -> Result<(&ModuleSpec, &DecoderSpec, Option<&str>)> {
    let none = || {
        Error::new(ErrorKind::Unsupported, "the pack has no language decoder")
            .remedy("give one that has with --pack")
    };
    let captioner = pack.manifest().captioner.as_ref().ok_or_else(none)?;
    let module = pack.module(captioner.language_decoder.as_deref().ok_or_else(none)?)?;
    let spec = module.decoder.as_ref().ok_or_else(none)?;
    Ok((module, spec, captioner.token_embedding.as_deref()))
}

fn compare(session: &Session, args: &Args) -> Result<Report> {
    let pack = Pack::open(&session.pack_dir())?;
    let (module, spec, _) = decoder(&pack)?;
    let most = args.context.iter().map(|context| context + args.tokens);
    let most = most.chain(args.prefill.iter().copied()).max().unwrap_or(0);
    if most > spec.context || args.tokens == 0 {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "{most} positions, {} of them generated, do not fit the decoder's context of {}",
                args.tokens, spec.context
            ),
        )
        .remedy("give shorter --context and --prefill, and 1 or more --tokens"));
    }
    if args.context.contains(&0) || args.prefill.contains(&0) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "a length of 0 tokens in --context or --prefill",
        )
        .remedy("give lengths of 1 or more"));
    }
    let limits = limits::measure(session.global.threads);
    let job = |threads: usize, nodes: bool| Job {
        model: pack.path(&module.model).display().to_string(),
        layers: spec.layers,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        threads,
        prefill: args.prefill.clone(),
        context: args.context.clone(),
        tokens: args.tokens,
        nodes,
    };
    let weights_bytes = module.data.iter().map(|file| file.bytes).sum::<u64>() + module.model.bytes;
    let one = spec.layers * spec.kv_heads * spec.head_dim * spec.kv_dtype.size();
    let kv_bytes_per_position = 2 * one as u64;
    let mut report = Report {
        weights_bytes,
        kv_bytes_per_position,
        tokens: args.tokens,
        rows: Vec::new(),
        nodes: Vec::new(),
        limits,
    };
    let mut counts = vec![1, report.limits.threads];
    counts.dedup();
    let mut ours: Vec<Vec<Measured>> = counts.iter().map(|_| Vec::new()).collect();
    let mut theirs: Vec<Vec<Measured>> = counts.iter().map(|_| Vec::new()).collect();
    // The first of each process writes the prepacked form, if there is none; later ones only read it.
    for _ in 0..args.common.rounds {
        for (at, threads) in counts.iter().enumerate() {
            let job = job(*threads, false);
            ours[at].push(checked(worker::call(session, "decode", &job)?, &job)?);
            if let Some(command) = &args.peer {
                theirs[at].push(checked(peer::call(command, &job, ANSWER)?, &job)?);
            }
        }
    }
    for (at, threads) in counts.iter().enumerate() {
        report.add(*threads, args, &ours[at], &theirs[at]);
        if args.nodes {
            let made: Measured = worker::call(session, "decode", &job(*threads, true))?;
            report.nodes.extend(made.nodes);
        }
    }
    Ok(report)
}

impl Report {
    fn add(&mut self, threads: usize, args: &Args, ours: &[Measured], theirs: &[Measured]) {
        let read = self.limits.dram_read_bytes_per_s[usize::from(threads > 1)];
        let row = |work, length, rate: &dyn Fn(&Measured) -> f64| {
            let tokens_per_s = Spread::of(ours.iter().map(rate));
            let pairs = ours.iter().zip(theirs);
            Row {
                threads,
                work,
                length,
                tokens_per_s,
                ms_per_token: 1e3 / tokens_per_s.median,
                outside_runs: None,
                limit_tokens_per_s: None,
                of_limit: None,
                peer_tokens_per_s: (!theirs.is_empty())
                    .then(|| Spread::of(theirs.iter().map(rate))),
                over_peer: (!theirs.is_empty())
                    .then(|| Spread::of(pairs.map(|(own, peer)| rate(own) / rate(peer)))),
            }
        };
        for (at, length) in args.prefill.iter().enumerate() {
            let rate = |made: &Measured| *length as f64 / made.prefill_s[at];
            self.rows.push(row("prefill", *length, &rate));
        }
        for (at, length) in args.context.iter().enumerate() {
            let rate = |made: &Measured| made.decode[at].tokens as f64 / made.decode[at].seconds;
            let mut row = row("decode", *length, &rate);
            let outside = ours.iter().filter_map(|made| {
                let made = &made.decode[at];
                Some(1.0 - made.run_s? / made.seconds)
            });
            row.outside_runs = Some(Spread::of(outside).median);
            let past =
                (*length as f64 + args.tokens as f64 / 2.0) * self.kv_bytes_per_position as f64;
            let limit = read / (self.weights_bytes as f64 + past);
            row.limit_tokens_per_s = Some(limit);
            row.of_limit = Some(row.tokens_per_s.median / limit);
            self.rows.push(row);
        }
    }
}

/// What a peer must print.
const ANSWER: &str = "{\"prefill_s\": […], \"decode\": [{\"tokens\", \"seconds\"}, …]}";

fn checked(made: Measured, job: &Job) -> Result<Measured> {
    let positive = made.prefill_s.iter().all(|seconds| *seconds > 0.0)
        && made
            .decode
            .iter()
            .all(|decoded| decoded.tokens > 0 && decoded.seconds > 0.0);
    if made.prefill_s.len() == job.prefill.len()
        && made.decode.len() == job.context.len()
        && positive
    {
        return Ok(made);
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!("a measurement does not answer its job: {made:?}"),
    ))
}

/// Something that goes on for ever: a decoder copies what comes again and again.
const STORY: &str = "The keeper climbed the stairs of the lighthouse, lit the lamp, wrote the hour in the book and looked \
                     at the sea. The sea was calm, the night was clear, and no ship was to be seen. ";

/// One process's measurement.
fn measure(session: &mut Session, job: &Job) -> Result<Measured> {
    session.global.threads = Some(job.threads);
    let runtime = session.runtime()?;
    let (module, spec, embedding) = decoder(runtime.pack())?;
    if job.nodes {
        return Ok(Measured {
            prefill_s: Vec::new(),
            decode: Vec::new(),
            nodes: nodes::measure(&runtime, module, spec, &job.prefill, &job.context)?,
        });
    }
    let model = LanguageModel::new(runtime.registry(), &module.id, embedding)?;
    let control = Control::default();
    let longest = job
        .context
        .iter()
        .chain(&job.prefill)
        .max()
        .copied()
        .unwrap_or(1);
    let mut story = Vec::new();
    while story.len() < longest {
        story.extend(model.tokenizer().encode(STORY, false)?);
    }
    // Two readings before: pages of the weights, ONNX Runtime's arena.
    for _ in 0..2 {
        model
            .start(64, &control)?
            .feed(&story[..longest.min(64)], &control)?;
    }
    let mut made = Measured {
        prefill_s: Vec::new(),
        decode: Vec::new(),
        nodes: Vec::new(),
    };
    for length in &job.prefill {
        let mut generation = model.start(*length, &control)?;
        let start = Instant::now();
        generation.feed(&story[..*length], &control)?;
        made.prefill_s.push(start.elapsed().as_secs_f64());
    }
    let options = GenerateOptions {
        max_tokens: job.tokens,
        ..GenerateOptions::default()
    };
    for length in &job.context {
        let mut generation = model.start(length + job.tokens, &control)?;
        generation.feed(&story[..*length], &control)?;
        // The first token is drawn from what feeding left; all others are a step each, and one more for the next text.
        let recording = Recording::start(64 * (job.tokens + 1))?;
        let start = Instant::now();
        generation.generate(&options, &control, &mut |_| ControlFlow::Continue(()))?;
        let seconds = start.elapsed().as_secs_f64();
        let spans = recording.finish().spans;
        let steps = spans.iter().filter(|span| span.name == "token").count();
        let runs = spans.iter().filter(|span| span.name == "run");
        made.decode.push(Decoded {
            tokens: steps,
            seconds,
            run_s: Some(runs.map(|span| span.duration_ns as f64 / 1e9).sum()),
        });
    }
    Ok(made)
}

fn draw(report: &Report) -> Lines<'_> {
    let series = |threads: usize, value: &dyn Fn(&Row) -> Option<f64>| -> Vec<(f64, f64)> {
        let rows = report.rows.iter();
        rows.filter(|row| row.work == "decode" && row.threads == threads)
            .filter_map(|row| Some((row.length as f64, value(row)?)))
            .collect()
    };
    let mut lines = Vec::new();
    let mut counts: Vec<usize> = report.rows.iter().map(|row| row.threads).collect();
    counts.dedup();
    for threads in counts {
        let s = if threads == 1 { "" } else { "s" };
        let name = |what: &str| format!("{what}, {threads} thread{s}");
        lines.push((name("Atom"), series(threads, &|row| Some(row.ms_per_token))));
        let peer = series(threads, &|row| Some(1e3 / row.peer_tokens_per_s?.median));
        if !peer.is_empty() {
            lines.push((name("peer"), peer));
        }
        let limit = series(threads, &|row| Some(1e3 / row.limit_tokens_per_s?));
        lines.push((name("memory's limit"), limit));
    }
    Lines {
        title: "Decoding: time per token over the length of the text before",
        x: Axis {
            label: "tokens before",
            log: false,
        },
        y: Axis {
            label: "ms per token",
            log: false,
        },
        series: lines,
        limits: Vec::new(),
    }
}

fn show(report: &Report) -> Result<()> {
    let has_peer = report
        .rows
        .iter()
        .any(|row| row.peer_tokens_per_s.is_some());
    let mut head = vec![
        "",
        "threads",
        "tokens",
        "tokens/s",
        "ms/token",
        "outside runs",
        "limit/s",
        "of limit",
    ];
    if has_peer {
        head.extend(["peer/s", "over peer"]);
    }
    let percent =
        |part: Option<f64>| part.map_or(String::new(), |part| format!("{:.1} %", 100.0 * part));
    let rows: Vec<Vec<String>> = report
        .rows
        .iter()
        .map(|row| {
            let mut cells = vec![
                row.work.to_owned(),
                row.threads.to_string(),
                if row.work == "decode" {
                    format!("{} after {}", report.tokens, row.length)
                } else {
                    row.length.to_string()
                },
                row.tokens_per_s.show(0),
                format!("{:.2}", row.ms_per_token),
                percent(row.outside_runs),
                row.limit_tokens_per_s
                    .map_or(String::new(), |limit| format!("{limit:.0}")),
                percent(row.of_limit),
            ];
            if has_peer {
                cells.push(
                    row.peer_tokens_per_s
                        .map_or(String::new(), |peer| peer.show(0)),
                );
                cells.push(row.over_peer.map_or(String::new(), |ratio| ratio.show(2)));
            }
            cells
        })
        .collect();
    print_line(&table(&head, &rows, &[1, 2, 3, 4, 5, 6, 7, 8, 9]))?;
    let [one, all] = report.limits.dram_read_bytes_per_s;
    print_line(&format!(
        "  the limit: {:.0} MB of weights and {:.1} kB a position before, read at {:.1} GB/s by one thread, {:.1} by {}",
        report.weights_bytes as f64 / 1e6,
        report.kv_bytes_per_position as f64 / 1e3,
        one / 1e9,
        all / 1e9,
        report.limits.threads
    ))?;
    nodes::show(&report.nodes)
}
