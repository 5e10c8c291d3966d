//! One stream on its way into a store: the ingest, and the captions behind it.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::frame::Frame;
use crate::index::{Store, StreamId};
use crate::module::Registry;
use crate::task::caption::backlog::{Backlog, CaptionCounts, CaptionReport, Follower};
use crate::task::ingest::{Ingest, IngestOptions, IngestReport, OnStored};

/// A stream being indexed. Dropping it stops the work after the frame and the caption at hand;
/// [`finish`](Indexing::finish) waits for all. [`push`](Indexing::push) and [`report`](Indexing::report) wait for nobody.
pub struct Indexing {
    ingest: Ingest,
    /// `None` without captions, and once they were waited for.
    follower: Mutex<Option<Follower>>,
    captions: Option<Arc<CaptionCounts>>,
}

/// What indexing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IndexReport {
    /// Frames taken from the caller.
    pub frames: u64,
    /// Frames refused because the ring was full.
    pub dropped: u64,
    /// Segments found.
    pub segments: u64,
    /// Segments that were already in the store and not encoded again.
    pub known: u64,
    /// Keyframes encoded and stored.
    pub keyframes: u64,
    /// Captions made and stored.
    pub captions: u64,
    /// Segments whose captioning failed; the log says why.
    pub captions_failed: u64,
}

impl IndexReport {
    fn new(ingest: IngestReport, captions: CaptionReport) -> Self {
        Self {
            frames: ingest.frames,
            dropped: ingest.dropped,
            segments: ingest.segments,
            known: ingest.known,
            keyframes: ingest.keyframes,
            captions: captions.made,
            captions_failed: captions.failed,
        }
    }
}

impl Indexing {
    pub(super) fn start(
        registry: &Registry,
        store: &Store,
        options: &IngestOptions,
        captions: Option<Arc<Backlog>>,
    ) -> Result<Self> {
        let mut follower = None;
        let ingest = Ingest::start(registry, store, options, |stream| -> OnStored {
            let Some(backlog) = captions else {
                return Box::new(|_| {});
            };
            let bell = follower.insert(backlog.follow(stream)).bell();
            Box::new(move |_| bell.ring())
        })?;
        Ok(Self {
            ingest,
            captions: follower.as_ref().map(Follower::counts),
            follower: Mutex::new(follower),
        })
    }

    /// Offers a frame; never blocks. `false` means the ring was full and the frame is dropped. One thread at a time.
    ///
    /// # Errors
    /// What [`Ingest::push`] reports.
    pub fn push(&self, frame: &Frame<'_>) -> Result<bool> {
        self.ingest.push(frame)
    }

    /// Waits for room and pushes a frame: for files, where no frame may be lost.
    ///
    /// # Errors
    /// What [`Ingest::push`] reports.
    pub fn push_wait(&self, frame: &Frame<'_>) -> Result<()> {
        self.ingest.push_wait(frame)
    }

    /// The stream's id in the store.
    pub fn stream(&self) -> StreamId {
        self.ingest.stream()
    }

    /// What was done so far. Reads counters and never waits; also while another thread finishes.
    pub fn report(&self) -> IndexReport {
        let captions = self.captions.as_ref().map(|counts| counts.report());
        IndexReport::new(self.ingest.report(), captions.unwrap_or_default())
    }

    /// Takes no more frames, waits until those taken are stored and captioned, marks the stream complete and says what
    /// was done. A second call, also on another thread, returns the same.
    ///
    /// # Errors
    /// The first error of the ingest. Everything acknowledged before it is in the store. A caption that fails is counted,
    /// not returned.
    pub fn finish(&self) -> Result<IndexReport> {
        self.finish_ingest()?;
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(follower) = follower.take() {
            follower.finish();
        }
        Ok(self.report())
    }

    /// [`finish`](Self::finish) without the wait for captions: they go on while this lives, so that another stream can be
    /// indexed meanwhile.
    ///
    /// # Errors
    /// What [`finish`](Self::finish) reports.
    pub fn finish_ingest(&self) -> Result<IndexReport> {
        self.ingest.finish()?;
        Ok(self.report())
    }
}
