//! One module in one form, in a process of its own: load, run, release, and loaded again as often as is asked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use atom_core::ort::{Dim, Port, Tensor};
use atom_core::os::{file, memory, smaps};
use atom_core::pack::{ModuleSpec, Pack};
use atom_core::runtime::{MemoryOptions, Runtime, RuntimeOptions};
use atom_core::trace::Recording;
use atom_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::module::{Form, infer, load, release, timed};
use super::parking::{self, Parking};
use crate::limits;

/// What one process does.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    pub module: String,
    pub form: Form,
    /// The pack that has the form.
    pub pack: PathBuf,
    /// What a load reads.
    pub files: Vec<PathBuf>,
    /// Dropped from the page cache before; else read into it.
    pub cold: bool,
    /// Loads after the first.
    pub reloads: u32,
    pub ort_library: Option<PathBuf>,
    pub threads: Option<usize>,
}

/// What it saw. Bytes are of this process, beyond what it had with ONNX Runtime open and no module loaded.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// What the session was loaded from, as far as it maps it.
    pub mapped: Vec<PathBuf>,
    /// Of the files, in the page cache although they were to be dropped.
    pub kept_bytes: u64,
    pub load_ms: f64,
    pub first_run_ms: f64,
    pub second_run_ms: f64,
    /// After the load, before any run.
    pub anon_bytes: u64,
    pub release_ms: f64,
    /// After the release.
    pub released_anon_bytes: u64,
    pub reload_ms: Vec<f64>,
    /// As many more where the heap gave back what was free after each release, as ours does anyway; what it had then.
    pub bare_reload_ms: Vec<f64>,
    pub bare_anon_bytes: u64,
    /// The first run after each of `reload_ms`.
    pub rerun_ms: Vec<f64>,
    /// Parts of the first load, and means of the others', by the spans of the trace.
    pub load_parts_ms: BTreeMap<String, f64>,
    pub reload_parts_ms: BTreeMap<String, f64>,
    /// The smallest cosine of the outputs with the golden ones.
    pub cosine: f64,
    /// Of our form, where it maps weights: parked as often as loaded again.
    pub parking: Vec<Parking>,
}

/// The module's files in the pack.
pub fn files(pack: &Pack, spec: &ModuleSpec) -> Vec<PathBuf> {
    spec.weights().map(|file| pack.path(file)).collect()
}

/// Does the job.
///
/// # Errors
/// What opening, loading and running give.
pub fn run(job: &Job) -> Result<Outcome> {
    let mut kept_bytes = 0;
    for path in &job.files {
        if job.cold {
            file::uncache(path)?;
            kept_bytes += file::cached_bytes(path)?;
        } else {
            limits::file_read(path, false)?;
        }
    }
    let mut options = RuntimeOptions::new(&job.pack);
    options.ort_library.clone_from(&job.ort_library);
    options.threads = job.threads;
    if job.form != Form::Ours {
        // Which would set up the heap as well, and nobody does that for a plain session.
        options.memory = MemoryOptions::ungoverned();
    }
    let runtime = Runtime::open(&options)?;
    let pack = runtime.pack();
    let spec = pack.module(&job.module)?;
    let load = || load(&runtime, spec, job.form);

    let before = smaps::process_memory()?;
    let beyond = || -> Result<u64> {
        let now = smaps::process_memory()?;
        Ok(now.pss_anon.saturating_sub(before.pss_anon))
    };
    let (first, load_ms, load_parts_ms) = recorded(load)?;
    let mut module = first;
    let anon_bytes = beyond()?;
    let mapped = mapped()?;
    let ports = module.run(|session| Ok(session.inputs().to_vec()))?;
    let inputs = inputs(pack, spec, &ports)?;
    let (outputs, first_run_ms) = timed(|| module.run(|session| infer(session, spec, &inputs)))?;
    let cosine = cosine(pack, spec, &outputs)?;
    drop(outputs);
    let (_, second_run_ms) = timed(|| module.run(|session| infer(session, spec, &inputs)))?;
    let ((), release_ms) = timed(|| release(&runtime, spec, module))?;
    let released_anon_bytes = beyond()?;
    let (mut reload_ms, mut rerun_ms, mut reload_parts_ms) =
        (Vec::new(), Vec::new(), BTreeMap::new());
    for _ in 0..job.reloads {
        let (mut module, ms, parts) = recorded(load)?;
        reload_ms.push(ms);
        for (name, ms) in parts {
            *reload_parts_ms.entry(name).or_default() += ms / f64::from(job.reloads);
        }
        let (_, ms) = timed(|| module.run(|session| infer(session, spec, &inputs)))?;
        rerun_ms.push(ms);
        release(&runtime, spec, module)?;
    }
    let (mut bare_reload_ms, mut bare_anon_bytes) = (Vec::new(), released_anon_bytes);
    if job.form == Form::Ours {
        bare_reload_ms.clone_from(&reload_ms);
    } else {
        for _ in 0..job.reloads {
            memory::trim();
            bare_anon_bytes = beyond()?;
            let (mut module, ms) = timed(load)?;
            bare_reload_ms.push(ms);
            module.run(|session| infer(session, spec, &inputs))?;
            release(&runtime, spec, module)?;
        }
    }
    let mut parking = Vec::new();
    if job.form == Form::Ours && !mapped.is_empty() {
        for _ in 0..job.reloads {
            parking.push(parking::park(&runtime, spec, &inputs, &mapped)?);
        }
    }
    Ok(Outcome {
        mapped,
        kept_bytes,
        load_ms,
        first_run_ms,
        second_run_ms,
        anon_bytes,
        release_ms,
        released_anon_bytes,
        reload_ms,
        bare_reload_ms,
        bare_anon_bytes,
        rerun_ms,
        load_parts_ms,
        reload_parts_ms,
        cosine,
        parking,
    })
}

