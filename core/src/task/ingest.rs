//! Index: frames to stored segments.
//!
//! ```text
//! caller ─► ring ─► sample ─► segments ─► encode ─► encoded ─► store
//! ```
//! The ring costs a frame when it is full, so that a camera never waits; the channels behind it make the stage before wait,
//! so that no segment is lost. While one keyframe is encoded the next is looked for and the last is made durable.

mod keyframe;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::budget::{Charge, Owner};
use crate::control::{CancelToken, Control, Priority};
use crate::error::{Error, ErrorKind, Result};
use crate::flow::channel::{Overflow, Receiver, Sender, channel};
use crate::flow::ring;
use crate::flow::stage::Stage;
use crate::frame::{Frame, MAX_FRAME_BYTES};
use crate::index::{NewSegment, NewStream, SegmentId, Store, StreamId};
use crate::module::Registry;
use crate::trace;
use crate::vision::{SampledSegment, Sampler, SamplerOptions, VisualEncoder};
use keyframe::{Encoded, Wanted};

/// Segments that may wait between two stages; each holds its keyframe.
const WAITING: usize = 2;

/// How one stream is indexed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestOptions {
    /// The stream to open or to go on with. With a source, indexing the same thing twice adds nothing.
    pub stream: NewStream,
    /// How the stream is cut into segments.
    #[serde(default)]
    pub sampler: SamplerOptions,
    /// Bytes of the largest frame that will be pushed, tightly packed, at most
    /// [`MAX_FRAME_BYTES`]; the ring is allocated from it once.
    pub max_frame_bytes: usize,
    /// Longer side of a stored thumbnail in pixels, 16..=1024.
    #[serde(default = "usual_thumbnail")]
    pub thumbnail_side: u32,
}

fn usual_thumbnail() -> u32 {
    320
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
            thumbnail_side: usual_thumbnail(),
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
    /// Keyframes encoded and stored: `segments - known`, unless an error ended the work.
    pub keyframes: u64,
}

/// Told of each segment once it is durable, on the storing thread; must not wait.
pub type OnStored = Box<dyn FnMut(SegmentId) + Send>;

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
///
/// A push shares the ring and its counters with others and nothing else; [`report`](Ingest::report) reads counters only.
/// So neither waits for anyone, not even for a finish under way.
pub struct Ingest {
    producer: ring::Producer,
    progress: Arc<Progress>,
    cancel: CancelToken,
    stream: StreamId,
    /// Pushes of [`push_wait`](Ingest::push_wait) that found the ring full and came back later.
    retries: AtomicU64,
    end: Mutex<End>,
}

/// How far the end of an ingest is.
enum End {
    /// The worker runs; the ring is charged to the budget. A finished ingest keeps no store open.
    Open {
        worker: JoinHandle<()>,
        store: Store,
        _ring: Charge,
    },
    /// What [`Ingest::finish`] found.
    Finished(Result<()>),
}

