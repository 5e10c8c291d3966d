//! The key/value cache of one generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use half::f16;

use crate::budget::{Charge, Ledger, Owner, WaitPolicy};
use crate::decoder::DecoderMap;
use crate::error::{Error, ErrorKind, Result};
use crate::ort::{DType, Element, RunArgs, Tensor};
use crate::pack::{DecoderSpec, KvForm};

/// Capacities are multiples of this, the context's end excepted.
const STEP: usize = 64;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Keys and values of every layer, and the ledger's entry for them.
#[derive(Debug)]
pub(super) struct Kv {
    map: Arc<DecoderMap>,
    /// Positions there is room for (shared) or that the ledger counts (concat).
    capacity: usize,
    len: usize,
    /// Key and value of each layer: [1, heads, capacity, head_dim] when shared, [1, heads, len, head_dim] otherwise.
    layers: Vec<[Tensor; 2]>,
    charge: Charge,
    ledger: Ledger,
}

/// The first positions of a cache, copied out of it.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// [1, heads, len, head_dim] each.
    layers: Vec<[Tensor; 2]>,
    len: usize,
    bytes: u64,
}

impl Snapshot {
    /// Bytes it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Kv {
    /// An empty cache with room for `capacity` positions, rounded up; its memory is waited for with `wait`.
    pub(super) fn new(
        map: &Arc<DecoderMap>,
        capacity: usize,
        ledger: &Ledger,
        wait: &WaitPolicy<'_>,
    ) -> Result<Self> {
        let mut kv = Self {
            map: Arc::clone(map),
            capacity: 0,
            len: 0,
            layers: Vec::new(),
            charge: ledger.charge(next_owner(), 0, 0)?,
            ledger: ledger.clone(),
        };
        kv.check_room(capacity)?;
        let capacity = kv.rounded(capacity);
        kv.charge.resize_with(kv.cost(capacity), 0, wait)?;
        kv.capacity = capacity;
        let length = kv.length(capacity);
        for _ in map.layers() {
            kv.layers.push([kv.empty(length)?, kv.empty(length)?]);
        }
        Ok(kv)
    }

    /// Positions filled.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes the ledger counts for this cache.
    pub(super) fn bytes(&self) -> u64 {
        self.cost(self.capacity)
    }

    /// An error when `need` positions are more than the context has.
    pub(super) fn check_room(&self, need: usize) -> Result<()> {
        if need <= self.context() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "{need} positions are needed, but the decoder's context has {}",
                self.context()
            ),
        )
        .remedy("shorten the prompt or ask for fewer tokens"))
    }

    /// Makes room for `need` positions in all; what is there stays. Memory is waited for with `wait`.
    pub(super) fn reserve(&mut self, need: usize, wait: &WaitPolicy<'_>) -> Result<()> {
        self.check_room(need)?;
        if need <= self.capacity {
            return Ok(());
        }
        let capacity = self.rounded(need.max(self.capacity + self.capacity / 2));
        let cost = self.cost(capacity);
        match self.mode() {
            KvForm::Shared => {
                // Old and new exist side by side while copying.
                let both = cost.saturating_add(self.bytes());
                self.charge.resize_with(both, 0, wait)?;
                match self.copied(capacity) {
                    Ok(layers) => self.layers = layers,
                    Err(error) => {
                        self.charge.resize(self.bytes(), 0)?;
                        return Err(error);
                    }
                }
            }
            KvForm::Concat => {}
        }
        self.charge.resize_with(cost, 0, wait)?;
        self.capacity = capacity;
        Ok(())
    }

    /// Forgets every position from `len` on.
    pub(super) fn truncate(&mut self, len: usize) -> Result<()> {
        if len >= self.len {
            return Ok(());
        }
        if self.mode() == KvForm::Concat {
            let layers = self.sliced(len)?;
            self.layers = layers;
        }
        self.len = len;
        Ok(())
    }

    /// A cache of its own with the same contents.
    pub(super) fn fork(&self) -> Result<Self> {
        let charge = self.ledger.charge(next_owner(), self.bytes(), 0)?;
        Ok(Self {
            map: Arc::clone(&self.map),
            layers: self.copied(self.length(self.capacity))?,
            charge,
            ledger: self.ledger.clone(),
            capacity: self.capacity,
            len: self.len,
        })
    }

    /// Bytes a [`Snapshot`] of what is filled takes.
    pub(super) fn snapshot_bytes(&self) -> u64 {
        self.map.cache_bytes(self.len)
    }

    /// A copy of what is filled. The caller charges it.
    pub(super) fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot {
            layers: self.sliced(self.len)?,
            len: self.len,
            bytes: self.snapshot_bytes(),
        })
    }

    /// Fills an empty cache with what was copied out of another of the same decoder.
    pub(super) fn restore(&mut self, from: &Snapshot, wait: &WaitPolicy<'_>) -> Result<()> {
        if self.len != 0 || from.layers.len() != self.layers.len() {
            return Err(Error::new(
                ErrorKind::Internal,
                "a prefix was taken over by a cache it does not fit",
            ));
        }
        self.reserve(from.len, wait)?;
        let length = match self.mode() {
            KvForm::Shared => self.capacity,
            KvForm::Concat => from.len,
        };
        let spec = self.map.spec();
        for (own, kept) in self.layers.iter_mut().zip(&from.layers) {
            for (own, kept) in own.iter_mut().zip(kept) {
                if spec.kv == KvForm::Concat {
                    *own = Tensor::zeros(spec.kv_dtype, &self.map.cache_shape(length))?;
                }
                copy_filled(spec, kept, own, from.len)?;
            }
        }
        self.len = from.len;
        self.settle();
        Ok(())
    }

    /// Adds the cache's ports to a run. In concat mode the outputs asked for here come after those already there.
    pub(super) fn bind<'a>(&'a mut self, args: &mut RunArgs<'a>) {
        let mode = self.mode();
        for (tensors, names) in self.layers.iter_mut().zip(self.map.layers()) {
            for (tensor, (past, present)) in tensors
                .iter_mut()
                .zip(names.past.iter().zip(&names.present))
            {
                match mode {
                    KvForm::Shared => args.in_place.push((past, present, tensor)),
                    KvForm::Concat => {
                        args.inputs.push((past, tensor));
                        args.outputs.push(present);
                    }
                }
            }
        }
    }

    /// Takes the result of a run over `rows` new positions: in concat mode the new tensors, in the order of
    /// [`bind`](Self::bind).
    pub(super) fn commit(&mut self, rows: usize, present: Vec<Tensor>) -> Result<()> {
        let len = self.len + rows;
        if self.mode() == KvForm::Concat {
            self.layers = by_layer(&self.map, self.map.layers().len(), len, present)?;
        }
        self.len = len;
        self.settle();
        Ok(())
    }

    /// Tells the ledger what of the cache is not in memory yet: pages are there once they are written to.
    fn settle(&self) {
        let free = self.capacity.saturating_sub(self.len) as u64;
        self.charge
            .set_pending(self.bytes() / self.capacity.max(1) as u64 * free);
    }

    fn rounded(&self, positions: usize) -> usize {
        positions.max(1).next_multiple_of(STEP).min(self.context())
    }

    /// How long tensors are when there is room for `capacity`.
    fn length(&self, capacity: usize) -> usize {
        match self.mode() {
            KvForm::Shared => capacity,
            KvForm::Concat => self.len,
        }
    }

    fn mode(&self) -> KvForm {
        self.map.spec().kv
    }

    fn context(&self) -> usize {
        self.map.spec().context
    }

    fn empty(&self, length: usize) -> Result<Tensor> {
        Tensor::zeros(self.map.spec().kv_dtype, &self.map.cache_shape(length))
    }

    /// What the ledger is told. A concatenating graph holds the old and the new cache during every step.
    fn cost(&self, capacity: usize) -> u64 {
        let copies = match self.mode() {
            KvForm::Shared => 1,
            KvForm::Concat => 2,
        };
        self.map.cache_bytes(capacity).saturating_mul(copies)
    }

    /// Copies of all tensors with room for `length` positions, filled up to `len`.
    fn copied(&self, length: usize) -> Result<Vec<[Tensor; 2]>> {
        self.copy_rows(length, self.len)
    }

    /// Copies of the first `len` positions of all tensors.
    fn sliced(&self, len: usize) -> Result<Vec<[Tensor; 2]>> {
        self.copy_rows(len, len)
    }

    fn copy_rows(&self, length: usize, filled: usize) -> Result<Vec<[Tensor; 2]>> {
        let copy = |from: &Tensor| {
            let mut to = self.empty(length)?;
            copy_filled(self.map.spec(), from, &mut to, filled)?;
            Ok(to)
        };
        self.layers
            .iter()
            .map(|[key, value]| Ok([copy(key)?, copy(value)?]))
            .collect()
    }
}

