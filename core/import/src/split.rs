//! One graph cut into modules, and the proof that the modules in a row compute what the graph computes.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use atom_core::onnx::{Cut, Dimension, ElementType, Model, Part, Port, share_weights};
use atom_core::ort::{DType, Dim, Session, Tensor};
use atom_core::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::rewrite::{Noise, Runner, Tolerance, largest_difference, run};

/// The file that modules share their weights in.
pub const WEIGHTS: &str = "weights.data";

/// The file that tells what was made.
pub const REPORT: &str = "split.json";

/// Sides of pictures that are tried where the graph names them and the caller gives none.
const SIDES: [usize; 9] = [224, 32, 64, 256, 336, 384, 448, 512, 768];

/// Rows of a text.
const ROWS: usize = 7;
/// The most elements of an input that is made up.
const MOST: usize = 1 << 26;

/// What was made of a graph.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// In the order in which they run.
    pub modules: Vec<Module>,
    /// Bytes of the weights that the modules share a file for.
    pub weights_bytes: u64,
    /// Of those, bytes that more than one module reads. They are stored once.
    pub shared_bytes: u64,
    /// How the modules' results compare with the graph's.
    pub proof: Vec<Proved>,
}

/// A module.
#[derive(Debug, Clone, Serialize)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// What it reads.
    pub inputs: Vec<String>,
    /// What it computes.
    pub outputs: Vec<String>,
    /// Its nodes.
    pub nodes: usize,
    /// Bytes of the weights that it reads from the shared file.
    pub weights_bytes: u64,
}

/// How an output of the modules compares with the graph's.
#[derive(Debug, Clone, Serialize)]
pub struct Proved {
    /// The output.
    pub output: String,
    /// Its sizes in that run.
    pub shape: Vec<usize>,
    /// Whether every bit is the same.
    pub bit_equal: bool,
    /// The largest difference.
    pub largest_difference: f32,
    /// The difference up to which they count as equal.
    pub allowed: f32,
}

/// Cuts the model in the file `model` and writes one ONNX file for each module, their weights, and the report into the new
/// folder `to`. `sizes` gives dimensions that the graph names, for the inputs of the proof. If anything fails, nothing is left.
///
/// # Errors
/// As [`Model::cut`]; [`ErrorKind::InvalidArgument`] when `to` holds something already, or when the model does not run on made
/// inputs; [`ErrorKind::BadModel`] when the modules compute something else; what reading and writing give.
pub fn split(
    model: &Path,
    cuts: &[Cut],
    to: &Path,
    sizes: &BTreeMap<String, usize>,
) -> Result<Report> {
    let whole = Model::read(model)?;
    let named = |error: Error| error.context(model.display());
    let parts = whole.cut(cuts).map_err(named)?;
    let folder = model.parent().unwrap_or(Path::new(""));
    whole.check_external_files(folder)?;
    if fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) || to.is_file() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{} holds something already", to.display()),
        )
        .remedy("give a folder that does not exist yet"));
    }
    let runner = Runner::new(model)?;
    let between: Vec<&str> = {
        let made = parts.iter().flat_map(|part| &part.outputs);
        made.map(String::as_str).collect()
    };
    let shown = whole.showing(&between);
    let mut session = runner.load(&shown).map_err(named)?;
    let mut typed = whole.clone();
    typed.declare(&ports(&session, &between)?);
    let mut modules = Vec::new();
    for part in &parts {
        let inputs: Vec<&str> = part.inputs.iter().map(String::as_str).collect();
        let outputs: Vec<&str> = part.outputs.iter().map(String::as_str).collect();
        modules.push(typed.extract(&inputs, &outputs).map_err(named)?);
    }
    let outputs = whole.inspect()?.outputs;
    let outputs: Vec<&str> = outputs.iter().map(|port| &port.name[..]).collect();
    let (inputs, expected) = made(&mut session, &outputs, sizes).map_err(named)?;
    drop(session);

    let work = Work::new(to)?;
    let bytes = share_weights(&mut modules, folder, &work.0.join(WEIGHTS), WEIGHTS)?;
    let mut readers: HashMap<&String, usize> = HashMap::new();
    let mut listed = Vec::new();
    for (part, module) in parts.iter().zip(&modules) {
        let file = format!("{}.onnx", part.name);
        module.write(&work.0.join(&file))?;
        let summary = module.inspect()?;
        let own = summary
            .initializers
            .iter()
            .filter_map(|weights| bytes.get_key_value(&weights.name));
        let own: Vec<(&String, &u64)> = own.collect();
        own.iter()
            .for_each(|(name, _)| *readers.entry(name).or_default() += 1);
        listed.push(Module {
            name: part.name.clone(),
            file,
            inputs: part.inputs.clone(),
            outputs: part.outputs.clone(),
            nodes: summary.operators.values().sum(),
            weights_bytes: own.iter().map(|(_, bytes)| **bytes).sum(),
        });
    }
    let shared = readers.iter().filter(|(_, count)| **count > 1);
    let shared_bytes = shared.map(|(name, _)| bytes[*name]).sum();
    let proof = prove(
        &work.0,
        &parts,
        inputs,
        &outputs,
        &expected,
        Tolerance::of(&whole)?,
    )?;
    let report = Report {
        modules: listed,
        weights_bytes: bytes.values().sum(),
        shared_bytes,
        proof,
    };
    let text = serde_json::to_string_pretty(&report)
        .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
    let path = work.0.join(REPORT);
    fs::write(&path, text + "\n").map_err(|e| Error::io(path.display(), &e))?;
    work.finish(to)?;
    Ok(report)
}

