//! An encoder's graph.

use std::path::Path;

use atom_core::onnx::{Model, Rewrite};
use atom_core::ort::Tensor;
use atom_core::{ErrorKind, Result};

use super::Rewritten;
use super::compare::{Tolerance, difference, in_halves};
use super::run::{Observer, Runner, run};

/// Rewrites the encoder in the file `path`, whose weights lie beside it, and proves it on what `inputs` makes: name and tensor
/// of every input. The file changes only if the new graph's results agree with the old one's.
///
/// # Errors
/// [`ErrorKind::BadModel`] when the graph as it is does not run on those inputs; what reading and writing give. A rewrite that
/// fails is no error: it is left, and the report says why.
pub fn tower(path: &Path, inputs: &dyn Fn() -> Result<Vec<(String, Tensor)>>) -> Result<Rewritten> {
    let old = Model::read(path)?;
    let runner = Runner::new(path)?;
    let mut report = Rewritten::default();
    let feed = |_| inputs();
    let mut observer = Observer {
        runner: &runner,
        feed: &feed,
    };
    let mut new = old.clone();
    match old.fuse_attention(&mut observer) {
        Ok(Rewrite::Done { model, what }) => {
            let summary = model.inspect()?;
            // For the processor ONNX Runtime puts casts into such branches, and then cannot read back what it has saved.
            if in_halves(&summary) && summary.operators.keys().any(|op| op.name == "If") {
                let why =
                    "the branches for its mask cannot be kept in an optimised form in 16 bits";
                report.left.push(format!("attention: {why}"));
            } else {
                report.done.push(what);
                new = *model;
            }
        }
        Ok(Rewrite::Left { why }) => report.left.push(format!("attention: {why}")),
        Err(error) if error.kind() == ErrorKind::NativeLibrary => return Err(error),
        Err(error) => report.left.push(format!("attention: {error}")),
    }
    match new.fuse_gelu()? {
        0 => {}
        count => report.done.push(format!("{count} activations as FastGelu")),
    }
    if report.done.is_empty() {
        return Ok(report);
    }
    let outputs = old.inspect()?.outputs;
    let names: Vec<&str> = outputs.iter().map(|port| &port.name[..]).collect();
    let expected = run(&mut runner.load(&old)?, &inputs()?, &names)?;
    let tolerance = Tolerance::of(&old)?;
    let found = runner
        .load(&new)
        .and_then(|mut s| run(&mut s, &inputs()?, &names));
    let why = match found {
        Err(error) => Some(error.to_string()),
        Ok(found) => {
            let mut parted = None;
            for ((name, old), new) in names.iter().zip(&expected).zip(&found) {
                parted = parted.or(difference(name, old, new, tolerance)?);
            }
            parted.map(|parted| parted.to_string())
        }
    };
    match why {
        Some(why) => {
            let tried = std::mem::take(&mut report.done).join("; ");
            report.left.push(format!("{tried}: undone, because {why}"));
        }
        None => new.write(path)?,
    }
    Ok(report)
}
