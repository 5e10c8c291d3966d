//! What a loaded graph says of itself: ports and placement.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt;
use std::ptr::{self, NonNull};

use ::ort::sys;
use serde::{Deserialize, Serialize};

use super::provider::Provider;
use super::tensor::{self, DType, Dim, Port};
use super::{api, check, failure};
use crate::error::{Error, ErrorKind, Result};

/// Which provider runs what, as ONNX Runtime recorded it when it divided the graph.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Placement(pub Vec<Share>);

/// The nodes of one provider.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Share {
    /// Its name in manifests.
    pub provider: String,
    /// Nodes, without `conversions`.
    pub nodes: usize,
    /// `QuantizeLinear` and `DequantizeLinear` nodes: most of them vanish into their neighbours, so they tell nothing.
    pub conversions: usize,
    /// How many nodes of which operator, without `conversions`.
    pub operators: Vec<Operator>,
    /// The share of the graph's multiply-accumulates (convolutions, matrix products), 0..=1; absent where the graph does not say
    /// the shapes that decide.
    #[serde(default)]
    pub compute: Option<f64>,
    /// The names of its nodes, until `compute` is known.
    #[serde(skip)]
    pub(crate) names: Vec<String>,
}

/// How many nodes an operator has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// Its name.
    pub operator: String,
    /// Its nodes.
    pub nodes: usize,
}

impl Placement {
    /// Nodes that `provider` runs, conversions left out.
    pub fn nodes(&self, provider: Provider) -> usize {
        let shares = self.0.iter().filter(|s| s.provider == provider.name());
        shares.map(|share| share.nodes).sum()
    }

    /// Whether [`Share::compute`] is still to be found.
    pub(crate) fn wants_compute(&self) -> bool {
        self.0.iter().any(|share| !share.names.is_empty())
    }

    /// Sets each part's share of compute.
    pub(crate) fn set_compute(&mut self, shares: Option<Vec<f64>>) {
        for (at, share) in self.0.iter_mut().enumerate() {
            share.names = Vec::new();
            share.compute = shares.as_ref().and_then(|shares| shares.get(at).copied());
        }
    }

    /// All nodes, conversions left out.
    pub fn total(&self) -> usize {
        self.0.iter().map(|share| share.nodes).sum()
    }

    /// Operators that others than `provider` run, and how many nodes of each; conversions left out.
    pub fn elsewhere(&self, provider: Provider) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        for share in self.0.iter().filter(|s| s.provider != provider.name()) {
            for of in &share.operators {
                *all.entry(of.operator.clone()).or_default() += of.nodes;
            }
        }
        all
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<&Share> = self.0.iter().filter(|share| share.nodes > 0).collect();
        if shown.is_empty() {
            return f.write_str("unknown");
        }
        let several = shown.len() > 1;
        for (i, share) in shown.into_iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let s = if share.nodes == 1 { "" } else { "s" };
            write!(f, "{comma}{}: {} node{s}", share.provider, share.nodes)?;
            if let Some(compute) = share.compute.filter(|_| several) {
                write!(f, " ({:.1} % of compute)", compute * 100.0)?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Input,
    Output,
}

/// The ports of `session`, which must be valid.
pub(super) fn ports(session: NonNull<sys::OrtSession>, side: Side) -> Result<Vec<Port>> {
    let api = api()?;
    let broken = |e: &::ort::Error| failure(ErrorKind::BadModel, "reading the ports", e);
    let mut count = 0;
    // SAFETY: the session is valid, `count` writable.
    check(unsafe {
        match side {
            Side::Input => (api.SessionGetInputCount)(session.as_ptr(), &mut count),
            Side::Output => (api.SessionGetOutputCount)(session.as_ptr(), &mut count),
        }
    })
    .map_err(|e| broken(&e))?;
    (0..count)
        .map(|index| {
            let name = port_name(api, session, side, index).map_err(|e| broken(&e))?;
            match port_type(api, session, side, index).map_err(|e| broken(&e))? {
                Some((dtype, shape)) => Ok(Port { name, dtype, shape }),
                None => Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("port {name:?} is not a tensor of an element type Atom knows"),
                )),
            }
        })
        .collect()
}

fn port_name(
    api: &sys::OrtApi,
    session: NonNull<sys::OrtSession>,
    side: Side,
    index: usize,
) -> std::result::Result<String, ::ort::Error> {
    let session = session.as_ptr();
    // SAFETY: the session is valid and `index` below its port count; the name is copied, then freed by the allocator that
    // made it.
    unsafe {
        let mut allocator = ptr::null_mut();
        check((api.GetAllocatorWithDefaultOptions)(&mut allocator))?;
        let mut raw = ptr::null_mut();
        check(match side {
            Side::Input => (api.SessionGetInputName)(session, index, allocator, &mut raw),
            Side::Output => (api.SessionGetOutputName)(session, index, allocator, &mut raw),
        })?;
        let name = CStr::from_ptr(raw).to_string_lossy().into_owned();
        check((api.AllocatorFree)(allocator, raw.cast()))?;
        Ok(name)
    }
}

