//! What a manifest must satisfy where it speaks of providers.

use std::collections::HashSet;

use super::file_ref::FileRef;
use super::spec::{ModuleSpec, Provider};
use super::validate_values::{file, golden, require, size};
use crate::error::{Error, ErrorKind, Result};
use crate::ort::Dim;

/// A graph and its external data, at `key` within the module.
pub(super) fn graph(key: &str, model: &FileRef, data: &[FileRef]) -> Result<()> {
    file(&format!("{key}model"), model)?;
    for data in data {
        file(&format!("{key}data"), data)?;
        // ONNX Runtime looks for external data beside the graph, or beside its optimised form.
        let folder = |path: &str| path.rsplit_once('/').map(|(dir, _)| dir.to_owned());
        require(
            folder(&data.file) == folder(&model.file),
            format_args!("{key}data.file"),
            format_args!("= {:?} lies elsewhere than model", data.file),
            "put both into the same folder",
        )?;
    }
    Ok(())
}

/// The providers of a module, their options, and its forms for them.
pub(super) fn providers(module: &ModuleSpec) -> Result<()> {
    let once = |key: &str, providers: &[Provider]| {
        let distinct: HashSet<_> = providers.iter().collect();
        require(
            !providers.is_empty() && distinct.len() == providers.len(),
            key,
            "is empty or names one twice",
            "list each provider once, for example [\"cpu\"]",
        )
    };
    once("providers", &module.providers)?;
    let listed = |key: &str, provider: Provider| {
        require(
            module.providers.contains(&provider),
            key,
            format_args!("is for {provider}, which is not in providers"),
            "add it to providers, or remove this",
        )
    };
    for (&provider, options) in &module.options {
        let key = format!("options.{provider}");
        listed(&key, provider)?;
        // Before ONNX Runtime sees them: it lets most of what is wrong pass.
        provider.check_options(options).map_err(|e| {
            let bad = Error::new(ErrorKind::BadPack, format!("{key}: {}", e.message()));
            bad.remedy(e.remedy_text().unwrap_or("correct it"))
        })?;
    }
    for variant in &module.variants {
        once("variant.providers", &variant.providers)?;
        for &provider in &variant.providers {
            listed("variant", provider)?;
        }
        graph("variant.", &variant.model, &variant.data)?;
        for (name, &length) in &variant.fixed {
            let names = |dim: &Dim| matches!(dim, Dim::Symbolic(symbol) if symbol == name);
            let mut ports = module.inputs.iter().chain(&module.outputs);
            require(
                ports.any(|port| port.shape.iter().any(names)),
                "variant.fixed",
                format_args!("has {name:?}, which no port of the module names"),
                "give sizes to names in the ports' shapes",
            )?;
            size("variant.fixed", length, 1 << 24)?;
        }
        if let Some(spec) = &variant.golden {
            golden("variant.golden", spec, module)?;
        }
    }
    Ok(())
}
