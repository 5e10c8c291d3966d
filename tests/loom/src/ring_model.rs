//! What the capture ring promises, whatever the order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use loom::thread;

use super::ring::{Consumer, Producer, ring_of};
use crate::error::ErrorKind;
use crate::frame::{Frame, FrameFormat, PixelFormat};
use crate::{Model, explore};

pub const MODELS: &[Model] = &[
    ("frames_come_whole_and_in_order", frames_come_whole_and_in_order),
    ("one_pushes_at_a_time", one_pushes_at_a_time),
    ("one_is_refused_at_a_time", one_is_refused_at_a_time),
    ("refused_frames_cost_no_place", refused_frames_cost_no_place),
    ("closing_beside_a_push_loses_no_frame", closing_beside_a_push_loses_no_frame),
];

const BYTES: usize = 4;

/// A frame whose pixels all say when it was taken.
fn push(producer: &Producer, time: u8) -> Result<bool, ErrorKind> {
    let pixels = [time; BYTES];
    let format = FrameFormat::new(PixelFormat::Gray8, 2, 2);
    let frame = Frame::packed(format, &pixels, i64::from(time)).expect("a frame");
    producer.push(&frame).map_err(|e| e.kind())
}

/// When the next frame was taken; `None` at the end.
fn next(consumer: &mut Consumer) -> Option<i64> {
    let frame = consumer.next()?;
    let time = frame.timestamp_ns();
    let plane = frame.as_frame().expect("a frame").plane(0).data;
    assert!(plane.iter().all(|&p| i64::from(p) == time), "torn");
    Some(time)
}

fn drain(consumer: &mut Consumer) -> Vec<i64> {
    let times = std::iter::from_fn(|| next(consumer)).collect();
    assert!(consumer.has_ended(), "over, but not ended");
    times
}

/// One pushes more than there is room for, and ends; the other sleeps in between and sees every frame that was taken.
fn frames_come_whole_and_in_order() {
    explore(3, || {
        let (producer, mut consumer) = ring_of(2, BYTES).expect("a ring");
        let camera = thread::spawn(move || {
            let times = 1..=3;
            let taken: Vec<i64> = times
                .filter(|&time| push(&producer, time).expect("nobody else pushes"))
                .map(i64::from)
                .collect();
            (taken, producer.counters())
        });
        let seen = drain(&mut consumer);
        let (taken, counters) = camera.join().unwrap();
        assert_eq!(seen, taken, "what was taken is what comes");
        assert_eq!(counters.pushed, taken.len() as u64);
        assert_eq!(counters.pushed + counters.dropped, 3, "every frame is counted once");
    });
}

/// Two push at once: each is either alone or told that the other is there.
fn one_pushes_at_a_time() {
    explore(3, || {
        let (producer, mut consumer) = ring_of(2, BYTES).expect("a ring");
        let producer = loom::sync::Arc::new(producer);
        let busy = Arc::new(AtomicUsize::new(0));
        let cameras = [1, 2].map(|time| {
            let (producer, busy) = (producer.clone(), Arc::clone(&busy));
            thread::spawn(move || match push(&producer, time) {
                Ok(taken) => assert!(taken, "there is room for both"),
                Err(e) => {
                    assert_eq!(e, ErrorKind::Busy);
                    busy.fetch_add(1, SeqCst);
                }
            })
        });
        for camera in cameras {
            camera.join().unwrap();
        }
        // The turn was given back.
        let last = push(&producer, 3).expect("nobody else pushes");
        drop(producer);
        let mut seen = drain(&mut consumer);
        assert_eq!(seen.len(), 2 - busy.load(SeqCst) + usize::from(last));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 2 - busy.load(SeqCst) + usize::from(last), "a frame came twice");
    });
}

/// Two push at once into a ring that is full.
fn one_is_refused_at_a_time() {
    explore(5, || {
        let (producer, mut consumer) = ring_of(1, BYTES).expect("a ring");
        assert_eq!(push(&producer, 1), Ok(true));
        let producer = loom::sync::Arc::new(producer);
        let other = {
            let producer = producer.clone();
            thread::spawn(move || push(&producer, 2))
        };
        let refused = [push(&producer, 3), other.join().unwrap()];
        let busy = refused.iter().filter(|r| **r == Err(ErrorKind::Busy)).count();
        assert!(busy < 2, "neither had the turn");
        assert!(!refused.contains(&Ok(true)), "there is one place");
        assert_eq!(producer.counters().dropped, 2 - busy as u64);
        drop(producer);
        assert_eq!(drain(&mut consumer), [1]);
    });
}

/// However often it was full, there are as many places afterwards as before.
fn refused_frames_cost_no_place() {
    explore(4, || {
        let (producer, mut consumer) = ring_of(1, BYTES).expect("a ring");
        let camera = thread::spawn(move || {
            push(&producer, 1).expect("nobody else pushes");
            push(&producer, 2).expect("nobody else pushes");
            producer
        });
        assert_eq!(next(&mut consumer), Some(1));
        let producer = camera.join().unwrap();
        let between = producer.counters().pushed;
        if between == 2 {
            assert_eq!(next(&mut consumer), Some(2));
        }
        for time in [3, 4] {
            assert_eq!(push(&producer, time), Ok(true), "its place is free again");
            assert_eq!(push(&producer, 9), Ok(false), "there is one place");
            assert_eq!(next(&mut consumer), Some(i64::from(time)));
        }
        drop(producer);
        assert_eq!(drain(&mut consumer), []);
    });
}

/// One pushes, one closes, one takes: the push is refused, or its frame comes.
fn closing_beside_a_push_loses_no_frame() {
    explore(3, || {
        let (producer, mut consumer) = ring_of(1, BYTES).expect("a ring");
        let producer = loom::sync::Arc::new(producer);
        let camera = {
            let producer = producer.clone();
            thread::spawn(move || push(&producer, 1))
        };
        let end = {
            let producer = producer.clone();
            thread::spawn(move || producer.close())
        };
        let seen = drain(&mut consumer);
        end.join().unwrap();
        let taken = match camera.join().unwrap() {
            Ok(taken) => {
                assert!(taken, "there is room");
                vec![1]
            }
            Err(e) => {
                assert_eq!(e, ErrorKind::InvalidArgument);
                vec![]
            }
        };
        assert_eq!(seen, taken, "what was taken is what comes");
        assert_eq!(push(&producer, 2), Err(ErrorKind::InvalidArgument), "it is closed");
    });
}
