//! Runs every module of a new pack once: it loads, its ports are those declared, and what it makes becomes its golden output.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use atom_core::budget::Governor;
use atom_core::control::Control;
use atom_core::module::Registry;
use atom_core::ort::{
    DType, Dim, Environment, GraphForm, Port, RunArgs, Session, SessionConfig, Target, Tensor,
    Threads,
};
use atom_core::pack::{ArtifactCache, Pack};
use atom_core::{Error, ErrorKind, Result};

use crate::graphs::{self, Form};
use crate::made::{Made, Named, converted, copies, raw};
use crate::manifest::{self, Golden, GoldenTensor};
use crate::place::Site;
use crate::plan::{Module, Plan};
use crate::report::Notes;

/// Cosine to the best precision below which a quantised tower is doubtful.
const DOUBTFUL: f64 = 0.99;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    pub(crate) goldens: BTreeMap<&'static str, Golden>,
    /// How near a module comes to the best precision there is.
    pub(crate) cosines: BTreeMap<&'static str, f64>,
    /// What each module was run on.
    pub(crate) inputs: BTreeMap<&'static str, Vec<(String, Tensor)>>,
}

/// Opens the whole pack in the folder `dir`, and runs every module on its golden input.
///
/// # Errors
/// [`ErrorKind::BadModel`] naming a module whose outputs differ from its golden ones; what opening, loading and running give.
pub(crate) fn again(dir: &Path, environment: &'static Environment) -> Result<()> {
    for golden in registry(dir, environment)?.golden()? {
        if golden.cosine < golden.floor {
            let what = format!(
                "module {:?}: its outputs have a cosine of {:.6} with those of the graph it is from, and {} is needed",
                golden.module, golden.cosine, golden.floor
            );
            return Err(Error::new(ErrorKind::BadModel, what)
                .remedy("take the graphs as they are: --keep-graphs"));
        }
    }
    Ok(())
}

/// Runs every module of `plan`, whose files are in `site`, and writes golden files. Ports get the sizes that ONNX Runtime finds.
///
/// # Errors
/// [`ErrorKind::BadModel`] naming file, and operators that ONNX Runtime may lack; outputs that are not finite; what opening,
/// loading and running give.
pub(crate) fn run(
    plan: &mut Plan,
    site: &mut Site,
    environment: &'static Environment,
    control: &Control,
    notes: &mut Notes,
) -> Result<Proof> {
    let mut proof = Proof::default();
    let mut made = Made::new(plan);
    for at in 0..plan.modules.len() {
        control.check()?;
        let ran = if plan.modules[at].decoder.is_some() {
            manifest::write(site, plan, &BTreeMap::new())?;
            decode(&plan.modules[at], site, environment, &made, control)
        } else {
            encode(&mut plan.modules[at], site, environment, &made, control)
        };
        let module = &plan.modules[at];
        let (inputs, outputs) = ran.map_err(|e| explained(e, module))?;
        for (name, tensor) in &outputs {
            finite(module, name, tensor)?;
        }
        if let Some(best) = &module.source.best {
            let path = site.aside(best, module.id, control)?;
            let context = |e: Error| {
                e.context(format_args!(
                    "comparing {} with {}",
                    module.source.shown, best.shown
                ))
            };
            let cosine =
                compare(environment, &path, &inputs, &outputs, control).map_err(context)?;
            if cosine < DOUBTFUL {
                notes.warn(parted(module, &best.shown, cosine));
            }
            proof.cosines.insert(module.id, cosine);
        }
        let golden = golden(module, site, &inputs, &outputs)?;
        proof.goldens.insert(module.id, golden);
        made.keep(module, outputs);
        proof.inputs.insert(module.id, inputs);
    }
    Ok(proof)
}

