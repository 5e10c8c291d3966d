//! A bounded queue between two stages, with a declared answer to being full.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;

use crate::error::{Error, ErrorKind, Result};

/// What sending into a full channel does. Stages of today wait; the other policies are for sources that cannot, as live ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// Wait until there is room.
    Block,
    /// Give up the item that has waited longest.
    DropOldest,
    /// Give up the item being sent.
    DropNewest,
}

/// What went through a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChannelCounters {
    /// Items given to [`Sender::send`] while the channel was open.
    pub sent: u64,
    /// Items taken by a receiver.
    pub received: u64,
    /// Items given up because the channel was full.
    pub dropped: u64,
}

/// The channel is closed; the item comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed<T>(pub T);

struct Shared<T> {
    queue: ArrayQueue<T>,
    overflow: Overflow,
    closed: AtomicBool,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    sent: AtomicU64,
    received: AtomicU64,
    dropped: AtomicU64,
    /// Guards nothing but the moment between looking and falling asleep.
    gate: Mutex<()>,
    changed: Condvar,
}

impl<T> Shared<T> {
    fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        drop(self.gate());
        self.changed.notify_all();
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.announce();
    }

    /// Runs `attempt` until it gives something, sleeping between changes. `None` after `until`.
    fn wait<R>(&self, until: Option<Instant>, mut attempt: impl FnMut() -> Option<R>) -> Option<R> {
        loop {
            if let Some(done) = attempt() {
                return Some(done);
            }
            let gate = self.gate();
            // Whoever changed something since the attempt above did not find us asleep.
            if let Some(done) = attempt() {
                return Some(done);
            }
            match until {
                None => drop(
                    self.changed
                        .wait(gate)
                        .unwrap_or_else(PoisonError::into_inner),
                ),
                Some(until) => {
                    let left = until.checked_duration_since(Instant::now())?;
                    let woken = self.changed.wait_timeout(gate, left);
                    drop(woken.unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }
}

/// The sending side; clones share the channel, which closes when the last is dropped.
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving side; clones share the channel, which closes when the last is dropped.
pub struct Receiver<T>(Arc<Shared<T>>);

/// A channel of at most `capacity` items.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when `capacity` is zero.
pub fn channel<T>(capacity: usize, overflow: Overflow) -> Result<(Sender<T>, Receiver<T>)> {
    if capacity == 0 {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "a channel of no items",
        ));
    }
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity),
        overflow,
        closed: AtomicBool::new(false),
        senders: AtomicUsize::new(1),
        receivers: AtomicUsize::new(1),
        sent: AtomicU64::new(0),
        received: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
        gate: Mutex::new(()),
        changed: Condvar::new(),
    });
    Ok((Sender(shared.clone()), Receiver(shared)))
}

