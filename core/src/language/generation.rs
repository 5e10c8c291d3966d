//! One text being made: the cache, the tokens in it, and the steps that extend it.

use half::f16;

use super::kv::Kv;
use super::model::{Embedding, LanguageModel};
use super::ports::{ATTENTION_MASK, INPUT_IDS, INPUTS_EMBEDS, LOGITS, POSITION_IDS, Rows};
use super::prefix::Prefix;
use super::sampling::NO_TOKEN;
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::module::{Lease, patience};
use crate::ort::{DType, RunArgs, Tensor};
use crate::trace;

/// Most positions of one step: a search waits no longer than this for the session.
pub const CHUNK: usize = 128;

/// A prompt and its continuation, with its own key/value cache, charged to the ledger until it is dropped. It leases
/// the decoder; any number of generations take turns on its session, a step at a time. One thread at a time uses it;
/// it may move between threads.
pub struct Generation {
    pub(super) model: LanguageModel,
    decoder: Lease,
    embedding: Option<Embedding>,
    kv: Kv,
    /// Every token in the cache; `NO_TOKEN` for rows fed as embeddings.
    history: Vec<u32>,
    /// Tokens that belong to the text and have not been through the decoder yet.
    pub(super) pending: Vec<u32>,
    /// Of the token after the last one of `history`; empty when they are not known.
    pub(super) logits: Vec<f32>,
    /// Where the last feed ended, and the logits there: what truncating comes back to most.
    mark: Option<(usize, Vec<f32>)>,
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("decoder", &self.model.0.id)
            .field("committed", &self.committed())
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

/// What a step reads.
enum Input<'a> {
    Ids(&'a [u32]),
    /// Rows of the decoder's width.
    Embeds(&'a [f32], usize),
}

impl Generation {
    pub(super) fn new(
        model: LanguageModel,
        decoder: Lease,
        embedding: Option<Embedding>,
        kv: Kv,
    ) -> Self {
        Self {
            model,
            decoder,
            embedding,
            kv,
            history: Vec::new(),
            pending: Vec::new(),
            logits: Vec::new(),
            mark: None,
        }
    }

    /// The model it belongs to.
    pub fn model(&self) -> &LanguageModel {
        &self.model
    }

    /// Positions that have been through the decoder. Advances only after a step that succeeded.
    pub fn committed(&self) -> usize {
        self.kv.len()
    }

    /// Positions of prompt and text in all: [`committed`](Self::committed), and the last tokens of a generated text,
    /// which go through the decoder when something follows them.
    pub fn position(&self) -> usize {
        self.committed() + self.pending.len()
    }

    /// Bytes of the cache, as charged to the ledger.
    pub fn kv_bytes(&self) -> u64 {
        self.kv.bytes()
    }

    /// One logit per token of the vocabulary, for the token after the last committed one. Empty before the first
    /// [`feed`](Self::feed), and after a [`truncate`](Self::truncate) to elsewhere than the end of the last feed.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Appends tokens, in steps of at most 128.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`], before anything runs, for an id outside the vocabulary or more tokens than the
    /// context has room for; [`ErrorKind::Cancelled`], [`ErrorKind::DeadlineExceeded`], also from within a step;
    /// [`ErrorKind::OutOfBudget`]; [`ErrorKind::Inference`]. After an error `committed()` tells how far it came.
    pub fn feed(&mut self, ids: &[u32], control: &Control) -> Result<()> {
        let vocab = self.model.0.spec.vocab;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("token {id} is outside the decoder's vocabulary of {vocab}"),
            ));
        }
        self.kv.check_room(self.position() + ids.len())?;
        let pending = self.pending.len();
        let committed = self.committed();
        self.pending.extend_from_slice(ids);
        self.flush(control).inspect_err(|_| {
            // What was not run of `ids` is the caller's again.
            let ran = self.committed() - committed;
            self.pending.truncate(pending.saturating_sub(ran));
        })?;
        self.set_mark();
        Ok(())
    }

    /// Appends `rows` rows of input embeddings, row-major in `embeds`, in steps of at most 128: pictures, for a
    /// decoder that reads `inputs_embeds`.
    ///
    /// # Errors
    /// As [`feed`](Self::feed), and [`ErrorKind::Unsupported`] for a decoder that reads token ids.
    pub fn feed_embeds(&mut self, embeds: &[f32], rows: usize, control: &Control) -> Result<()> {
        let Rows::Embeds(_, width) = self.model.0.ports()?.rows else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{:?} reads token ids, not embeddings", self.model.0.id),
            ));
        };
        if rows == 0 && embeds.is_empty() {
            return Ok(());
        }
        let fits = rows > 0
            && embeds.len().is_multiple_of(rows)
            && width.is_none_or(|width| embeds.len() / rows == width);
        if !fits {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{} values are not {rows} rows of {}",
                    embeds.len(),
                    width.map_or_else(|| "equal width".to_owned(), |width| width.to_string())
                ),
            ));
        }
        if embeds.iter().any(|value| !value.is_finite()) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "the embeddings hold a number that is not finite",
            ));
        }
        self.kv.check_room(self.position() + rows)?;
        self.flush(control)?;
        let width = embeds.len() / rows;
        for chunk in embeds.chunks(chunk_of(rows) * width) {
            let rows = chunk.len() / width;
            self.step(&Input::Embeds(chunk, rows), control)?;
        }
        self.set_mark();
        Ok(())
    }

    fn set_mark(&mut self) {
        if !self.logits.is_empty() {
            self.mark = Some((self.committed(), self.logits.clone()));
        }
    }

    /// Forgets every position from `len` on, to go on differently from there. What is fed next is as if the rest had
    /// never been. To go on without feeding is exact where the last feed ended; elsewhere the last token is run again,
    /// alone, and ONNX Runtime's kernels for one row round differently from those for several.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `len` is more than [`position`](Self::position).
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        if len > self.position() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("cannot truncate {} positions to {len}", self.position()),
            ));
        }
        if len >= self.committed() {
            self.pending.truncate(len - self.committed());
            return Ok(());
        }
        self.kv.truncate(len)?;
        self.history.truncate(len);
        self.pending.clear();
        self.logits.clear();
        match &self.mark {
            Some((at, logits)) if *at == len => self.logits.clone_from(logits),
            Some((at, _)) if *at > len => self.mark = None,
            _ => {}
        }
        Ok(())
    }

    /// A second generation with the same past; copies the cache, and both go their own ways.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfBudget`] when the ledger refuses a second cache.
    pub fn fork(&self) -> Result<Self> {
        Ok(Self {
            model: self.model.clone(),
            decoder: self.decoder.clone(),
            embedding: self.embedding.clone(),
            kv: self.kv.fork()?,
            history: self.history.clone(),
            pending: self.pending.clone(),
            logits: self.logits.clone(),
            mark: self.mark.clone(),
        })
    }

    /// Bytes [`prefix`](Self::prefix) takes.
    pub(super) fn prefix_bytes(&self) -> u64 {
        self.kv.snapshot_bytes()
    }

    /// A copy of what is committed.
    pub(super) fn prefix(&self) -> Result<Prefix> {
        Ok(Prefix {
            kv: self.kv.snapshot()?,
            history: self.history.clone(),
        })
    }

    /// Begins with what another generation of the same decoder had committed. It must be fed before it goes on.
    pub(super) fn take_over(&mut self, prefix: &Prefix, control: &Control) -> Result<()> {
        let check = || control.check();
        self.kv
            .restore(&prefix.kv, &patience(&check, Some(self.model.owner())))?;
        self.history.clone_from(&prefix.history);
        Ok(())
    }

    /// An error when `more` positions do not fit behind those there are.
    pub(super) fn check_room(&self, more: usize) -> Result<()> {
        self.kv.check_room(self.position().saturating_add(more))
    }

    /// Every committed token.
    pub(super) fn history(&self) -> &[u32] {
        &self.history
    }

    /// Runs what is pending, so that `logits` are those after the last token.
    ///
    /// # Errors
    /// As [`feed`](Self::feed); [`ErrorKind::InvalidArgument`] when nothing was fed.
    pub(super) fn refresh(&mut self, control: &Control) -> Result<()> {
        if self.pending.is_empty() && self.logits.is_empty() {
            match self.history.last().copied() {
                // After a truncation: run the last token again for its logits.
                Some(last) if last != NO_TOKEN => {
                    self.truncate(self.history.len() - 1)?;
                    self.pending.push(last);
                }
                Some(_) => {
                    return Err(Error::new(
                        ErrorKind::InvalidArgument,
                        "a generation cut back to embeddings must be fed before it goes on",
                    ));
                }
                None => {
                    return Err(Error::new(
                        ErrorKind::InvalidArgument,
                        "nothing was fed to go on from",
                    )
                    .remedy("feed a prompt first"));
                }
            }
        }
        self.flush(control)
    }

    /// Runs what is pending.
    fn flush(&mut self, control: &Control) -> Result<()> {
        let most = chunk_of(self.pending.len());
        while !self.pending.is_empty() {
            let rows = self.pending.len().min(most);
            let chunk = self.pending[..rows].to_vec();
            self.step(&Input::Ids(&chunk), control)?;
            self.pending.drain(..rows);
        }
        Ok(())
    }

    /// One step over `ids`, nothing else; returns the logits the graph gave, [1, 1 or rows, vocab].
    pub(super) fn step_ids(&mut self, ids: &[u32], control: &Control) -> Result<Tensor> {
        self.step(&Input::Ids(ids), control)
    }

    /// One run of the decoder. Everything stays as it was unless it succeeds.
    fn step(&mut self, input: &Input<'_>, control: &Control) -> Result<Tensor> {
        control.check()?;
        let rows = match input {
            Input::Ids(ids) => ids.len(),
            Input::Embeds(_, rows) => *rows,
        };
        let start = self.committed();
        let total = start + rows;
        let kind = if rows == 1 { "token" } else { "prefill" };
        let _span = trace::span("language", kind)
            .arg("rows", rows as u64)
            .arg("past", start as u64);
        let model = self.model.clone();
        let check = || control.check();
        self.kv
            .reserve(total, &patience(&check, Some(model.owner())))?;
        let ports = model.0.ports()?;

        let (name, tensor) = self.rows(input, &ports.rows, control)?;
        let mut given = vec![(name, tensor)];
        if let Some(dtype) = ports.attention_mask {
            given.push((ATTENTION_MASK, whole(dtype, (0..total).map(|_| 1))?));
        }
        if let Some(dtype) = ports.position_ids {
            given.push((
                POSITION_IDS,
                whole(dtype, (start..total).map(|p| p as i64))?,
            ));
        }
        let mut args = RunArgs {
            inputs: given.iter().map(|(name, tensor)| (*name, tensor)).collect(),
            outputs: vec![LOGITS],
            in_place: Vec::new(),
            cancel: Some(&control.cancel),
            deadline: control.deadline,
        };
        self.kv.bind(ports, &mut args);
        let mut outputs = self.decoder.step(control)?.run(args)?.into_iter();
        let logits = outputs
            .next()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "a run returned no logits"))?;
        let vocab = model.0.spec.vocab;
        let last = last_row(&logits, rows, vocab)?;
        self.kv.commit(rows, outputs.collect())?;
        // Into the memory of the last step's: of this size a new one comes from the kernel, page by page.
        self.logits.clear();
        extend_row(&mut self.logits, &logits, last, vocab)?;
        match input {
            Input::Ids(ids) => self.history.extend_from_slice(ids),
            Input::Embeds(..) => self.history.resize(total, NO_TOKEN),
        }
        Ok(logits)
    }

    /// The port the decoder reads its rows from, and what goes there.
    fn rows(
        &self,
        input: &Input<'_>,
        rows: &Rows,
        control: &Control,
    ) -> Result<(&'static str, Tensor)> {
        match (input, rows) {
            (Input::Ids(ids), Rows::Ids(dtype)) => Ok((
                INPUT_IDS,
                whole(*dtype, ids.iter().map(|id| i64::from(*id)))?,
            )),
            (Input::Ids(ids), Rows::Embeds(..)) => {
                let embedding = self.embedding.as_ref().ok_or_else(|| {
                    Error::new(ErrorKind::Internal, "a generation lost its token embedding")
                })?;
                let ids_tensor = whole(embedding.ids, ids.iter().map(|id| i64::from(*id)))?;
                let run = RunArgs {
                    inputs: vec![(INPUT_IDS, &ids_tensor)],
                    outputs: vec![&embedding.output],
                    in_place: Vec::new(),
                    cancel: Some(&control.cancel),
                    deadline: control.deadline,
                };
                let rows = embedding.lease.step(control)?.run(run)?.pop();
                match rows {
                    Some(rows) if rows.shape().len() == 3 && rows.shape()[1] == ids.len() => {
                        Ok((INPUTS_EMBEDS, rows))
                    }
                    other => Err(Error::new(
                        ErrorKind::Inference,
                        format!(
                            "the token embedding returned {other:?} for {} tokens, expected [1, {}, width]",
                            ids.len(),
                            ids.len()
                        ),
                    )),
                }
            }
            (Input::Embeds(values, rows), Rows::Embeds(dtype, _)) => {
                let shape = [1, *rows, values.len() / rows];
                let tensor = match dtype {
                    DType::F16 => {
                        let halves = values.iter().copied().map(f16::from_f32).collect();
                        Tensor::from_vec::<f16>(&shape, halves)?
                    }
                    _ => Tensor::from_vec(&shape, values.to_vec())?,
                };
                Ok((INPUTS_EMBEDS, tensor))
            }
            (Input::Embeds(..), Rows::Ids(_)) => Err(Error::new(
                ErrorKind::Internal,
                "embeddings for a decoder of token ids",
            )),
        }
    }
}

