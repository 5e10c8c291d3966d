//! Leases, single flight, failures, release.

use std::fs;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use atom_core::budget::Idle;
use atom_core::control::{Control, Priority};
use atom_core::module::ModuleState;
use atom_core::ort::{DType, RunArgs, Tensor};
use atom_core::pack::ArtifactCache;
use atom_core::{ErrorKind, Result};

use crate::support::{
    LINEAR_PORTS, Test, X, assert_linear, expected_linear, file_ref, kind, linear_pack, registry,
    status, write_linear_manifest,
};

#[test]
fn eight_threads_one_load() -> Test {
    let dir = linear_pack(LINEAR_PORTS)?;
    let registry = registry(dir.path(), ArtifactCache::disabled())?;
    let start = Barrier::new(8);
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    assert_linear(&registry.lease("linear")?)
                })
            })
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .collect()
    });
    assert_eq!(results.len(), 8);
    for result in results {
        result?;
    }
    let status = status(&registry);
    assert_eq!((status.loads, status.runs, status.leases), (1, 8, 0));
    assert_eq!(status.state, ModuleState::Resident);
    assert_eq!(status.provider.as_deref(), Some("cpu"));
    assert!(
        status
            .placement
            .is_some_and(|text| text.starts_with("cpu: "))
    );
    Ok(())
}

/// Reading parked weights again takes as long as the disk does: who is not there any more does not wait for it.
#[test]
fn parked_weights_are_read_again_for_those_who_wait() -> Test {
    let ports = format!("load = \"prepacked\"\n{LINEAR_PORTS}");
    let (dir, cache) = (linear_pack(&ports)?, tempfile::tempdir()?);
    let registry = registry(dir.path(), ArtifactCache::new(cache.path()))?;
    drop(registry.lease("linear")?);
    let park = Idle {
        park_after: Some(Duration::ZERO),
        release_after: None,
    };
    registry.governor().tidy(&park);
    assert_eq!(status(&registry).state, ModuleState::Parked);
    let gone = Control::default();
    gone.cancel.cancel();
    let refused = kind(registry.lease_with("linear", &gone));
    assert_eq!(refused, Some(ErrorKind::Cancelled));
    let after = status(&registry);
    assert_eq!((after.state, after.leases), (ModuleState::Parked, 0));
    // Ahead of need on another thread, or for who leases it.
    registry.prefetch("linear")?;
    registry.settle();
    assert_eq!(status(&registry).state, ModuleState::Resident);
    registry.governor().tidy(&park);
    assert_linear(&registry.lease("linear")?)?;
    let after = status(&registry);
    assert_eq!((after.state, after.loads), (ModuleState::Resident, 1));
    Ok(())
}

#[test]
fn a_failed_load_is_kept_and_leaves_nothing() -> Test {
    let dir = linear_pack(LINEAR_PORTS)?;
    let registry = registry(dir.path(), ArtifactCache::disabled())?;
    let data = dir.path().join("linear.onnx.data");
    let good = fs::read(&data)?;
    fs::write(&data, &good[..good.len() - 1])?;
    let error = registry
        .lease("linear")
        .err()
        .ok_or("a truncated file loads")?;
    assert_eq!(error.kind(), ErrorKind::BadPack);
    assert!(error.to_string().contains("linear.onnx.data"), "{error}");
    let failed = status(&registry);
    assert_eq!((failed.state, failed.loads), (ModuleState::Failed, 0));
    assert_eq!((failed.anon_bytes, failed.mapped_bytes), (0, 0));
    assert!(
        failed
            .error
            .is_some_and(|text| text.contains("linear.onnx.data"))
    );
    assert!(registry.ledger().snapshot().is_empty());
    assert_eq!(registry.lease("linear").err(), Some(error));
    // Same size, other bytes: another failure, because the file changed.
    let mut flipped = good.clone();
    flipped[7] ^= 1;
    fs::write(&data, &flipped)?;
    let error = registry
        .lease("linear")
        .err()
        .ok_or("flipped weights load")?;
    assert_eq!(error.kind(), ErrorKind::BadPack);
    assert!(error.message().contains("sha256"), "{error}");
    fs::write(&data, &good)?;
    assert_linear(&registry.lease("linear")?)?;
    assert_eq!(status(&registry).state, ModuleState::Resident);
    Ok(())
}

#[test]
fn reset_forgets_a_failure() -> Test {
    let dir = linear_pack(&LINEAR_PORTS.replace("24", "25"))?;
    let registry = registry(dir.path(), ArtifactCache::disabled())?;
    assert_eq!(kind(registry.lease("linear")), Some(ErrorKind::BadModel));
    registry.reset("linear")?;
    assert_eq!(status(&registry).state, ModuleState::Cold);
    assert_eq!(kind(registry.reset("nothing")), Some(ErrorKind::NotFound));
    Ok(())
}

