//! The command line.

use std::path::PathBuf;

use atom_core::control::TextOptions;
use atom_core::runtime::Budget;
use clap::{Args, Parser, Subcommand};

/// Search, caption, question and assemble video with shared on-device modules.
#[derive(Debug, Parser)]
#[command(name = "atom", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options every command takes.
#[derive(Debug, Args, Clone)]
pub struct Global {
    /// The pack's folder.
    #[arg(long, global = true, value_name = "DIR", env = "ATOM_PACK")]
    pub pack: Option<PathBuf>,
    /// The store's folder; `index` creates it.
    #[arg(long, global = true, value_name = "DIR", env = "ATOM_STORE")]
    pub store: Option<PathBuf>,
    /// Print one JSON document (with `run`: one a line) and nothing else on standard output.
    #[arg(long, global = true)]
    pub json: bool,
    /// ONNX Runtime's library.
    #[arg(long, global = true, value_name = "FILE", env = "ATOM_ORT_LIBRARY")]
    pub ort_library: Option<PathBuf>,
    /// Threads ONNX Runtime may use; every core when absent.
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// The most anonymous memory models, generations and caches may hold: `300M`, a share of the cgroup's or the machine's
    /// memory such as `80%`, or `none`.
    #[arg(long, global = true, value_name = "SIZE", default_value = "90%", value_parser = budget)]
    pub budget: Budget,
    /// Let memory be: no budget, no watch on pressure, nothing idle is given up.
    #[arg(long, global = true, conflicts_with = "budget")]
    pub ungoverned: bool,
    /// Write the runtime's state to FILE once a second, for `atom top`.
    #[arg(long, global = true, value_name = "FILE", env = "ATOM_STATUS_FILE")]
    pub status_file: Option<PathBuf>,
    /// Write what ran when on which thread to FILE, as Chrome trace JSON.
    #[arg(long, global = true, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Say more on standard error; twice for debugging. `ATOM_LOG` sets it finer.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// `512M`, `0.5G`, `80%`, `none`.
fn budget(text: &str) -> Result<Budget, String> {
    if text == "none" {
        return Ok(Budget::Unlimited);
    }
    let (number, unit) = text.split_at(
        text.trim_end_matches(char::is_alphabetic)
            .trim_end_matches('%')
            .len(),
    );
    let wrong = || format!("{text:?} is no size: 300M, 0.5G, 80% and none are");
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let factor = match unit {
        "%" if number > 0.0 && number <= 100.0 => return Ok(Budget::Share(number / 100.0)),
        "" | "B" => 1.0,
        "k" | "kB" | "K" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        _ => return Err(wrong()),
    };
    if !(number >= 0.0 && number * factor < u64::MAX as f64) {
        return Err(wrong());
    }
    Ok(Budget::Bytes((number * factor) as u64))
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at packs.
    Pack {
        #[command(subcommand)]
        command: PackCommand,
    },
    /// Add videos to a store.
    Index(IndexArgs),
    /// Find the times that fit some words.
    Search(SearchArgs),
    /// Say what is to be seen at one time of a stream or of a file.
    Caption(CaptionArgs),
    /// Answer a question about one time of a stream or of a file.
    Ask(AskArgs),
    /// Choose clips for the lines of a script.
    Assemble(AssembleArgs),
    /// Write a video's pictures as raw NV12, to feed a program that takes a camera's frames.
    Frames(FramesArgs),
    /// Load every module of the pack and tell the truth about it.
    Doctor,
    /// Compile the pack's modules for NPUs ahead of time, to ship in an image.
    Compile(CompileArgs),
    /// Show the memory of a running program, again and again.
    Top(TopArgs),
    /// Run a script of commands in one process, so that they share their modules.
    Run(RunArgs),
    /// Measure on this machine, against the limits of the machine.
    Bench {
        #[command(subcommand)]
        command: crate::commands::bench::Command,
    },
}

#[derive(Debug, Subcommand)]
pub enum PackCommand {
    /// List the packs in a folder, or the modules of the pack given by --pack.
    List {
        /// Folder of packs; the cache's own when absent.
        dir: Option<PathBuf>,
    },
    /// Check every file of the pack and run every module on its golden input.
    Verify,
}

#[derive(Debug, Args)]
pub struct IndexArgs {
    /// MP4 files with H.264 video.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Name of the stream; the file's own name when absent. Only with one file.
    #[arg(long)]
    pub stream: Option<String>,
    /// Longest segment, in seconds.
    #[arg(long, value_name = "S")]
    pub max_segment: Option<f64>,
    /// Caption the segments while they are indexed.
    #[arg(long)]
    pub captions: bool,
}

#[derive(Debug, Args)]
pub struct SearchArgs {
    /// What to look for.
    pub words: String,
    /// The most hits wanted.
    #[arg(short, default_value_t = 10)]
    pub k: usize,
    /// Only what ends after this second of the stream.
    #[arg(long, value_name = "S")]
    pub from: Option<f64>,
    /// Only what starts before this second of the stream.
    #[arg(long, value_name = "S")]
    pub to: Option<f64>,
    /// Only this stream.
    #[arg(long)]
    pub stream: Option<String>,
    /// Cosine below which nothing matches; the pack's own when absent.
    #[arg(long, value_name = "COSINE", allow_negative_numbers = true)]
    pub min_score: Option<f32>,
    /// Write a page with pictures and times.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Which picture.
#[derive(Debug, Args)]
pub struct At {
    /// A stream of the store.
    #[arg(long)]
    pub stream: Option<String>,
    /// The time, in seconds.
    #[arg(long, value_name = "S")]
    pub at: f64,
}

/// How text is generated.
#[derive(Debug, Args)]
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

#[derive(Debug, Args)]
pub struct CaptionArgs {
    /// A video file, instead of --stream.
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub at: At,
    /// Generate it even if the segment has a stored caption.
    #[arg(long)]
    pub fresh: bool,
    /// Everything from --at to this time, in seconds: what its keyframes agree on, and what comes or goes.
    #[arg(long, value_name = "S")]
    pub to: Option<f64>,
    #[command(flatten)]
    pub generate: Generate,
}

#[derive(Debug, Args)]
pub struct AskArgs {
    /// `"question"` with --stream, or `FILE "question"`.
    #[arg(required = true, num_args = 1..=2, value_name = "[FILE] QUESTION")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub at: At,
    #[command(flatten)]
    pub generate: Generate,
}

#[derive(Debug, Args)]
pub struct AssembleArgs {
    /// The script, one line for each shot, `#` begins a comment; `-` is standard input.
    pub script: PathBuf,
    /// What the storyboard is called.
    #[arg(long)]
    pub title: Option<String>,
    /// Write the JSON document to a file.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write an OpenTimelineIO document, which editing programs read.
    #[arg(long, value_name = "FILE")]
    pub otio: Option<PathBuf>,
    /// Write a page with pictures and times.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Most clips for each line.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub per_line: usize,
    /// No clip is shorter, in seconds: a shorter segment grows into the time around it.
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    pub min_length: f64,
    /// No clip is longer, in seconds.
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    pub max_length: f64,
    /// How much of a cosine a clip loses that repeats another, 0 to 1.
    #[arg(
        long,
        default_value_t = 0.2,
        value_name = "X",
        allow_negative_numbers = true
    )]
    pub variety: f32,
    /// Cosine below which nothing matches; the pack's own when absent.
    #[arg(long, value_name = "COSINE", allow_negative_numbers = true)]
    pub min_score: Option<f32>,
    /// No clip reaches before this second of its stream.
    #[arg(long, value_name = "S")]
    pub from: Option<f64>,
    /// No clip reaches past this second of its stream.
    #[arg(long, value_name = "S")]
    pub to: Option<f64>,
    /// Only this stream.
    #[arg(long)]
    pub stream: Option<String>,
}

#[derive(Debug, Args)]
pub struct FramesArgs {
    /// An MP4 file with H.264 video.
    pub file: PathBuf,
    /// The file to write: Y, then interleaved U and V, picture after picture.
    #[arg(short, long)]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct TopArgs {
    /// What the program writes: `--status-file` of `atom`, `status_file` of the C interface.
    pub file: PathBuf,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = interval)]
    pub every: f64,
    /// Look once.
    #[arg(long)]
    pub once: bool,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("0.1 to 3600 is possible".to_owned())
    }
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The script: one command a line as after `atom`, `#` starts a comment, `$NAME` is taken from the environment.
    pub script: PathBuf,
}

#[derive(Debug, Args)]
pub struct CompileArgs {
    /// Chips to compile for, by QNN's numbers (`soc_model`): 36, 43, 57, 60, 69, 77, 87
    #[arg(long, value_name = "N", value_delimiter = ',', required = true)]
    pub soc: Vec<u32>,
    /// Folder for what is made; on the device it is the artifacts folder
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
}
