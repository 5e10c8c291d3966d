//! Checks of a port's type and dimensions.

use crate::ort::{DType, Dim, Port};

/// What a dimension of a port must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Want {
    /// This size, or open.
    Size(&'static str, usize),
    /// Open, as each step decides it.
    Open(&'static str),
    /// Anything.
    Any(&'static str),
}

/// Why `port` has none of the types `allowed`, if it has none.
pub(super) fn misfit_of_type(port: &Port, allowed: &[DType]) -> Option<String> {
    if allowed.contains(&port.dtype) {
        return None;
    }
    let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    Some(format!(
        "port {:?} is {}, expected {}",
        port.name,
        port.dtype,
        allowed.join(" or ")
    ))
}

/// Why `port` does not have the dimensions `wants`, if it does not.
pub(super) fn misfit(port: &Port, wants: &[Want]) -> Option<String> {
    let fits = |(dim, want): (&Dim, &Want)| match (dim, want) {
        (Dim::Fixed(have), Want::Size(_, size)) => have == size,
        (Dim::Fixed(_), Want::Open(_)) => false,
        _ => true,
    };
    if port.shape.len() == wants.len() && port.shape.iter().zip(wants).all(fits) {
        return None;
    }
    let wants: Vec<String> = wants
        .iter()
        .map(|want| match want {
            Want::Size(name, size) => format!("{name} {size}"),
            Want::Open(name) => format!("{name} (open)"),
            Want::Any(name) => (*name).to_owned(),
        })
        .collect();
    Some(format!(
        "{:?} has shape {}, expected [{}]",
        port.name,
        shown(&port.shape),
        wants.join(", ")
    ))
}

/// Dimensions as a manifest writes them.
pub(super) fn shown(dims: &[Dim]) -> String {
    let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}
