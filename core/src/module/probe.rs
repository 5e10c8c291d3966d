//! Known and made-up inputs, to see whether a session computes what it should.

use std::collections::HashMap;
use std::time::Instant;

use super::ports;
use crate::error::{Error, ErrorKind, Result};
use crate::ort::{DType, Dim, Port, RunArgs, Session, Tensor};
use crate::pack::{GoldenPort, GoldenSpec, ModuleSpec, Pack};

/// Cosine below which a prepacked form is held to compute something else than its graph. A misread block is far below,
/// another order of summation far above.
const FAITHFUL: f64 = 0.999;

/// Length given to a dimension that each run decides.
const FREE: usize = 4;

/// Inputs for one run.
pub(super) struct Probe {
    inputs: Vec<(String, Tensor)>,
}

/// What a session made of a probe.
pub(super) struct Expected {
    probe: Probe,
    outputs: Vec<(String, Tensor)>,
}

impl Probe {
    /// Inputs for `session`: the golden ones of `spec`. A decoder's map completes them; other modules get made-up ones.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] for a golden input that the graph lacks; the errors of reading the files and of
    /// [`DecoderMap::complete`](crate::decoder::DecoderMap::complete).
    pub(super) fn new(pack: &Pack, spec: &ModuleSpec, session: &Session) -> Result<Self> {
        let golden = spec.golden.as_ref();
        let golden = golden.map_or(&[][..], |golden| &golden.inputs);
        let port = |name: &str| session.inputs().iter().find(|port| port.name == name);
        let mut given = HashMap::new();
        for file in golden {
            let Some(port) = port(&file.port) else {
                return Err(Error::new(
                    ErrorKind::BadModel,
                    format!(
                        "[module.golden] gives {:?}, which the graph does not read",
                        file.port
                    ),
                )
                .remedy("correct the port in [module.golden]"));
            };
            given.insert(file.port.clone(), read(pack, file, port.dtype)?);
        }
        let inputs = match ports::decoder(spec, session)? {
            Some(map) => map.complete(given)?,
            None => {
                let rows = given.get("input_ids").map(Tensor::shape);
                let length = rows.and_then(|rows| rows.get(1).copied()).unwrap_or(FREE);
                let input = |port: &Port| {
                    let given = given.remove(&port.name).map(Ok);
                    let tensor = given.unwrap_or_else(|| made_up(port, length))?;
                    Ok((port.name.clone(), tensor))
                };
                session.inputs().iter().map(input).collect::<Result<_>>()?
            }
        };
        Ok(Self { inputs })
    }

    fn run_once(&self, session: &mut Session, outputs: &[String]) -> Result<Vec<Tensor>> {
        let inputs = self
            .inputs
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor));
        session.run(RunArgs {
            inputs: inputs.collect(),
            outputs: outputs.iter().map(String::as_str).collect(),
            ..RunArgs::default()
        })
    }

    /// Runs `session` and keeps what comes out.
    pub(super) fn run(self, session: &mut Session) -> Result<Expected> {
        let names: Vec<String> = session
            .outputs()
            .iter()
            .map(|port| port.name.clone())
            .collect();
        let outputs = self.run_once(session, &names)?;
        Ok(Expected {
            probe: self,
            outputs: names.into_iter().zip(outputs).collect(),
        })
    }
}

