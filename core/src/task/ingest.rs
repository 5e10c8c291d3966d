//! Index: frames to stored segments.
//!
//! The caller's thread pushes frames into a ring; one worker samples, encodes and stores. The two share nothing but the
//! ring and a few counters, so a camera never waits for a model.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::budget::{Charge, Owner};
use crate::control::{CancelToken, Control, Priority};
use crate::error::{Error, ErrorKind, Result};
use crate::flow::ring;
use crate::frame::Frame;
use crate::index::{NewSegment, NewStream, Store, StreamId};
use crate::module::Registry;
use crate::vision::{SampledSegment, Sampler, SamplerOptions, VisualEncoder, thumbnail};

/// JPEG quality of stored thumbnails, 1..=100.
const THUMBNAIL_QUALITY: u8 = 80;

/// How one stream is indexed.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// The stream to open or to go on with. With a source, indexing the same thing twice adds nothing.
    pub stream: NewStream,
    /// How the stream is cut into segments.
    pub sampler: SamplerOptions,
    /// Bytes of the largest frame that will be pushed, tightly packed; the ring is allocated from it once.
    pub max_frame_bytes: usize,
    /// Longer side of a stored thumbnail in pixels, 16..=1024.
    pub thumbnail_side: u32,
}

impl IngestOptions {
    /// Defaults for stream `name` with frames of at most `max_frame_bytes` bytes.
    pub fn new(name: impl Into<String>, max_frame_bytes: usize) -> Self {
        Self {
            stream: NewStream {
                name: name.into(),
                ..NewStream::default()
            },
            sampler: SamplerOptions::default(),
            max_frame_bytes,
            thumbnail_side: 320,
        }
    }
}

/// What an ingest did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IngestReport {
    /// Frames taken from the caller.
    pub frames: u64,
    /// Frames refused because the ring was full.
    pub dropped: u64,
    /// Segments found.
    pub segments: u64,
    /// Segments that were already in the store and not encoded again.
    pub known: u64,
    /// Keyframes encoded: `segments - known`, unless an error ended the work.
    pub keyframes: u64,
}

/// What the worker tells the caller's side.
#[derive(Default)]
struct Progress {
    segments: AtomicU64,
    known: AtomicU64,
    keyframes: AtomicU64,
    ended: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Progress {
    /// Why the worker ended before it was asked to.
    fn failure(&self) -> Option<Error> {
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.clone()
    }
}

/// A stream being indexed. Dropping it stops the work after the frame at hand; [`finish`](Ingest::finish) waits for all.
pub struct Ingest {
    producer: Option<ring::Producer>,
    worker: Option<JoinHandle<()>>,
    progress: Arc<Progress>,
    cancel: CancelToken,
    store: Store,
    stream: StreamId,
    /// Pushes of [`push_wait`](Ingest::push_wait) that found the ring full and came back later.
    retries: AtomicU64,
    _ring_charge: Charge,
}

impl Ingest {
    /// Opens the stream in `store` and starts the worker. The visual encoder is loaded by the first keyframe.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack has no index task, [`ErrorKind::InvalidArgument`] for options out of
    /// range, [`ErrorKind::ReadOnly`] on a store opened read-only.
    pub fn start(registry: &Registry, store: &Store, options: &IngestOptions) -> Result<Self> {
        if !(16..=1024).contains(&options.thumbnail_side) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "thumbnail side of {} pixels: 16..=1024 is possible",
                    options.thumbnail_side
                ),
            ));
        }
        let encoder = VisualEncoder::new(registry)?;
        let sampler = Sampler::new(options.sampler.clone())?;
        let ring_bytes = ring::DEPTH as u64 * options.max_frame_bytes as u64;
        let ring_charge = registry.ledger().charge(Owner::Queue, ring_bytes, 0)?;
        let (producer, consumer) = ring::ring(options.max_frame_bytes)?;
        let stream = store.open_stream(&options.stream)?;
        let known = store.segments(stream, None, None)?;
        let known = known.iter().map(|segment| segment.start_ns).collect();
        let progress = Arc::new(Progress::default());
        let cancel = CancelToken::new();
        let worker = Worker {
            encoder,
            sampler,
            store: store.clone(),
            stream,
            known,
            progress: progress.clone(),
            control: Control {
                cancel: cancel.clone(),
                deadline: None,
                priority: Priority::Background,
            },
            thumbnail_side: options.thumbnail_side,
        };
        let worker = std::thread::Builder::new()
            .name("atom-ingest".into())
            .spawn(move || worker.run(consumer))
            .map_err(|error| Error::io("starting the ingest thread", &error))?;
        Ok(Self {
            producer: Some(producer),
            worker: Some(worker),
            progress,
            cancel,
            store: store.clone(),
            stream,
            retries: AtomicU64::new(0),
            _ring_charge: ring_charge,
        })
    }

    /// Offers a frame; never blocks, and while the worker is well never allocates or locks. `false` means the ring was
    /// full and the frame is dropped. One thread at a time.
    ///
    /// # Errors
    /// [`ErrorKind::BadFrame`] for a frame larger than the options said, [`ErrorKind::Busy`] while another thread pushes,
    /// and whatever ended the worker.
    pub fn push(&self, frame: &Frame<'_>) -> Result<bool> {
        if self.progress.ended.load(Ordering::Acquire) {
            let ended = || Error::new(ErrorKind::Internal, "the ingest worker has ended");
            return Err(self.progress.failure().unwrap_or_else(ended));
        }
        match &self.producer {
            Some(producer) => producer.push(frame),
            None => Err(Error::new(ErrorKind::Internal, "the ingest is closed")),
        }
    }

    /// As [`push`](Self::push), but waits for room: for files, where no frame may be lost.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_wait(&self, frame: &Frame<'_>) -> Result<()> {
        while !self.push(frame)? {
            self.retries.fetch_add(1, Ordering::Relaxed);
            // The worker takes milliseconds a frame; a shorter sleep would only burn the core it needs.
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }

    /// The stream's id in the store.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// What was done so far.
    pub fn report(&self) -> IngestReport {
        let ring = self.producer.as_ref().map(ring::Producer::counters);
        let ring = ring.unwrap_or_default();
        IngestReport {
            frames: ring.pushed,
            dropped: ring
                .dropped
                .saturating_sub(self.retries.load(Ordering::Relaxed)),
            segments: self.progress.segments.load(Ordering::Relaxed),
            known: self.progress.known.load(Ordering::Relaxed),
            keyframes: self.progress.keyframes.load(Ordering::Relaxed),
        }
    }

    /// Stores what is still under way, marks the stream complete and says what was done.
    ///
    /// # Errors
    /// The first error of the worker. Everything acknowledged before it is in the store.
    pub fn finish(mut self) -> Result<IngestReport> {
        let taken = self.report();
        self.producer = None;
        self.join()?;
        self.store.set_complete(self.stream, true)?;
        Ok(IngestReport {
            frames: taken.frames,
            dropped: taken.dropped,
            ..self.report()
        })
    }

    fn join(&mut self) -> Result<()> {
        if let Some(worker) = self.worker.take()
            && worker.join().is_err()
        {
            return Err(Error::new(
                ErrorKind::Internal,
                "the ingest worker panicked",
            ));
        }
        self.progress.failure().map_or(Ok(()), Err)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.producer = None;
        if self.worker.is_some()
            && let Err(error) = self.join()
        {
            log::warn!("ingest dropped with an error: {error}");
        }
    }
}

