//! The shim between Atom and ONNX Runtime (`tests/shim/ort_count.c`), and what it wrote down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// The shim's library, built once per test process.
///
/// # Panics
/// When it does not build.
pub fn library() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &BUILT
        .get_or_init(|| {
            let folder =
                tempfile::tempdir().unwrap_or_else(|error| panic!("temporary folder: {error}"));
            let library = folder.path().join("libonnxruntime_counted.so");
            let done = Command::new("cc")
                .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
                .arg(&library)
                .arg(crate::root().join("tests/shim/ort_count.c"))
                .args(["-ldl", "-lpthread"])
                .output()
                .unwrap_or_else(|error| panic!("cc: {error} (apt-get install build-essential)"));
            assert!(
                done.status.success(),
                "{}",
                String::from_utf8_lossy(&done.stderr)
            );
            (folder, library)
        })
        .1
}

/// Makes `command` run over the shim, which appends to `log`.
pub fn watch(command: &mut Command, log: &Path) {
    command
        .env("ATOM_SHIM_REAL", crate::ort_library())
        .env("ATOM_SHIM_LOG", log)
        .env("ATOM_ORT_LIBRARY", library());
}

/// One session as the shim saw it.
#[derive(Debug, Clone)]
pub struct Session {
    /// Process it was made in.
    pub pid: u64,
    /// File it was made from.
    pub model: String,
    /// Names of the graph's inputs, then of its outputs.
    pub ports: Vec<String>,
    /// Whether ONNX Runtime made it.
    pub ok: bool,
    /// Runs that succeeded.
    pub runs: u64,
    /// Runs that failed or were cancelled.
    pub failed_runs: u64,
    /// Whether it was released.
    pub released: bool,
}

/// Reads a log: every session, in order of creation.
///
/// # Panics
/// When the log cannot be read or holds something else.
pub fn sessions(log: &Path) -> Vec<Session> {
    let text =
        std::fs::read_to_string(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
    let mut seen: BTreeMap<(u64, u64), Session> = BTreeMap::new();
    let mut order = Vec::new();
    for line in text.lines() {
        let event: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let number = |name: &str| {
            event[name]
                .as_u64()
                .unwrap_or_else(|| panic!("{name} in {line}"))
        };
        let key = (number("pid"), number("session"));
        let ok = event["ok"] == true;
        match event["event"].as_str() {
            Some("create") => {
                let list = |name: &str| event[name].as_array().cloned().unwrap_or_default();
                let ports = list("inputs").into_iter().chain(list("outputs"));
                order.push(key);
                let fresh = Session {
                    pid: key.0,
                    model: event["model"].as_str().unwrap_or_default().to_owned(),
                    ports: ports
                        .filter_map(|name| name.as_str().map(str::to_owned))
                        .collect(),
                    ok,
                    runs: 0,
                    failed_runs: 0,
                    released: false,
                };
                assert!(seen.insert(key, fresh).is_none(), "session twice: {line}");
            }
            Some(kind) => {
                let session = seen
                    .get_mut(&key)
                    .unwrap_or_else(|| panic!("run of an unknown session: {line}"));
                match (kind, ok) {
                    ("run", true) => session.runs += 1,
                    ("run", false) => session.failed_runs += 1,
                    _ => session.released = true,
                }
            }
            None => panic!("{line}"),
        }
    }
    order.iter().filter_map(|key| seen.remove(key)).collect()
}
