//! `atom search`.

use std::process::ExitCode;

use atom_core::Result;
use atom_core::control::{Control, Priority};
use atom_core::task::search::SearchQuery;
use serde::Serialize;

use crate::args::SearchArgs;
use crate::output::{nanoseconds, print_json, print_line, seconds, write_file};
use crate::page;
use crate::session::Session;

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

pub fn run(session: &mut Session, args: SearchArgs) -> Result<ExitCode> {
    let query = SearchQuery {
        k: args.k,
        from_ns: args.from.map(|s| nanoseconds("--from", s)).transpose()?,
        to_ns: args.to.map(|s| nanoseconds("--to", s)).transpose()?,
        stream: args.stream,
        min_score: args.min_score,
        text: args.words,
    };
    let store = session.store(false)?;
    let control = Control {
        priority: Priority::Interactive,
        ..Control::default()
    };
    let hits = session.runtime()?.search(&store, &query, &control)?;
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
        write_file(file, &page::search(&store, &query.text, &hits)?, json)?;
    }
    Ok(ExitCode::SUCCESS)
}
