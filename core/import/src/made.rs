//! Inputs that are made up, and tensors as bytes.

use std::collections::HashMap;

use atom_core::Result;
use atom_core::language::Tokenizer;
use atom_core::ort::{DType, Dim, Port, Tensor};
use half::f16;

use crate::plan::{Module, Plan};

/// Token ids of the made-up text.
const TEXT: usize = 6;
/// Rows of an open dimension of an encoder's input.
const ROWS: usize = 8;

/// Tensors by the names of their ports.
pub(crate) type Named = Vec<(String, Tensor)>;

/// The tensor in another type of floats.
pub(crate) fn converted(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
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

pub(crate) fn copies(tensors: &[(String, Tensor)]) -> Result<HashMap<String, Tensor>> {
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
pub(crate) fn raw(tensor: &Tensor) -> Result<Vec<u8>> {
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
pub(crate) struct Made {
    vocab: Option<usize>,
    /// Rows for a decoder and an encoder, by the port that reads them.
    rows: HashMap<&'static str, Tensor>,
}

impl Made {
    /// For the modules of `plan`.
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            vocab: plan
                .modules
                .iter()
                .find_map(|module| Some(module.decoder.as_ref()?.vocab)),
            rows: HashMap::new(),
        }
    }

    /// Inputs for `module`, which is no decoder.
    pub(crate) fn all(&self, module: &Module) -> Result<Named> {
        let Some(words) = &module.words else {
            let input = |port: &Port| Ok((port.name.clone(), self.of(&port.name, port)?));
            return module.inputs.iter().map(input).collect();
        };
        let tokenizer = Tokenizer::from_bytes(&words.file.content, words.max_tokens)?;
        let mut ids = tokenizer.encode_truncated("a photo of a cat")?.ids;
        let used = ids.len();
        if let Some(length) = words.pad_to {
            ids.resize(length, words.pad_id.unwrap_or(0));
        }
        let input = |port: &Port| {
            let numbers = ids
                .iter()
                .enumerate()
                .map(|(at, id)| match port.name.as_str() {
                    "attention_mask" => i64::from(at < used),
                    "position_ids" => at as i64,
                    "token_type_ids" => 0,
                    _ => i64::from(*id),
                });
            Ok((
                port.name.clone(),
                whole(port.dtype, &[1, ids.len()], numbers.collect())?,
            ))
        };
        module.inputs.iter().map(input).collect()
    }

    fn ids(&self, ids: &mut [i64]) {
        let vocab = self.vocab.unwrap_or(256).clamp(2, 256);
        for (at, id) in ids.iter_mut().enumerate() {
            *id = ((at * 37 + 11) % vocab) as i64;
        }
    }

    /// A tensor for a port of this meaning.
    pub(crate) fn of(&self, meaning: &str, port: &Port) -> Result<Tensor> {
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
    pub(crate) fn keep(&mut self, module: &Module, outputs: Vec<(String, Tensor)>) {
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
