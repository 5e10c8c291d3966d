//! The capture ring: frames from a camera's thread to one worker.
//!
//! A fixed number of preallocated frames travels round two single-producer, single-consumer queues: empty ones towards
//! the producer, filled ones towards the consumer. Pushing copies the picture into an empty frame: it never blocks,
//! never allocates and takes no lock. A full ring costs the frame, never the camera.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::time::{Duration, Instant};

use heapless::spsc;

use super::ring_sync::{
    Arc, AtomicBool, AtomicU32, AtomicU64, Ordering, UnsafeCell, futex_wait, futex_wake,
};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::{Frame, FrameBuf, MAX_FRAME_BYTES};

/// Frames a ring holds unless told otherwise.
pub const DEPTH: usize = 8;
/// Frames a ring can hold.
pub const MAX_DEPTH: usize = 16;

/// `heapless` keeps one place empty to tell full from empty.
const PLACES: usize = MAX_DEPTH + 1;
type Queue = spsc::Queue<FrameBuf, PLACES>;

/// What went through a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingCounters {
    /// Frames taken.
    pub pushed: u64,
    /// Frames refused because the ring was full.
    pub dropped: u64,
}

/// A push is under way.
const PUSHING: u32 = 1;
/// No push can begin any more.
const CLOSED: u32 = 2;
/// The empty frames were freed.
const FREED: u32 = 4;

struct Shared {
    /// Only ever touched through the endpoints split off in [`ring_of`].
    empty: UnsafeCell<Queue>,
    filled: UnsafeCell<Queue>,
    slot_bytes: usize,
    /// [`PUSHING`], [`CLOSED`] and [`FREED`]. One word, so that a push and the end of the stream have an order.
    state: AtomicU32,
    /// Changes with every push and at the end; what a waiting consumer sleeps on.
    events: AtomicU32,
    waiting: AtomicBool,
    pushed: AtomicU64,
    dropped: AtomicU64,
}

// SAFETY: the queues are reached only through their endpoints, each of which is owned by one side: the producer's is used
// by whoever has set PUSHING, the consumer's through `&mut`. The queue itself synchronises the two sides. The rest is atomic.
unsafe impl Sync for Shared {}
// SAFETY: frames and atomics may move between threads; the cells are not shared without the rule above.
unsafe impl Send for Shared {}

impl Shared {
    /// Whether the stream is closed and no push is under way: what is not in the queue by now does not come.
    fn no_more(&self) -> bool {
        self.state.load(Ordering::SeqCst) & (PUSHING | CLOSED) == CLOSED
    }

    fn announce(&self) {
        self.events.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) {
            futex_wake(&self.events);
        }
    }
}

struct Endpoints {
    from: spsc::Consumer<'static, FrameBuf>,
    to: spsc::Producer<'static, FrameBuf>,
}

/// The camera's side. Any thread may push, one at a time. Dropping it closes the stream, as [`close`](Producer::close) does.
pub struct Producer {
    endpoints: UnsafeCell<Endpoints>,
    shared: Arc<Shared>,
}

// SAFETY: `endpoints` is used only by whoever has set PUSHING, one thread at a time.
unsafe impl Sync for Producer {}

/// The worker's side.
pub struct Consumer {
    endpoints: Endpoints,
    shared: Arc<Shared>,
}

/// A ring of [`DEPTH`] frames of at most `slot_bytes` bytes each, tightly packed.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when `slot_bytes` is zero.
pub fn ring(slot_bytes: usize) -> Result<(Producer, Consumer)> {
    ring_of(DEPTH, slot_bytes)
}

