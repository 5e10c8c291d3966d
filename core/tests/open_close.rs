//! Opening, using and closing a pack a hundred times, in a process of its own: threads, descriptors and memory stay.

use std::error::Error as StdError;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atom_core::budget::Governor;
use atom_core::control::{CancelToken, Control};
use atom_core::module::Registry;
use atom_core::ort::{DType, Environment, EnvironmentOptions, RunArgs, Tensor};
use atom_core::os::smaps;
use atom_core::pack::{ArtifactCache, Pack};
use sha2::{Digest, Sha256};

/// Weights of 4 MB: a session that stayed would show.
const SIDE: usize = 1024;

/// The heap has found its size by then.
const WARM_UP: usize = 30;
const ROUNDS: usize = WARM_UP + 120;

fn file_ref(dir: &Path, name: &str) -> std::io::Result<String> {
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

fn threads_and_descriptors() -> std::io::Result<(usize, usize)> {
    Ok((
        fs::read_dir("/proc/self/task")?.count(),
        fs::read_dir("/proc/self/fd")?.count(),
    ))
}

#[test]
fn a_hundred_times() -> Result<(), Box<dyn StdError>> {
    // glibc gives threads heaps of their own, and what each keeps free makes the process wander by megabytes. With one
    // heap a leak shows and nothing else does. Nor does it learn to keep blocks as large as the weights.
    for (option, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, 128 << 10)] {
        // SAFETY: mallopt takes plain numbers and may be called at any time.
        let set = unsafe { libc::mallopt(option, value) };
        assert_eq!(set, 1, "mallopt refuses option {option}");
    }
    let environment = Environment::open(&EnvironmentOptions::default())?;
    let (dir, cache) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let dir = dir.path();
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny/wide.onnx"),
        dir.join("wide.onnx"),
    )?;
    let weights: Vec<u8> = (0..SIDE * SIDE)
        .flat_map(|i| ((i % 7) as f32).to_le_bytes())
        .collect();
    fs::write(dir.join("wide.onnx.data"), &weights)?;
    drop(weights);
    fs::write(
        dir.join("pack.toml"),
        format!(
            "schema = 1\nid = \"tiny\"\nversion = \"1\"\nlicence = \"Apache-2.0\"\n\n[[module]]\nid = \"wide\"\n\
             kind = \"connector\"\nprecision = \"fp32\"\nload = \"prepacked\"\nmodel = {}\ndata = [ {} ]\n\
             inputs = [ {{ name = \"x\", dtype = \"f32\", shape = [\"batch\", {SIDE}] }} ]\n\
             outputs = [ {{ name = \"y\", dtype = \"f32\", shape = [\"batch\", {SIDE}] }} ]\n",
            file_ref(dir, "wide.onnx")?,
            file_ref(dir, "wide.onnx.data")?,
        ),
    )?;
    let mut counts = Vec::new();
    let mut anon = Vec::new();
    for round in 0..ROUNDS {
        // Half of them prepacked and mapped, half with weights in anonymous memory.
        let artifacts = if round % 2 == 0 {
            ArtifactCache::new(cache.path())
        } else {
            ArtifactCache::disabled()
        };
        let governor = Governor::default();
        let registry = Registry::new(
            Arc::new(Pack::open(dir)?),
            environment,
            &governor,
            artifacts,
        );
        let lease = registry.lease("wide")?;
        let x = Tensor::zeros(DType::F32, &[8, SIDE])?;
        let control = Control {
            cancel: CancelToken::new(),
            deadline: Some(Instant::now() + Duration::from_secs(600)),
            ..Control::default()
        };
        let y = lease.step(&control)?.run(RunArgs {
            inputs: vec![("x", &x)],
            outputs: vec!["y"],
            cancel: Some(&control.cancel),
            deadline: control.deadline,
            ..RunArgs::default()
        })?;
        assert_eq!(y[0].shape(), [8, SIDE]);
        drop((y, x, lease, registry));
        assert!(governor.ledger().snapshot().is_empty());
        if round >= WARM_UP {
            counts.push(threads_and_descriptors()?);
            anon.push(smaps::process_memory()?.pss_anon);
        }
    }
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    // The heap keeps a block now and then; the least of some rounds shows what stays.
    let least = |rounds: &[u64]| rounds.iter().min().copied().unwrap_or_default();
    let (first, last) = (least(&anon[..20]), least(&anon[anon.len() - 20..]));
    let grown = last.saturating_sub(first);
    println!("{first} bytes anonymous at first, {last} at last");
    assert!(grown < 1 << 20, "{grown} bytes more after a hundred rounds");
    Ok(())
}
