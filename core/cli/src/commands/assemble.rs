//! `atom assemble`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atom_cli::output::{nanoseconds, print_line, seconds, write_file};
use atom_cli::session::Session;
use atom_core::engine::{Assemble, Operation};
use atom_core::storyboard::{MAX_SCRIPT_BYTES, Storyboard, StoryboardOptions};
use atom_core::task::assemble::AssembleQuery;
use atom_core::{Error, ErrorKind, Result};

use crate::page;

#[derive(Debug, clap::Args)]
pub struct Args {
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

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    let query = AssembleQuery {
        script: read(&args.script)?,
        title: args.title.clone(),
        options: StoryboardOptions {
            per_line: args.per_line,
            min_length_ns: nanoseconds("--min-length", args.min_length)?,
            max_length_ns: nanoseconds("--max-length", args.max_length)?,
            variety: args.variety,
            min_score: args.min_score,
            stream: args.stream.clone(),
            from_ns: args.from.map(|s| nanoseconds("--from", s)).transpose()?,
            to_ns: args.to.map(|s| nanoseconds("--to", s)).transpose()?,
        },
    };
    let (store, handle) = session.store(false)?;
    let assemble = Assemble {
        store: handle,
        query,
    };
    let storyboard: Storyboard = session.run(Operation::Assemble(assemble))?;
    let json = session.global.json;
    if json {
        print_line(&storyboard.to_json())?;
    } else {
        print(&storyboard)?;
    }
    if let Some(file) = &args.output {
        write_file(file, &format!("{}\n", storyboard.to_json()), json)?;
    }
    if let Some(file) = &args.otio {
        write_file(file, &storyboard.to_otio(), json)?;
    }
    if let Some(file) = &args.html {
        write_file(file, &page::storyboard(&store, &storyboard)?, json)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The script in `file`, or on standard input; never more of it than a script may have.
fn read(file: &Path) -> Result<String> {
    let limit = MAX_SCRIPT_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let (name, read) = if file == Path::new("-") {
        let read = std::io::stdin().take(limit).read_to_end(&mut bytes);
        ("standard input".to_owned(), read)
    } else {
        let opened = File::open(file);
        let read = opened.and_then(|file| file.take(limit).read_to_end(&mut bytes));
        (file.display().to_string(), read)
    };
    read.map_err(|error| Error::io(format!("script {name}"), &error))?;
    if bytes.len() > MAX_SCRIPT_BYTES {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("script {name} has more than {MAX_SCRIPT_BYTES} bytes"),
        )
        .remedy("describe each shot in one short line"));
    }
    String::from_utf8(bytes).map_err(|_| {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("script {name} is not UTF-8"),
        )
        .remedy("convert it")
    })
}

fn print(storyboard: &Storyboard) -> Result<()> {
    for (number, line) in storyboard.lines.iter().enumerate() {
        print_line(&format!("  {}", line.text))?;
        for clip in storyboard.clips.iter().filter(|clip| clip.line == number) {
            print_line(&format!(
                "    {:>8.2} – {:<8.2} s  {:.3}  {}",
                seconds(clip.start_ns),
                seconds(clip.end_ns),
                clip.score,
                storyboard.stream_name(clip)
            ))?;
        }
        if let Some(reason) = line.unmatched {
            print_line(&format!("    no clip: {}", page::unmatched(reason)))?;
        }
    }
    Ok(())
}
