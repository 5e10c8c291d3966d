//! The module that makes input embeddings of token ids.

use crate::control::Control;
use crate::decoder::whole;
use crate::error::{Error, ErrorKind, Result};
use crate::module::Lease;
use crate::ort::{DType, Dim, Port, RunArgs, Tensor};

/// A leased token-embedding module and its ports.
#[derive(Clone)]
pub(super) struct Embedding {
    id: String,
    lease: Lease,
    input: String,
    ids: DType,
    output: Port,
}

impl Embedding {
    /// The module `id`; its output called `wanted`, or else its first one, holds the embeddings.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] for a module that does not read token ids alone.
    pub(super) fn new(id: &str, lease: Lease, wanted: &str) -> Result<Self> {
        let (input, ids) = match lease.inputs() {
            [port] if matches!(port.dtype, DType::I64 | DType::I32) => {
                (port.name.clone(), port.dtype)
            }
            inputs => {
                let inputs: Vec<&str> = inputs.iter().map(|port| port.name.as_str()).collect();
                let what = format!(
                    "it must have one input, i64 or i32; it has {}",
                    inputs.join(", ")
                );
                return Err(bad(id, what));
            }
        };
        let outputs = lease.outputs();
        let found = outputs.iter().find(|port| port.name == wanted);
        let Some(output) = found.or(outputs.first()).cloned() else {
            return Err(bad(id, "it has no output".to_owned()));
        };
        Ok(Self {
            id: id.to_owned(),
            lease,
            input,
            ids,
            output,
        })
    }

    /// Checks that the embeddings are what port `port` of a decoder reads.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] if they are not.
    pub(super) fn fits(&self, port: &str, dtype: DType, wide: Option<usize>) -> Result<()> {
        let output = &self.output;
        if output.dtype != dtype {
            let what = format!(
                "port {:?} is {}, but the decoder's {port:?} is {dtype}",
                output.name, output.dtype
            );
            return Err(bad(&self.id, what));
        }
        if let (Some(wide), Some(Dim::Fixed(have))) = (wide, output.shape.last())
            && *have != wide
        {
            let what = format!(
                "port {:?} is {have} wide, but the decoder's {port:?} is {wide}",
                output.name
            );
            return Err(bad(&self.id, what));
        }
        Ok(())
    }

    /// The embeddings of `ids`, [1, length, width].
    ///
    /// # Errors
    /// [`ErrorKind::Inference`] for a failed run or an output of another shape; cancel and deadline.
    pub(super) fn rows(&self, ids: &[u32], control: &Control) -> Result<Tensor> {
        let tensor = whole(
            self.ids,
            &[1, ids.len()],
            ids.iter().map(|id| i64::from(*id)),
        )?;
        let run = RunArgs {
            inputs: vec![(&self.input, &tensor)],
            outputs: vec![&self.output.name],
            in_place: Vec::new(),
            cancel: Some(&control.cancel),
            deadline: control.deadline,
        };
        match self.lease.step(control)?.run(run)?.pop() {
            Some(rows) if matches!(rows.shape()[..], [1, length, _] if length == ids.len()) => {
                Ok(rows)
            }
            other => Err(Error::new(
                ErrorKind::Inference,
                format!(
                    "the token embedding returned {other:?} for {} tokens, expected [1, {}, width]",
                    ids.len(),
                    ids.len()
                ),
            )),
        }
    }
}

fn bad(id: &str, what: String) -> Error {
    Error::new(
        ErrorKind::BadModel,
        format!("token embedding {id:?}: {what}"),
    )
}
