//! `atom ask`.

use std::path::Path;
use std::process::ExitCode;

use atom_core::runtime::Task;
use atom_core::{Error, ErrorKind, Result};

use crate::args::AskArgs;
use crate::commands::generate;
use crate::session::Session;

pub fn run(session: &mut Session, args: &AskArgs) -> Result<ExitCode> {
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
    let control = generate::control(&args.generate)?;
    let features = generate::features(session, file, &args.at, Task::Ask, &control)?;
    let runtime = session.runtime()?;
    generate::show(session, |on_text| {
        runtime.ask(
            &[&features],
            question,
            &args.generate.text(),
            &control,
            on_text,
        )
    })
}