/// Runs a module that is no decoder. Dimensions that the file leaves open and ONNX Runtime finds are fixed in its ports.
fn encode(
    module: &mut Module,
    site: &Site,
    environment: &'static Environment,
    made: &Made,
    control: &Control,
) -> Result<(Named, Named)> {
    let mut session = session(environment, &site.dir.join(&module.source.target))?;
    let found = |ports: &[Port], port: &mut Port| {
        if let Some(own) = ports.iter().find(|own| own.name == port.name)
            && own.dtype != port.dtype
        {
            port.dtype = own.dtype;
        }
        if let Some(own) = ports.iter().find(|own| own.name == port.name)
            && own.shape.len() == port.shape.len()
        {
            for (dim, own) in port.shape.iter_mut().zip(&own.shape) {
                if let (Dim::Symbolic(_), Dim::Fixed(size)) = (&dim, own) {
                    *dim = Dim::Fixed(*size);
                }
            }
        }
    };
    for port in &mut module.inputs {
        found(session.inputs(), port);
    }
    for (port, _) in &mut module.outputs {
        found(session.outputs(), port);
    }
    let inputs = made.all(module)?;
    let names: Vec<&str> = module
        .outputs
        .iter()
        .map(|(port, _)| port.name.as_str())
        .collect();
    let outputs = session.run(RunArgs {
        inputs: inputs
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect(),
        outputs: names.clone(),
        cancel: Some(&control.cancel),
        deadline: control.deadline,
        ..RunArgs::default()
    })?;
    let outputs = names.into_iter().map(str::to_owned).zip(outputs).collect();
    Ok((inputs, outputs))
}

/// Runs a decoder's first step, by the pack's manifest.
fn decode(
    module: &Module,
    site: &Site,
    environment: &'static Environment,
    made: &Made,
    control: &Control,
) -> Result<(Named, Named)> {
    let registry = registry(&site.dir, environment)?;
    let lease = registry.lease_with(module.id, control)?;
    let mut inputs = Vec::new();
    let ports = module.decoder.as_ref().map(|decoder| &decoder.ports);
    let name = |key: &str| {
        ports
            .and_then(|ports| ports.get(key))
            .cloned()
            .unwrap_or_else(|| key.to_owned())
    };
    for key in ["input_ids", "inputs_embeds", "encoder_hidden_states"] {
        if let Some(port) = lease.inputs().iter().find(|port| port.name == name(key)) {
            inputs.push((port.name.clone(), made.of(key, port)?));
        }
    }
    drop(lease);
    let given = copies(&inputs)?;
    let outputs = registry.try_once(module.id, given, &[&name("logits")], control)?;
    Ok((inputs, outputs))
}

fn registry(dir: &Path, environment: &'static Environment) -> Result<Registry> {
    let pack = Arc::new(Pack::open(dir)?);
    Ok(Registry::new(
        pack,
        environment,
        &Governor::default(),
        ArtifactCache::default(),
    ))
}

fn session(environment: &'static Environment, model: &Path) -> Result<Session> {
    Session::load(&SessionConfig {
        environment,
        model: model.to_owned(),
        form: GraphForm::Source,
        threads: Threads::Shared,
        target: Target::default(),
        fixed: Vec::new(),
        untuned: false,
        profile: None,
    })
}

fn parted(module: &Module, best: &str, cosine: f64) -> String {
    let graph = module.source.shown.rsplit('/').next().unwrap_or_default();
    let graph = graphs::split(graph).map_or(graph, |(graph, _)| graph);
    format!(
        "{} parts from {best}: their outputs on a made-up picture or text have a cosine of {cosine:.4} ({DOUBTFUL} and more is \
         usual). Integers often spoil vision towers: choose --precision {graph}=fp16, or fp32",
        module.source.shown,
    )
}

/// Writes a golden run.
fn golden(
    module: &Module,
    site: &mut Site,
    inputs: &[(String, Tensor)],
    outputs: &[(String, Tensor)],
) -> Result<Golden> {
    let mut tensors = |tensors: &[(String, Tensor)], side: &str| -> Result<Vec<GoldenTensor>> {
        let mut written = Vec::new();
        for (port, tensor) in tensors {
            let target = format!("golden/{}.{side}.{port}.bin", module.id);
            site.bytes(&target, &raw(tensor)?)?;
            written.push(GoldenTensor {
                port: port.clone(),
                shape: tensor.shape(),
                file: site.files[&target].clone(),
            });
        }
        Ok(written)
    };
    Ok(Golden {
        cosine: match module.form {
            form if form == Form::Fp32.name() => 0.999,
            form if form == Form::Fp16.name() => 0.995,
            _ => 0.98,
        },
        inputs: tensors(inputs, "in")?,
        outputs: tensors(outputs, "out")?,
    })
}

