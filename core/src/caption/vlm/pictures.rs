//! Pictures as rows: visual features, through the connector if the pack has one.

use sha2::{Digest, Sha256};

use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::features::FeatureMap;
use crate::identity::Canonical;
use crate::module::{Lease, Registry};
use crate::ort::{DType, RunArgs, Tensor};
use crate::pack::{Forms, Whole};

/// Makes rows of features. Loads nothing until it is used; may be used from any thread.
#[derive(Debug)]
pub(super) struct Pictures {
    registry: Registry,
    connector: Option<String>,
    /// Hash state after the connector's identity.
    identity: Sha256,
}

impl Pictures {
    /// Pictures that go through module `connector`, if there is one.
    ///
    /// # Errors
    /// As [`Pack::module`](crate::pack::Pack::module) for the connector.
    pub(super) fn new(registry: &Registry, connector: Option<&str>) -> Result<Self> {
        let mut identity = Sha256::new();
        if let Some(id) = connector {
            let connector = registry.pack().module(id)?.computation(Forms::All);
            identity.update(
                Canonical::of("atom.connector", 1, connector)
                    .finish()
                    .as_bytes(),
            );
        }
        Ok(Self {
            registry: registry.clone(),
            connector: connector.map(str::to_owned),
            identity,
        })
    }

    /// The connector's module.
    pub(super) fn connector(&self) -> Option<&str> {
        self.connector.as_deref()
    }

    /// A hash of what a picture's rows depend on.
    pub(super) fn identity(&self, map: &FeatureMap) -> [u8; 32] {
        let mut hash = self.identity.clone();
        for number in [map.rows, map.dim, map.pictures] {
            hash.update((number as u64).to_le_bytes());
        }
        for value in &map.data {
            hash.update(value.to_le_bytes());
        }
        hash.finalize().into()
    }

    /// A picture's rows for the decoder or the encoder.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for features without a map; [`ErrorKind::BadModel`] or [`ErrorKind::Inference`] for a connector
    /// that does not fit.
    pub(super) fn rows(&self, map: &FeatureMap, control: &Control) -> Result<FeatureMap> {
        check(map)?;
        let Some(id) = &self.connector else {
            return Ok(map.clone());
        };
        let lease = self.registry.lease_with(id, control)?;
        let pictures = map.pictures.max(1);
        let mut made = FeatureMap {
            grid: map.grid,
            pictures,
            ..FeatureMap::default()
        };
        for data in map.data.chunks_exact(map.data.len() / pictures) {
            let (rows, dim, data) = connected(id, &lease, map.rows / pictures, data, control)?;
            made.rows += rows;
            made.dim = dim;
            made.data.extend(data);
        }
        Ok(made)
    }
}

/// The whole picture of `map`, without its tiles; all of it if it has no whole one. `place` says where that is among the tiles.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for features without a map.
pub(super) fn whole(map: &FeatureMap, place: Whole) -> Result<FeatureMap> {
    check(map)?;
    let one = map.data.len() / map.pictures.max(1);
    let data = match place {
        Whole::First => &map.data[..one],
        Whole::Last => &map.data[map.data.len() - one..],
        Whole::None => return Ok(map.clone()),
    };
    Ok(FeatureMap::of_one(one / map.dim, map.dim, data.to_vec()))
}

fn check(map: &FeatureMap) -> Result<()> {
    let size = map.rows.checked_mul(map.dim);
    let even = map.rows.is_multiple_of(map.pictures.max(1));
    if map.data.is_empty() || size != Some(map.data.len()) || !even {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the features hold no map for a captioner to read",
        )
        .remedy(
            "declare an output with role = \"features\" in the visual encoder, and index again",
        ));
    }
    Ok(())
}

/// One picture's rows after the connector: how many, how long, and the numbers.
fn connected(
    id: &str,
    lease: &Lease,
    rows: usize,
    data: &[f32],
    control: &Control,
) -> Result<(usize, usize, Vec<f32>)> {
    let misfit =
        |what: String| Error::new(ErrorKind::BadModel, format!("connector {id:?}: {what}"));
    let (input, output) = match (lease.inputs(), lease.outputs()) {
        ([input], [output, ..]) => (input, output.name.as_str()),
        (inputs, outputs) => {
            let what = format!(
                "{} inputs and {} outputs, not one",
                inputs.len(),
                outputs.len()
            );
            return Err(misfit(what));
        }
    };
    let dim = data.len() / rows;
    let shape: &[usize] = match input.shape.len() {
        3 => &[1, rows, dim],
        2 if rows == 1 => &[1, dim],
        rank => {
            let what = format!("input {:?} of rank {rank} for {rows} rows", input.name);
            return Err(misfit(what));
        }
    };
    let features = Tensor::from_vec(shape, data.to_vec())?;
    let mut outputs = lease.step(control)?.run(RunArgs {
        inputs: vec![(input.name.as_str(), &features)],
        outputs: vec![output],
        in_place: Vec::new(),
        cancel: Some(&control.cancel),
        deadline: control.deadline,
    })?;
    let made = outputs.pop().ok_or_else(|| misfit("no output".into()))?;
    if made.dtype() != DType::F32 {
        return Err(misfit(format!("output {output:?} is not f32")));
    }
    let (rows, dim) = match *made.shape() {
        [1, dim] => (1, dim),
        [1, rows, dim] => (rows, dim),
        ref shape => return Err(misfit(format!("output {output:?} of shape {shape:?}"))),
    };
    Ok((rows, dim, made.as_slice::<f32>()?.to_vec()))
}
