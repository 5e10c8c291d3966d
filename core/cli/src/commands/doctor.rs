//! `atom doctor`.

use std::process::ExitCode;

use atom_cli::output::{print_json, print_line};
use atom_cli::session::Session;
use atom_core::Result;
use atom_core::control::Control;
use atom_core::runtime::status::Module;

use crate::status::status_text;

pub fn run(session: &mut Session) -> Result<ExitCode> {
    // In a script the runtime has worked already: report it as it is. On its own, load everything first.
    let fresh = session.opened().is_none();
    let runtime = session.runtime()?;
    if fresh {
        for module in &runtime.pack().manifest().modules {
            // A module that fails stays in the report with its reason.
            if let Err(error) = runtime
                .registry()
                .lease_with(&module.id, &Control::default())
            {
                log::warn!("{error}");
            }
        }
    }
    let mut status = runtime.status()?;
    if fresh {
        // What a provider keeps of memory shows once its sessions are gone.
        for module in &status.modules {
            if module.provider.as_deref().is_some_and(|name| name != "cpu") {
                runtime.registry().release_idle(&module.id)?;
            }
        }
    }
    status.providers = runtime.providers();
    if session.global.json {
        print_json(&status)?;
    } else {
        print_line(&status_text(&status))?;
    }
    let any = |what: fn(&Module) -> bool| status.modules.iter().any(what);
    Ok(if any(|module| module.error.is_some()) {
        ExitCode::from(4)
    } else if any(|module| !module.fallbacks.is_empty()) {
        ExitCode::from(FALLEN_BACK)
    } else {
        ExitCode::SUCCESS
    })
}

/// Everything works, but not all of it where the pack would have it.
const FALLEN_BACK: u8 = 9;