/// Element type and dimensions of a port, `None` if it is not a tensor of a known element type.
fn port_type(
    api: &sys::OrtApi,
    session: NonNull<sys::OrtSession>,
    side: Side,
    index: usize,
) -> std::result::Result<Option<(DType, Vec<Dim>)>, ::ort::Error> {
    let session = session.as_ptr();
    let mut info = ptr::null_mut();
    // SAFETY: the session is valid and `index` below its port count; `info` receives an owned pointer, which is valid
    // until released after everything read from it was copied.
    unsafe {
        check(match side {
            Side::Input => (api.SessionGetInputTypeInfo)(session, index, &mut info),
            Side::Output => (api.SessionGetOutputTypeInfo)(session, index, &mut info),
        })?;
        let read = read_type_info(api, info);
        (api.ReleaseTypeInfo)(info);
        read
    }
}

/// # Safety
/// `info` must be valid.
unsafe fn read_type_info(
    api: &sys::OrtApi,
    info: *const sys::OrtTypeInfo,
) -> std::result::Result<Option<(DType, Vec<Dim>)>, ::ort::Error> {
    let mut kind = 0_i32;
    let mut tensor_info = ptr::null();
    // SAFETY: `info` is valid and owns `tensor_info` and the symbols; the enumeration is an i32, read as such because
    // newer libraries may extend it.
    unsafe {
        check((api.GetOnnxTypeFromTypeInfo)(info, (&raw mut kind).cast()))?;
        if kind != sys::ONNXType::ONNX_TYPE_TENSOR as i32 {
            return Ok(None);
        }
        check((api.CastTypeInfoToTensorInfo)(info, &mut tensor_info))?;
        let (Some(dtype), dims) = tensor::read_tensor_info(api, tensor_info)? else {
            return Ok(None);
        };
        let mut symbols = vec![ptr::null(); dims.len()];
        check((api.GetSymbolicDimensions)(
            tensor_info,
            symbols.as_mut_ptr(),
            symbols.len(),
        ))?;
        let name = |symbol: *const std::ffi::c_char| {
            if symbol.is_null() {
                String::new()
            } else {
                CStr::from_ptr(symbol).to_string_lossy().into_owned()
            }
        };
        let shape = dims.iter().zip(symbols).map(|(&dim, symbol)| {
            usize::try_from(dim).map_or_else(|_| Dim::Symbolic(name(symbol)), Dim::Fixed)
        });
        Ok(Some((dtype, shape.collect())))
    }
}

/// Which providers the nodes of `session`, which must be valid, were given to.
pub(super) fn placement(session: NonNull<sys::OrtSession>) -> Result<Placement> {
    let api = api()?;
    read_placement(api, session)
        .map_err(|e| failure(ErrorKind::Internal, "reading the placement", &e))
}

fn read_placement(
    api: &sys::OrtApi,
    session: NonNull<sys::OrtSession>,
) -> std::result::Result<Placement, ::ort::Error> {
    let mut placement: Vec<Share> = Vec::new();
    // SAFETY: the session is valid; the arrays and strings it hands out live as long as it does and are only read.
    unsafe {
        let mut parts = ptr::null();
        let mut count = 0;
        check((api.Session_GetEpGraphAssignmentInfo)(
            session.as_ptr(),
            &mut parts,
            &mut count,
        ))?;
        for index in 0..count {
            let part = *parts.add(index);
            let (mut name, mut nodes, mut node_count) = (ptr::null(), ptr::null(), 0);
            check((api.EpAssignedSubgraph_GetEpName)(part, &mut name))?;
            check((api.EpAssignedSubgraph_GetNodes)(
                part,
                &mut nodes,
                &mut node_count,
            ))?;
            let name = short_provider(&CStr::from_ptr(name).to_string_lossy());
            let at = placement.iter().position(|share| share.provider == name);
            let at = at.unwrap_or_else(|| {
                placement.push(Share {
                    provider: name,
                    ..Share::default()
                });
                placement.len() - 1
            });
            let share = &mut placement[at];
            for index in 0..node_count {
                let mut operator = ptr::null();
                check((api.EpAssignedNode_GetOperatorType)(
                    *nodes.add(index),
                    &mut operator,
                ))?;
                let operator = CStr::from_ptr(operator).to_string_lossy().into_owned();
                if CONVERSIONS.contains(&operator.as_str()) {
                    share.conversions += 1;
                } else {
                    share.nodes += 1;
                    let mut name = ptr::null();
                    check((api.EpAssignedNode_GetName)(*nodes.add(index), &mut name))?;
                    let name = CStr::from_ptr(name).to_string_lossy().into_owned();
                    share.names.push(name);
                    let of = &mut share.operators;
                    match of.iter_mut().find(|known| known.operator == operator) {
                        Some(known) => known.nodes += 1,
                        None => of.push(Operator { operator, nodes: 1 }),
                    }
                }
            }
        }
    }
    let mut placement = Placement(placement);
    if placement.0.iter().filter(|share| share.nodes > 0).count() == 1 {
        let all = |share: &Share| if share.nodes > 0 { 1.0 } else { 0.0 };
        let shares = placement.0.iter().map(all).collect();
        placement.set_compute(Some(shares));
    }
    Ok(placement)
}

/// Operators that only change between numbers and their quantised form.
const CONVERSIONS: [&str; 2] = ["QuantizeLinear", "DequantizeLinear"];

/// `CPUExecutionProvider` is `cpu` in manifests and reports.
fn short_provider(name: &str) -> String {
    name.strip_suffix("ExecutionProvider")
        .unwrap_or(name)
        .to_lowercase()
}