/// A folder under construction, which goes with this value.
struct Work(PathBuf);

impl Work {
    fn new(to: &Path) -> Result<Self> {
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(format!(".partial-{}", std::process::id()));
        let path = to.with_file_name(name);
        fs::create_dir_all(&path).map_err(|e| Error::io(path.display(), &e))?;
        Ok(Self(path))
    }

    fn finish(self, to: &Path) -> Result<()> {
        // An empty folder of that name gives way.
        if to.is_dir() {
            fs::remove_dir(to).map_err(|e| Error::io(to.display(), &e))?;
        }
        fs::rename(&self.0, to).map_err(|e| Error::io(to.display(), &e))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Renamed, it is not there any more.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Types and sizes of the outputs `names`, as ONNX Runtime finds them.
fn ports(session: &Session, names: &[&str]) -> Result<Vec<Port>> {
    let mut found = Vec::new();
    for port in session
        .outputs()
        .iter()
        .filter(|port| names.contains(&&port.name[..]))
    {
        let dim = |dim: &Dim| match dim {
            Dim::Fixed(size) => Dimension::Fixed(*size as u64),
            Dim::Symbolic(name) if name.is_empty() => Dimension::Open,
            Dim::Symbolic(name) => Dimension::Named(name.clone()),
        };
        found.push(Port {
            name: port.name.clone(),
            element: Some(match port.dtype {
                DType::F32 => ElementType::FLOAT,
                DType::F16 => ElementType::FLOAT16,
                DType::I64 => ElementType::INT64,
                DType::I32 => ElementType::INT32,
                DType::U8 => ElementType::UINT8,
                DType::I8 => ElementType::INT8,
                DType::Bool => ElementType::BOOL,
            }),
            // No dimensions may also mean that their number is not known.
            shape: (!port.shape.is_empty()).then(|| port.shape.iter().map(dim).collect()),
        });
    }
    Ok(found)
}

type Tensors = Vec<(String, Tensor)>;

/// Inputs on which the graph runs, and what it computes from them.
fn made(
    session: &mut Session,
    outputs: &[&str],
    sizes: &BTreeMap<String, usize>,
) -> Result<(Tensors, Vec<Tensor>)> {
    let mut failed = None;
    let open = |name: &str| !sizes.contains_key(name) && is_side(name);
    let has_sides = session.inputs().iter().flat_map(|port| &port.shape);
    let has_sides = has_sides
        .into_iter()
        .any(|dim| matches!(dim, Dim::Symbolic(name) if open(name)));
    let tried = if has_sides { &SIDES[..] } else { &SIDES[..1] };
    for side in tried {
        let inputs = inputs(session, sizes, *side)?;
        match run(session, &inputs, outputs) {
            Ok(found) => return Ok((inputs, found)),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let names = session.inputs().iter().flat_map(|port| port.shape.iter());
    let names: std::collections::BTreeSet<String> = names
        .filter_map(|dim| match dim {
            Dim::Symbolic(name) if !name.is_empty() => Some(name.clone()),
            _ => None,
        })
        .collect();
    let why = failed.map_or_else(String::new, |error| error.to_string());
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!(
            "the modules cannot be proved, because the model does not run on made inputs: {why}"
        ),
    )
    .remedy(format!(
        "give sizes that it runs with by --size NAME=N; it names {}",
        names.into_iter().collect::<Vec<_>>().join(", ")
    )))
}

fn is_side(name: &str) -> bool {
    ["height", "width", "image_size"]
        .iter()
        .any(|part| name.contains(part))
}

fn inputs(session: &Session, sizes: &BTreeMap<String, usize>, side: usize) -> Result<Tensors> {
    let mut noise = Noise::new(12);
    let mut made = Vec::new();
    for port in session.inputs() {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbolic(name) => match sizes.get(name) {
                Some(size) => *size,
                None if is_side(name) => side,
                None if name.contains("channel") => 3,
                None if name.contains("past") => 0,
                None if name.contains("seq") || name.contains("length") => ROWS,
                None => 1,
            },
        };
        let shape: Vec<usize> = port.shape.iter().map(size).collect();
        let is = |part: &str| port.name.contains(part);
        let count = shape
            .iter()
            .try_fold(1, |all: usize, size| all.checked_mul(*size));
        let Some(count) = count.filter(|count| *count <= MOST) else {
            let what = format!(
                "input {:?} of shape {shape:?} is too large to be made up",
                port.name
            );
            return Err(Error::new(ErrorKind::InvalidArgument, what)
                .remedy("give smaller sizes by --size NAME=N"));
        };
        let ones = is("mask") || is("num_logits");
        let tensor = match port.dtype {
            DType::I64 if ones => Tensor::from_vec(&shape, vec![1_i64; count])?,
            DType::I32 if ones => Tensor::from_vec(&shape, vec![1_i32; count])?,
            DType::I64 if is("position") => {
                let row = shape.last().copied().unwrap_or(1).max(1);
                Tensor::from_vec(&shape, (0..count).map(|at| (at % row) as i64).collect())?
            }
            // Small enough to be an id of any vocabulary.
            DType::I64 | DType::I32 => noise.tensor(port.dtype, &shape, 8.0)?,
            // In the first step, where a decoder asks.
            DType::Bool if is("use_cache") => {
                Tensor::from_bytes(DType::Bool, &shape, &vec![0; count])?
            }
            dtype => noise.tensor(dtype, &shape, 1.0)?,
        };
        made.push((port.name.clone(), tensor));
    }
    Ok(made)
}

/// Runs the modules one after the other and holds their results against `expected`.
fn prove(
    folder: &Path,
    parts: &[Part],
    inputs: Tensors,
    outputs: &[&str],
    expected: &[Tensor],
    tolerance: Tolerance,
) -> Result<Vec<Proved>> {
    let mut known = inputs;
    for part in parts {
        let path = folder.join(format!("{}.onnx", part.name));
        let mut session = Runner::new(&path)?.load(&Model::read(&path)?)?;
        let wanted: Vec<&str> = part.outputs.iter().map(String::as_str).collect();
        let found = run(&mut session, &known, &wanted)?;
        known.extend(part.outputs.iter().cloned().zip(found));
    }
    let mut proved = Vec::new();
    for (name, whole) in outputs.iter().zip(expected) {
        let found = known.iter().find(|(own, _)| own == name);
        let (_, found) = found.ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("no module computes {name:?}"))
        })?;
        let (largest, allowed) = largest_difference(whole, found, tolerance)?;
        if largest > allowed {
            return Err(Error::new(
                ErrorKind::BadModel,
                format!("the modules compute another {name:?} than the model: it differs by {largest:.1e}, and {allowed:.1e} is what rounding explains"),
            )
            .remedy("report this with the model's operators as `atom pack split` was asked to cut them"));
        }
        proved.push(Proved {
            output: (*name).to_owned(),
            shape: whole.shape(),
            bit_equal: largest == 0.0,
            largest_difference: largest,
            allowed,
        });
    }
    Ok(proved)
}
