//! Two bits a dimension of every vector of a sealed partition: what a search reads first.
//!
//! A flat scan costs the bytes it reads. A sketch has a quarter of the i8 vector's, and only the records it finds promising
//! are read whole. Vectors are turned by a fixed random rotation, so that whatever they are, their coordinates are spread as
//! a Gaussian's and four levels a coordinate estimate the cosine with an [`error`] known beforehand: after
//! RaBitQ (Gao and Long, SIGMOD 2024; extended to several bits, SIGMOD 2025).
//!
//! A sketch can always be made again. It is written when the partition is sealed, or by the first search that misses it.

use std::fs::File;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};
use zerocopy::little_endian::{F32, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Result};
use crate::os::file::atomic_write;

use super::mapped::Mapped;
use super::rotation::Rotation;
use super::segment::{Layout, crc_before_last};
use super::sketch_scan::{GROUP, Lookup};

/// Partitions of fewer records are scanned whole: there is nothing to gain.
pub(super) const LEAST_RECORDS: u32 = 4096;

const MAGIC: [u8; 8] = *b"ATOMSKT\0";
const VERSION: u32 = 1;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    dim: U32,
    records: U32,
    body_crc: U32,
    partition: U64,
    store: [u8; 16],
    identity: [u8; 32],
    padding: [u8; 44],
    crc: U32,
}

/// Of one partition, mapped. Behind the header a factor for each record, then the codes of each.
#[derive(Debug)]
pub(super) struct Sketch {
    map: Mmap,
    records: u32,
    code_bytes: usize,
}

/// Bytes of one record's codes: whole groups of 32, each holding 4 times 32 dimensions.
fn code_bytes(dim: usize) -> usize {
    dim.div_ceil(4 * GROUP) * GROUP
}

/// The standard deviation of an estimated cosine from the exact one.
pub(super) fn error(dim: usize) -> f32 {
    0.35 / (dim as f32).sqrt()
}

/// Bytes of the file for `records` records.
pub(super) fn file_bytes(dim: usize, records: u32) -> u64 {
    size_of::<Header>() as u64 + u64::from(records) * (4 + code_bytes(dim) as u64)
}

impl Sketch {
    /// Makes the sketch of a sealed partition and writes it beside it.
    pub(super) fn write(
        layout: &Layout,
        partition: u64,
        mapped: &Mapped,
        path: &Path,
    ) -> Result<()> {
        let (dim, records) = (layout.dim, mapped.records());
        let rotation = Rotation::new(dim);
        let width = code_bytes(dim);
        let mut factors = vec![F32::new(f32::NAN); records as usize];
        let mut codes = vec![0; records as usize * width];
        let mut turned = Vec::new();
        for ((slot, factor), code) in (0..records)
            .zip(&mut factors)
            .zip(codes.chunks_exact_mut(width))
        {
            // What is damaged keeps its NaN and is never promising.
            if let Some((_, vector)) = mapped.record(slot).filter(|_| mapped.is_sound(slot)) {
                turned.clear();
                turned.extend(vector[..dim].iter().map(|&v| f32::from(v)));
                rotation.apply(&mut turned);
                factor.set(encode(&turned, code));
            }
        }
        let header = |crc| Header {
            magic: MAGIC,
            version: U32::new(VERSION),
            dim: U32::new(dim as u32),
            records: U32::new(records),
            body_crc: U32::new(crc),
            partition: U64::new(partition),
            store: layout.store,
            identity: layout.identity,
            padding: [0; 44],
            crc: U32::ZERO,
        };
        let mut bytes = header(0).as_bytes().to_vec();
        bytes.extend_from_slice(factors.as_bytes());
        bytes.extend_from_slice(&codes);
        let mut header = header(crc32fast::hash(&bytes[size_of::<Header>()..]));
        header.crc.set(crc_before_last(header.as_bytes()));
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        atomic_write(path, &bytes)
    }

    /// Maps the sketch at `path`; `None` when there is none of this partition with so many records, or it is damaged.
    pub(super) fn open(
        layout: &Layout,
        partition: u64,
        records: u32,
        path: &Path,
    ) -> Result<Option<Self>> {
        let io = |e: std::io::Error| Error::io(path.display(), &e);
        let file = match File::open(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io)?,
        };
        let bytes = file_bytes(layout.dim, records);
        let (Ok(len), true) = (
            usize::try_from(bytes),
            file.metadata().map_err(io)?.len() == bytes,
        ) else {
            return Ok(None);
        };
        // SAFETY: the file is Atom's own, appears by a rename when it is complete, and is never written again, only
        // unlinked or replaced by another rename, which keep the mapped inode. It was just seen to be that long. It is read
        // as plain bytes, for which every bit pattern is valid.
        let map = unsafe { MmapOptions::new().len(len).map(&file) }.map_err(io)?;
        let sound = Header::ref_from_prefix(&map).is_ok_and(|(header, body)| {
            header.magic == MAGIC
                && header.version.get() == VERSION
                && header.dim.get() as usize == layout.dim
                && header.records.get() == records
                && header.partition.get() == partition
                && header.store == layout.store
                && header.identity == layout.identity
                && header.crc.get() == crc_before_last(header.as_bytes())
                && header.body_crc.get() == crc32fast::hash(body)
        });
        Ok(sound.then_some(Self {
            map,
            records,
            code_bytes: code_bytes(layout.dim),
        }))
    }

    pub(super) fn records(&self) -> u32 {
        self.records
    }

    /// Bytes that a search reads.
    pub(super) fn body_bytes(&self) -> u64 {
        (self.map.len() - size_of::<Header>()) as u64
    }

    /// Estimates the cosines of the records `first..first + out.len()`; NaN for damaged ones.
    pub(super) fn estimate(&self, query: &SketchQuery, first: u32, out: &mut [f32]) {
        let body = &self.map[size_of::<Header>()..];
        let (factors, codes) = body.split_at(self.records as usize * 4);
        let (first, count) = (first as usize, out.len());
        let codes = &codes[first * self.code_bytes..(first + count) * self.code_bytes];
        query.lookup.dots(codes, out);
        let factors = factors[first * 4..].as_chunks::<4>().0;
        for (value, factor) in out.iter_mut().zip(factors) {
            *value = (*value - query.middle) * query.scale * f32::from_le_bytes(*factor);
        }
    }
}

