//! One run of a module outside of any task, to see that it works and what it makes.

use std::collections::HashMap;

use super::registry::Registry;
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::ort::{RunArgs, Tensor};

impl Registry {
    /// Runs module `id` once and returns its outputs by name: those called `outputs`, all if there are none. A decoder takes its
    /// first step: inputs that are not among `given` follow from those that are, and its cache is empty.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] naming an input that is neither given nor follows from those that are; what leasing and
    /// running give.
    pub fn try_once(
        &self,
        id: &str,
        given: HashMap<String, Tensor>,
        outputs: &[&str],
        control: &Control,
    ) -> Result<Vec<(String, Tensor)>> {
        let lease = self.lease_with(id, control)?;
        let inputs = match lease.decoder() {
            Some(map) => map.complete(given)?,
            None => given.into_iter().collect(),
        };
        for port in lease.inputs() {
            if !inputs.iter().any(|(name, _)| *name == port.name) {
                let what = format!("module {id:?}: its input {:?} is not given", port.name);
                return Err(Error::new(ErrorKind::InvalidArgument, what));
            }
        }
        let all: Vec<&str> = lease
            .outputs()
            .iter()
            .map(|port| port.name.as_str())
            .collect();
        let names = if outputs.is_empty() {
            all
        } else {
            outputs.to_vec()
        };
        let inputs = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor));
        let tensors = lease.step(control)?.run(RunArgs {
            inputs: inputs.collect(),
            outputs: names.clone(),
            cancel: Some(&control.cancel),
            deadline: control.deadline,
            ..RunArgs::default()
        })?;
        Ok(names.into_iter().map(str::to_owned).zip(tensors).collect())
    }
}
