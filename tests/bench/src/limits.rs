//! What the machine can do at most: read memory, multiply and add, read a file. Measured, since data sheets are of other
//! machines.

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use crate::common::Common;
use atom_core::os::file;
use atom_core::{Error, Result};
use pulp::{Arch, Simd, WithSimd, bytemuck};
use serde::Serialize;

use crate::stats::Spread;
use atom_cli::output::{print_json, print_line, table};
use atom_cli::session::Session;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
}

/// The limits of this machine.
#[derive(Debug, Clone, Serialize)]
pub struct Limits {
    /// The processor, as it calls itself.
    pub processor: String,
    /// Threads of the second number of each pair.
    pub threads: usize,
    /// Bytes a second that one thread reads from memory, and all.
    pub dram_read_bytes_per_s: [f64; 2],
    /// fp32 multiplications and additions a second in registers, of one thread and of all.
    pub fp32_flops: [f64; 2],
}

/// Reads this much, far more than any cache holds.
const BUFFER_BYTES: usize = 512 << 20;
/// The best of so many tries counts: others can only slow a try down.
const TRIES: usize = 5;

/// Measures memory and arithmetic on one thread and on `threads` (every core when absent). Takes about two seconds and
/// half a gigabyte; call it while nothing else runs.
pub fn measure(threads: Option<usize>) -> Limits {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = threads.unwrap_or(cores).max(1);
    let buffer = vec![1u64; BUFFER_BYTES / size_of::<u64>()];
    let read = |threads: usize| {
        let part = buffer.len().div_ceil(threads);
        let seconds = fastest(|| {
            thread::scope(|scope| {
                for part in buffer.chunks(part) {
                    scope.spawn(|| black_box(Arch::new().dispatch(Sum(black_box(part)))));
                }
            });
        });
        BUFFER_BYTES as f64 / seconds
    };
    let multiply = |threads: usize| {
        let operations = Arch::new().dispatch(Multiply { rounds: 0 });
        let seconds = fastest(|| {
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        black_box(Arch::new().dispatch(Multiply {
                            rounds: black_box(ROUNDS),
                        }))
                    });
                }
            });
        });
        (operations * ROUNDS * threads as u64) as f64 / seconds
    };
    Limits {
        processor: processor(),
        threads,
        dram_read_bytes_per_s: [read(1), read(threads)],
        fp32_flops: [multiply(1), multiply(threads)],
    }
}

/// Bytes a second at which one thread reads the file, the first time from the device (as far as the kernel lets its pages
/// go) when `cold`, else from the page cache.
///
/// # Errors
/// What reading gives.
pub fn file_read(path: &Path, cold: bool) -> Result<f64> {
    let fail = |error: std::io::Error| Error::io(path.display(), &error);
    if cold {
        file::uncache(path)?;
    } else {
        read_once(path).map_err(fail)?;
    }
    let start = Instant::now();
    let bytes = read_once(path).map_err(fail)?;
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}

fn read_once(path: &Path) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(bytes),
            read => bytes += read as u64,
        }
    }
}

/// Seconds of the fastest try.
fn fastest(mut work: impl FnMut()) -> f64 {
    (0..TRIES)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(
            || std::env::consts::ARCH.to_owned(),
            |(_, name)| name.trim().to_owned(),
        )
}

/// The sum of everything, in as wide registers as there are.
struct Sum<'a>(&'a [u64]);

impl WithSimd for Sum<'_> {
    type Output = u64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> u64 {
        let (wide, rest) = S::as_simd_u64s(self.0);
        let mut sums = [simd.splat_u64s(0); 8];
        let (groups, tail) = wide.as_chunks::<8>();
        for group in groups {
            for (sum, value) in sums.iter_mut().zip(group) {
                *sum = simd.add_u64s(*sum, *value);
            }
        }
        for value in tail {
            sums[0] = simd.add_u64s(sums[0], *value);
        }
        let total = sums
            .into_iter()
            .fold(simd.splat_u64s(0), |a, b| simd.add_u64s(a, b));
        let lanes = [total];
        let lanes: &[u64] = bytemuck::cast_slice(&lanes);
        lanes.iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
    }
}

/// Chains of fused multiply-adds: as many as hide their latency, as few as fit the registers of AVX2 and NEON.
const CHAINS: usize = 12;
const ROUNDS: u64 = 4_000_000;

struct Multiply {
    rounds: u64,
}

impl WithSimd for Multiply {
    /// Operations of one round; the sums go through a black box.
    type Output = u64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> u64 {
        let factor = simd.splat_f32s(black_box(0.999));
        let term = simd.splat_f32s(black_box(0.001));
        let mut chains = [simd.splat_f32s(1.0); CHAINS];
        for _ in 0..self.rounds {
            for chain in &mut chains {
                *chain = simd.mul_add_f32s(*chain, factor, term);
            }
        }
        let total = chains
            .into_iter()
            .fold(simd.splat_f32s(0.0), |a, b| simd.add_f32s(a, b));
        black_box(simd.reduce_sum_f32s(total));
        (2 * CHAINS * S::F32_LANES) as u64
    }
}

#[derive(Serialize)]
struct Report {
    limits: Limits,
    file: Option<Reading>,
}

#[derive(Serialize)]
struct Reading {
    path: String,
    warm_bytes_per_s: Spread,
    cold_bytes_per_s: Spread,
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    let limits = measure(session.global.threads);
    let report = Report {
        file: largest_file(session, args.common.rounds)?,
        limits,
    };
    if session.global.json {
        print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Report { limits, file } = &report;
    print_line(&format!("  {}", limits.processor))?;
    let pair =
        |[one, all]: [f64; 2]| vec![format!("{:.1}", one / 1e9), format!("{:.1}", all / 1e9)];
    let row = |name: &str, values: [f64; 2]| [vec![name.to_owned()], pair(values)].concat();
    let rows = [
        row("memory read, GB/s", limits.dram_read_bytes_per_s),
        row("fp32 multiply-add, GFLOP/s", limits.fp32_flops),
    ];
    let all = format!("{} threads", limits.threads);
    print_line(&table(&["", "1 thread", &all], &rows, &[1, 2]))?;
    if let Some(file) = file {
        let (warm, cold) = (file.warm_bytes_per_s, file.cold_bytes_per_s);
        print_line(&format!(
            "  reading {}: {:.2} GB/s from the page cache, {:.2} GB/s after dropping it",
            file.path,
            warm.median / 1e9,
            cold.median / 1e9
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How fast the pack's largest file is read; `None` without a pack.
fn largest_file(session: &Session, rounds: u32) -> Result<Option<Reading>> {
    let Ok(pack) = atom_core::pack::Pack::open(&session.pack_dir()) else {
        return Ok(None);
    };
    let Some(largest) = pack.manifest().files().max_by_key(|file| file.bytes) else {
        return Ok(None);
    };
    let path = pack.path(largest);
    let rates = |cold: bool| -> Result<Spread> {
        let rates: Result<Vec<f64>> = (0..rounds).map(|_| file_read(&path, cold)).collect();
        Ok(Spread::of(rates?))
    };
    Ok(Some(Reading {
        path: largest.file.clone(),
        cold_bytes_per_s: rates(true)?,
        warm_bytes_per_s: rates(false)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_counts() {
        let values: Vec<u64> = (0..1_003).collect();
        assert_eq!(Arch::new().dispatch(Sum(&values)), 1_002 * 1_003 / 2);
        let operations = Arch::new().dispatch(Multiply { rounds: 10 });
        assert_eq!(operations % (2 * CHAINS as u64), 0);
        assert!(operations > 0);
    }
}
