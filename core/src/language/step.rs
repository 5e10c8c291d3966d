//! One run of the decoder.

use half::f16;

use super::generation::Generation;
use super::past::Past;
use crate::budget::WaitPolicy;
use crate::control::Control;
use crate::decoder::{Rows, Step, whole};
use crate::error::{Error, ErrorKind, Result};
use crate::ort::{DType, RunArgs, Tensor};
use crate::trace;

/// What a step reads.
pub(super) enum Input<'a> {
    Ids(&'a [u32]),
    /// Rows of the decoder's width, and what each stands for.
    Embeds(&'a [f32], &'a [Past]),
}

impl Generation {
    /// One run over `ids`. Returns the logits of every row, [1, rows, vocab], or of the last row if the graph computes no others.
    pub(super) fn step_ids(&mut self, ids: &[u32], control: &Control) -> Result<Tensor> {
        self.step(&Input::Ids(ids), None, ids.len(), control)
    }

    /// One run of the decoder over `input`, at `positions` or else right after what is committed. `logits` says how many of the
    /// last rows should get logits. If the run fails, nothing changes.
    pub(super) fn step(
        &mut self,
        input: &Input<'_>,
        positions: Option<&[[i64; 3]]>,
        logits: usize,
        control: &Control,
    ) -> Result<Tensor> {
        control.check()?;
        let rows = match input {
            Input::Ids(ids) => ids.len(),
            Input::Embeds(_, past) => past.len(),
        };
        let past = self.committed();
        let total = past + rows;
        let kind = if rows == 1 { "token" } else { "prefill" };
        let _span = trace::span("language", kind)
            .arg("rows", rows as u64)
            .arg("past", past as u64);
        let (map, model) = (self.map.clone(), self.model.clone());
        if map.reads_encoder() && self.encoded.is_none() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{:?} needs an encoder's output before it is fed",
                    model.0.id
                ),
            ));
        }
        let check = || control.check();
        self.kv
            .reserve(total, &WaitPolicy::until(&check, Some(model.owner())))?;

        let counted;
        let positions = match positions {
            Some(positions) => positions,
            None => {
                counted = self.positions.following(past, rows);
                &counted
            }
        };
        let (port, takes) = map.rows();
        let mut given = map.feed(&Step {
            past,
            positions,
            logits,
        })?;
        given.push((port, self.rows(input, takes, control)?));
        let mut args = RunArgs {
            inputs: given.iter().map(|(name, tensor)| (*name, tensor)).collect(),
            outputs: vec![map.logits()],
            in_place: Vec::new(),
            cancel: Some(&control.cancel),
            deadline: control.deadline,
        };
        let encoded = self.encoded.as_deref();
        let awaited = encoded.map_or(0, |encoded| encoded.awaited());
        if let Some(encoded) = encoded {
            encoded.bind(past == 0, &mut args);
        }
        self.kv.bind(&mut args);
        let mut outputs = self.decoder.step(control)?.run(args)?.into_iter();
        let logits = outputs
            .next()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "a run returned no logits"))?;
        let vocab = map.spec().vocab;
        let last = last_row(&logits, rows, vocab)?;
        if let Some(encoded) = encoded {
            encoded.commit(outputs.by_ref().take(awaited).collect())?;
        }
        self.kv.commit(rows, outputs.collect())?;
        self.positions.commit(past, positions);
        // Into the memory of the last step's: of this size a new one comes from the kernel, page by page.
        self.logits.clear();
        extend_row(&mut self.logits, &logits, last, vocab)?;
        match input {
            Input::Ids(ids) => self.history.extend(ids.iter().copied().map(Past::token)),
            Input::Embeds(_, past) => self.history.extend_from_slice(past),
        }
        Ok(logits)
    }

    /// The tensor of the decoder's new rows.
    fn rows(&self, input: &Input<'_>, takes: Rows, control: &Control) -> Result<Tensor> {
        let ids_of = |dtype: DType, ids: &[u32]| {
            whole(dtype, &[1, ids.len()], ids.iter().map(|id| i64::from(*id)))
        };
        match (input, takes) {
            (Input::Ids(ids), Rows::Ids(dtype)) => ids_of(dtype, ids),
            (Input::Ids(ids), Rows::Embeds(..)) => {
                let embedding = self.embedding.as_ref().ok_or_else(|| {
                    Error::new(ErrorKind::Internal, "a generation lost its token embedding")
                })?;
                embedding.rows(ids, control)
            }
            (Input::Embeds(values, past), Rows::Embeds(dtype, _)) => {
                let shape = [1, past.len(), values.len() / past.len()];
                match dtype {
                    DType::F16 => {
                        let halves = values.iter().copied().map(f16::from_f32).collect();
                        Tensor::from_vec::<f16>(&shape, halves)
                    }
                    _ => Tensor::from_vec(&shape, values.to_vec()),
                }
            }
            (Input::Embeds(..), Rows::Ids(_)) => Err(Error::new(
                ErrorKind::Internal,
                "embeddings for a decoder of token ids",
            )),
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
