//! Whether a loaded graph has the ports its manifest declares.

use crate::decoder::DecoderMap;
use crate::error::{Error, ErrorKind, Result};
use crate::ort::{Dim, Port, Session};
use crate::pack::{ModuleKind, ModuleSpec, PortSpec};

/// Compares the session's ports with the manifest. Returns the map of a decoder's graph.
///
/// # Errors
/// [`ErrorKind::BadModel`] naming the port, what is declared and what the graph has.
pub(super) fn check(spec: &ModuleSpec, session: &Session) -> Result<Option<DecoderMap>> {
    let (inputs, outputs) = (session.inputs(), session.outputs());
    check_ports(spec, inputs, outputs)
        .and_then(|()| decoder(spec, session))
        .map_err(|e| e.context(format_args!("module {:?}", spec.id)))
}

/// The map of a decoder's graph; `None` for other modules.
///
/// # Errors
/// As [`DecoderMap::new`].
pub(super) fn decoder(spec: &ModuleSpec, session: &Session) -> Result<Option<DecoderMap>> {
    let (inputs, outputs) = (session.inputs(), session.outputs());
    let map = |decoder| DecoderMap::new(&spec.model.file, decoder, inputs, outputs);
    spec.decoder.as_ref().map(map).transpose()
}

fn check_ports(spec: &ModuleSpec, inputs: &[Port], outputs: &[Port]) -> Result<()> {
    for (side, declared, graph) in [
        ("input", &spec.inputs, inputs),
        ("output", &spec.outputs, outputs),
    ] {
        for port in declared {
            matches_graph(side, port, graph)?;
        }
    }
    let declared = |port: &&Port| spec.input(&port.name).is_some();
    if spec.kind != ModuleKind::LanguageDecoder
        && let Some(port) = inputs.iter().find(|port| !declared(port))
    {
        return Err(mismatch(
            format!(
                "the graph reads {:?}, which the manifest does not declare",
                port.name
            ),
            "declare it in inputs; a module is given exactly its declared inputs",
        ));
    }
    Ok(())
}

fn mismatch(what: String, remedy: &str) -> Error {
    Error::new(ErrorKind::BadModel, what).remedy(remedy)
}

fn matches_graph(side: &str, declared: &PortSpec, graph: &[Port]) -> Result<()> {
    let name = &declared.name;
    let Some(port) = graph.iter().find(|port| port.name == *name) else {
        let has: Vec<&str> = graph.iter().map(|port| port.name.as_str()).collect();
        return Err(mismatch(
            format!(
                "the graph has no {side} {name:?}; it has {}",
                has.join(", ")
            ),
            "correct the port's name in pack.toml",
        ));
    };
    if port.dtype != declared.dtype {
        return Err(mismatch(
            format!(
                "{side} {name:?} is {} in the graph, {} in the manifest",
                port.dtype, declared.dtype
            ),
            "correct the port's dtype in pack.toml",
        ));
    }
    // A graph that says nothing about a shape shows no dimensions.
    let unknown = port.shape.is_empty();
    let agrees = port.shape.len() == declared.shape.len()
        && port
            .shape
            .iter()
            .zip(&declared.shape)
            .all(|dims| match dims {
                (Dim::Fixed(graph), Dim::Fixed(declared)) => graph == declared,
                // The manifest may narrow what the graph leaves open, not widen what it fixes.
                (Dim::Symbolic(_), _) => true,
                (Dim::Fixed(_), Dim::Symbolic(_)) => false,
            });
    if unknown || agrees {
        return Ok(());
    }
    Err(mismatch(
        format!(
            "{side} {name:?} is {} in the graph, {} in the manifest",
            shape(&port.shape),
            shape(&declared.shape)
        ),
        "correct the port's shape in pack.toml",
    ))
}

fn shape(dims: &[Dim]) -> String {
    let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}