impl Ingest {
    /// Opens the stream in `store` and starts the worker. The visual encoder is loaded by the first keyframe. `stored`
    /// makes, from the stream's id, who is told of each segment.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack has no index task, [`ErrorKind::InvalidArgument`] for options out of
    /// range, [`ErrorKind::ReadOnly`] on a store opened read-only, [`ErrorKind::StoreForeign`] when the store's vectors were made
    /// by another form of the encoder than the one that is loaded.
    pub fn start(
        registry: &Registry,
        store: &Store,
        options: &IngestOptions,
        stored: impl FnOnce(StreamId) -> OnStored,
    ) -> Result<Self> {
        if !(16..=1024).contains(&options.thumbnail_side) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "thumbnail side of {} pixels: 16..=1024 is possible",
                    options.thumbnail_side
                ),
            ));
        }
        if !(1..=MAX_FRAME_BYTES).contains(&options.max_frame_bytes) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("max_frame_bytes is {}", options.max_frame_bytes),
            )
            .remedy(format!("give 1 to {MAX_FRAME_BYTES}")));
        }
        let mut encoder = VisualEncoder::new(registry)?;
        if let Some(made_by) = store.variant()? {
            // Whichever provider is here today: vectors of two forms are never compared.
            store.check_variant(&encoder.pin_variant(&made_by)?)?;
        }
        let sampler = Sampler::new(options.sampler.clone())?;
        let ring_bytes = ring::DEPTH as u64 * options.max_frame_bytes as u64;
        let ring_charge = registry.ledger().charge(Owner::Queue, ring_bytes, 0)?;
        let (producer, consumer) = ring::ring(options.max_frame_bytes)?;
        let stream = store.open_stream(&options.stream)?;
        let known = store.segments(stream, None, None)?;
        let progress = Arc::new(Progress::default());
        let cancel = CancelToken::new();
        let (found, segments) = channel(WAITING, Overflow::Block)?;
        let (done, encoded) = channel(WAITING, Overflow::Block)?;
        let sample = Sample {
            sampler,
            known: known.iter().map(|segment| segment.start_ns).collect(),
            found,
            cancel: cancel.clone(),
            progress: progress.clone(),
        };
        let control = Control {
            cancel: cancel.clone(),
            deadline: None,
            priority: Priority::Background,
        };
        let wanted = Wanted::new(registry, options.thumbnail_side)?;
        let encode = Stage::spawn(
            "atom-encode",
            segments,
            done,
            move |segment| match segment {
                Some(segment) => Encoded::new(segment, &mut encoder, &wanted, &control).map(Some),
                None => Ok(None),
            },
        )?;
        let sample = std::thread::Builder::new()
            .name("atom-sample".into())
            .spawn(move || sample.run(consumer))
            .map_err(|error| Error::io("starting the sampling thread", &error))?;
        let worker = Worker {
            sample,
            encode,
            encoded,
            store: store.clone(),
            stream,
            stored: stored(stream),
            progress: progress.clone(),
            cancel: cancel.clone(),
        };
        let worker = std::thread::Builder::new()
            .name("atom-store".into())
            .spawn(move || worker.run())
            .map_err(|error| Error::io("starting the storing thread", &error))?;
        Ok(Self {
            producer,
            progress,
            cancel,
            stream,
            retries: AtomicU64::new(0),
            end: Mutex::new(End::Open {
                worker,
                store: store.clone(),
                _ring: ring_charge,
            }),
        })
    }

    /// Offers a frame; never blocks, and while the worker is well never allocates or locks. `false` means the ring was
    /// full and the frame is dropped. One thread at a time.
    ///
    /// # Errors
    /// [`ErrorKind::BadFrame`] for a frame larger than the options said, [`ErrorKind::Busy`] while another thread pushes,
    /// [`ErrorKind::InvalidArgument`] once [`finish`](Self::finish) was called, and whatever ended the worker.
    pub fn push(&self, frame: &Frame<'_>) -> Result<bool> {
        if self.progress.ended.load(Ordering::Acquire) {
            if let Some(failure) = self.progress.failure() {
                return Err(failure);
            }
            if !self.producer.is_closed() {
                return Err(Error::new(
                    ErrorKind::Internal,
                    "the ingest worker has ended",
                ));
            }
        }
        self.producer.push(frame)
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

    /// What was done so far. Never waits.
    pub fn report(&self) -> IngestReport {
        let ring = self.producer.counters();
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

    /// Takes no more frames, waits until those taken are stored, marks the stream complete and says what was done. A
    /// second call, also on another thread, returns the same.
    ///
    /// # Errors
    /// The first error of the worker. Everything acknowledged before it is in the store.
    pub fn finish(&self) -> Result<IngestReport> {
        // Before the lock: a push is refused from now on, whoever waits below.
        self.producer.close();
        self.end(|store| store.set_complete(self.stream, true))?;
        Ok(self.report())
    }

    /// Waits for the worker, then runs `last` if all went well, once.
    fn end(&self, last: impl FnOnce(&Store) -> Result<()>) -> Result<()> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        // Stands should the rest panic.
        let panicked = || Error::new(ErrorKind::Internal, "finishing the ingest panicked");
        let (worker, store, ring) =
            match std::mem::replace(&mut *end, End::Finished(Err(panicked()))) {
                End::Open {
                    worker,
                    store,
                    _ring,
                } => (worker, store, _ring),
                End::Finished(result) => {
                    *end = End::Finished(result.clone());
                    return result;
                }
            };
        let result = match worker.join() {
            Ok(()) => self.progress.failure().map_or_else(|| last(&store), Err),
            Err(_) => Err(Error::new(
                ErrorKind::Internal,
                "the ingest worker panicked",
            )),
        };
        self.producer.free_frames();
        drop(ring);
        *end = End::Finished(result.clone());
        result
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        let end = self.end.get_mut().unwrap_or_else(PoisonError::into_inner);
        if matches!(end, End::Finished(_)) {
            return;
        }
        self.cancel.cancel();
        self.producer.close();
        if let Err(error) = self.end(|_| Ok(())) {
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

/// Frames to segments.
struct Sample {
    sampler: Sampler,
    /// Starts of the segments the store has already.
    known: HashSet<i64>,
    found: Sender<SampledSegment>,
    cancel: CancelToken,
    progress: Arc<Progress>,
}

impl Sample {
    fn run(mut self, mut frames: ring::Consumer) -> Result<()> {
        while let Some(frame) = frames.next() {
            if self.cancel.is_cancelled() {
                return Ok(());
            }
            let span = trace::span("index", "sample");
            let segment = self.sampler.push(&frame.as_frame()?)?;
            drop(frame);
            drop(span);
            if !self.pass(segment) {
                return Ok(());
            }
        }
        if !self.cancel.is_cancelled() {
            let last = self.sampler.finish();
            self.pass(last);
        }
        Ok(())
    }

    /// Hands a segment on unless it is known; `false` when nobody takes any more.
    fn pass(&self, segment: Option<SampledSegment>) -> bool {
        let Some(segment) = segment else { return true };
        self.progress.segments.fetch_add(1, Ordering::Relaxed);
        if self.known.contains(&segment.start_ns) {
            self.progress.known.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        self.found.send(segment).is_ok()
    }
}

/// The last stage, which also gathers how the others ended.
struct Worker {
    sample: JoinHandle<Result<()>>,
    encode: Stage,
    encoded: Receiver<Encoded>,
    store: Store,
    stream: StreamId,
    stored: OnStored,
    progress: Arc<Progress>,
    cancel: CancelToken,
}

impl Worker {
    fn run(self) {
        let progress = Arc::clone(&self.progress);
        // Set also when a panic unwinds, so that the caller's side never pushes into nothing.
        let _ended = Ended(&progress);
        let cancel = self.cancel.clone();
        if let Err(error) = self.work()
            && !(error.kind() == ErrorKind::Cancelled && cancel.is_cancelled())
        {
            let slot = progress.error.lock();
            *slot.unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }

    fn work(mut self) -> Result<()> {
        let stored = self.store_all();
        // Closes the channels from this end, so that the stages before end too.
        drop(self.encoded);
        let encoded = self.encode.join();
        let sampled = self.sample.join().unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Internal,
                "the sampling thread panicked",
            ))
        });
        stored.and(encoded).and(sampled)
    }

    fn store_all(&mut self) -> Result<()> {
        while let Some(segment) = self.encoded.recv() {
            let _span = trace::span("index", "store");
            let id = self.store.append(
                self.stream,
                &NewSegment {
                    start_ns: segment.start_ns,
                    end_ns: segment.end_ns,
                    keyframe_ns: segment.keyframe_ns,
                    features: &segment.features,
                    thumbnail: &segment.thumbnail,
                },
            )?;
            self.progress.keyframes.fetch_add(1, Ordering::Relaxed);
            (self.stored)(id);
        }
        Ok(())
    }
}