/// The size of a step over `rows` rows: even parts, so that a long prompt never ends in a step of one row, which rounds
/// differently.
fn chunk_of(rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(CHUNK).max(1)).max(1)
}

/// A [1, n] tensor of whole numbers, i64 or i32.
pub(super) fn whole(dtype: DType, values: impl Iterator<Item = i64>) -> Result<Tensor> {
    match dtype {
        DType::I32 => {
            let values: Vec<i32> = values.map(|value| value as i32).collect();
            Tensor::from_vec(&[1, values.len()], values)
        }
        _ => {
            let values: Vec<i64> = values.collect();
            Tensor::from_vec(&[1, values.len()], values)
        }
    }
}

/// Which row of the logits is that after the last of `rows` positions.
fn last_row(logits: &Tensor, rows: usize, vocab: usize) -> Result<usize> {
    match logits.shape()[..] {
        [1, have, width] if width == vocab && (have == 1 || have == rows) => Ok(have - 1),
        _ => Err(Error::new(
            ErrorKind::Inference,
            format!("the decoder returned logits {logits:?}, expected [1, 1 or {rows}, {vocab}]"),
        )),
    }
}

/// Row `index` of [1, rows, vocab] logits.
pub(super) fn row(logits: &Tensor, index: usize, vocab: usize) -> Result<Vec<f32>> {
    let mut row = Vec::new();
    extend_row(&mut row, logits, index, vocab)?;
    Ok(row)
}

/// Appends row `index` of [1, rows, vocab] logits.
fn extend_row(to: &mut Vec<f32>, logits: &Tensor, index: usize, vocab: usize) -> Result<()> {
    let range = index * vocab..(index + 1) * vocab;
    let short = || Error::new(ErrorKind::Inference, "the decoder returned too few logits");
    match logits.dtype() {
        DType::F16 => {
            let row = logits.as_slice::<f16>()?.get(range).ok_or_else(short)?;
            to.extend(row.iter().map(|value| value.to_f32()));
        }
        _ => to.extend_from_slice(logits.as_slice::<f32>()?.get(range).ok_or_else(short)?),
    }
    Ok(())
}
