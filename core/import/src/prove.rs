//! Runs every module of a new pack once: it loads, its ports are those declared, and what it makes becomes its golden output.

use std::collections::{BTreeMap, HashMap};
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
use half::f16;

use crate::graphs::Form;
use crate::manifest::{Golden, GoldenTensor};
use crate::place::Site;
use crate::plan::{Module, Plan};
use crate::report::Notes;

/// Token ids of the made-up text.
const TEXT: usize = 6;
/// Rows of an open dimension of an encoder's input.
const ROWS: usize = 8;
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
pub(crate) fn again(dir: &std::path::Path, environment: &'static Environment) -> Result<()> {
    let pack = Arc::new(Pack::open(dir)?);
    let registry = Registry::new(
        pack,
        environment,
        &Governor::default(),
        ArtifactCache::default(),
    );
    for golden in registry.golden()? {
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

/// Runs every module of the pack in `site`, whose manifest is there, and writes golden files.
///
/// # Errors
/// [`ErrorKind::BadModel`] naming file, and operators that ONNX Runtime may lack; outputs that are not finite; what opening,
/// loading and running give.
pub(crate) fn run(
    plan: &Plan,
    site: &mut Site,
    environment: &'static Environment,
    control: &Control,
    notes: &mut Notes,
) -> Result<Proof> {
    let pack = Arc::new(Pack::open(&site.dir)?);
    let registry = Registry::new(
        pack,
        environment,
        &Governor::default(),
        ArtifactCache::default(),
    );
    let mut proof = Proof::default();
    let mut made = Made {
        vocab: vocab(plan),
        rows: HashMap::new(),
    };
    for module in &plan.modules {
        control.check()?;
        let inputs = made.inputs(module, &registry)?;
        let given = copies(&inputs)?;
        let golden = golden_outputs(module);
        let outputs = registry
            .try_once(module.id, given, &golden, control)
            .map_err(|e| explained(e, module))?;
        for (name, tensor) in &outputs {
            finite(module, name, tensor)?;
        }
        if let Some(best) = &module.source.best {
            let path = site.aside(best, module.id, control)?;
            let cosine = compare(environment, &path, &inputs, &outputs, control).map_err(|e| {
                e.context(format_args!(
                    "comparing {} with {}",
                    module.source.shown, best.shown
                ))
            })?;
            if cosine < DOUBTFUL {
                notes.warn(format!(
                    "{} parts from {}: their outputs on a made-up picture or text have a cosine of {cosine:.4} ({DOUBTFUL} and more \
                     is usual). Integers often spoil vision towers: choose --precision {}=fp16, or fp32",
                    module.source.shown,
                    best.shown,
                    graph_name(module)
                ));
            }
            proof.cosines.insert(module.id, cosine);
        }
        let tensors = |tensors: &[(String, Tensor)],
                       side: &str,
                       site: &mut Site|
         -> Result<Vec<GoldenTensor>> {
            let write = |(port, tensor): &(String, Tensor)| {
                let target = format!("golden/{}.{side}.{port}.bin", module.id);
                site.bytes(&target, &raw(tensor)?)?;
                Ok(GoldenTensor {
                    port: port.clone(),
                    shape: tensor.shape(),
                    file: site.files[&target].clone(),
                })
            };
            tensors.iter().map(write).collect()
        };
        let golden = Golden {
            cosine: match module.form {
                form if form == Form::Fp32.name() => 0.999,
                form if form == Form::Fp16.name() => 0.995,
                _ => 0.98,
            },
            inputs: tensors(&inputs, "in", site)?,
            outputs: tensors(&outputs, "out", site)?,
        };
        proof.goldens.insert(module.id, golden);
        made.keep(module, outputs);
        proof.inputs.insert(module.id, inputs);
        registry.release_idle(module.id)?;
    }
    Ok(proof)
}

fn graph_name(module: &Module) -> String {
    let name = module.source.shown.rsplit('/').next().unwrap_or_default();
    crate::graphs::split(name)
        .map_or(name, |(graph, _)| graph)
        .to_owned()
}

fn vocab(plan: &Plan) -> Option<usize> {
    plan.modules
        .iter()
        .find_map(|module| Some(module.decoder.as_ref()?.vocab))
}

/// The outputs that are compared.
fn golden_outputs(module: &Module) -> Vec<&str> {
    match &module.decoder {
        Some(decoder) => vec![decoder.ports.get("logits").map_or("logits", String::as_str)],
        None => module
            .outputs
            .iter()
            .map(|(port, _)| port.name.as_str())
            .collect(),
    }
}

/// The error with the file's name, and with the operators that may be the reason.
fn explained(e: Error, module: &Module) -> Error {
    let shown = &module.source.shown;
    let remedy = e.remedy_text().map(str::to_owned);
    let mut message = format!("{shown}: {}", e.message());
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
        None => explained,
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
    path: &std::path::Path,
    inputs: &[(String, Tensor)],
    outputs: &[(String, Tensor)],
    control: &Control,
) -> Result<f64> {
    let mut session = Session::load(&SessionConfig {
        environment,
        model: path.to_owned(),
        form: GraphForm::Source,
        threads: Threads::Shared,
        target: Target::default(),
        fixed: Vec::new(),
        untuned: false,
        profile: None,
    })?;
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

/// The tensor in another type of floats.
fn converted(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    match (tensor.dtype(), dtype) {
        (DType::F32 | DType::F16, DType::F32 | DType::F16) => {
            floats(dtype, &tensor.shape(), tensor.to_f32s()?)
        }
        _ => copy(tensor),
    }
}

fn floats(dtype: DType, shape: &[usize], numbers: Vec<f32>) -> Result<Tensor> {
    match dtype {
        DType::F16 => Tensor::from_vec(shape, numbers.into_iter().map(f16::from_f32).collect()),
        _ => Tensor::from_vec(shape, numbers),
    }
}

fn copies(tensors: &[(String, Tensor)]) -> Result<HashMap<String, Tensor>> {
    tensors
        .iter()
        .map(|(name, tensor)| Ok((name.clone(), copy(tensor)?)))
        .collect()
}

/// Another tensor with the same elements.
pub(crate) fn copy(tensor: &Tensor) -> Result<Tensor> {
    Tensor::from_bytes(tensor.dtype(), &tensor.shape(), &raw(tensor)?)
}

/// The elements as little-endian bytes.
fn raw(tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(match tensor.dtype() {
        DType::F32 => tensor
            .as_slice::<f32>()?
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        DType::F16 => tensor
            .as_slice::<f16>()?
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        DType::I64 => tensor
            .as_slice::<i64>()?
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        DType::I32 => tensor
            .as_slice::<i32>()?
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        DType::I8 => tensor
            .as_slice::<i8>()?
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        DType::U8 | DType::Bool => tensor.as_slice::<u8>()?.to_vec(),
    })
}

/// Inputs that are made up, and what earlier modules made of theirs.
struct Made {
    vocab: Option<usize>,
    /// Rows for a decoder and an encoder, by the port that reads them.
    rows: HashMap<&'static str, Tensor>,
}

impl Made {
    /// Inputs for `module`, all that do not follow from others.
    fn inputs(&self, module: &Module, registry: &Registry) -> Result<Vec<(String, Tensor)>> {
        let Some(decoder) = &module.decoder else {
            let input = |port: &Port| Ok((port.name.clone(), self.input(module, port)?));
            return module.inputs.iter().map(input).collect();
        };
        let lease = registry
            .lease(module.id)
            .map_err(|e| explained(e, module))?;
        let mut inputs = Vec::new();
        for key in ["input_ids", "inputs_embeds", "encoder_hidden_states"] {
            let name = decoder.ports.get(key).map_or(key, String::as_str);
            if let Some(port) = lease.inputs().iter().find(|port| port.name == name) {
                inputs.push((name.to_owned(), self.of(key, port)?));
            }
        }
        Ok(inputs)
    }

    fn input(&self, module: &Module, port: &Port) -> Result<Tensor> {
        if let (Some(words), "input_ids" | "attention_mask") = (&module.words, port.name.as_str())
            && let Some(length) = words.pad_to
        {
            let mut padded = vec![0; TEXT.min(length)];
            self.ids(&mut padded);
            if port.name == "attention_mask" {
                padded.fill(1);
            }
            let fill = if port.name == "attention_mask" {
                0
            } else {
                i64::from(words.pad_id.unwrap_or(0))
            };
            padded.resize(length, fill);
            return whole(port.dtype, &[1, length], padded);
        }
        self.of(&port.name, port)
    }

    fn ids(&self, ids: &mut [i64]) {
        let vocab = self.vocab.unwrap_or(256).min(256).max(2);
        for (at, id) in ids.iter_mut().enumerate() {
            *id = ((at * 37 + 11) % vocab) as i64;
        }
    }

    /// A tensor for a port of this meaning.
    fn of(&self, meaning: &str, port: &Port) -> Result<Tensor> {
        if let Some(rows) = self.rows.get(meaning) {
            return converted(rows, port.dtype);
        }
        let open = |axis: usize| match (axis, meaning) {
            (0, _) => 1,
            (1, "pixel_values" | "pixel_attention_mask") => 1,
            (_, "input_ids" | "position_ids" | "token_type_ids") => TEXT,
            (1, "attention_mask") if !self.rows.contains_key("inputs_embeds") => TEXT,
            _ => ROWS,
        };
        let shape = port.shape.iter().enumerate().map(|(axis, dim)| match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbolic(_) => open(axis),
        });
        let shape: Vec<usize> = shape.collect();
        let shape = match (meaning, self.rows.get("inputs_embeds")) {
            ("attention_mask", Some(rows)) => vec![1, rows.shape()[1]],
            _ => shape,
        };
        let count = shape.iter().product();
        match port.dtype {
            DType::F32 | DType::F16 => floats(port.dtype, &shape, picture(&shape, count)),
            DType::Bool | DType::U8 | DType::I8 => {
                let mut tensor = Tensor::zeros(port.dtype, &shape)?;
                match port.dtype {
                    DType::I8 => tensor.as_mut_slice::<i8>()?.fill(1),
                    _ => tensor.as_mut_slice::<u8>()?.fill(1),
                }
                Ok(tensor)
            }
            DType::I64 | DType::I32 => {
                let mut numbers = vec![0_i64; count];
                match meaning {
                    "input_ids" => self.ids(&mut numbers),
                    "position_ids" => numbers
                        .iter_mut()
                        .enumerate()
                        .for_each(|(at, n)| *n = at as i64),
                    "token_type_ids" => {}
                    _ => numbers.fill(1),
                }
                whole(port.dtype, &shape, numbers)
            }
        }
    }

    /// Keeps what later modules read.
    fn keep(&mut self, module: &Module, outputs: Vec<(String, Tensor)>) {
        let port = match module.kind {
            "token-embedding" => "inputs_embeds",
            "encoder" | "visual-encoder" => "encoder_hidden_states",
            _ => return,
        };
        if let Some((_, tensor)) = outputs.into_iter().next()
            && tensor.shape().len() == 3
        {
            self.rows.insert(port, tensor);
        }
    }
}

fn whole(dtype: DType, shape: &[usize], numbers: Vec<i64>) -> Result<Tensor> {
    match dtype {
        DType::I32 => Tensor::from_vec(
            shape,
            numbers.into_iter().map(|number| number as i32).collect(),
        ),
        _ => Tensor::from_vec(shape, numbers),
    }
}

/// Smooth slopes with edges and a fine pattern, in -1 to 1.
fn picture(shape: &[usize], count: usize) -> Vec<f32> {
    let width = shape.last().copied().unwrap_or(1).max(1);
    let height = shape.iter().rev().nth(1).copied().unwrap_or(1).max(1);
    let number = |at: usize| {
        let (x, y, plane) = (at % width, at / width % height, at / width / height);
        let slope = x as f32 / width as f32 - y as f32 / height as f32;
        let edge = if (x * 3 / width + y * 2 / height + plane).is_multiple_of(2) {
            0.4
        } else {
            -0.4
        };
        let fine = ((at * 37 + 11) % 101) as f32 / 101.0 - 0.5;
        (slope * 0.5 + edge + fine * 0.3).clamp(-1.0, 1.0)
    };
    (0..count).map(number).collect()
}
