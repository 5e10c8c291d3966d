//! Whether a loaded graph has the ports its manifest declares.

use crate::error::{Error, ErrorKind, Result};
use crate::ort::{DType, Dim, Port, Session};
use crate::pack::{DecoderSpec, ModuleKind, ModuleSpec, PortSpec};

/// Compares the session's ports with the manifest.
///
/// # Errors
/// [`ErrorKind::BadModel`] naming the port, what is declared and what the graph has.
pub(super) fn check(spec: &ModuleSpec, session: &Session) -> Result<()> {
    check_ports(spec, session.inputs(), session.outputs())
        .map_err(|e| e.context(format_args!("module {:?}", spec.id)))
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
    match &spec.decoder {
        Some(decoder) => check_decoder(decoder, inputs, outputs),
        None => Ok(()),
    }
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

/// A decoder's ports follow from its dimensions.
fn check_decoder(decoder: &DecoderSpec, inputs: &[Port], outputs: &[Port]) -> Result<()> {
    let find = |ports: &[Port], name: &str| ports.iter().find(|port| port.name == name).cloned();
    let ids = find(inputs, "input_ids");
    if ids.is_none() && find(inputs, "inputs_embeds").is_none() {
        return Err(mismatch(
            "the graph reads neither \"input_ids\" nor \"inputs_embeds\"".into(),
            "export it with Optimum's port names",
        ));
    }
    if let Some(port) = ids.filter(|port| port.dtype != DType::I64) {
        return Err(mismatch(
            format!("input \"input_ids\" is {}, not i64", port.dtype),
            "export it with Optimum's port types",
        ));
    }
    let logits = [
        Dim::Symbolic(String::new()),
        Dim::Symbolic(String::new()),
        Dim::Fixed(decoder.vocab),
    ];
    has_decoder_port("output", outputs, "logits", None, &logits, "decoder.vocab")?;
    let cache = [
        Dim::Symbolic(String::new()),
        Dim::Fixed(decoder.kv_heads),
        Dim::Symbolic(String::new()),
        Dim::Fixed(decoder.head_dim),
    ];
    let keys = "decoder.layers, kv_heads, head_dim and kv_dtype";
    for layer in 0..decoder.layers {
        for part in ["key", "value"] {
            let past = format!("past_key_values.{layer}.{part}");
            has_decoder_port("input", inputs, &past, Some(decoder.kv_dtype), &cache, keys)?;
            let present = format!("present.{layer}.{part}");
            has_decoder_port(
                "output",
                outputs,
                &present,
                Some(decoder.kv_dtype),
                &cache,
                keys,
            )?;
        }
    }
    let past = |port: &&Port| port.name.starts_with("past_key_values.");
    let count = inputs.iter().filter(past).count();
    if count != 2 * decoder.layers {
        return Err(mismatch(
            format!(
                "the graph has {} layers, the manifest {}",
                count / 2,
                decoder.layers
            ),
            "correct decoder.layers in pack.toml",
        ));
    }
    Ok(())
}

/// `expected` has empty names where any size will do.
fn has_decoder_port(
    side: &str,
    ports: &[Port],
    name: &str,
    dtype: Option<DType>,
    expected: &[Dim],
    keys: &str,
) -> Result<()> {
    let Some(port) = ports.iter().find(|port| port.name == name) else {
        return Err(mismatch(
            format!("the graph has no {side} {name:?}, which {keys} call for"),
            "correct [module.decoder] in pack.toml, or export with Optimum's port names",
        ));
    };
    let agrees = port.shape.is_empty()
        || (port.shape.len() == expected.len()
            && port.shape.iter().zip(expected).all(|dims| match dims {
                (Dim::Fixed(graph), Dim::Fixed(expected)) => graph == expected,
                _ => true,
            }));
    if agrees && dtype.is_none_or(|dtype| dtype == port.dtype) {
        return Ok(());
    }
    Err(mismatch(
        format!(
            "{side} {name:?} is {} {} in the graph; {keys} call for {} {}",
            port.dtype,
            shape(&port.shape),
            dtype.unwrap_or(port.dtype),
            shape(expected)
        ),
        "correct [module.decoder] in pack.toml",
    ))
}
