//! One text being made: the cache, the tokens in it, and the steps that extend it.

use std::sync::Arc;

use super::embedding::Embedding;
use super::encoded::Encoded;
use super::kv::Kv;
use super::model::LanguageModel;
use super::past::Past;
use super::positions::Positions;
use super::prefix::Prefix;
use super::sampling::NO_TOKEN;
use super::step::Input;
use crate::budget::WaitPolicy;
use crate::control::Control;
use crate::decoder::{DecoderMap, Rows};
use crate::error::{Error, ErrorKind, Result};
use crate::features::FeatureMap;
use crate::module::Lease;

/// Most positions of one step: a search waits no longer than this for the session.
pub const CHUNK: usize = 128;

/// A prompt and its continuation, with its own key/value cache, charged to the ledger until it is dropped. It leases
/// the decoder; any number of generations take turns on its session, a step at a time. One thread at a time uses it;
/// it may move between threads.
pub struct Generation {
    pub(super) model: LanguageModel,
    pub(super) decoder: Lease,
    /// The map of the decoder's graph.
    pub(super) map: Arc<DecoderMap>,
    pub(super) embedding: Option<Embedding>,
    pub(super) kv: Kv,
    /// What it attends to, for a decoder that reads an encoder's output.
    pub(super) encoded: Option<Arc<Encoded>>,
    pub(super) positions: Positions,
    /// Every position in the cache.
    pub(super) history: Vec<Past>,
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

impl Generation {
    pub(super) fn new(
        model: LanguageModel,
        decoder: Lease,
        map: Arc<DecoderMap>,
        embedding: Option<Embedding>,
        kv: Kv,
    ) -> Self {
        Self {
            model,
            positions: Positions::new(map.spec().first_position),
            decoder,
            map,
            embedding,
            kv,
            encoded: None,
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

    /// Bytes of the cache, as charged to the ledger, with what is kept of an encoder's output.
    pub fn kv_bytes(&self) -> u64 {
        let encoded = self.encoded.as_ref();
        self.kv.bytes() + encoded.map_or(0, |encoded| encoded.bytes())
    }

    /// One logit per token of the vocabulary, for the token after the last committed one. Empty before the first
    /// [`feed`](Self::feed), and after a [`truncate`](Self::truncate) to elsewhere than the end of the last feed.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Whether the decoder reads an encoder's output, set by [`attend`](Self::attend).
    pub fn reads_encoder(&self) -> bool {
        self.map.reads_encoder()
    }

    /// Sets the encoder's output. The decoder of an encoder-decoder model needs it before anything is fed.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a decoder that reads no encoder's output; [`ErrorKind::InvalidArgument`] after something
    /// was fed, or for an output that does not fit the port; [`ErrorKind::OutOfBudget`].
    pub fn attend(&mut self, output: &FeatureMap, control: &Control) -> Result<()> {
        if self.position() > 0 {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "the encoder's output cannot change after something was fed",
            )
            .remedy("start a generation for each output"));
        }
        let check = || control.check();
        let wait = WaitPolicy::until(&check, Some(self.model.owner()));
        let ledger = self.model.ledger();
        let encoded = Encoded::new(&self.map, output, ledger, &wait)?;
        self.encoded = Some(Arc::new(encoded));
        Ok(())
    }

    /// Appends tokens, in steps of at most 128. If the manifest's `cached_rows` limits steps that read the cache, the first step
    /// takes all tokens of the first call.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`], before anything runs, for an id outside the vocabulary or more tokens than the
    /// context has room for, or when the decoder needs an encoder's output and has none; [`ErrorKind::Cancelled`], [`ErrorKind::DeadlineExceeded`], also from within a step;
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
        self.feed_rows(embeds, rows, None, control)
    }

