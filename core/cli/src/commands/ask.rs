//! `atom ask`.

use std::path::Path;
use std::process::ExitCode;

use atom_cli::session::Session;
use atom_core::engine::{Ask, Operation};
use atom_core::runtime::Task;
use atom_core::{Error, ErrorKind, Result};

use crate::generate;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// `"question"` with --stream, or `FILE "question"`; the file is a video, or a PNG or JPEG picture.
    #[arg(required = true, num_args = 1..=2, value_name = "[FILE] QUESTION")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub at: generate::At,
    #[command(flatten)]
    pub generate: generate::Generate,
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    let (file, question) = match args.words.as_slice() {
        [question] => (None, question),
        [file, question] => (Some(Path::new(file)), question),
        _ => {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "no question is given",
            ));
        }
    };
    let deadline = generate::deadline(&args.generate)?;
    let ask = Ask {
        pictures: generate::picture(session, file, &args.at, Task::Ask)?,
        question: question.clone(),
        options: args.generate.text(),
        store_always: true,
    };
    generate::show(session, Operation::Ask(ask), deadline)
}