/// A ring of `depth` frames of at most `slot_bytes` bytes each, tightly packed. All memory is taken here.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when `depth` is not in 1..=[`MAX_DEPTH`] or `slot_bytes` not in
/// 1..=[`MAX_FRAME_BYTES`]; [`ErrorKind::OutOfBudget`] when there is not so much memory.
pub fn ring_of(depth: usize, slot_bytes: usize) -> Result<(Producer, Consumer)> {
    if !(1..=MAX_DEPTH).contains(&depth) || !(1..=MAX_FRAME_BYTES).contains(&slot_bytes) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("a ring of {depth} frames of {slot_bytes} bytes"),
        )
        .remedy(format!(
            "give 1 to {MAX_DEPTH} frames of 1 to {MAX_FRAME_BYTES} bytes"
        )));
    }
    let mut empty = Queue::new();
    for _ in 0..depth {
        // Cannot be full: depth is at most its capacity.
        let _ = empty.enqueue(FrameBuf::preallocated(slot_bytes)?);
    }
    let shared = Arc::new(Shared {
        empty: UnsafeCell::new(empty),
        filled: UnsafeCell::new(Queue::new()),
        slot_bytes,
        state: AtomicU32::new(0),
        events: AtomicU32::new(0),
        waiting: AtomicBool::new(false),
        pushed: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
    });
    // SAFETY: each queue is borrowed mutably once, here, and never touched but through the endpoints this gives. They
    // point into the allocation of the Arc, which does not move, and both structs that hold them keep it alive; the
    // endpoints have no destructor that could look at it after the last Arc is gone.
    let ((give_back, take_empty), (fill, take_filled)) = unsafe {
        (
            (*shared.empty.get()).split(),
            (*shared.filled.get()).split(),
        )
    };
    Ok((
        Producer {
            endpoints: UnsafeCell::new(Endpoints {
                from: take_empty,
                to: fill,
            }),
            shared: shared.clone(),
        },
        Consumer {
            endpoints: Endpoints {
                from: take_filled,
                to: give_back,
            },
            shared,
        },
    ))
}

impl Producer {
    /// Copies `frame` into the ring. `false`: the ring was full, the frame is not taken and is counted as
    /// dropped. Never blocks, allocates or locks, errors apart.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] while another thread pushes; [`ErrorKind::BadFrame`] when the frame is larger than the ring's
    /// slots; [`ErrorKind::InvalidArgument`] after [`close`](Self::close).
    pub fn push(&self, frame: &Frame<'_>) -> Result<bool> {
        let bytes = frame.format().packed_bytes();
        if bytes > self.shared.slot_bytes {
            let format = frame.format();
            return Err(Error::new(
                ErrorKind::BadFrame,
                format!(
                    "{:?} frame of {}x{} takes {bytes} bytes, the ring's slots hold {}",
                    format.pixels, format.width, format.height, self.shared.slot_bytes
                ),
            )
            .remedy("open the stream for the largest frame that will come"));
        }
        let state = &self.shared.state;
        let turn = state.compare_exchange(0, PUSHING, Ordering::Acquire, Ordering::Relaxed);
        if let Err(state) = turn {
            return Err(match state & CLOSED {
                0 => Error::new(
                    ErrorKind::Busy,
                    "another thread is pushing into this stream",
                )
                .remedy("push from one thread at a time"),
                _ => Error::new(ErrorKind::InvalidArgument, "the stream is finished")
                    .remedy("open it again to go on with it"),
            });
        }
        let _turn = Turn(&self.shared);
        // SAFETY: PUSHING was clear and is now ours until `_turn` drops, so nobody else uses the endpoints.
        let endpoints = unsafe { &mut *self.endpoints.get() };
        let mut slot = match endpoints.from.dequeue() {
            Some(slot) => slot,
            None => {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                return Ok(false);
            }
        };
        slot.copy_from(frame);
        // There are fewer frames than places, so there is one for it.
        let _ = endpoints.to.enqueue(slot);
        self.shared.pushed.fetch_add(1, Ordering::Relaxed);
        self.shared.announce();
        Ok(true)
    }

    /// Ends the stream: later pushes are refused, and the consumer ends once it has taken every frame. A push that is
    /// under way on another thread is either refused, or its frame still reaches the consumer. Never waits.
    pub fn close(&self) {
        self.shared.state.fetch_or(CLOSED, Ordering::SeqCst);
        self.shared.announce();
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.shared.state.load(Ordering::SeqCst) & CLOSED != 0
    }

    /// Frees the empty frames of a closed ring, which would otherwise live as long as the producer. Does nothing while
    /// the ring is open or a push is under way.
    pub fn free_frames(&self) {
        let state = &self.shared.state;
        let ours = CLOSED | FREED;
        if state
            .compare_exchange(CLOSED, ours, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            return;
        }
        // SAFETY: the ring was closed and without a push, so no push can begin; FREED was clear and is now ours, so
        // nobody else is here.
        let endpoints = unsafe { &mut *self.endpoints.get() };
        while endpoints.from.dequeue().is_some() {}
    }

