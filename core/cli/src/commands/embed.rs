//! `atom embed`.

use std::path::PathBuf;
use std::process::ExitCode;

use atom_cli::output::{print_json, print_line};
use atom_cli::session::Session;
use atom_core::Result;
use atom_core::engine::{Embed, Operation};
use atom_media::read_picture;
use serde::Serialize;

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Args {
    /// A PNG or JPEG picture.
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Words; they go into the pack's query template, as those of a search do.
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub text: Option<String>,
}

#[derive(Serialize)]
struct Embedded<'a> {
    vector: &'a [f32],
    /// The module that made it.
    model: &'a str,
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    let embed = match (&args.image, &args.text) {
        (Some(file), _) => Embed::Picture(read_picture(file)?),
        (None, words) => Embed::Text(words.clone().unwrap_or_default()),
    };
    let picture = args.image.is_some();
    let vector: Vec<f32> = session.run(Operation::Embed(embed))?;
    if session.global.json {
        let runtime = session.runtime()?;
        let tasks = &runtime.pack().manifest().tasks;
        let model = match picture {
            true => tasks.index.as_ref().map(|task| &task.visual_encoder),
            false => tasks.search.as_ref().map(|task| &task.text_encoder),
        };
        print_json(&Embedded {
            vector: &vector,
            model: model.map_or("", String::as_str),
        })?;
    } else {
        let values: Vec<String> = vector.iter().map(f32::to_string).collect();
        print_line(&values.join(" "))?;
    }
    Ok(ExitCode::SUCCESS)
}
