//! A language decoder's graph.

use std::path::Path;

use atom_core::onnx::{DecoderGraph, Dimension, LayerCache, Model, Port, Rewrite, Rows};
use atom_core::ort::{DType, RunArgs, Session, Tensor};
use atom_core::pack::{DecoderSpec, KvForm, LayerName};
use atom_core::{Error, ErrorKind, Result};

use super::Rewritten;
use super::compare::{Difference, Tolerance, difference};
use super::run::{Noise, Observer, Runner, run};

/// Steps that the graphs are compared by: new rows of each, a prompt first, more of it, then tokens.
const STEPS: [usize; 6] = [24, 7, 1, 1, 1, 1];

/// Rewrites the decoder in the file `path`, whose weights lie beside it and whose ports and sizes `spec` gives, and proves it
/// by a prompt and cached steps. The file changes only if the new graph's logits agree with the old one's.
///
/// # Errors
/// [`ErrorKind::BadModel`] when the graph as it is does not run on made inputs; what reading and writing give. A rewrite that
/// fails is no error: it is left, and the report says why.
pub fn decoder(path: &Path, spec: &DecoderSpec) -> Result<Rewritten> {
    let old = Model::read(path)?;
    let mut report = Rewritten::default();
    let case = match Case::of(&old, spec) {
        Ok(case) => case,
        Err(why) => {
            report.left.push(why);
            return Ok(report);
        }
    };
    let runner = Runner::new(path)?;
    let feed = |rows| case.feed(rows, &[]);
    let mut observer = Observer {
        runner: &runner,
        feed: &feed,
    };
    let mut new = old.clone();
    match old.share_cache(&case.graph, &mut observer) {
        Ok(Rewrite::Done { model, what }) => {
            report.done.push(what);
            report.shares_cache = true;
            new = *model;
        }
        Ok(Rewrite::Left { why }) => report.left.push(format!("attention: {why}")),
        Err(error) if error.kind() == ErrorKind::NativeLibrary => return Err(error),
        Err(error) => report.left.push(format!("attention: {error}")),
    }
    if case.logits_to_keep.is_none() && new.keep_last_logits(&case.logits)? {
        report.done.push("logits of the last row alone".to_owned());
        report.last_logits = true;
    }
    match new.fuse_gelu()? {
        0 => {}
        count => report.done.push(format!("{count} activations as FastGelu")),
    }
    if report.done.is_empty() {
        return Ok(report);
    }
    let expected = case.steps(&mut runner.load(&old)?, KvForm::Concat)?;
    let form = if report.shares_cache {
        KvForm::Shared
    } else {
        KvForm::Concat
    };
    let found = runner
        .load(&new)
        .and_then(|mut session| case.steps(&mut session, form));
    let tolerance = Tolerance::of(&old)?;
    let why = match found {
        Err(error) => Some(error.to_string()),
        Ok(found) => case
            .parted(&expected, &found, tolerance)?
            .map(|parted| parted.to_string()),
    };
    match why {
        Some(why) => {
            let tried = std::mem::take(&mut report.done).join("; ");
            report.left.push(format!("{tried}: undone, because {why}"));
            report.shares_cache = false;
            report.last_logits = false;
        }
        None => new.write(path)?,
    }
    Ok(report)
}

/// A decoder, and what to feed it.
struct Case {
    graph: DecoderGraph,
    /// The input of new rows.
    rows: (String, DType, RowKind),
    logits: String,
    logits_to_keep: Option<(String, DType, Vec<usize>)>,
    mask: DType,
    positions: Option<DType>,
    kv: DType,
    vocab: usize,
    first_position: u32,
}

#[derive(Debug, Clone, Copy)]
enum RowKind {
    Ids,
    Embeddings(usize),
}

