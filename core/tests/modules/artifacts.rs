//! The artifact cache: made once, believed only when intact.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use atom_core::control::Control;
use atom_core::ort::{RunArgs, Tensor};
use atom_core::pack::ArtifactCache;
use atom_core::{Error, Result};

use crate::support::{
    LINEAR_PORTS, Test, assert_linear, fixture, linear_pack, pack_of, registry, status,
    write_linear_manifest,
};

fn prepacked_ports() -> String {
    format!("load = \"prepacked\"\n{LINEAR_PORTS}")
}

/// Entries in use: folders that hold a graph.
fn entries(cache: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(cache).into_iter().flatten().flatten();
    found
        .map(|entry| entry.path())
        .filter(|path| path.join("model.onnx").exists())
        .collect()
}

/// Loads and runs the pack's module in a registry of its own; the bytes it maps.
fn load_and_run(pack: &Path, cache: &Path) -> Result<u64> {
    let registry = registry(pack, ArtifactCache::new(cache))?;
    assert_linear(&registry.lease("linear")?)?;
    Ok(status(&registry).mapped_bytes)
}

#[test]
fn made_at_the_first_load_and_mapped_from_then_on() -> Test {
    let (pack, cache) = (linear_pack(&prepacked_ports())?, tempfile::tempdir()?);
    let cache = cache.path();
    assert!(load_and_run(pack.path(), cache)? > 0);
    let made = entries(cache);
    assert_eq!(made.len(), 1);
    let graph = made[0].join("model.onnx");
    let first = fs::metadata(&graph)?.modified()?;
    assert!(made[0].join("model.onnx.data").exists());
    assert!(load_and_run(pack.path(), cache)? > 0);
    assert_eq!(
        fs::metadata(&graph)?.modified()?,
        first,
        "made again without need"
    );
    let size = ArtifactCache::new(cache).size();
    assert!(size > fs::metadata(made[0].join("model.onnx.data"))?.len());
    // A module that wants none makes none.
    let (plain, none) = (linear_pack(LINEAR_PORTS)?, tempfile::tempdir()?);
    load_and_run(plain.path(), none.path())?;
    assert!(entries(none.path()).is_empty());
    Ok(())
}

#[test]
fn a_damaged_entry_is_put_away_and_made_anew() -> Test {
    let (pack, cache) = (linear_pack(&prepacked_ports())?, tempfile::tempdir()?);
    let cache = cache.path();
    load_and_run(pack.path(), cache)?;
    let entry = entries(cache).remove(0);
    let damage = |name: &str, change: &dyn Fn(&mut Vec<u8>)| -> std::io::Result<()> {
        let path = entry.join(name);
        let mut bytes = fs::read(&path)?;
        change(&mut bytes);
        fs::write(&path, bytes)
    };
    type Damage<'a> = (&'a str, &'a dyn Fn() -> std::io::Result<()>);
    let cases: [Damage<'_>; 7] = [
        ("a flipped weight", &|| {
            damage("model.onnx.data", &|bytes| bytes[9] ^= 1)
        }),
        ("truncated weights", &|| {
            damage("model.onnx.data", &|bytes| bytes.truncate(50))
        }),
        ("a flipped graph", &|| {
            damage("model.onnx", &|bytes| bytes[40] ^= 4)
        }),
        ("a missing graph", &|| {
            fs::remove_file(entry.join("model.onnx"))
        }),
        ("a garbled record", &|| {
            damage("entry.json", &|bytes| bytes.truncate(10))
        }),
        ("a record that leaves the folder", &|| {
            let text = fs::read_to_string(entry.join("entry.json"))?;
            fs::write(
                entry.join("entry.json"),
                text.replace("model.onnx.data", "../x"),
            )
        }),
        ("weights that others may write", &|| {
            fs::set_permissions(
                entry.join("model.onnx.data"),
                fs::Permissions::from_mode(0o666),
            )
        }),
    ];
    for (name, harm) in cases {
        let before = fs::metadata(&entry)?.created().ok();
        harm()?;
        assert!(load_and_run(pack.path(), cache)? > 0, "{name}");
        assert_eq!(entries(cache), std::slice::from_ref(&entry), "{name}");
        assert_ne!(
            fs::metadata(&entry)?.created().ok(),
            before,
            "{name}: not made anew"
        );
        let put_away = fs::read_dir(cache.join("quarantine"))?.count();
        assert_eq!(put_away, 1, "{name}");
    }
    Ok(())
}

