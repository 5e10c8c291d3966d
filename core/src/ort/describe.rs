//! What a loaded graph says of itself: ports and placement.

use std::ffi::CStr;
use std::fmt;
use std::ptr::{self, NonNull};

use ::ort::sys;

use super::tensor::{self, DType, Dim, Port};
use super::{api, check, failure};
use crate::error::{Error, ErrorKind, Result};

/// Which provider runs how many nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement(pub Vec<(String, usize)>);

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("unknown");
        }
        for (i, (provider, nodes)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let s = if *nodes == 1 { "" } else { "s" };
            write!(f, "{comma}{provider}: {nodes} node{s}")?;
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
    let mut placement: Vec<(String, usize)> = Vec::new();
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
            match placement.iter_mut().find(|(known, _)| *known == name) {
                Some((_, nodes)) => *nodes += node_count,
                None => placement.push((name, node_count)),
            }
        }
    }
    Ok(Placement(placement))
}

/// `CPUExecutionProvider` is `cpu` in manifests and reports.
fn short_provider(name: &str) -> String {
    name.strip_suffix("ExecutionProvider")
        .unwrap_or(name)
        .to_lowercase()
}