impl Case {
    /// Errors are words for a report.
    fn of(model: &Model, spec: &DecoderSpec) -> Result<Self, String> {
        let summary = model.inspect().map_err(|error| error.to_string())?;
        let input = |name: &str| summary.inputs.iter().find(|port| port.name == name);
        let output = |name: &str| summary.outputs.iter().any(|port| port.name == name);
        let ports = &spec.ports;
        let named =
            |own: &Option<String>, usual: &str| own.clone().unwrap_or_else(|| usual.to_owned());
        let mask = named(&ports.attention_mask, "attention_mask");
        let mask_port = input(&mask).ok_or("attention: it has no attention mask")?;
        let positions = named(&ports.position_ids, "position_ids");
        let positions = match input(&positions) {
            Some(port) if port.shape.as_ref().is_some_and(|shape| shape.len() != 2) => {
                return Err("attention: its positions have more than one coordinate".into());
            }
            port => port.map(|port| (positions, port)),
        };
        let ids = named(&ports.input_ids, "input_ids");
        let embeds = named(&ports.inputs_embeds, "inputs_embeds");
        let rows = match (input(&ids), input(&embeds)) {
            (Some(port), None) => (ids, dtype(port)?, RowKind::Ids),
            (None, Some(port)) => match port.shape.as_deref() {
                Some([_, _, Dimension::Fixed(width)]) => {
                    (embeds, dtype(port)?, RowKind::Embeddings(*width as usize))
                }
                _ => return Err("the width of its embeddings is not told".into()),
            },
            _ => return Err("it reads neither token ids nor embeddings alone".into()),
        };
        let past = |own: &Option<LayerName>, side: &str, part: &str, has: &dyn Fn(&str) -> bool| {
            let plain = LayerName::new(&format!("{side}.%d.{part}"));
            let split = LayerName::new(&format!("{side}.%d.decoder.{part}"));
            let usual = if !has(&plain.at(0)) && has(&split.at(0)) {
                split
            } else {
                plain
            };
            own.clone().unwrap_or(usual)
        };
        let is_input = |name: &str| input(name).is_some();
        let sides = [
            past(&ports.past_key, "past_key_values", "key", &is_input),
            past(&ports.past_value, "past_key_values", "value", &is_input),
            past(&ports.present_key, "present", "key", &output),
            past(&ports.present_value, "present", "value", &output),
        ];
        let layers = (0..spec.layers).map(|layer| {
            let [past_key, past_value, present_key, present_value] =
                sides.each_ref().map(|name| name.at(layer));
            LayerCache {
                past: [past_key, past_value],
                present: [present_key, present_value],
            }
        });
        let layers: Vec<LayerCache> = layers.collect();
        for layer in &layers {
            if let Some(name) = layer.past.iter().find(|name| !is_input(name)) {
                return Err(format!("attention: it has no input {name:?}"));
            }
            if let Some(name) = layer.present.iter().find(|name| !output(name)) {
                return Err(format!("attention: it has no output {name:?}"));
            }
        }
        let logits = named(&ports.logits, "logits");
        if !output(&logits) {
            return Err(format!("it has no output {logits:?}"));
        }
        let keep = named(&ports.num_logits_to_keep, "num_logits_to_keep");
        let keep = input(&keep).map(|port| {
            let rank = port.shape.as_ref().map_or(0, Vec::len);
            Ok::<_, String>((keep, dtype(port)?, vec![1; rank]))
        });
        Ok(Self {
            rows,
            logits,
            logits_to_keep: keep.transpose()?,
            mask: dtype(mask_port)?,
            positions: positions
                .as_ref()
                .map(|(_, port)| dtype(port))
                .transpose()?,
            kv: spec.kv_dtype,
            vocab: spec.vocab,
            first_position: spec.first_position,
            graph: DecoderGraph {
                attention_mask: mask,
                position_ids: positions.map(|(name, _)| name),
                layers,
                kv_heads: spec.kv_heads,
                head_dim: spec.head_dim,
                context: spec.context,
            },
        })
    }

    /// Every input of a step of `rows`, but for those in `without`.
    fn feed(&self, rows: Rows, without: &[String]) -> Result<Vec<(String, Tensor)>> {
        let Rows { new, past } = rows;
        let mut noise = Noise::new((past + 1) as u64);
        let (name, dtype, kind) = &self.rows;
        let given = match kind {
            RowKind::Ids => noise.tensor(*dtype, &[1, new], self.vocab as f32)?,
            RowKind::Embeddings(width) => noise.tensor(*dtype, &[1, new, *width], 1.0)?,
        };
        let mut inputs = vec![(name.clone(), given)];
        let mask = whole(
            self.mask,
            &[1, past + new],
            std::iter::repeat_n(1, past + new),
        )?;
        inputs.push((self.graph.attention_mask.clone(), mask));
        if let (Some(name), Some(dtype)) = (&self.graph.position_ids, self.positions) {
            let first = i64::from(self.first_position);
            let positions = (past..past + new).map(|position| first + position as i64);
            inputs.push((name.clone(), whole(dtype, &[1, new], positions)?));
        }
        if let Some((name, dtype, shape)) = &self.logits_to_keep {
            inputs.push((name.clone(), whole(*dtype, shape, [1])?));
        }
        for name in self.graph.layers.iter().flat_map(|layer| &layer.past) {
            if !without.contains(name) {
                let shape = [1, self.graph.kv_heads, past, self.graph.head_dim];
                inputs.push((name.clone(), noise.tensor(self.kv, &shape, 1.0)?));
            }
        }
        Ok(inputs)
    }