/// A query against sketches.
pub(super) struct SketchQuery {
    lookup: Lookup,
    /// What the middle between the levels, 1.5, contributes to every dot product.
    middle: f32,
    scale: f32,
}

impl SketchQuery {
    /// `unit` has length 1.
    pub(super) fn new(unit: &[f64]) -> Self {
        let mut turned: Vec<f32> = unit.iter().map(|&v| v as f32).collect();
        Rotation::new(unit.len()).apply(&mut turned);
        let peak = turned.iter().fold(0f32, |m, v| m.max(v.abs()));
        let values: Vec<i8> = turned
            .iter()
            .map(|v| (v / peak * 127.0).round() as i8)
            .collect();
        let sum: i64 = values.iter().map(|&v| i64::from(v)).sum();
        Self {
            lookup: Lookup::new(&values, code_bytes(unit.len())),
            middle: 1.5 * sum as f32,
            scale: peak / 127.0,
        }
    }
}

/// Codes 0..=3 for levels -1.5, -0.5, 0.5, 1.5 of a step that suits a Gaussian (Max, 1960); returns what turns a dot product
/// with the levels into a cosine: |v| / <v, levels>, over |v|.
fn encode(vector: &[f32], code: &mut [u8]) -> f32 {
    let square: f32 = vector.iter().map(|v| v * v).sum();
    let step = 0.9957 * (square / vector.len() as f32).sqrt();
    let mut product = 0f32;
    for (at, value) in vector.iter().enumerate() {
        let level = ((value / step + 2.0).floor()).clamp(0.0, 3.0);
        product += value * (level - 1.5);
        let (group, rest) = (at / (4 * GROUP), at % (4 * GROUP));
        code[group * GROUP + rest % GROUP] |= (level as u8) << (2 * (rest / GROUP));
    }
    square.sqrt() / product
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Gaussian's coordinate, more or less: the sum of twelve uniform numbers.
    fn gaussian(state: &mut u64) -> f64 {
        (0..12)
            .map(|_| {
                *state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (*state >> 33) as f64 / (1u64 << 31) as f64
            })
            .sum::<f64>()
            - 6.0
    }

    fn unit(vector: &[f64]) -> Vec<f64> {
        let norm = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
        vector.iter().map(|v| v / norm).collect()
    }

    #[test]
    fn estimates_are_unbiased_and_as_exact_as_said() {
        let mut state = 7;
        for dim in [384, 100, 513] {
            let rotation = Rotation::new(dim);
            let (mut sum, mut square, mut count) = (0.0, 0.0, 0.0);
            for round in 0..200 {
                let query = unit(&(0..dim).map(|_| gaussian(&mut state)).collect::<Vec<_>>());
                // From strangers to near neighbours; every other one with a few coordinates that outweigh the rest.
                let near = f64::from(round) / 200.0;
                let mut vector: Vec<f64> = query
                    .iter()
                    .map(|q| q * near + (1.0 - near) * gaussian(&mut state) / (dim as f64).sqrt())
                    .collect();
                if round % 2 == 0 {
                    vector[..3].iter_mut().for_each(|v| *v *= 20.0);
                }
                let vector = unit(&vector);
                let exact: f64 = vector.iter().zip(&query).map(|(a, b)| a * b).sum();
                let mut turned: Vec<f32> = vector.iter().map(|&v| v as f32).collect();
                rotation.apply(&mut turned);
                let mut code = vec![0; code_bytes(dim)];
                let factor = encode(&turned, &mut code);
                let sketched = SketchQuery::new(&query);
                let mut out = [0.0];
                sketched.lookup.dots(&code, &mut out);
                let off = f64::from((out[0] - sketched.middle) * sketched.scale * factor) - exact;
                sum += off;
                square += off * off;
                count += 1.0;
            }
            let (mean, spread) = (sum / count, (square / count).sqrt());
            let expected = f64::from(error(dim));
            println!("dim {dim}: mean {mean:.5}, spread {spread:.5}, said {expected:.5}");
            assert!(spread < 1.3 * expected, "dim {dim}: {spread}");
            assert!(
                mean.abs() < 4.0 * spread / f64::sqrt(count),
                "dim {dim}: {mean}"
            );
        }
    }
}
