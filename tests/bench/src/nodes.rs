//! What the nodes of a decoder cost, by operator, as ONNX Runtime times them. Timing slows every node by some microseconds,
//! so sums are too high and small nodes seem dearer than they are; the order of the dear ones holds.

use std::collections::BTreeMap;

use atom_core::ort::{GraphForm, RunArgs, Session, SessionConfig, Target, Tensor, Threads};
use atom_core::pack::{DecoderSpec, KvForm, ModuleSpec};
use atom_core::runtime::Runtime;
use atom_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use atom_cli::output::{print_line, table};

/// Runs that are counted, and those before them that are not.
const RUNS: usize = 24;
const WARM: usize = 4;

/// One kind of step.
#[derive(Debug, Serialize, Deserialize)]
pub struct Profile {
    pub threads: usize,
    /// New tokens of the step, and those before them.
    pub rows: usize,
    pub past: usize,
    /// Of a whole step, timed.
    pub step_us: f64,
    /// Dearest first.
    pub operators: Vec<Operator>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Operator {
    /// Type, and the last dimension of the output for products, which tells them apart.
    pub name: String,
    pub nodes: usize,
    pub step_us: f64,
}

/// A prompt's longest step and one token behind the middle one of `contexts`.
pub fn measure(
    runtime: &Runtime,
    module: &ModuleSpec,
    spec: &DecoderSpec,
    prefill: &[usize],
    contexts: &[usize],
) -> Result<Vec<Profile>> {
    if spec.kv != KvForm::Shared || module.input("input_ids").is_none() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "--nodes is for decoders that read token ids and have kv = \"shared\"",
        ));
    }
    let rows = prefill
        .iter()
        .max()
        .map_or(1, |longest| (*longest).min(128));
    let past = contexts.get(contexts.len() / 2).copied().unwrap_or(1);
    [(1, past), (rows, 0)]
        .into_iter()
        .map(|(rows, past)| steps(runtime, module, spec, rows, past))
        .collect()
}

fn steps(
    runtime: &Runtime,
    module: &ModuleSpec,
    spec: &DecoderSpec,
    rows: usize,
    past: usize,
) -> Result<Profile> {
    let folder = tempfile::tempdir()
        .map_err(|error| Error::io("a folder for ONNX Runtime's profile", &error))?;
    let environment = runtime.environment();
    let mut session = Session::load(&SessionConfig {
        environment,
        model: runtime.pack().path(&module.model),
        form: GraphForm::Source,
        threads: Threads::Own,
        profile: Some(folder.path().join("nodes")),
        target: Target::default(),
        fixed: Vec::new(),
        untuned: false,
    })?;
    let whole = |values: Vec<i64>| Tensor::from_vec(&[1, values.len()], values);
    let vocab = spec.vocab as i64;
    let ids = whole((0..rows as i64).map(|at| at * 7919 % vocab).collect())?;
    let mask = whole(vec![1; past + rows])?;
    let shape = [1, spec.kv_heads, past + rows, spec.head_dim];
    let names: Vec<[String; 2]> = (0..spec.layers)
        .flat_map(|layer| ["key", "value"].map(|side| (layer, side)))
        .map(|(layer, side)| {
            ["past_key_values", "present"].map(|port| format!("{port}.{layer}.{side}"))
        })
        .collect();
    let mut caches = names
        .iter()
        .map(|_| Tensor::zeros(spec.kv_dtype, &shape))
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..WARM + RUNS {
        session.run(RunArgs {
            inputs: vec![("input_ids", &ids), ("attention_mask", &mask)],
            outputs: vec!["logits"],
            in_place: names
                .iter()
                .zip(&mut caches)
                .map(|([from, to], cache)| (from.as_str(), to.as_str(), cache))
                .collect(),
            ..RunArgs::default()
        })?;
    }
    let path = session.profile()?;
    let text = std::fs::read(&path).map_err(|error| Error::io(path.display(), &error))?;
    let events: Vec<Value> = serde_json::from_slice(&text)
        .map_err(|error| Error::new(ErrorKind::Internal, format!("{}: {error}", path.display())))?;
    let (step_us, operators) = summed(&events)
        .ok_or_else(|| Error::new(ErrorKind::Internal, "ONNX Runtime's profile holds no runs"))?;
    Ok(Profile {
        threads: environment.threads(),
        rows,
        past,
        step_us,
        operators,
    })
}

/// Microseconds of a step and of its operators, from the events after the first runs.
fn summed(events: &[Value]) -> Option<(f64, Vec<Operator>)> {
    let number = |event: &Value, key: &str| event[key].as_f64().unwrap_or(0.0);
    let mut runs: Vec<(f64, f64)> = events
        .iter()
        .filter(|event| event["name"] == "model_run")
        .map(|event| (number(event, "ts"), number(event, "dur")))
        .collect();
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let counted = runs.get(WARM..)?;
    let (first, count) = (counted.first()?.0, counted.len() as f64);
    let mut sums: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    for event in events {
        let name = event["name"].as_str().unwrap_or_default();
        let operator = event["args"]["op_name"].as_str();
        let Some(operator) = operator.filter(|_| {
            event["cat"] == "Node" && name.ends_with("_kernel_time") && number(event, "ts") >= first
        }) else {
            continue;
        };
        let mut name = operator.to_owned();
        if matches!(operator, "MatMulNBits" | "MatMul" | "Gemm")
            && let Some(width) = width(&event["args"]["output_type_shape"])
        {
            name = format!("{operator} to {width}");
        }
        let sum = sums.entry(name).or_default();
        sum.0 += 1;
        sum.1 += number(event, "dur");
    }
    let mut operators: Vec<Operator> = sums
        .into_iter()
        .map(|(name, (nodes, us))| Operator {
            name,
            nodes: (nodes as f64 / count).round() as usize,
            step_us: us / count,
        })
        .collect();
    operators.sort_by(|a, b| b.step_us.total_cmp(&a.step_us));
    let step_us = counted.iter().map(|(_, us)| us).sum::<f64>() / count;
    Some((step_us, operators))
}

/// The last dimension of `[{"float": [1, 1, 576]}]`.
fn width(shapes: &Value) -> Option<u64> {
    let shape = shapes.get(0)?.as_object()?.values().next()?;
    shape.as_array()?.last()?.as_u64()
}

pub fn show(profiles: &[Profile]) -> Result<()> {
    for profile in profiles {
        print_line(&format!(
            "  {} new tokens after {} on {} threads, every node timed: {:.2} ms",
            profile.rows,
            profile.past,
            profile.threads,
            profile.step_us / 1e3
        ))?;
        let rows: Vec<Vec<String>> = profile
            .operators
            .iter()
            .take(8)
            .map(|operator| {
                vec![
                    operator.name.clone(),
                    operator.nodes.to_string(),
                    format!("{:.0}", operator.step_us),
                    format!("{:.1} %", 100.0 * operator.step_us / profile.step_us),
                ]
            })
            .collect();
        print_line(&table(
            &["operator", "nodes", "µs", "of the step"],
            &rows,
            &[1, 2, 3],
        ))?;
    }
    Ok(())
}