#[test]
fn without_a_writable_cache_modules_load_plainly() -> Test {
    let pack = linear_pack(&prepacked_ports())?;
    let dir = tempfile::tempdir()?;
    // A file where the folder should be: cannot be made, not even by root.
    let blocked = dir.path().join("file");
    File::create(&blocked)?;
    assert!(load_and_run(pack.path(), &blocked.join("artifacts")).is_ok());
    let registry = registry(pack.path(), ArtifactCache::disabled())?;
    assert_linear(&registry.lease("linear")?)?;
    assert_eq!(ArtifactCache::disabled().size(), 0);
    Ok(())
}

#[test]
fn makers_do_not_disturb_each_other() -> Test {
    let (pack, cache) = (linear_pack(&prepacked_ports())?, tempfile::tempdir()?);
    let results: Vec<Result<u64>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| load_and_run(pack.path(), cache.path())))
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .collect()
    });
    assert_eq!(results.len(), 4);
    for result in results {
        result?;
    }
    assert_eq!(entries(cache.path()).len(), 1);
    let leftovers = fs::read_dir(cache.path())?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains(".tmp-"))
        .count();
    assert_eq!(leftovers, 0);
    Ok(())
}

#[test]
fn what_is_abandoned_or_unused_is_swept() -> Test {
    let cache = tempfile::tempdir()?;
    let hours = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3600);
    let cases = [
        ("a.tmp-1-0", false, hours(2), false),
        ("b.tmp-2-0", false, hours(0), true),
        ("unused", true, hours(31 * 24), false),
        ("used", true, hours(29 * 24), true),
        ("of-others", false, hours(31 * 24), true),
    ];
    for (name, record, modified, _) in cases {
        let path = cache.path().join(name);
        fs::create_dir(&path)?;
        if record {
            fs::write(path.join("entry.json"), "{}")?;
        }
        File::open(&path)?.set_modified(modified)?;
    }
    ArtifactCache::new(cache.path());
    for (name, _, _, stays) in cases {
        assert_eq!(cache.path().join(name).exists(), stays, "{name}");
    }
    Ok(())
}

/// A small file system, unmounted at the end.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`, said loudly, where mounting is not permitted.
    fn new(pages: usize) -> std::io::Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let size = format!("size={}k", pages * 4);
        let mut mount = Command::new("mount");
        let mount = mount
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path());
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Ok(Some(Self(dir)));
        }
        eprintln!("SKIPPED: mounting a tmpfs is not permitted here (it needs root)");
        Ok(None)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// However far writing gets before the disk is full: the module loads, nothing is left, and it is tried again later.
#[test]
fn a_full_disk_costs_the_fast_form_only() -> Test {
    let pack = linear_pack(&prepacked_ports())?;
    let Some(disk) = Disk::new(16)? else {
        return Ok(());
    };
    let cache = disk.0.path();
    for free in 0..5 {
        let filler = cache.join("filler");
        fs::write(&filler, vec![0; (16 - free) * 4096])?;
        load_and_run(pack.path(), cache).map_err(|e| format!("{free} pages free: {e}"))?;
        if !entries(cache).is_empty() {
            // Graph, weights and description take a page each at the least.
            assert!(free >= 3, "{free} pages are not enough for an entry");
            assert!(load_and_run(pack.path(), cache)? > 0, "the entry is whole");
            for entry in entries(cache) {
                fs::remove_dir_all(entry)?;
            }
        }
        for entry in fs::read_dir(cache)?.flatten() {
            let name = entry.file_name();
            assert!(
                name == "filler" || name == "checks" || name == "costs",
                "{free} pages free: {name:?} is left"
            );
        }
        for kept in ["checks", "costs"] {
            let _ = fs::remove_dir_all(cache.join(kept));
        }
        fs::remove_file(&filler)?;
    }
    assert!(load_and_run(pack.path(), cache)? > 0);
    assert_eq!(entries(cache).len(), 1);
    Ok(())
}

