//! `atom-bench load`: what it costs to have a module back, in three forms of the same weights, beside one read of them.
//!
//! Every measurement is a process of its own, since a heap remembers what was loaded before: one with the module's files
//! dropped from the page cache (cold; what the kernel kept all the same is told), one with them in it (warm). Each loads the
//! module, runs it twice on its golden input, releases it, and loads and runs it again several times, which is what a
//! device does that has not room for all. A plain session's heap keeps much of what it freed, where the next load finds it; so
//! plain forms are loaded as often again after the heap has given that back, as it must if the release was to make room.
//! ONNX Runtime's own library stays warm, and opening it is not counted. Ours is then parked as often, as an idle module is,
//! and run again.
//!
//! "Plain" is ONNX Runtime as it comes: all optimisations, a pool of threads for each session, its own arena, the heap as it
//! is. Only a note of which provider took which node differs from its defaults.

mod job;
mod module;
mod parking;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::common::Common;
use atom_core::pack::Pack;
use atom_core::{Error, ErrorKind, Result};

use crate::{limits, packs, worker};
use atom_cli::output::progress;
use atom_cli::session::Session;
use job::{Job, Outcome};
use module::Form;
use report::{Measured, Report};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Only these modules.
    #[arg(long, value_delimiter = ',', value_name = "ID,…")]
    pub modules: Vec<String>,
    /// Loads after the first in the same process, and parkings.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub reloads: u32,
    #[arg(long, hide = true)]
    worker: Option<String>,
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    if let Some(job) = &args.worker {
        worker::answer(&job::run(&worker::job(job)?)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runner = Runner::new(session)?;
    let mut modules = Vec::new();
    for spec in &runner.ours.manifest().modules {
        if args.modules.is_empty() || args.modules.contains(&spec.id) {
            modules.push(spec.id.clone());
        }
    }
    // An unknown one is told with those there are.
    for id in &args.modules {
        runner.ours.module(id)?;
    }
    let rounds = args.common.rounds as usize;
    let each = Form::ALL.len() * (1 + 2 * rounds);
    let bar = progress((modules.len() * each) as u64, "load");
    let mut measured = Vec::new();
    for id in modules {
        let mut forms: Vec<Measured> = Vec::new();
        for form in Form::ALL {
            // Also makes the prepacked form, if there is none yet, and remembers what was checked.
            let seen = runner.call(&id, form, &[], false, 1)?;
            bar.inc(1);
            let files = runner.files(&id, form, &seen)?;
            forms.push(Measured::new(form, files)?);
        }
        for round in 0..rounds {
            for step in 0..Form::ALL.len() {
                // Each round begins with another form.
                let at = (round + step) % Form::ALL.len();
                for cold in [true, false] {
                    let files = forms[at].files.clone();
                    let outcome = runner.call(&id, Form::ALL[at], &files, cold, args.reloads)?;
                    forms[at].add(cold, outcome);
                    bar.inc(1);
                }
            }
        }
        measured.push((id, forms));
    }
    bar.finish_and_clear();
    let mut read_s = BTreeMap::new();
    for (id, forms) in &measured {
        let mut seconds = 0.0;
        for path in forms
            .iter()
            .filter(|made| made.form == Form::Ours)
            .flat_map(|made| &made.files)
        {
            let bytes = std::fs::metadata(path)
                .map_err(|e| Error::io(path.display(), &e))?
                .len();
            seconds += bytes as f64 / limits::file_read(path, false)?;
        }
        read_s.insert(id.clone(), seconds);
    }
    let report = Report::new(measured, &read_s, limits::measure(Some(1)));
    report.print(session)?;
    if let Some(path) = &args.common.svg {
        report.chart().draw(path)?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Runner<'a> {
    session: &'a Session,
    ours: Pack,
    embedded: Pack,
}

impl<'a> Runner<'a> {
    fn new(session: &'a Session) -> Result<Self> {
        let path = session.pack_dir();
        Ok(Self {
            session,
            ours: Pack::open(&path)?,
            embedded: Pack::open(&packs::embedded(&path)?)?,
        })
    }

    fn pack(&self, form: Form) -> &Pack {
        match form {
            Form::Embedded => &self.embedded,
            Form::External | Form::Ours => &self.ours,
        }
    }

    fn call(
        &self,
        module: &str,
        form: Form,
        files: &[PathBuf],
        cold: bool,
        reloads: u32,
    ) -> Result<Outcome> {
        let global = &self.session.global;
        let job = Job {
            module: module.to_owned(),
            form,
            pack: self.pack(form).dir().to_owned(),
            files: files.to_vec(),
            cold,
            reloads,
            ort_library: global.ort_library.clone(),
            threads: global.threads,
        };
        let outcome: Outcome = worker::call(self.session, "load", &job)?;
        let floor = self
            .ours
            .module(module)?
            .golden
            .as_ref()
            .map_or(0.0, |golden| golden.cosine);
        if outcome.cosine >= floor {
            return Ok(outcome);
        }
        Err(Error::new(
            ErrorKind::Inference,
            format!(
                "module {module:?}, {}: its outputs have cosine {:.4} with the golden ones, so its times say nothing",
                form.name(),
                outcome.cosine
            ),
        )
        .remedy("see what `atom pack verify` says"))
    }

    /// What a load of the form reads, given what a session of it mapped.
    fn files(&self, module: &str, form: Form, seen: &Outcome) -> Result<Vec<PathBuf>> {
        let pack = self.pack(form);
        let of_pack = job::files(pack, pack.module(module)?);
        let elsewhere: Vec<&PathBuf> = seen
            .mapped
            .iter()
            .filter(|path| !path.starts_with(pack.dir()))
            .collect();
        if elsewhere.is_empty() {
            return Ok(of_pack);
        }
        // The prepacked form's graph has the name of its data without the last extension.
        let graph = |data: &&PathBuf| Path::new(data).with_extension("");
        Ok(elsewhere
            .iter()
            .map(graph)
            .chain(elsewhere.iter().map(|data| (*data).clone()))
            .collect())
    }
}
