//! A module whose weights were given back to the kernel, and what having them again takes beside one read of them.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atom_core::budget::Idle;
use atom_core::ort::Tensor;
use atom_core::os::cgroup::CgroupFs;
use atom_core::os::file;
use atom_core::os::madvise::FileMappings;
use atom_core::pack::ModuleSpec;
use atom_core::runtime::Runtime;
use atom_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::module::{Form, infer, load, release, timed};
use crate::stats::Spread;
use atom_cli::output::bytes;

/// One parking.
#[derive(Debug, Serialize, Deserialize)]
pub struct Parking {
    /// Bytes of weights that the session maps.
    pub weights_bytes: u64,
    /// What of their files was in the page cache before: a load reads more of them than it keeps.
    pub cached_bytes: u64,
    /// What of that left it.
    pub uncached_bytes: u64,
    /// By how much the memory cgroup's charge fell; `None` without such a group.
    pub charge_fell_bytes: Option<u64>,
    pub park_ms: f64,
    /// Leasing the parked module and running it.
    pub back_ms: f64,
    /// A run of it with all in memory.
    pub run_ms: f64,
    /// Reading the weights from the device once, in the order they lie in.
    pub read_ms: f64,
}

/// Loads the module, parks it and runs it. `files` are what a session of it maps.
///
/// They are out of the page cache first, so that it is this process's memory cgroup that the pages are charged to.
///
/// # Errors
/// What reading, loading and running give; [`ErrorKind::Internal`] when outputs differ after parking.
pub fn park(
    runtime: &Runtime,
    spec: &ModuleSpec,
    inputs: &[(String, Tensor)],
    files: &[PathBuf],
) -> Result<Parking> {
    let cached = || -> Result<u64> { files.iter().map(|path| file::cached_bytes(path)).sum() };
    let group = CgroupFs::default().memory().ok();
    let charge = || group.as_ref().and_then(|group| group.charge().ok());

    for path in files {
        file::uncache(path)?;
    }
    let mut module = load(runtime, spec, Form::Ours)?;
    module.run(|session| infer(session, spec, inputs))?;
    let (expected, run_ms) = timed(|| module.run(|session| infer(session, spec, inputs)))?;
    let mut weights = Vec::new();
    for path in files {
        weights.push((path, FileMappings::ranges_of(path)?.stretches()));
    }
    drop(module);
    let (charge_before, cached_bytes) = (charge(), cached()?);
    let idle = Idle {
        park_after: Some(Duration::ZERO),
        release_after: None,
    };
    let ((), park_ms) = timed(|| {
        runtime.registry().governor().tidy(&idle);
        Ok(())
    })?;
    let (charge_after, cached_after) = (charge(), cached()?);
    let ((module, found), back_ms) = timed(|| {
        let mut module = load(runtime, spec, Form::Ours)?;
        let found = module.run(|session| infer(session, spec, inputs))?;
        Ok((module, found))
    })?;
    if !same(&expected, &found)? {
        return Err(Error::new(
            ErrorKind::Internal,
            format!("module {:?} has other outputs after parking", spec.id),
        ));
    }
    release(runtime, spec, module)?;
    let mut read_ms = 0.0;
    for (path, parts) in &weights {
        file::uncache(path)?;
        let read = || read(path, parts).map_err(|e| Error::io(path.display(), &e));
        read_ms += timed(read)?.1;
    }
    let parts = weights.iter().flat_map(|(_, parts)| parts);
    Ok(Parking {
        weights_bytes: parts.map(|part| part.end - part.start).sum(),
        cached_bytes,
        uncached_bytes: cached_bytes.saturating_sub(cached_after),
        charge_fell_bytes: charge_before
            .zip(charge_after)
            .map(|(before, after)| before.saturating_sub(after)),
        park_ms,
        back_ms,
        run_ms,
        read_ms,
    })
}