/// Marks the worker's end when dropped.
struct Ended<'a>(&'a Progress);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

struct Worker {
    encoder: VisualEncoder,
    sampler: Sampler,
    store: Store,
    stream: StreamId,
    known: HashSet<i64>,
    progress: Arc<Progress>,
    control: Control,
    thumbnail_side: u32,
}

impl Worker {
    fn run(mut self, frames: ring::Consumer) {
        // Set also when a panic unwinds, so that the caller's side never pushes into nothing.
        let progress = Arc::clone(&self.progress);
        let _ended = Ended(&progress);
        if let Err(error) = self.work(frames) {
            let cancelled =
                error.kind() == ErrorKind::Cancelled && self.control.cancel.is_cancelled();
            if !cancelled {
                let mut slot = progress
                    .error
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                *slot = Some(error);
            }
        }
    }

    fn work(&mut self, mut frames: ring::Consumer) -> Result<()> {
        while let Some(frame) = frames.next() {
            if self.control.cancel.is_cancelled() {
                return Ok(());
            }
            let sampled = self.sampler.push(&frame.as_frame()?)?;
            drop(frame);
            if let Some(segment) = sampled {
                self.keep(&segment)?;
            }
        }
        if self.control.cancel.is_cancelled() {
            return Ok(());
        }
        match self.sampler.finish() {
            Some(segment) => self.keep(&segment),
            None => Ok(()),
        }
    }

    fn keep(&mut self, segment: &SampledSegment) -> Result<()> {
        self.progress.segments.fetch_add(1, Ordering::Relaxed);
        if self.known.contains(&segment.start_ns) {
            self.progress.known.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let keyframe = segment.keyframe.as_frame()?;
        let features = self.encoder.encode(&keyframe, &self.control)?;
        let thumbnail = thumbnail(&keyframe, self.thumbnail_side, THUMBNAIL_QUALITY)?;
        self.store.append(
            self.stream,
            &NewSegment {
                start_ns: segment.start_ns,
                end_ns: segment.end_ns,
                keyframe_ns: keyframe.timestamp_ns(),
                features: &features,
                thumbnail: &thumbnail,
            },
        )?;
        self.progress.keyframes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
