//! The reference pack's modules, loaded plainly and from the artifact cache. Needs `$ATOM_CACHE/packs/reference`.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;

use atom_core::budget::Governor;
use atom_core::cache;
use atom_core::module::{ModuleStatus, Registry};
use atom_core::ort::{Environment, EnvironmentOptions};
use atom_core::pack::{ArtifactCache, LoadPath, Pack};

/// Loads every module, checks the golden outputs; the report.
fn load_all(dir: &Path, artifacts: ArtifactCache) -> Result<Vec<ModuleStatus>, Box<dyn StdError>> {
    let environment = Environment::open(&EnvironmentOptions::default())?;
    let governor = Governor::default();
    let registry = Registry::new(
        Arc::new(Pack::open(dir)?),
        environment,
        &governor,
        artifacts,
    );
    for status in registry.status() {
        registry.lease(&status.id)?;
    }
    let status = registry.status();
    for report in registry.golden()? {
        assert!(report.cosine >= report.floor, "{report:?}");
    }
    for module in registry.status() {
        println!(
            "{} after its golden run: {} bytes anonymous",
            module.id, module.anon_bytes
        );
    }
    let charged: u64 = registry
        .status()
        .iter()
        .map(|module| module.anon_bytes)
        .sum();
    assert_eq!(governor.ledger().total().0, charged);
    drop(registry);
    assert!(governor.ledger().snapshot().is_empty());
    Ok(status)
}

#[test]
fn every_module_computes_its_golden_output_however_it_is_loaded() -> Result<(), Box<dyn StdError>> {
    let dir = cache::dir().join("packs/reference");
    let artifacts = tempfile::tempdir()?;
    let plain = load_all(&dir, ArtifactCache::disabled())?;
    let first = load_all(&dir, ArtifactCache::new(artifacts.path()))?;
    let cached = load_all(&dir, ArtifactCache::new(artifacts.path()))?;
    let pack = Pack::open(&dir)?;
    println!(
        "{:>17} {:>28} {:>12} {:>28}",
        "module", "plain ms, anon, mapped MB", "making ms", "cached ms, anon, mapped MB"
    );
    for ((plain, first), cached) in plain.iter().zip(&first).zip(&cached) {
        let show = |status: &ModuleStatus| {
            let mb = |bytes: u64| bytes as f64 / 1e6;
            let ms = status.load_ms.unwrap_or_default();
            format!(
                "{ms:8.0} {:8.1} {:8.1}",
                mb(status.anon_bytes),
                mb(status.mapped_bytes)
            )
        };
        let making = first.load_ms.unwrap_or_default();
        println!(
            "{:>17} {:>28} {making:>12.0} {:>28}  {}",
            plain.id,
            show(plain),
            show(cached),
            cached.placement.as_deref().unwrap_or("-")
        );
        if pack.module(&plain.id)?.load == LoadPath::Prepacked {
            // The weights are in the file, not in memory the kernel cannot drop.
            assert!(
                cached.anon_bytes < plain.anon_bytes / 2,
                "{plain:?} {cached:?}"
            );
            assert!(cached.mapped_bytes > 0);
        }
    }
    println!(
        "artifacts: {} MB",
        ArtifactCache::new(artifacts.path()).size() / 1_000_000
    );
    Ok(())
}