/// Reads `parts` of a file, a megabyte at a time.
fn read(path: &Path, parts: &[Range<u64>]) -> std::io::Result<()> {
    let file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    for part in parts {
        let mut at = part.start;
        while at < part.end {
            let room = (part.end - at).min(1 << 20) as usize;
            match file.read_at(&mut buffer[..room], at)? {
                // A mapping ends with its page, the file before.
                0 => break,
                read => at += read as u64,
            }
        }
    }
    Ok(())
}

/// Whether f32 tensors are equal to the bit.
fn same(a: &[Tensor], b: &[Tensor]) -> Result<bool> {
    let bits = |tensors: &[Tensor]| -> Result<Vec<Vec<u32>>> {
        let of = |tensor: &Tensor| {
            let values = tensor.as_slice::<f32>()?;
            Ok(values.iter().map(|value| value.to_bits()).collect())
        };
        tensors.iter().map(of).collect()
    };
    Ok(bits(a)? == bits(b)?)
}

/// What all parkings of a module come to.
#[derive(Serialize)]
pub struct Row {
    /// Mapped by the session.
    pub weights_bytes: u64,
    /// What of their files was in the page cache.
    pub cached_bytes: u64,
    /// The part of that by which the memory cgroup's charge fell.
    pub charge_fell: Option<Spread>,
    /// The part of it that left the page cache.
    pub uncached: Spread,
    pub park_ms: Spread,
    pub back_ms: Spread,
    pub run_ms: Spread,
    pub read_ms: Spread,
    /// `back_ms / read_ms`: the limit is the read, and the run where it does not overlap with that.
    pub back_over_read: Spread,
    /// The same of what the module took longer for having been parked: `(back_ms - run_ms) / read_ms`.
    pub more_over_read: Spread,
}

impl Row {
    /// What [`Self::cells`] has in each place.
    pub const HEAD: [&str; 10] = [
        "weights",
        "in memory",
        "of the charge",
        "of the cache",
        "park ms",
        "back ms",
        "any run ms",
        "one read ms",
        "back/read",
        "less a run",
    ];

    /// `None` for a module that maps less than half of its files: its weights are in memory of its own, which parking does
    /// not give back.
    pub fn of<'a>(parkings: impl IntoIterator<Item = &'a Parking>) -> Option<Self> {
        let all: Vec<&Parking> = parkings.into_iter().collect();
        let weights_bytes = all.first()?.weights_bytes;
        let cached_bytes = all.iter().map(|one| one.cached_bytes).max()?;
        if weights_bytes < cached_bytes / 2 {
            return None;
        }
        let over = |value: &dyn Fn(&Parking) -> f64| Spread::of(all.iter().map(|one| value(one)));
        let fell: Option<Vec<f64>> = all
            .iter()
            .map(|one| Some(one.charge_fell_bytes? as f64 / one.cached_bytes as f64))
            .collect();
        Some(Self {
            weights_bytes,
            cached_bytes,
            charge_fell: fell.map(Spread::of),
            uncached: over(&|one| one.uncached_bytes as f64 / one.cached_bytes as f64),
            park_ms: over(&|one| one.park_ms),
            back_ms: over(&|one| one.back_ms),
            run_ms: over(&|one| one.run_ms),
            read_ms: over(&|one| one.read_ms),
            back_over_read: over(&|one| one.back_ms / one.read_ms),
            more_over_read: over(&|one| (one.back_ms - one.run_ms) / one.read_ms),
        })
    }

    pub fn cells(&self) -> [String; 10] {
        [
            bytes(self.weights_bytes),
            bytes(self.cached_bytes),
            self.charge_fell
                .map_or_else(|| "no cgroup".to_owned(), |fell| fell.show(2)),
            self.uncached.show(2),
            self.park_ms.show(1),
            self.back_ms.show(1),
            self.run_ms.show(1),
            self.read_ms.show(1),
            self.back_over_read.show(2),
            self.more_over_read.show(2),
        ]
    }
}
