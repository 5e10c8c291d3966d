//! `atom caption`.

use std::process::ExitCode;

use atom_core::Result;
use atom_core::index::Access;

use crate::args::CaptionArgs;
use crate::commands::generate;
use crate::output::nanoseconds;
use crate::session::Session;

pub fn run(session: &mut Session, args: &CaptionArgs) -> Result<ExitCode> {
    let control = generate::control(&args.generate)?;
    let options = args.generate.text();
    let (None, Some(stream)) = (&args.file, &args.at.stream) else {
        let features = generate::features(session, args.file.as_deref(), &args.at, &control)?;
        let runtime = session.runtime()?;
        return generate::show(session, |on_text| {
            runtime.caption(&[&features], &options, &control, on_text)
        });
    };
    let ns = nanoseconds("--at", args.at.at)?;
    let store = session.store(false)?;
    let segment = generate::segment(&store, stream, args.at.at, ns)?;
    let runtime = session.runtime()?;
    generate::show(session, |on_text| {
        let fresh = args.fresh;
        let said = runtime.caption_segment(&store, segment, &options, fresh, &control, on_text)?;
        // Kept for the next time, unless somebody is writing to the store now: the lock is held for this moment only.
        if store.access() == Access::ReadOnly && !said.stored && options.choices.is_empty() {
            let kept = runtime
                .open_store(store.path(), Access::ReadWrite)
                .and_then(|store| runtime.keep_caption(&store, segment, &said));
            if let Err(error) = kept {
                log::info!("the caption is not kept: {error}");
            }
        }
        Ok(said)
    })
}