/// Blocks that ONNX Runtime leaves at odd places make it fault or compute garbage when it maps them.
#[test]
fn prepacked_blocks_are_aligned() -> Test {
    let ports = prepacked_ports()
        .replace("16]", "17]")
        .replace("24]", "17]");
    let (pack, cache) = (pack_of("odd.onnx", &ports)?, tempfile::tempdir()?);
    for _ in 0..2 {
        let registry = registry(pack.path(), ArtifactCache::new(cache.path()))?;
        let lease = registry.lease("linear")?;
        let x = Tensor::from_vec(&[1, 17], (0..17).map(|i| i as f32).collect())?;
        let y = lease.step(&Control::default())?.run(RunArgs {
            inputs: vec![("x", &x)],
            outputs: vec!["y"],
            ..RunArgs::default()
        })?;
        // Two permutations, one after the other, as the fixture's script makes them.
        let expected: Vec<f32> = (0..17).map(|i| ((i * 3 + 12) % 17) as f32).collect();
        assert_eq!(y[0].as_slice::<f32>()?, expected);
        assert!(status(&registry).mapped_bytes > 0);
    }
    let graph = fs::read(entries(cache.path()).remove(0).join("model.onnx"))?;
    let text = String::from_utf8_lossy(&graph);
    let blocks: Vec<u64> = text
        .split("MatMul+")
        .skip(1)
        .filter_map(|text| text.split(['|', ';']).nth(1)?.parse().ok())
        .collect();
    assert_eq!(blocks.len(), 2, "ONNX Runtime packs both weights");
    assert!(blocks.iter().all(|offset| offset % 64 == 0), "{blocks:?}");
    Ok(())
}

/// The product of a vocabulary is packed in parts, and comes out as it was, number by number.
#[test]
fn a_heavy_product_is_kept_in_parts() -> Test {
    let (dir, cache) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let dir = dir.path();
    fs::copy(fixture("vocabulary.onnx"), dir.join("linear.onnx"))?;
    let (columns, inner) = (131_072, 64);
    let mut weights: Vec<u8> = (0..columns * inner / 2)
        .map(|i| (i * 7 % 251) as u8)
        .collect();
    let scales = (0..columns * inner / 32).map(|i| (i % 37) as f32 / 64.0);
    weights.extend(scales.flat_map(f32::to_le_bytes));
    fs::write(dir.join("vocabulary.onnx.data"), weights)?;
    let run = |load: &str| -> Result<Vec<f32>> {
        let ports = prepacked_ports()
            .replace("prepacked", load)
            .replace("16]", "64]")
            .replace("24]", "131072]");
        write_linear_manifest(dir, &ports).map_err(|e| Error::io("pack.toml", &e))?;
        let registry = registry(dir, ArtifactCache::new(cache.path()))?;
        let x: Vec<f32> = (0..3 * inner).map(|i| (i % 11) as f32 - 4.5).collect();
        let x = Tensor::from_vec(&[3, inner], x)?;
        let lease = registry.lease("linear")?;
        let y = lease.step(&Control::default())?.run(RunArgs {
            inputs: vec![("x", &x)],
            outputs: vec!["y"],
            ..RunArgs::default()
        })?;
        assert_eq!(y[0].shape(), [3, columns]);
        Ok(y[0].as_slice::<f32>()?.to_vec())
    };
    let whole = run("plain")?;
    assert!(entries(cache.path()).is_empty());
    for _ in 0..2 {
        assert_eq!(run("prepacked")?, whole);
    }
    let graph = fs::read(entries(cache.path()).remove(0).join("model.onnx"))?;
    let text = String::from_utf8_lossy(&graph);
    assert!(text.contains("y.part65536"), "it was not cut");
    Ok(())
}

/// The pack's own files are checked also when an entry made from them is there.
#[test]
fn an_entry_does_not_hide_a_damaged_pack() -> Test {
    let (pack, cache) = (linear_pack(&prepacked_ports())?, tempfile::tempdir()?);
    load_and_run(pack.path(), cache.path())?;
    let data = pack.path().join("linear.onnx.data");
    let mut bytes = fs::read(&data)?;
    bytes[100] ^= 1;
    fs::write(&data, bytes)?;
    let error = load_and_run(pack.path(), cache.path())
        .err()
        .ok_or("damage unseen")?;
    assert!(error.message().contains("sha256 differs"), "{error}");
    Ok(())
}