    /// Appends rows of input embeddings at given positions, for a decoder with M-RoPE: `positions` holds time, height and width
    /// of each row. Text after them continues at the largest coordinate plus one.
    ///
    /// # Errors
    /// The errors of [`feed_embeds`](Self::feed_embeds); [`ErrorKind::Unsupported`] for a decoder whose positions have one
    /// coordinate; [`ErrorKind::InvalidArgument`] if a coordinate is negative.
    pub fn feed_embeds_at(
        &mut self,
        embeds: &[f32],
        positions: &[[i64; 3]],
        control: &Control,
    ) -> Result<()> {
        if !self.map.has_three_positions() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the positions of {:?} have one coordinate, not three",
                    self.model.0.id
                ),
            ));
        }
        if positions.iter().flatten().any(|number| *number < 0) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "a coordinate of a position is negative",
            ));
        }
        self.feed_rows(embeds, positions.len(), Some(positions), control)
    }

    fn feed_rows(
        &mut self,
        embeds: &[f32],
        rows: usize,
        positions: Option<&[[i64; 3]]>,
        control: &Control,
    ) -> Result<()> {
        if rows == 0 && embeds.is_empty() {
            return Ok(());
        }
        let past = vec![Past::unknown(); rows];
        self.feed_past(embeds, &past, positions, control)
    }

    /// Appends rows of input embeddings; `past` says what each stands for.
    pub(super) fn feed_past(
        &mut self,
        embeds: &[f32],
        past: &[Past],
        positions: Option<&[[i64; 3]]>,
        control: &Control,
    ) -> Result<()> {
        let Rows::Embeds(_, width) = self.map.rows().1 else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{:?} reads token ids, not embeddings", self.model.0.id),
            ));
        };
        let rows = past.len();
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
        let mut fed = 0;
        while fed < rows {
            let next = fed + self.rows_of_step(rows - fed, rows);
            let chunk = Input::Embeds(&embeds[fed * width..next * width], &past[fed..next]);
            let positions = positions.map(|positions| &positions[fed..next]);
            self.step(&chunk, positions, 1, control)?;
            fed = next;
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
            map: Arc::clone(&self.map),
            embedding: self.embedding.clone(),
            kv: self.kv.fork()?,
            encoded: self.encoded.clone(),
            positions: self.positions.clone(),
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
            positions: self.positions.clone(),
            history: self.history.clone(),
        })
    }

    /// Begins with what another generation of the same decoder had committed. It must be fed before it goes on.
    pub(super) fn take_over(&mut self, prefix: &Prefix, control: &Control) -> Result<()> {
        let check = || control.check();
        self.kv.restore(
            &prefix.kv,
            &WaitPolicy::until(&check, Some(self.model.owner())),
        )?;
        self.positions.clone_from(&prefix.positions);
        self.history.clone_from(&prefix.history);
        Ok(())
    }

    /// An error when `more` positions do not fit behind those there are.
    pub(super) fn check_room(&self, more: usize) -> Result<()> {
        self.kv.check_room(self.position().saturating_add(more))
    }

    /// The tokens of prompt and text so far. A row of a picture stands as the token in whose place it is, and is left out if there
    /// is none.
    pub fn ids(&self) -> Vec<u32> {
        let committed = self.history.iter().map(|past| past.id);
        let all = committed.chain(self.pending.iter().copied());
        all.filter(|id| *id != NO_TOKEN).collect()
    }

    /// Runs what is pending, so that `logits` are those after the last token.
    ///
    /// # Errors
    /// As [`feed`](Self::feed); [`ErrorKind::InvalidArgument`] when nothing was fed.
    pub(super) fn refresh(&mut self, control: &Control) -> Result<()> {
        if self.pending.is_empty() && self.logits.is_empty() {
            match self.history.last().copied() {
                // After a truncation: run the last token again for its logits.
                Some(last) if !last.embedded => {
                    self.truncate(self.history.len() - 1)?;
                    self.pending.push(last.id);
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
        let all = self.pending.len();
        while !self.pending.is_empty() {
            let rows = self.rows_of_step(self.pending.len(), all);
            let chunk = self.pending[..rows].to_vec();
            self.step(&Input::Ids(&chunk), None, 1, control)?;
            self.pending.drain(..rows);
        }
        Ok(())
    }

    /// Rows of the next step, when `left` of `all` rows of a feed are left.
    fn rows_of_step(&self, left: usize, all: usize) -> usize {
        let map = &self.map;
        match (map.spec().cached_rows, map.most_rows(self.committed())) {
            // Several steps would give other numbers than one.
            (None, _) if !map.spec().exact_prefix => left,
            (None, _) => left.min(chunk_of(all)),
            // Later steps would take them one by one or a few at a time.
            (Some(_), None) => left,
            (Some(_), Some(most)) => left.min(most),
        }
    }
}

/// The size of a step over `rows` rows: even parts, so that a long prompt never ends in a step of one row, which rounds
/// differently.
fn chunk_of(rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(CHUNK).max(1)).max(1)
}