/// The result of `work`, its milliseconds, and those of the spans within it that hold no other.
fn recorded<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64, BTreeMap<String, f64>)> {
    let recording = Recording::start(1024)?;
    let (made, ms) = timed(work)?;
    let mut parts: BTreeMap<String, f64> = BTreeMap::new();
    for span in recording.finish().spans {
        let whole = (span.category, span.name) == ("module", "load");
        if matches!(span.category, "module" | "memory") && !whole {
            *parts.entry(span.name.to_owned()).or_default() += span.duration_ns as f64 / 1e6;
        }
    }
    let rest = ms - parts.values().sum::<f64>();
    parts.insert("rest".to_owned(), rest.max(0.0));
    Ok((made, ms, parts))
}

/// The golden input of every port that has one, and an empty cache for the others.
fn inputs(pack: &Pack, spec: &ModuleSpec, ports: &[Port]) -> Result<Vec<(String, Tensor)>> {
    let golden = spec
        .golden
        .as_ref()
        .ok_or_else(|| unfit(spec, "it has no golden input"))?;
    ports
        .iter()
        .map(|port| {
            let given = golden.inputs.iter().find(|given| given.port == port.name);
            let tensor = match given {
                Some(given) => {
                    Tensor::from_bytes(port.dtype, &given.shape, &pack.read(&given.file)?)?
                }
                None if port.name.starts_with("past_key_values.") => {
                    let side = |(axis, dim): (usize, &Dim)| match dim {
                        Dim::Fixed(size) => *size,
                        Dim::Symbolic(_) => usize::from(axis == 0),
                    };
                    let shape: Vec<usize> = port.shape.iter().enumerate().map(side).collect();
                    Tensor::zeros(port.dtype, &shape)?
                }
                None => {
                    return Err(unfit(
                        spec,
                        &format!("input {:?} has no golden value", port.name),
                    ));
                }
            };
            Ok((port.name.clone(), tensor))
        })
        .collect()
}

fn unfit(spec: &ModuleSpec, why: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("module {:?} cannot be measured: {why}", spec.id),
    )
    .remedy("give it [module.golden] in the pack's manifest")
}

/// The smallest cosine of f32 outputs with the golden ones.
fn cosine(pack: &Pack, spec: &ModuleSpec, outputs: &[Tensor]) -> Result<f64> {
    let golden = spec.golden.iter().flat_map(|golden| &golden.outputs);
    let mut smallest = 1.0_f64;
    for (port, found) in golden.zip(outputs) {
        let bytes = pack.read(&port.file)?;
        let expected = Tensor::from_bytes(found.dtype(), &port.shape, &bytes)?;
        let (a, b) = (expected.as_slice::<f32>()?, found.as_slice::<f32>()?);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        };
        smallest = smallest.min(dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
    }
    Ok(smallest)
}

/// Weight files that this process maps: external data, beside its graph.
fn mapped() -> Result<Vec<PathBuf>> {
    let maps = std::fs::read_to_string("/proc/self/maps")
        .map_err(|error| Error::io("/proc/self/maps", &error))?;
    let mut found: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.splitn(6, ' ').nth(5))
        .map(|path| PathBuf::from(path.trim_start()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "data")
        })
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}