    /// What went through so far.
    pub fn counters(&self) -> RingCounters {
        counters(&self.shared)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.close();
    }
}

/// Gives the producer's turn back, also when a push panics.
struct Turn<'a>(&'a Shared);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let before = self.0.state.fetch_and(!PUSHING, Ordering::Release);
        // The consumer may have seen the end while this push was under way, and sleep until it is over.
        if before & CLOSED != 0 {
            self.0.announce();
        }
    }
}

impl Consumer {
    /// The next frame; waits for it. `None` when the stream is closed and every frame was taken.
    #[expect(clippy::should_implement_trait, reason = "the frame borrows the ring")]
    pub fn next(&mut self) -> Option<Taken<'_>> {
        self.wait(None)
    }

    /// The next frame if it comes within `timeout`. `None` also when the stream [has ended](Self::has_ended).
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Taken<'_>> {
        self.wait(Instant::now().checked_add(timeout))
    }

    /// Whether the stream is closed and every frame was taken.
    pub fn has_ended(&self) -> bool {
        self.shared.no_more() && !self.endpoints.from.ready()
    }

    /// What went through so far.
    pub fn counters(&self) -> RingCounters {
        counters(&self.shared)
    }

    fn wait(&mut self, until: Option<Instant>) -> Option<Taken<'_>> {
        loop {
            // Read before looking: a push after this changes it, and the sleep below ends at once.
            let seen = self.shared.events.load(Ordering::SeqCst);
            let no_more = self.shared.no_more();
            if let Some(frame) = self.endpoints.from.dequeue() {
                return Some(Taken {
                    frame: ManuallyDrop::new(frame),
                    give_back: &mut self.endpoints.to,
                });
            }
            if no_more {
                return None;
            }
            let left = match until {
                None => None,
                Some(until) => match until.checked_duration_since(Instant::now()) {
                    Some(left) if !left.is_zero() => Some(left),
                    _ => return None,
                },
            };
            self.shared.waiting.store(true, Ordering::SeqCst);
            futex_wait(&self.shared.events, seen, left);
            self.shared.waiting.store(false, Ordering::SeqCst);
        }
    }
}

/// A frame out of the ring; its place is free again when this is dropped.
pub struct Taken<'a> {
    frame: ManuallyDrop<FrameBuf>,
    give_back: &'a mut spsc::Producer<'static, FrameBuf>,
}

impl Deref for Taken<'_> {
    type Target = FrameBuf;

    fn deref(&self) -> &FrameBuf {
        &self.frame
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // SAFETY: this is the end of `self`; nobody reads the field after it.
        let frame = unsafe { ManuallyDrop::take(&mut self.frame) };
        // There are fewer frames than places, so there is one for it.
        let _ = self.give_back.enqueue(frame);
    }
}