/// Leaves of golden logits those of the last row, which is all that a rewritten decoder writes.
///
/// # Errors
/// What reading and writing the file give.
pub(crate) fn keep_last_row(golden: &mut Golden, site: &mut Site) -> Result<()> {
    for tensor in &mut golden.outputs {
        let [1, rows, vocab] = tensor.shape[..] else {
            continue;
        };
        let path = site.dir.join(&tensor.file.file);
        let bytes = fs::read(&path).map_err(|e| Error::io(path.display(), &e))?;
        let last = bytes.len() - bytes.len() / rows.max(1);
        site.bytes(&tensor.file.file, &bytes[last..])?;
        tensor.shape = vec![1, 1, vocab];
        tensor.file = site.files[&tensor.file.file].clone();
    }
    Ok(())
}

/// The error with the file's name, and with the operators that may be the reason.
fn explained(e: Error, module: &Module) -> Error {
    let shown = &module.source.shown;
    let remedy = e.remedy_text().map(str::to_owned);
    // Where the pack is made is of no use to anybody.
    let word = |word: &str| match word.contains(".import-") {
        true => "it".to_owned(),
        false => word.to_owned(),
    };
    let words: Vec<String> = e.message().split(' ').map(word).collect();
    let mut message = format!("{shown}: {}", words.join(" "));
    let lacks = [
        "No Op registered",
        "Could not find an implementation",
        "is not a registered function",
        "Fatal error",
    ];
    let operator = lacks.iter().any(|part| message.contains(part));
    if operator && !module.source.foreign.is_empty() {
        message.push_str(&format!(
            "; its operators beyond ONNX are {}",
            module.source.foreign.join(", ")
        ));
    }
    let explained = Error::new(e.kind(), message);
    if operator {
        return explained.remedy("choose another precision with --precision, or use an ONNX Runtime that has the operator");
    }
    match remedy {
        Some(remedy) => explained.remedy(remedy),
        None => explained.remedy(
            "if a size does not fit, correct size, crop_size or max_image_size in preprocessor_config.json; otherwise export the \
             graph again",
        ),
    }
}

fn finite(module: &Module, name: &str, tensor: &Tensor) -> Result<()> {
    let numbers = match tensor.dtype() {
        DType::F32 | DType::F16 => tensor.to_f32s()?,
        _ => return Ok(()),
    };
    if numbers.iter().all(|number| number.is_finite()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::BadModel,
        format!(
            "{}: its output {name:?} on a made-up input is not finite",
            module.source.shown
        ),
    )
    .remedy("choose another precision with --precision"))
}

/// The cosine between `outputs` and those of the graph at `path` on the same inputs: the smallest over the outputs.
fn compare(
    environment: &'static Environment,
    path: &Path,
    inputs: &[(String, Tensor)],
    outputs: &[(String, Tensor)],
    control: &Control,
) -> Result<f64> {
    let mut session = session(environment, path)?;
    let mut fed = Vec::new();
    for (name, tensor) in inputs {
        let wanted = session
            .inputs()
            .iter()
            .find(|port| port.name == *name)
            .map(|port| port.dtype);
        fed.push((
            name.clone(),
            converted(tensor, wanted.unwrap_or(tensor.dtype()))?,
        ));
    }
    let found = session.run(RunArgs {
        inputs: fed
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect(),
        outputs: outputs.iter().map(|(name, _)| name.as_str()).collect(),
        cancel: Some(&control.cancel),
        deadline: control.deadline,
        ..RunArgs::default()
    })?;
    let mut least = 1.0_f64;
    for ((_, own), best) in outputs.iter().zip(&found) {
        least = least.min(cosine(&own.to_f32s()?, &best.to_f32s()?));
    }
    Ok(least)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return 0.0;
    }
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    if cosine.is_finite() { cosine } else { 0.0 }
}
