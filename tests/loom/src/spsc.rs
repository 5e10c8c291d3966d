//! Stands in for `heapless::spsc`: the same ring buffer with the same orderings, over loom's atomics, each place watched.

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};

/// Places that are modelled; the ring's own `N` is larger than any model fills.
const MODELLED: usize = 4;

pub struct Queue<T, const N: usize> {
    head: AtomicUsize,
    tail: AtomicUsize,
    places: Vec<UnsafeCell<Option<T>>>,
}

impl<T, const N: usize> Queue<T, N> {
    pub fn new() -> Self {
        let places = MODELLED.min(N);
        Self {
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            places: (0..places).map(|_| UnsafeCell::new(None)).collect(),
        }
    }

    pub fn enqueue(&mut self, item: T) -> Result<(), T> {
        put(&self.head, &self.tail, &self.places, item)
    }

    pub fn split(&mut self) -> (Producer<'_, T>, Consumer<'_, T>) {
        let Self { head, tail, places } = &*self;
        (
            Producer { head, tail, places },
            Consumer { head, tail, places },
        )
    }
}

pub struct Producer<'a, T> {
    head: &'a AtomicUsize,
    tail: &'a AtomicUsize,
    places: &'a [UnsafeCell<Option<T>>],
}

impl<T> Producer<'_, T> {
    pub fn enqueue(&mut self, item: T) -> Result<(), T> {
        put(self.head, self.tail, self.places, item)
    }
}

fn put<T>(
    head: &AtomicUsize,
    tail: &AtomicUsize,
    places: &[UnsafeCell<Option<T>>],
    item: T,
) -> Result<(), T> {
    let at = tail.load(Ordering::Relaxed);
    let next = (at + 1) % places.len();
    if next == head.load(Ordering::Acquire) {
        return Err(item);
    }
    // SAFETY: the place is the producer's until `tail` passes it; loom watches that.
    let before = places[at].with_mut(|place| unsafe { (*place).replace(item) });
    assert!(before.is_none(), "a frame was overwritten");
    tail.store(next, Ordering::Release);
    Ok(())
}

pub struct Consumer<'a, T> {
    head: &'a AtomicUsize,
    tail: &'a AtomicUsize,
    places: &'a [UnsafeCell<Option<T>>],
}

impl<T> Consumer<'_, T> {
    pub fn dequeue(&mut self) -> Option<T> {
        let at = self.head.load(Ordering::Relaxed);
        if at == self.tail.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the place is the consumer's until `head` passes it; loom watches that.
        let item = self.places[at].with_mut(|place| unsafe { (*place).take() });
        assert!(item.is_some(), "a frame was taken twice");
        self.head
            .store((at + 1) % self.places.len(), Ordering::Release);
        item
    }

    pub fn ready(&self) -> bool {
        self.head.load(Ordering::Relaxed) != self.tail.load(Ordering::Relaxed)
    }
}