fn counters(shared: &Shared) -> RingCounters {
    RingCounters {
        pushed: shared.pushed.load(Ordering::Relaxed),
        dropped: shared.dropped.load(Ordering::Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameFormat, PixelFormat};

    fn grey(width: u32, height: u32) -> FrameFormat {
        FrameFormat::new(PixelFormat::Gray8, width, height)
    }

    #[test]
    fn a_full_ring_refuses_and_goes_on_when_there_is_room() {
        let (producer, mut consumer) = ring_of(3, 64).unwrap();
        let frame = |time| Frame::packed(grey(8, 8), &[7; 64], time).unwrap();
        let taken: Vec<_> = (0..5).map(|i| producer.push(&frame(i)).unwrap()).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        let first = consumer.next().unwrap();
        assert_eq!(first.timestamp_ns(), 0);
        // Its place is free only when it is let go.
        assert!(!producer.push(&frame(5)).unwrap());
        drop(first);
        assert!(producer.push(&frame(6)).unwrap());
        drop(producer);
        let times: Vec<_> =
            std::iter::from_fn(|| consumer.next().map(|f| f.timestamp_ns())).collect();
        assert_eq!(times, [1, 2, 6]);
        assert!(consumer.has_ended());
        assert_eq!(
            consumer.counters(),
            RingCounters {
                pushed: 4,
                dropped: 3
            }
        );
    }

    #[test]
    fn a_frame_larger_than_a_slot_is_named() {
        let (producer, _consumer) = ring(63).unwrap();
        let pixels = [0; 64];
        let error = producer
            .push(&Frame::packed(grey(8, 8), &pixels, 0).unwrap())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadFrame);
        assert!(error.message().contains("8x8 takes 64 bytes"), "{error}");
        assert!(error.message().contains("hold 63"), "{error}");
        for (depth, bytes) in [
            (0, 1),
            (MAX_DEPTH + 1, 1),
            (1, 0),
            (1, MAX_FRAME_BYTES + 1),
            (1, usize::MAX),
        ] {
            assert!(ring_of(depth, bytes).is_err(), "{depth} {bytes}");
        }
    }

    #[test]
    fn a_second_producer_is_busy() {
        let (producer, _consumer) = ring(64).unwrap();
        let pixels = [0; 64];
        let frame = Frame::packed(grey(8, 8), &pixels, 0).unwrap();
        producer.shared.state.store(PUSHING, Ordering::Release);
        assert_eq!(producer.push(&frame).unwrap_err().kind(), ErrorKind::Busy);
        producer.shared.state.store(0, Ordering::Release);
        assert!(producer.push(&frame).unwrap());
        assert!(producer.push(&frame).unwrap(), "the turn is given back");
    }

    #[test]
    fn a_closed_ring_refuses_frames_keeps_those_taken_and_frees_the_rest() {
        let (producer, mut consumer) = ring_of(3, 64).unwrap();
        let pixels = [0; 64];
        let frame = |time| Frame::packed(grey(8, 8), &pixels, time).unwrap();
        assert!(producer.push(&frame(1)).unwrap());
        producer.free_frames();
        assert!(
            producer.push(&frame(2)).unwrap(),
            "an open ring keeps its frames"
        );
        producer.close();
        for state in [CLOSED, CLOSED | PUSHING] {
            // Also while another thread's push is under way: the end comes first.
            producer.shared.state.store(state, Ordering::SeqCst);
            let refused = producer.push(&frame(3)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
        }
        producer.free_frames();
        // SAFETY: nobody pushes, here and below.
        let ready = || unsafe { (*producer.endpoints.get()).from.ready() };
        assert!(ready(), "a push is under way");
        producer.shared.state.store(CLOSED, Ordering::SeqCst);
        let times: Vec<_> =
            std::iter::from_fn(|| consumer.next().map(|f| f.timestamp_ns())).collect();
        assert_eq!(times, [1, 2]);
        assert!(consumer.has_ended());
        producer.free_frames();
        assert!(!ready(), "every frame was freed");
        assert!(consumer.has_ended());
        assert_eq!(
            producer.push(&frame(3)).unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
    }

    #[test]
    fn waiting_ends_with_a_frame_a_timeout_or_the_end() {
        let (producer, mut consumer) = ring(64).unwrap();
        assert!(consumer.next_timeout(Duration::from_millis(20)).is_none());
        assert!(!consumer.has_ended());
        let waiter = std::thread::spawn(move || {
            let first = consumer.next().map(|f| f.timestamp_ns());
            (first, consumer.next().map(|f| f.timestamp_ns()))
        });
        // Most likely asleep by now; the answer is the same if not.
        std::thread::sleep(Duration::from_millis(50));
        let pixels = [0; 64];
        producer
            .push(&Frame::packed(grey(8, 8), &pixels, 9).unwrap())
            .unwrap();
        std::thread::sleep(Duration::from_millis(50));
        drop(producer);
        assert_eq!(waiter.join().unwrap(), (Some(9), None));
    }

    #[test]
    fn no_frame_is_lost_torn_or_reordered() {
        const FRAMES: i64 = 100_000;
        let (producer, mut consumer) = ring_of(4, 256).unwrap();
        let camera = std::thread::spawn(move || {
            let mut pixels = [0; 256];
            for time in 0..FRAMES {
                pixels.fill(time as u8);
                let frame = Frame::packed(grey(16, 16), &pixels, time).unwrap();
                while !producer.push(&frame).unwrap() {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while let Some(frame) = consumer.next() {
            assert_eq!(frame.timestamp_ns(), expected);
            let plane = frame.as_frame().unwrap().plane(0).data;
            assert!(plane.iter().all(|&p| p == expected as u8), "torn");
            expected += 1;
        }
        assert_eq!(expected, FRAMES);
        camera.join().unwrap();
    }
}