impl<T> Sender<T> {
    /// Sends `item`; a full channel does what its [`Overflow`] says. Waits only under [`Overflow::Block`].
    ///
    /// # Errors
    /// [`Closed`], with the item, when nobody will receive it any more.
    pub fn send(&self, item: T) -> Result<(), Closed<T>> {
        let shared = &self.0;
        let mut item = Some(item);
        let refused = shared.wait(None, || {
            let next = item.take()?;
            if shared.closed.load(Ordering::SeqCst) {
                return Some(Some(Closed(next)));
            }
            match shared.overflow {
                Overflow::Block => match shared.queue.push(next) {
                    Ok(()) => Some(None),
                    Err(back) => {
                        item = Some(back);
                        None
                    }
                },
                Overflow::DropOldest => {
                    if shared.queue.force_push(next).is_some() {
                        shared.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(None)
                }
                Overflow::DropNewest => {
                    if shared.queue.push(next).is_err() {
                        shared.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(None)
                }
            }
        });
        match refused.flatten() {
            Some(closed) => Err(closed),
            None => {
                shared.sent.fetch_add(1, Ordering::Relaxed);
                shared.announce();
                Ok(())
            }
        }
    }

    /// Closes the channel: nothing more is taken, what is inside can still be received.
    pub fn close(&self) {
        self.0.close();
    }

    /// What went through so far.
    pub fn counters(&self) -> ChannelCounters {
        counters(&self.0)
    }
}

impl<T> Receiver<T> {
    /// The next item; waits for it. `None` when the channel is closed and empty.
    pub fn recv(&self) -> Option<T> {
        self.receive(None)
    }

    /// The next item if it comes within `timeout`; `None` also when the channel is closed and empty.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<T> {
        self.receive(Instant::now().checked_add(timeout))
    }

    /// The next item if there is one now.
    pub fn try_recv(&self) -> Option<T> {
        let item = self.0.queue.pop()?;
        self.0.received.fetch_add(1, Ordering::Relaxed);
        self.0.announce();
        Some(item)
    }

    /// Closes the channel: senders get their items back, what is inside can still be received.
    pub fn close(&self) {
        self.0.close();
    }

    /// What went through so far.
    pub fn counters(&self) -> ChannelCounters {
        counters(&self.0)
    }

    fn receive(&self, until: Option<Instant>) -> Option<T> {
        let shared = &self.0;
        let item = shared.wait(until, || {
            // Read first: what was sent before the close is then inside.
            let closed = shared.closed.load(Ordering::SeqCst);
            match shared.queue.pop() {
                None if !closed => None,
                ended_or_item => Some(ended_or_item),
            }
        })??;
        shared.received.fetch_add(1, Ordering::Relaxed);
        shared.announce();
        Some(item)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.receivers.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.close();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if self.0.receivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.close();
        }
    }
}

fn counters<T>(shared: &Shared<T>) -> ChannelCounters {
    ChannelCounters {
        sent: shared.sent.load(Ordering::Relaxed),
        received: shared.received.load(Ordering::Relaxed),
        dropped: shared.dropped.load(Ordering::Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_overflow_does_what_it_says() {
        let fill = |overflow| {
            let (sender, receiver) = channel(2, overflow).unwrap();
            for item in 0..5 {
                sender.send(item).unwrap();
            }
            let dropped = sender.counters().dropped;
            drop(sender);
            let left: Vec<i32> = std::iter::from_fn(|| receiver.recv()).collect();
            (left, dropped, receiver.counters())
        };
        let all = ChannelCounters {
            sent: 5,
            received: 2,
            dropped: 3,
        };
        assert_eq!(fill(Overflow::DropOldest), (vec![3, 4], 3, all));
        assert_eq!(fill(Overflow::DropNewest), (vec![0, 1], 3, all));
        assert!(channel::<()>(0, Overflow::Block).is_err());
    }

    #[test]
    fn blocking_senders_wait_and_lose_nothing() {
        let (sender, receiver) = channel(3, Overflow::Block).unwrap();
        let senders: Vec<_> = (0..4)
            .map(|who| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    (0..5_000).for_each(|n| sender.send((who, n)).unwrap());
                })
            })
            .collect();
        drop(sender);
        let mut next = [0; 4];
        while let Some((who, n)) = receiver.recv() {
            assert_eq!(n, next[who], "in order for each sender");
            next[who] += 1;
        }
        assert_eq!(next, [5_000; 4]);
        senders.into_iter().for_each(|s| s.join().unwrap());
    }

    #[test]
    fn a_sender_that_waits_gets_its_item_back_at_the_close() {
        let (sender, receiver) = channel(1, Overflow::Block).unwrap();
        sender.send(1).unwrap();
        let waiting = std::thread::spawn(move || sender.send(2));
        std::thread::sleep(Duration::from_millis(50));
        receiver.close();
        assert_eq!(waiting.join().unwrap(), Err(Closed(2)));
        assert_eq!(receiver.recv(), Some(1));
        assert_eq!(receiver.recv(), None);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(60)), None);
    }

    #[test]
    fn a_timeout_ends_the_wait() {
        let (sender, receiver) = channel::<u8>(1, Overflow::Block).unwrap();
        assert_eq!(receiver.recv_timeout(Duration::from_millis(10)), None);
        assert_eq!(receiver.try_recv(), None);
        sender.send(1).unwrap();
        assert_eq!(receiver.recv_timeout(Duration::ZERO), Some(1));
    }
}
