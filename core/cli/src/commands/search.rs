//! `atom search`.

use std::path::PathBuf;
use std::process::ExitCode;

use atom_cli::output::{nanoseconds, print_json, print_line, seconds, write_file};
use atom_cli::session::Session;
use atom_core::Result;
use atom_core::engine::{Operation, Search};
use atom_core::index::Hit;
use atom_core::task::search::SearchQuery;
use serde::Serialize;

use crate::page;

#[derive(Debug, clap::Args)]
pub struct Args {
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

#[derive(Serialize)]
struct Found {
    hits: Vec<FoundHit>,
}

#[derive(Serialize)]
struct FoundHit {
    stream: String,
    start_s: f64,
    end_s: f64,
    keyframe_s: f64,
    score: f32,
}

pub fn run(session: &mut Session, args: Args) -> Result<ExitCode> {
    let query = SearchQuery {
        k: args.k,
        from_ns: args.from.map(|s| nanoseconds("--from", s)).transpose()?,
        to_ns: args.to.map(|s| nanoseconds("--to", s)).transpose()?,
        stream: args.stream,
        min_score: args.min_score,
        text: args.words,
    };
    let (store, handle) = session.store(false)?;
    let words = query.text.clone();
    let search = Search {
        store: handle,
        query,
    };
    let hits: Vec<Hit> = session.run(Operation::Search(search))?;
    let json = session.global.json;
    if json {
        let hits = hits
            .iter()
            .map(|hit| FoundHit {
                stream: hit.stream.clone(),
                start_s: seconds(hit.start_ns),
                end_s: seconds(hit.end_ns),
                keyframe_s: seconds(hit.keyframe_ns),
                score: hit.score,
            })
            .collect();
        print_json(&Found { hits })?;
    } else if hits.is_empty() {
        print_line("  no match")?;
    } else {
        for hit in &hits {
            print_line(&format!(
                "  {:>8.2} – {:<8.2} s  {:.3}  {}",
                seconds(hit.start_ns),
                seconds(hit.end_ns),
                hit.score,
                hit.stream
            ))?;
        }
    }
    if let Some(file) = &args.html {
        write_file(file, &page::search(&store, &words, &hits)?, json)?;
    }
    Ok(ExitCode::SUCCESS)
}