    /// The last row's logits of each of [`STEPS`].
    fn steps(&self, session: &mut Session, form: KvForm) -> Result<Vec<Tensor>> {
        let caches: Vec<String> = self
            .graph
            .layers
            .iter()
            .flat_map(|layer| layer.past.clone())
            .collect();
        let room = match form {
            KvForm::Shared => STEPS.iter().sum(),
            KvForm::Concat => 0,
        };
        let shape = [1, self.graph.kv_heads, room, self.graph.head_dim];
        let mut cache = caches
            .iter()
            .map(|_| Tensor::zeros(self.kv, &shape))
            .collect::<Result<Vec<_>>>()?;
        let presents: Vec<&str> = self
            .graph
            .layers
            .iter()
            .flat_map(|layer| &layer.present)
            .map(String::as_str)
            .collect();
        let (mut past, mut found) = (0, Vec::new());
        for new in STEPS {
            let mut inputs = self.feed(Rows { new, past }, &caches)?;
            let logits = match form {
                KvForm::Concat => {
                    inputs.extend(caches.iter().cloned().zip(cache));
                    let wanted: Vec<&str> = [&self.logits[..]]
                        .into_iter()
                        .chain(presents.iter().copied())
                        .collect();
                    let mut made = run(session, &inputs, &wanted)?.into_iter();
                    let logits = made.next();
                    cache = made.collect();
                    logits
                }
                KvForm::Shared => {
                    let ports = caches.iter().zip(&presents).zip(&mut cache);
                    let args = RunArgs {
                        inputs: inputs
                            .iter()
                            .map(|(name, tensor)| (&name[..], tensor))
                            .collect(),
                        outputs: vec![&self.logits],
                        in_place: ports
                            .map(|((past, present), tensor)| (&past[..], *present, tensor))
                            .collect(),
                        ..RunArgs::default()
                    };
                    session.run(args)?.pop()
                }
            };
            let missing = || Error::new(ErrorKind::Internal, "a run returned no logits");
            found.push(self.last_row(&logits.ok_or_else(missing)?)?);
            past += new;
        }
        Ok(found)
    }

    fn last_row(&self, logits: &Tensor) -> Result<Tensor> {
        let values = logits.to_f32s()?;
        let from = values.len().checked_sub(self.vocab).ok_or_else(|| {
            Error::new(
                ErrorKind::BadModel,
                format!("its logits are {logits:?}, and {} are expected", self.vocab),
            )
        })?;
        Tensor::from_vec(&[self.vocab], values[from..].to_vec())
    }

    fn parted(
        &self,
        old: &[Tensor],
        new: &[Tensor],
        tolerance: Tolerance,
    ) -> Result<Option<Difference>> {
        for (step, (old, new)) in old.iter().zip(new).enumerate() {
            let name = format!("{} of step {step}", self.logits);
            if let Some(parted) = difference(&name, old, new, tolerance)? {
                return Ok(Some(parted));
            }
        }
        Ok(None)
    }
}

fn whole(dtype: DType, shape: &[usize], values: impl IntoIterator<Item = i64>) -> Result<Tensor> {
    match dtype {
        DType::I32 => Tensor::from_vec(
            shape,
            values.into_iter().map(|n| n as i32).collect::<Vec<_>>(),
        ),
        _ => Tensor::from_vec(shape, values.into_iter().collect::<Vec<_>>()),
    }
}

fn dtype(port: &Port) -> Result<DType, String> {
    use atom_core::onnx::ElementType as E;
    match port.element {
        Some(E::FLOAT) => Ok(DType::F32),
        Some(E::FLOAT16) => Ok(DType::F16),
        Some(E::INT64) => Ok(DType::I64),
        Some(E::INT32) => Ok(DType::I32),
        Some(E::BOOL) => Ok(DType::Bool),
        other => Err(format!("its port {:?} holds {other:?}", port.name)),
    }
}
