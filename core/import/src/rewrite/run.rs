//! Sessions of graphs in memory, whose weights lie in the folder of a file.

use std::path::{Path, PathBuf};

use atom_core::onnx::{Model, Observe, Observed, Rows};
use atom_core::ort::{
    DType, Environment, EnvironmentOptions, GraphForm, RunArgs, Session, SessionConfig, Target,
    Tensor, Threads,
};
use atom_core::{Error, ErrorKind, Result};

/// Loads graphs beside the weights of one file.
pub(crate) struct Runner {
    environment: &'static Environment,
    model: PathBuf,
}

impl Runner {
    /// For graphs whose weights lie beside the file `model`.
    pub(crate) fn new(model: &Path) -> Result<Self> {
        let environment = match Environment::current() {
            Some(environment) => environment,
            None => Environment::open(&EnvironmentOptions::default())?,
        };
        Ok(Self {
            environment,
            model: model.to_owned(),
        })
    }

    pub(crate) fn load(&self, graph: &Model) -> Result<Session> {
        Session::load(&SessionConfig {
            environment: self.environment,
            model: self.model.clone(),
            form: GraphForm::InMemory(graph.to_vec()?),
            threads: Threads::Shared,
            target: Target::default(),
            fixed: Vec::new(),
            untuned: false,
            profile: None,
        })
    }
}

/// Runs `session` on `inputs`, of which it may need fewer, and returns `wanted`.
pub(crate) fn run(
    session: &mut Session,
    inputs: &[(String, Tensor)],
    wanted: &[&str],
) -> Result<Vec<Tensor>> {
    let mut given = Vec::new();
    for port in session.inputs() {
        let found = inputs.iter().find(|(name, _)| *name == port.name);
        let (name, tensor) = found.ok_or_else(|| {
            Error::new(
                ErrorKind::BadModel,
                format!("nothing is known to give to its input {:?}", port.name),
            )
        })?;
        given.push((name.as_str(), tensor));
    }
    session.run(RunArgs {
        inputs: given,
        outputs: wanted.to_vec(),
        ..RunArgs::default()
    })
}

/// Shows tensors of a graph on inputs that `feed` makes.
pub(crate) struct Observer<'a> {
    pub(crate) runner: &'a Runner,
    #[allow(clippy::type_complexity)]
    pub(crate) feed: &'a dyn Fn(Rows) -> Result<Vec<(String, Tensor)>>,
}

impl Observe for Observer<'_> {
    fn observe(&mut self, model: &Model, rows: Rows, wanted: &[&str]) -> Result<Vec<Observed>> {
        let mut session = self.runner.load(model)?;
        let inputs = (self.feed)(rows)?;
        let seen = run(&mut session, &inputs, wanted)?;
        seen.iter().map(observed).collect()
    }
}

fn observed(tensor: &Tensor) -> Result<Observed> {
    let values = match tensor.dtype() {
        DType::F32 | DType::F16 => tensor.to_f32s()?,
        DType::I64 => tensor
            .as_slice::<i64>()?
            .iter()
            .map(|&n| n as f32)
            .collect(),
        DType::I32 => tensor
            .as_slice::<i32>()?
            .iter()
            .map(|&n| n as f32)
            .collect(),
        DType::I8 => tensor.as_slice::<i8>()?.iter().map(|&n| n.into()).collect(),
        DType::U8 | DType::Bool => tensor.as_slice::<u8>()?.iter().map(|&n| n.into()).collect(),
    };
    Ok(Observed {
        shape: tensor.shape(),
        values,
    })
}

/// Numbers between -1 and 1 that look like noise and are the same every time.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> f32 {
        // xorshift64*: three bits of quality more than this needs.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
        bits as f32 / (1 << 23) as f32 - 1.0
    }

    /// A tensor of them, `size` large; of whole numbers below `size` if `dtype` is whole, of ones if it is truth.
    pub(crate) fn tensor(&mut self, dtype: DType, shape: &[usize], size: f32) -> Result<Tensor> {
        let count: usize = shape.iter().product();
        let mut real = || -> Vec<f32> { (0..count).map(|_| self.next() * size).collect() };
        match dtype {
            DType::F32 => Tensor::from_vec(shape, real()),
            DType::F16 => {
                let bytes: Vec<u8> = real().into_iter().flat_map(half_bytes).collect();
                Tensor::from_bytes(dtype, shape, &bytes)
            }
            DType::I64 => {
                let whole = real().into_iter().map(|n| n.abs() as i64);
                Tensor::from_vec(shape, whole.collect::<Vec<_>>())
            }
            DType::I32 => {
                let whole = real().into_iter().map(|n| n.abs() as i32);
                Tensor::from_vec(shape, whole.collect::<Vec<_>>())
            }
            DType::U8 | DType::I8 | DType::Bool => {
                Tensor::from_bytes(dtype, shape, &vec![1; count])
            }
        }
    }
}

fn half_bytes(value: f32) -> [u8; 2] {
    half::f16::from_f32(value).to_le_bytes()
}
