//! A module in one of its forms: loaded, run and released.

use std::time::Instant;

use atom_core::module::Lease;
use atom_core::ort::{
    Environment, GraphForm, RunArgs, Session, SessionConfig, Target, Tensor, Threads,
};
use atom_core::pack::ModuleSpec;
use atom_core::runtime::Runtime;
use atom_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// How a module's weights are kept and loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Inside the .onnx file, loaded plainly: what exporters write and programs do.
    Embedded,
    /// In a file beside it, loaded plainly.
    External,
    /// As Atom loads it: checked, from the prepacked form where the module has one, measured, trimmed.
    Ours,
}

impl Form {
    pub const ALL: [Form; 3] = [Form::Embedded, Form::External, Form::Ours];

    pub fn name(self) -> &'static str {
        match self {
            Form::Embedded => "embedded",
            Form::External => "external",
            Form::Ours => "ours",
        }
    }
}

/// A loaded module.
pub enum Loaded {
    Plain(Box<Session>),
    Leased(Lease),
}

impl Loaded {
    pub fn run<T>(&mut self, work: impl FnOnce(&mut Session) -> Result<T>) -> Result<T> {
        match self {
            Loaded::Plain(session) => work(session),
            Loaded::Leased(lease) => work(&mut *lease.step(&Default::default())?),
        }
    }
}

/// Loads the module as its form says.
pub fn load(runtime: &Runtime, spec: &ModuleSpec, form: Form) -> Result<Loaded> {
    if form == Form::Ours {
        return Ok(Loaded::Leased(runtime.registry().lease(&spec.id)?));
    }
    let environment: &'static Environment = runtime.environment();
    let session = Session::load(&SessionConfig {
        environment,
        model: runtime.pack().path(&spec.model),
        form: GraphForm::Source,
        threads: Threads::default(),
        target: Target::default(),
        fixed: Vec::new(),
        untuned: true,
        profile: None,
    })?;
    Ok(Loaded::Plain(Box::new(session)))
}

/// Drops the module. One that was leased is released, too: Atom would keep it for the next task.
pub fn release(runtime: &Runtime, spec: &ModuleSpec, module: Loaded) -> Result<()> {
    let leased = matches!(module, Loaded::Leased(_));
    drop(module);
    if leased && !runtime.registry().release_idle(&spec.id)? {
        return Err(Error::new(
            ErrorKind::Internal,
            format!("module {:?} was not released", spec.id),
        ));
    }
    Ok(())
}

/// Milliseconds of `work`, with its result.
pub fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let start = Instant::now();
    let made = work()?;
    Ok((made, start.elapsed().as_secs_f64() * 1e3))
}

/// Runs the module on its golden input, for its golden outputs.
pub fn infer(
    session: &mut Session,
    spec: &ModuleSpec,
    inputs: &[(String, Tensor)],
) -> Result<Vec<Tensor>> {
    let golden = spec.golden.iter().flat_map(|golden| &golden.outputs);
    session.run(RunArgs {
        inputs: inputs
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect(),
        outputs: golden.map(|port| port.port.as_str()).collect(),
        ..RunArgs::default()
    })
}