#[test]
fn ports_must_be_the_declared_ones() -> Test {
    let cases = [
        ("\"x\"", "\"pixels\"", "no input \"pixels\"; it has x"),
        ("\"y\"", "\"z\"", "no output \"z\"; it has y"),
        (
            "dtype = \"f32\", shape = [\"batch\", 16]",
            "dtype = \"f16\", shape = [\"batch\", 16]",
            "is f32 in the graph, f16",
        ),
        (
            "[\"batch\", 16]",
            "[\"batch\", 17]",
            "[batch, 16] in the graph, [batch, 17]",
        ),
        (
            "[\"batch\", 24]",
            "[\"batch\", \"n\"]",
            "[batch, 24] in the graph, [batch, n]",
        ),
        (
            "[\"batch\", 24]",
            "[\"batch\", 24, 1]",
            "[batch, 24] in the graph, [batch, 24, 1]",
        ),
        (
            "{ name = \"x\", dtype = \"f32\", shape = [\"batch\", 16] }",
            "{ name = \"y\", dtype = \"f32\", shape = [\"batch\", 24] }",
            "no input \"y\"",
        ),
    ];
    for (from, to, says) in cases {
        let dir = linear_pack(&LINEAR_PORTS.replace(from, to))?;
        let registry = registry(dir.path(), ArtifactCache::disabled())?;
        let error = registry.lease("linear").err().ok_or(says)?;
        assert_eq!(error.kind(), ErrorKind::BadModel);
        assert!(
            error.message().contains(says),
            "{error} should say {says:?}"
        );
        assert!(error.message().contains("module \"linear\""), "{error}");
        assert!(registry.ledger().snapshot().is_empty());
    }
    // What the graph leaves open may be declared fixed.
    let dir = linear_pack(&LINEAR_PORTS.replace("\"batch\"", "1"))?;
    assert_linear(&registry(dir.path(), ArtifactCache::disabled())?.lease("linear")?)?;
    Ok(())
}

#[test]
fn only_what_nobody_leases_is_released() -> Test {
    let dir = linear_pack(LINEAR_PORTS)?;
    let registry = registry(dir.path(), ArtifactCache::disabled())?;
    assert!(!registry.release_idle("linear")?);
    let lease = registry.lease("linear")?;
    let second = lease.clone();
    assert!(!registry.release_idle("linear")?);
    drop(lease);
    assert_eq!(status(&registry).leases, 1);
    assert!(!registry.release_idle("linear")?);
    assert_linear(&second)?;
    assert_eq!(registry.ledger().snapshot().len(), 1);
    drop(second);
    assert!(registry.release_idle("linear")?);
    assert_eq!(status(&registry).state, ModuleState::Cold);
    assert!(registry.ledger().snapshot().is_empty());
    assert_linear(&registry.lease("linear")?)?;
    let status = status(&registry);
    assert_eq!((status.loads, status.runs), (2, 2));
    assert_eq!(kind(registry.lease("nothing")), Some(ErrorKind::NotFound));
    Ok(())
}

#[test]
fn what_runs_need_is_charged() -> Test {
    let dir = linear_pack(LINEAR_PORTS)?;
    let registry = registry(dir.path(), ArtifactCache::disabled())?;
    let lease = registry.lease("linear")?;
    let before = status(&registry).anon_bytes;
    // An intermediate of 24 x 100,000 floats lies in the arena.
    let rows = 100_000;
    let x = Tensor::zeros(DType::F32, &[rows, 16])?;
    lease.step(&Control::default())?.run(RunArgs {
        inputs: vec![("x", &x)],
        outputs: vec!["y"],
        ..RunArgs::default()
    })?;
    let after = status(&registry).anon_bytes;
    assert!(after >= before + rows as u64 * 24 * 4, "{before} {after}");
    assert_eq!(registry.ledger().total().0, after);
    Ok(())
}

/// Leasing, stepping and releasing all at once: every lease works, and none is lost.
#[test]
fn leases_race_with_releases() -> Test {
    let dir = linear_pack(LINEAR_PORTS)?;
    let registry = registry(dir.path(), ArtifactCache::disabled())?;
    let released = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| (0..50).try_for_each(|_| assert_linear(&registry.lease("linear")?)))
            })
            .collect();
        let mut released = 0u64;
        while !workers.iter().all(|worker| worker.is_finished()) {
            released += u64::from(registry.release_idle("linear")?);
        }
        for worker in workers {
            worker
                .join()
                .map_err(|_| atom_core::Error::new(ErrorKind::Internal, "panicked"))??;
        }
        Ok::<u64, atom_core::Error>(released)
    })?;
    let status = status(&registry);
    assert_eq!((status.runs, status.leases), (200, 0));
    assert!(
        status.loads == released || status.loads == released + 1,
        "{} {released}",
        status.loads
    );
    Ok(())
}

