//! Captions ahead of need: one thread captions the segments of a store as they are stored.
//!
//! The queue is the catalogue itself: what is to be done are the segments without a caption. It is bounded by the store,
//! drops nothing, and survives the process; whoever stores a segment only rings a bell and never waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::super::keep_in_store;
use super::SegmentCaptioner;
use crate::control::{CancelToken, Control, Priority, TextOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::features::Source;
use crate::index::{Access, SegmentId, Store, StreamId};

/// What came of a stream's segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CaptionReport {
    /// Captions made and stored.
    pub made: u64,
    /// Segments whose captioning failed: they stay without. The log says why.
    pub failed: u64,
}

/// Counts of one stream's captions. Reading them waits for nothing.
#[derive(Debug, Default)]
pub struct CaptionCounts {
    made: AtomicU64,
    failed: AtomicU64,
}

impl CaptionCounts {
    /// What was done so far.
    pub fn report(&self) -> CaptionReport {
        CaptionReport {
            made: self.made.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

/// The thread that captions the segments of one store, at the lowest priority. Dropping it ends the thread at its next
/// step.
pub struct Backlog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    captioner: SegmentCaptioner,
    store: Store,
    cancel: CancelToken,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    streams: Vec<Stream>,
    /// Nothing will be captioned any more.
    ended: bool,
}

/// A stream that is being followed.
struct Stream {
    number: u64,
    id: StreamId,
    /// The last segment that was tried.
    after: Option<SegmentId>,
    /// There may be segments after it.
    open: bool,
    /// It is being looked at.
    busy: bool,
    counts: Arc<CaptionCounts>,
}

/// One stream whose segments are captioned while this lives.
pub struct Follower {
    backlog: Arc<Backlog>,
    number: u64,
    counts: Arc<CaptionCounts>,
}

/// Tells the thread that a segment was stored. Never waits.
#[derive(Clone)]
pub struct Bell {
    shared: Arc<Shared>,
    number: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let woken = self.changed.wait(state);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream to look at next: the one that was followed first of those that are open.
    fn next(&self) -> Option<(u64, StreamId, Option<SegmentId>)> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(stream) = state.streams.iter_mut().find(|stream| stream.open) {
                // Before the look: a bell that rings during it opens the stream again.
                stream.open = false;
                stream.busy = true;
                return Some((stream.number, stream.id, stream.after));
            }
            state = self.wait(state);
        }
    }

    fn run(&self) {
        let maker = self.captioner.maker();
        while let Some((number, stream, after)) = self.next() {
            let found = self.store.uncaptioned(stream, after, maker);
            let mut tried = None;
            let done = match found {
                Ok(None) => None,
                Ok(Some(segment)) => {
                    tried = Some(segment);
                    Some(self.caption(segment))
                }
                Err(error) => Some(Err(error)),
            };
            let mut state = self.lock();
            if state.ended {
                return;
            }
            if let Some(stream) = state.streams.iter_mut().find(|s| s.number == number) {
                stream.busy = false;
                stream.after = tried.or(stream.after);
                stream.open |= tried.is_some();
                match done {
                    None => {}
                    Some(Ok(())) => {
                        stream.counts.made.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(Err(error)) => {
                        stream.counts.failed.fetch_add(1, Ordering::Relaxed);
                        let what =
                            tried.map_or("segments".to_owned(), |id| format!("segment {id}"));
                        log::warn!(
                            "{what} of stream {} stays without caption: {error}",
                            stream.id
                        );
                    }
                }
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn caption(&self, segment: SegmentId) -> Result<()> {
        let control = Control {
            cancel: self.cancel.clone(),
            deadline: None,
            priority: Priority::Background,
        };
        let keyframes = self.captioner.keyframes();
        let (still, keep) = (Source::Still, keep_in_store);
        let features = keyframes.features(&self.store, segment, still, &keep, &control)?;
        let options = TextOptions::default();
        let said = self
            .captioner
            .caption(&[&features], &options, &control, &mut |_| {
                std::ops::ControlFlow::Continue(())
            })?;
        control.check()?;
        self.captioner.keep(&self.store, segment, &said)
    }
}

impl Backlog {
    /// Starts the thread. It loads what the captioner needs when there is the first segment to caption.
    ///
    /// # Errors
    /// [`ErrorKind::ReadOnly`] on a store opened read-only, [`ErrorKind::Io`] when the thread cannot be started.
    pub fn start(captioner: SegmentCaptioner, store: &Store) -> Result<Self> {
        if store.access() == Access::ReadOnly {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                format!(
                    "store {} was opened read-only, it can take no captions",
                    store.path().display()
                ),
            )
            .remedy("open it for writing"));
        }
        let shared = Arc::new(Shared {
            captioner,
            store: store.clone(),
            cancel: CancelToken::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("atom-caption".into())
            .spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| own.run())).is_err() {
                    log::error!("captioning panicked: segments stay without captions");
                }
                own.lock().ended = true;
                own.changed.notify_all();
            })
            .map_err(|error| Error::io("starting the captioning thread", &error))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Captions the segments of `stream` that have no caption yet, and those that come while the follower lives.
    pub fn follow(self: &Arc<Self>, stream: StreamId) -> Follower {
        let counts = Arc::new(CaptionCounts::default());
        let mut state = self.shared.lock();
        let number = state.next;
        state.next += 1;
        state.streams.push(Stream {
            number,
            id: stream,
            after: None,
            open: true,
            busy: false,
            counts: Arc::clone(&counts),
        });
        drop(state);
        self.shared.changed.notify_all();
        Follower {
            backlog: Arc::clone(self),
            number,
            counts,
        }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.cancel.cancel();
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic inside was logged there.
            let _ = thread.join();
        }
    }
}

impl Bell {
    /// A segment of the stream was stored.
    pub fn ring(&self) {
        let mut state = self.shared.lock();
        if let Some(stream) = state.streams.iter_mut().find(|s| s.number == self.number) {
            stream.open = true;
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Follower {
    /// What whoever stores segments rings.
    pub fn bell(&self) -> Bell {
        Bell {
            shared: Arc::clone(&self.backlog.shared),
            number: self.number,
        }
    }

    /// Counts of what was done, readable while this waits in [`finish`](Self::finish) and after it.
    pub fn counts(&self) -> Arc<CaptionCounts> {
        Arc::clone(&self.counts)
    }

    /// Waits until every segment stored so far was captioned or tried.
    pub fn finish(self) -> CaptionReport {
        let shared = &self.backlog.shared;
        let mut state = shared.lock();
        // Whatever was looked at before this moment: looked at once more.
        let mut last = true;
        loop {
            let ended = state.ended;
            let own = state.streams.iter_mut().find(|s| s.number == self.number);
            let Some(stream) = own else {
                return self.counts.report();
            };
            if std::mem::take(&mut last) {
                stream.open = true;
                shared.changed.notify_all();
            }
            if ended || (!stream.open && !stream.busy) {
                return stream.counts.report();
            }
            state = shared.wait(state);
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = self.backlog.shared.lock();
        state.streams.retain(|stream| stream.number != self.number);
    }
}
