//! `atom caption`.

use std::process::ExitCode;

use atom_core::Result;

use crate::args::CaptionArgs;
use crate::commands::generate;
use crate::session::Session;

pub fn run(session: &mut Session, args: &CaptionArgs) -> Result<ExitCode> {
    let control = generate::control(&args.generate)?;
    let features = generate::features(session, args.file.as_deref(), &args.at, &control)?;
    let runtime = session.runtime()?;
    generate::show(session, |on_text| {
        runtime.caption(&[&features], &args.generate.text(), &control, on_text)
    })
}
