//! One stream on its way into a store: the ingest, and the captions behind it.

use std::sync::Arc;

use crate::error::Result;
use crate::frame::Frame;
use crate::index::{Store, StreamId};
use crate::module::Registry;
use crate::task::caption::backlog::{Backlog, CaptionReport, Follower};
use crate::task::ingest::{Ingest, IngestOptions, IngestReport, OnStored};

/// A stream being indexed. Dropping it stops the work after the frame and the caption at hand;
/// [`finish`](Indexing::finish) waits for all.
pub struct Indexing {
    ingest: Ingest,
    captions: Option<Follower>,
}

/// What indexing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
            captions: follower,
        })
    }

    /// Offers a frame, as [`Ingest::push`].
    ///
    /// # Errors
    /// As there.
    pub fn push(&self, frame: &Frame<'_>) -> Result<bool> {
        self.ingest.push(frame)
    }

    /// Waits for room and pushes a frame, as [`Ingest::push_wait`].
    ///
    /// # Errors
    /// As there.
    pub fn push_wait(&self, frame: &Frame<'_>) -> Result<()> {
        self.ingest.push_wait(frame)
    }

    /// The stream's id in the store.
    pub fn stream(&self) -> StreamId {
        self.ingest.stream()
    }

    /// What was done so far.
    pub fn report(&self) -> IndexReport {
        let captions = self.captions.as_ref().map(Follower::report);
        IndexReport::new(self.ingest.report(), captions.unwrap_or_default())
    }

    /// Stores what is still under way, marks the stream complete, waits for the captions and says what was done.
    ///
    /// # Errors
    /// The first error of the ingest. Everything acknowledged before it is in the store. A caption that fails is counted,
    /// not returned.
    pub fn finish(self) -> Result<IndexReport> {
        Ok(self.finish_ingest()?.finish())
    }

    /// As [`finish`](Self::finish), but does not wait for the captions: what is returned does, so that another stream
    /// can be indexed meanwhile.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn finish_ingest(self) -> Result<Captioning> {
        Ok(Captioning {
            ingest: self.ingest.finish()?,
            captions: self.captions,
        })
    }
}

/// A stream that is indexed and may still be being captioned. Dropping it leaves the rest without captions.
pub struct Captioning {
    ingest: IngestReport,
    captions: Option<Follower>,
}

impl Captioning {
    /// What was done so far.
    pub fn report(&self) -> IndexReport {
        let captions = self.captions.as_ref().map(Follower::report);
        IndexReport::new(self.ingest, captions.unwrap_or_default())
    }

    /// Waits for the captions.
    pub fn finish(self) -> IndexReport {
        let captions = self.captions.map(Follower::finish);
        IndexReport::new(self.ingest, captions.unwrap_or_default())
    }
}