#[test]
fn a_lease_outlives_its_registry() -> Test {
    let dir = linear_pack(LINEAR_PORTS)?;
    let registry = registry(dir.path(), ArtifactCache::disabled())?;
    let ledger = registry.ledger().clone();
    let lease = registry.lease("linear")?;
    drop(registry);
    assert_linear(&lease)?;
    assert_eq!(ledger.snapshot().len(), 1);
    drop(lease);
    assert!(ledger.snapshot().is_empty());
    Ok(())
}

#[test]
fn a_step_waits_its_turn_or_gives_up() -> Test {
    let dir = linear_pack(LINEAR_PORTS)?;
    let registry = registry(dir.path(), ArtifactCache::disabled())?;
    let lease = registry.lease("linear")?;
    let held = lease.step(&Control::default())?;
    let late = Control {
        deadline: Some(Instant::now() + Duration::from_millis(30)),
        priority: Priority::Interactive,
        ..Control::default()
    };
    assert_eq!(
        kind(lease.step(&late).map(drop)),
        Some(ErrorKind::DeadlineExceeded)
    );
    drop(held);
    assert!(lease.step(&Control::default()).is_ok());
    Ok(())
}

#[test]
fn a_golden_run_tells_right_from_wrong() -> Test {
    let dir = linear_pack(LINEAR_PORTS)?;
    let raw = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    fs::write(dir.path().join("x.bin"), raw(&X))?;
    let right = expected_linear(&X);
    let mut wrong = right.clone();
    wrong.reverse();
    for (golden, good) in [(right, true), (wrong, false)] {
        fs::write(dir.path().join("y.bin"), raw(&golden))?;
        let spec = format!(
            "{LINEAR_PORTS}\n[module.golden]\ncosine = 0.999\n\
             inputs = [ {{ port = \"x\", shape = [1, 16], file = {} }} ]\n\
             outputs = [ {{ port = \"y\", shape = [1, 24], file = {} }} ]\n",
            file_ref(dir.path(), "x.bin")?,
            file_ref(dir.path(), "y.bin")?,
        );
        write_linear_manifest(dir.path(), &spec)?;
        let report = registry(dir.path(), ArtifactCache::disabled())?.golden()?;
        assert_eq!((report.len(), report[0].module.as_str()), (1, "linear"));
        assert_eq!(report[0].cosine >= report[0].floor, good, "{report:?}");
    }
    Ok(())
}

#[test]
fn a_required_provider_is_not_replaced() -> Test {
    for (policy, allowed) in [("require", false), ("prefer", false), ("allow", true)] {
        let ports = format!("providers = [\"qnn\"]\npolicy = \"{policy}\"\n{LINEAR_PORTS}");
        let dir = linear_pack(&ports)?;
        let registry = registry(dir.path(), ArtifactCache::disabled())?;
        let expected = (!allowed).then_some(ErrorKind::Unsupported);
        assert_eq!(kind(registry.lease("linear")), expected, "{policy}");
        let status = status(&registry);
        let why = if allowed {
            assert_eq!(status.provider.as_deref(), Some("cpu"));
            status.fallbacks.join("\n")
        } else {
            status.error.unwrap_or_default()
        };
        // Nothing says whether it computes the right thing.
        assert!(why.contains("no golden outputs"), "{policy}: {why}");
    }
    Ok(())
}

#[test]
fn a_provider_the_library_lacks_is_refused_by_name() -> Test {
    for provider in ["nnapi", "xnnpack"] {
        let dir = linear_pack(LINEAR_PORTS)?;
        let x: Vec<u8> = X.iter().flat_map(|x| x.to_le_bytes()).collect();
        let y = expected_linear(&X);
        let y: Vec<u8> = y.iter().flat_map(|y| y.to_le_bytes()).collect();
        fs::write(dir.path().join("x.bin"), x)?;
        fs::write(dir.path().join("y.bin"), y)?;
        let spec = format!(
            "providers = [\"{provider}\"]\n{LINEAR_PORTS}\n[module.golden]\ncosine = 0.999\n\
             inputs = [ {{ port = \"x\", shape = [1, 16], file = {} }} ]\n\
             outputs = [ {{ port = \"y\", shape = [1, 24], file = {} }} ]\n",
            file_ref(dir.path(), "x.bin")?,
            file_ref(dir.path(), "y.bin")?,
        );
        write_linear_manifest(dir.path(), &spec)?;
        let registry = registry(dir.path(), ArtifactCache::disabled())?;
        assert_linear(&registry.lease("linear")?)?;
        let status = status(&registry);
        assert_eq!(status.provider.as_deref(), Some("cpu"), "{provider}");
        let why = status.fallbacks.join("\n").to_lowercase();
        assert!(
            why.contains(&format!("was built without {provider}executionprovider")),
            "{why}"
        );
    }
    Ok(())
}