impl Expected {
    /// Errors when `session` makes something else of the same inputs.
    pub(super) fn same_from(&self, session: &mut Session) -> Result<()> {
        let names: Vec<String> = self.outputs.iter().map(|(name, _)| name.clone()).collect();
        let outputs = self.probe.run_once(session, &names)?;
        for ((name, expected), found) in self.outputs.iter().zip(&outputs) {
            let cosine = cosine(expected, found)?;
            if cosine < FAITHFUL {
                return Err(Error::new(
                    ErrorKind::BadModel,
                    format!(
                        "output {name:?} of the prepacked form has cosine {cosine:.4} to the graph's own"
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// The smallest cosine over the golden outputs.
pub(super) fn golden_cosine(
    pack: &Pack,
    spec: &ModuleSpec,
    golden: &GoldenSpec,
    session: &mut Session,
) -> Result<f64> {
    let probe = Probe::new(pack, spec, session)?;
    let names: Vec<String> = golden
        .outputs
        .iter()
        .map(|port| port.port.clone())
        .collect();
    let outputs = probe.run_once(session, &names)?;
    let mut smallest = 1.0_f64;
    for (port, found) in golden.outputs.iter().zip(&outputs) {
        let mut expected = read(pack, port, found.dtype())?;
        if spec.decoder.is_some()
            && let Some(last) = last_row(&expected, found)?
        {
            expected = last;
        }
        if expected.shape() != found.shape() {
            return Err(Error::new(
                ErrorKind::BadModel,
                format!(
                    "output {:?} is {:?}, its golden file {:?}",
                    port.port,
                    found.shape(),
                    port.shape
                ),
            ));
        }
        smallest = smallest.min(cosine(&expected, found)?);
    }
    Ok(smallest)
}

/// The last row of `expected`, where that is all that the decoder computed: an import rewrites graphs so.
fn last_row(expected: &Tensor, found: &Tensor) -> Result<Option<Tensor>> {
    let (golden, made) = (expected.shape(), found.shape());
    let ([1, rows, width], [1, 1, own]) = (&golden[..], &made[..]) else {
        return Ok(None);
    };
    let (rows, width) = (*rows, *width);
    if *own != width || rows < 2 {
        return Ok(None);
    }
    let from = (rows - 1) * width;
    let shape = [1, 1, width];
    Ok(match expected.dtype() {
        DType::F32 => Some(Tensor::from_vec(
            &shape,
            expected.as_slice::<f32>()?[from..].to_vec(),
        )?),
        DType::F16 => Some(Tensor::from_vec(
            &shape,
            expected.as_slice::<half::f16>()?[from..].to_vec(),
        )?),
        _ => None,
    })
}

/// Whether `session`, of `spec`, makes of its golden inputs what it should: the cosine, and the milliseconds it took to see.
pub(super) fn held_to_golden(
    pack: &Pack,
    spec: &ModuleSpec,
    golden: &GoldenSpec,
    session: &mut Session,
) -> Result<(f64, f64)> {
    let began = Instant::now();
    let cosine = golden_cosine(pack, spec, golden, session)?;
    let floor = golden.cosine;
    if cosine < floor {
        return Err(Error::new(
            ErrorKind::BadModel,
            format!(
                "it comes to a cosine of {cosine:.6} with the golden outputs, {floor} is needed"
            ),
        ));
    }
    Ok((cosine, began.elapsed().as_secs_f64() * 1e3))
}

fn read(pack: &Pack, port: &GoldenPort, dtype: DType) -> Result<Tensor> {
    let bytes = pack.read(&port.file)?;
    Tensor::from_bytes(dtype, &port.shape, &bytes).map_err(|e| {
        Error::new(
            ErrorKind::BadPack,
            format!("golden file of port {:?}: {}", port.port, e.message()),
        )
        .remedy("the file holds the raw little-endian elements of the port's type and nothing else")
    })
}

/// A tensor that suits `port` as far as its name and type tell: positions, ones for other whole numbers, else small numbers of
/// both signs.
fn made_up(port: &Port, length: usize) -> Result<Tensor> {
    let shape: Vec<usize> = port
        .shape
        .iter()
        .enumerate()
        .map(|(axis, dim)| match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbolic(_) if axis == 0 => 1,
            Dim::Symbolic(_) => length,
        })
        .collect();
    let mut tensor = Tensor::zeros(port.dtype, &shape)?;
    let wave = |i: usize| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.5;
    match port.dtype {
        DType::F32 => fill(tensor.as_mut_slice()?, wave),
        DType::F16 => fill(tensor.as_mut_slice()?, |i| half::f16::from_f32(wave(i))),
        DType::I64 if port.name == "position_ids" => fill(tensor.as_mut_slice()?, |i| i as i64),
        DType::I64 => fill(tensor.as_mut_slice()?, |_| 1_i64),
        DType::I32 => fill(tensor.as_mut_slice()?, |_| 1_i32),
        DType::I8 => fill(tensor.as_mut_slice()?, |_| 1_i8),
        DType::U8 | DType::Bool => fill(tensor.as_mut_slice()?, |_| 1_u8),
    }
    Ok(tensor)
}

fn fill<T>(slice: &mut [T], value: impl Fn(usize) -> T) {
    for (i, element) in slice.iter_mut().enumerate() {
        *element = value(i);
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(match tensor.dtype() {
        DType::F32 => tensor
            .as_slice::<f32>()?
            .iter()
            .map(|&x| x.into())
            .collect(),
        DType::F16 => tensor
            .as_slice::<half::f16>()?
            .iter()
            .map(|x| x.to_f64())
            .collect(),
        DType::I64 => tensor
            .as_slice::<i64>()?
            .iter()
            .map(|&x| x as f64)
            .collect(),
        DType::I32 => tensor
            .as_slice::<i32>()?
            .iter()
            .map(|&x| x.into())
            .collect(),
        DType::I8 => tensor.as_slice::<i8>()?.iter().map(|&x| x.into()).collect(),
        DType::U8 | DType::Bool => tensor.as_slice::<u8>()?.iter().map(|&x| x.into()).collect(),
    })
}

/// 1 for equal tensors, 0 when the shapes differ, one is zero or one has something not finite the other has not.
fn cosine(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (shapes, a, b) = ((a.shape(), b.shape()), numbers(a)?, numbers(b)?);
    if shapes.0 != shapes.1 {
        return Ok(0.0);
    }
    // Also what both leave not finite, or empty.
    if a.iter().zip(&b).all(|(x, y)| x.to_bits() == y.to_bits()) {
        return Ok(1.0);
    }
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(x, y)| x * y).sum() };
    let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
    Ok(if cosine.is_finite() { cosine } else { 0.0 })
}