/// A new entry of the ledger for a cache.
pub(super) fn next_owner() -> Owner {
    Owner::Kv(NEXT_ID.fetch_add(1, Ordering::Relaxed))
}

/// Groups the tensors that a run returned, in the order of the layers, into key and value of each of `layers` layers.
///
/// # Errors
/// [`ErrorKind::Inference`] for a tensor that does not hold `length` positions; [`ErrorKind::Internal`] for too few tensors.
pub(super) fn by_layer(
    map: &DecoderMap,
    layers: usize,
    length: usize,
    returned: Vec<Tensor>,
) -> Result<Vec<[Tensor; 2]>> {
    let (shape, dtype) = (map.cache_shape(length), map.spec().kv_dtype);
    let fits = |tensor: &&Tensor| tensor.shape() == shape && tensor.dtype() == dtype;
    if let Some(wrong) = returned.iter().find(|tensor| !fits(tensor)) {
        return Err(Error::new(
            ErrorKind::Inference,
            format!("the decoder returned a cache {wrong:?}, expected {dtype} {shape:?}"),
        ));
    }
    let mut returned = returned.into_iter();
    let mut made = Vec::with_capacity(layers);
    while let (Some(key), Some(value)) = (returned.next(), returned.next()) {
        made.push([key, value]);
    }
    if made.len() != layers {
        return Err(Error::new(
            ErrorKind::Internal,
            "a run returned fewer caches than were asked for",
        ));
    }
    Ok(made)
}

/// Copies the first `positions` positions of each head.
fn copy_filled(spec: &DecoderSpec, from: &Tensor, to: &mut Tensor, positions: usize) -> Result<()> {
    let (heads, count) = (spec.kv_heads, positions * spec.head_dim);
    match spec.kv_dtype {
        DType::F16 => copy_heads::<f16>(from, to, heads, count),
        _ => copy_heads::<f32>(from, to, heads, count),
    }
}

/// Copies the first `count` elements of each head.
fn copy_heads<T: Element>(
    from: &Tensor,
    to: &mut Tensor,
    heads: usize,
    count: usize,
) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let from = from.as_slice::<T>()?;
    let to = to.as_mut_slice::<T>()?;
    let (from_stride, to_stride) = (from.len() / heads, to.len() / heads);
    for (from, to) in from
        .chunks_exact(from_stride)
        .zip(to.chunks_exact_mut(to_stride))
    {
        to[..count].copy_from_slice(&from[..count]);
    }
    Ok(())
}
