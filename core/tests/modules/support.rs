//! Packs of tiny graphs in temporary folders.

use std::error::Error as StdError;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atom_core::budget::Governor;
use atom_core::module::{Lease, ModuleStatus, Registry};
use atom_core::ort::{Environment, EnvironmentOptions, RunArgs, Tensor};
use atom_core::pack::{ArtifactCache, Pack};
use atom_core::{ErrorKind, Result};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub type Test = std::result::Result<(), Box<dyn StdError>>;

pub fn environment() -> Result<&'static Environment> {
    Environment::open(&EnvironmentOptions::default())
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/tiny")
        .join(name)
}

/// The text of a FileRef to a file that lies in `dir`.
pub fn file_ref(dir: &Path, name: &str) -> std::io::Result<String> {
    let bytes = fs::read(dir.join(name))?;
    let sha256: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(format!(
        "{{ file = \"{name}\", sha256 = \"{sha256}\", bytes = {} }}",
        bytes.len()
    ))
}

pub const LINEAR_PORTS: &str = r#"
inputs = [ { name = "x", dtype = "f32", shape = ["batch", 16] } ]
outputs = [ { name = "y", dtype = "f32", shape = ["batch", 24] } ]
"#;

/// A pack with one module "linear" of fixture linear.onnx; `rest` is the remainder of its table, ports included.
pub fn linear_pack(rest: &str) -> std::io::Result<TempDir> {
    pack_of("linear.onnx", rest)
}

/// As `linear_pack`, of another fixture with external data.
pub fn pack_of(graph: &str, rest: &str) -> std::io::Result<TempDir> {
    let dir = tempfile::tempdir()?;
    for (from, to) in [
        (graph.to_owned(), "linear.onnx"),
        (format!("{graph}.data"), "linear.onnx.data"),
    ] {
        // The graph names its data.
        let to = if to.ends_with(".data") { &from } else { to };
        fs::copy(fixture(&from), dir.path().join(to))?;
    }
    write_linear_manifest(dir.path(), rest)?;
    Ok(dir)
}

pub fn write_linear_manifest(dir: &Path, rest: &str) -> std::io::Result<()> {
    let data = fs::read_dir(dir)?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| name.ends_with(".onnx.data"))
        .unwrap_or_default();
    let text = format!(
        "schema = 1\nid = \"tiny\"\nversion = \"1\"\nlicence = \"Apache-2.0\"\n\n[[module]]\nid = \"linear\"\n\
         kind = \"connector\"\nprecision = \"fp32\"\nmodel = {}\ndata = [ {} ]\n{rest}\n",
        file_ref(dir, "linear.onnx")?,
        file_ref(dir, &data)?,
    );
    fs::write(dir.join("pack.toml"), text)
}

pub fn registry(dir: &Path, artifacts: ArtifactCache) -> Result<Registry> {
    let pack = Arc::new(Pack::open(dir)?);
    Ok(Registry::new(
        pack,
        environment()?,
        &Governor::default(),
        artifacts,
    ))
}

pub fn status(registry: &Registry) -> ModuleStatus {
    registry.status().remove(0)
}

pub fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

/// What linear.onnx makes of one row, by the numbers its script writes.
pub fn expected_linear(x: &[f32; 16]) -> Vec<f32> {
    (0..24)
        .map(|column| {
            let weight = |row: usize| ((row * 24 + column) % 13) as f32 / 8.0 - 0.75;
            let sum: f32 = x.iter().enumerate().map(|(row, x)| x * weight(row)).sum();
            sum + column as f32
        })
        .collect()
}

pub const X: [f32; 16] = [
    1.0, -2.0, 0.5, 3.0, 0.0, 1.5, -1.0, 2.0, 4.0, -0.5, 0.25, 1.0, 2.5, -3.0, 0.75, 1.25,
];

/// Runs the leased linear module on `X` and compares.
pub fn assert_linear(lease: &Lease) -> Result<()> {
    let x = Tensor::from_vec(&[1, 16], X.to_vec())?;
    let y = lease.step(&Default::default())?.run(RunArgs {
        inputs: vec![("x", &x)],
        outputs: vec!["y"],
        ..RunArgs::default()
    })?;
    assert_eq!(y[0].shape(), [1, 24]);
    assert_eq!(y[0].as_slice::<f32>()?, expected_linear(&X));
    Ok(())
}
