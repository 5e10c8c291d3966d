//! The executor without a runtime: its work is closures that tests hold at gates.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};

use super::*;
use crate::caption::OnText;
use crate::control::{Control, Priority};
use crate::os::poll::{self, Interest};

fn executor(capacity: usize) -> Executor {
    Executor::start(&ExecutorOptions {
        capacity,
        lanes: vec![Lane::Encode, Lane::Generate],
    })
    .unwrap()
}

fn work(
    lane: Lane,
    control: Control,
    run: impl FnOnce(&Control, OnText<'_>) -> Result<Response> + Send + 'static,
) -> Work {
    Work::of(lane, control, true, Box::new(run))
}

fn at(priority: Priority) -> Control {
    Control {
        priority,
        ..Control::default()
    }
}

fn submit(executor: &Executor, work: Work) -> u64 {
    executor.queue(work, 0).unwrap().expect("there is room")
}

/// Work that holds its lane until told to go on; the second tells that it has begun.
fn gate(executor: &Executor, lane: Lane) -> (u64, Sender<()>) {
    let (open, opened) = mpsc::channel::<()>();
    let (began, begun) = mpsc::channel();
    let request = submit(
        executor,
        work(lane, Control::default(), move |_, _| {
            let _ = began.send(());
            let _ = opened.recv();
            Ok(Response::Closed)
        }),
    );
    begun.recv().unwrap();
    (request, open)
}

fn readable(executor: &Executor) -> bool {
    let polled = [(executor.as_fd(), Interest::Readable)];
    poll::wait(&polled, Duration::ZERO).unwrap()[0].event
}

/// The next event, waited for.
fn wait(executor: &Executor) -> Event {
    loop {
        if let Some(event) = executor.next() {
            return event;
        }
        std::thread::yield_now();
    }
}

fn done(executor: &Executor) -> (u64, Result<Response>) {
    match wait(executor) {
        Event::Done {
            request, result, ..
        } => (request, result),
        event => panic!("{event:?}"),
    }
}

fn kind(result: Result<Response>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Work that notes that it ran.
fn noting(lane: Lane, control: Control) -> (Work, Arc<AtomicBool>) {
    let ran = Arc::new(AtomicBool::new(false));
    let note = Arc::clone(&ran);
    let work = work(lane, control, move |_, _| {
        note.store(true, Ordering::SeqCst);
        Ok(Response::Closed)
    });
    (work, ran)
}

fn simple(lane: Lane, priority: Priority) -> Work {
    work(lane, at(priority), |_, _| Ok(Response::Closed))
}

/// The order in which requests of these priorities run that arrive one after the other while their lane is held.
fn order(priorities: &[Priority]) -> Vec<usize> {
    let executor = executor(priorities.len() + 1);
    let (held, open) = gate(&executor, Lane::Encode);
    let requests: Vec<u64> = priorities
        .iter()
        .map(|priority| submit(&executor, simple(Lane::Encode, *priority)))
        .collect();
    drop(open);
    assert_eq!(done(&executor).0, held);
    priorities
        .iter()
        .map(|_| {
            let (ended, result) = done(&executor);
            assert_eq!(result, Ok(Response::Closed));
            requests.iter().position(|r| *r == ended).unwrap()
        })
        .collect()
}

#[test]
fn an_interactive_request_overtakes_ten_of_the_background() {
    let mut priorities = [Priority::Background; 11];
    priorities[10] = Priority::Interactive;
    assert_eq!(order(&priorities), [10, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn requests_run_by_priority_then_by_arrival() {
    use Priority::{Background, Interactive, Normal};
    let got = order(&[
        Background,
        Normal,
        Interactive,
        Background,
        Interactive,
        Normal,
    ]);
    assert_eq!(got, [2, 4, 1, 5, 0, 3]);
}

#[test]
fn the_background_runs_although_interactive_requests_never_end() {
    let mut priorities = vec![Priority::Background];
    priorities.extend([Priority::Interactive; 40]);
    let place = order(&priorities).iter().position(|index| *index == 0);
    assert_eq!(place, Some(16), "overtaken eight times for each level");
}

#[test]
fn lanes_run_side_by_side_and_others_are_refused() {
    let executor = executor(4);
    let (held, open) = gate(&executor, Lane::Encode);
    let other = submit(&executor, simple(Lane::Generate, Priority::Normal));
    assert_eq!(done(&executor).0, other);
    drop(open);
    assert_eq!(done(&executor).0, held);
    let refused = executor.queue(simple(Lane::Store, Priority::Normal), 0);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_request_cancelled_while_it_waits_ends_at_once_and_never_runs() {
    let executor = executor(4);
    let (held, open) = gate(&executor, Lane::Encode);
    let (work, ran) = noting(Lane::Encode, Control::default());
    let waiting = submit(&executor, work);
    assert!(executor.cancel(waiting));
    assert!(executor.cancel(waiting), "again does no harm");
    // The lane is still held.
    let (ended, result) = done(&executor);
    assert_eq!((ended, kind(result)), (waiting, ErrorKind::Cancelled));
    assert!(!executor.cancel(waiting), "its end was taken");
    drop(open);
    assert_eq!(done(&executor).0, held);
    assert!(!executor.cancel(held));
    assert!(executor.close(Duration::from_secs(60)));
    assert!(!ran.load(Ordering::SeqCst));
}

#[test]
fn a_request_cancelled_while_it_runs_ends_at_its_next_step() {
    let executor = executor(4);
    let (began, begun) = mpsc::channel();
    let running = submit(
        &executor,
        work(Lane::Generate, Control::default(), move |control, _| {
            let _ = began.send(());
            loop {
                control.check()?;
                std::thread::yield_now();
            }
        }),
    );
    begun.recv().unwrap();
    assert!(executor.next().is_none());
    assert!(executor.cancel(running));
    let (ended, result) = done(&executor);
    assert_eq!((ended, kind(result)), (running, ErrorKind::Cancelled));
    assert!(!executor.cancel(running));
    assert!(!executor.cancel(99), "never was");
}

#[test]
fn a_deadline_ends_a_request_that_waits_and_it_never_runs() {
    let executor = executor(4);
    let (held, open) = gate(&executor, Lane::Encode);
    for wait in [Duration::from_millis(20), Duration::ZERO] {
        let control = Control {
            deadline: Some(Instant::now() + wait),
            ..Control::default()
        };
        let (work, ran) = noting(Lane::Encode, control);
        let late = submit(&executor, work);
        // The lane is held until both have ended.
        let (ended, result) = done(&executor);
        assert_eq!((ended, kind(result)), (late, ErrorKind::DeadlineExceeded));
        assert!(!ran.load(Ordering::SeqCst));
    }
    // One that runs in time is not ended, and one that runs too late is.
    let far = Control {
        deadline: Some(Instant::now() + Duration::from_secs(600)),
        ..Control::default()
    };
    let (work, ran) = noting(Lane::Encode, far);
    let in_time = submit(&executor, work);
    drop(open);
    assert_eq!(done(&executor).0, held);
    assert_eq!(done(&executor), (in_time, Ok(Response::Closed)));
    assert!(ran.load(Ordering::SeqCst));
}

#[test]
fn capacity_counts_requests_until_their_done_is_taken() {
    let executor = executor(1);
    let failing = || {
        work(Lane::Encode, Control::default(), |_, _| {
            Err(Error::new(ErrorKind::Io, "as asked"))
        })
    };
    let first = executor.queue(failing(), 5).unwrap().unwrap();
    // Whether it has ended by now or not.
    assert_eq!(executor.queue(failing(), 5), Ok(None));
    while !readable(&executor) {
        std::thread::yield_now();
    }
    assert_eq!(executor.queue(failing(), 5), Ok(None));
    let Some(Event::Done {
        request,
        user: 5,
        result: Err(error),
    }) = executor.next()
    else {
        panic!("no event");
    };
    assert_eq!((request, error.kind()), (first, ErrorKind::Io));
    assert!(!readable(&executor));
    assert!(executor.queue(failing(), 5).unwrap().is_some());
}

#[test]
fn text_that_nobody_has_taken_is_joined_and_comes_before_done() {
    let executor = executor(4);
    let speaking = submit(
        &executor,
        work(Lane::Generate, Control::default(), |_, on_text| {
            for piece in ["a ", "red ", "car"] {
                let _ = on_text(piece);
            }
            Ok(Response::Closed)
        }),
    );
    // A lane works in order: when this one runs, the first has said everything.
    let (_, open) = gate(&executor, Lane::Generate);
    assert_eq!(
        executor.next(),
        Some(Event::Text {
            request: speaking,
            user: 0,
            text: "a red car".into()
        })
    );
    assert_eq!(done(&executor), (speaking, Ok(Response::Closed)));
    drop(open);
}

#[test]
fn a_panic_is_a_result_and_the_lane_goes_on() {
    let executor = executor(4);
    for _ in 0..2 {
        submit(
            &executor,
            work(Lane::Encode, Control::default(), |_, _| {
                panic!("boom {}", 7)
            }),
        );
        let error = done(&executor).1.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.message().contains("boom 7"), "{error}");
    }
}

#[test]
fn closing_cancels_what_runs_and_leaves_a_hung_lane_behind() {
    let closed = executor(4);
    let (began, begun) = mpsc::channel();
    submit(
        &closed,
        work(Lane::Encode, Control::default(), move |control, _| {
            let _ = began.send(());
            loop {
                control.check()?;
                std::thread::yield_now();
            }
        }),
    );
    let (waiting, ran) = noting(Lane::Encode, Control::default());
    submit(&closed, waiting);
    begun.recv().unwrap();
    assert!(closed.close(Duration::from_secs(60)));
    assert!(!ran.load(Ordering::SeqCst));
    assert!(closed.next().is_none());
    let refused = closed.queue(simple(Lane::Encode, Priority::Normal), 0);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);

    let hung = executor(4);
    let (began, begun) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    submit(
        &hung,
        work(Lane::Encode, Control::default(), move |_, on_text| {
            let _ = began.send(());
            let _ = released.recv();
            // The queue is closed by now; this must go nowhere.
            let _ = on_text("late");
            Ok(Response::Closed)
        }),
    );
    begun.recv().unwrap();
    assert!(!hung.close(Duration::from_millis(20)));
    let shared = Arc::clone(&hung.shared);
    drop(hung);
    drop(release);
    while shared.lock().threads > 0 {
        std::thread::yield_now();
    }
    assert!(shared.lock().events.is_empty());
}

/// Cancel, deadline and the lane race for every request: each ends once.
#[test]
fn every_request_ends_exactly_once() {
    const REQUESTS: usize = 2000;
    let executor = executor(REQUESTS);
    std::thread::scope(|scope| {
        let (sent, requests) = mpsc::channel();
        scope.spawn({
            let executor = &executor;
            move || {
                for request in requests {
                    executor.cancel(request);
                }
            }
        });
        let mut open = HashSet::new();
        for index in 0..REQUESTS {
            let control = Control {
                deadline: (index % 3 == 0)
                    .then(|| Instant::now() + Duration::from_micros(index as u64 % 200)),
                ..at([Priority::Background, Priority::Interactive][index % 2])
            };
            let lane = [Lane::Encode, Lane::Generate][index / 2 % 2];
            let request = submit(&executor, work(lane, control, |_, _| Ok(Response::Closed)));
            assert!(open.insert(request));
            if index % 5 == 0 {
                sent.send(request).unwrap();
            }
        }
        drop(sent);
        while !open.is_empty() {
            let (request, result) = done(&executor);
            assert!(open.remove(&request), "ended twice");
            if let Err(error) = result {
                let kinds = [ErrorKind::Cancelled, ErrorKind::DeadlineExceeded];
                assert!(kinds.contains(&error.kind()), "{error}");
            }
        }
    });
    assert!(executor.next().is_none());
    assert!(!readable(&executor));
}
