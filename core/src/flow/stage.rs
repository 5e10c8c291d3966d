//! A named thread between two channels.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use super::channel::{Receiver, Sender};
use crate::error::{Error, ErrorKind, Result};

/// A thread that takes items from one channel, works on each and sends the results into another.
///
/// It ends when its input is closed and empty, when nobody receives its output, or at the first error; then it closes
/// both channels, so that the stages beside it end as well.
pub struct Stage {
    name: String,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Stage {
    /// Starts the thread. `work` gets each item, and at the end of the input `None` once, and may return a result for
    /// either.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the thread cannot be started.
    pub fn spawn<I, O>(
        name: &str,
        input: Receiver<I>,
        output: Sender<O>,
        mut work: impl FnMut(Option<I>) -> Result<Option<O>> + Send + 'static,
    ) -> Result<Self>
    where
        I: Send + 'static,
        O: Send + 'static,
    {
        let thread_name = name.to_owned();
        let thread = std::thread::Builder::new()
            .name(thread_name.clone())
            .spawn(move || {
                let end = catch_unwind(AssertUnwindSafe(|| run(&input, &output, &mut work)));
                input.close();
                output.close();
                end.unwrap_or_else(|_| {
                    Err(Error::new(
                        ErrorKind::Internal,
                        format!("stage {thread_name} panicked"),
                    ))
                })
            })
            .map_err(|e| Error::io(format!("starting stage {name}"), &e))?;
        Ok(Self {
            name: name.to_owned(),
            thread: Some(thread),
        })
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The first error of the stage; [`ErrorKind::Internal`] when it panicked.
    pub fn join(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(end)) => end,
            Some(Err(_)) => Err(Error::new(
                ErrorKind::Internal,
                format!("stage {} panicked", self.name),
            )),
        }
    }
}

/// Waits for the thread: close its input first, or it may wait for ever.
impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            log::warn!("stage {} ended with an error: {error}", self.name);
        }
    }
}

fn run<I, O>(
    input: &Receiver<I>,
    output: &Sender<O>,
    work: &mut impl FnMut(Option<I>) -> Result<Option<O>>,
) -> Result<()> {
    loop {
        let item = input.recv();
        let last = item.is_none();
        if let Some(result) = work(item)?
            && output.send(result).is_err()
        {
            return Ok(());
        }
        if last {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::channel::{Overflow, channel};

    #[test]
    fn items_pass_and_the_end_is_seen_once() {
        let (sender, input) = channel(2, Overflow::Block).unwrap();
        let (output, receiver) = channel(2, Overflow::Block).unwrap();
        let stage = Stage::spawn("double", input, output, |item: Option<i32>| {
            Ok(Some(item.map_or(-1, |n| n * 2)))
        })
        .unwrap();
        let feeder = std::thread::spawn(move || (0..100).for_each(|n| sender.send(n).unwrap()));
        let results: Vec<_> = std::iter::from_fn(|| receiver.recv()).collect();
        let expected: Vec<_> = (0..100).map(|n| n * 2).chain([-1]).collect();
        assert_eq!(results, expected);
        stage.join().unwrap();
        feeder.join().unwrap();
    }

    #[test]
    fn an_error_or_a_panic_ends_the_stages_beside_it() {
        for panics in [false, true] {
            let (sender, input) = channel(1, Overflow::Block).unwrap();
            let (output, receiver) = channel::<i32>(1, Overflow::Block).unwrap();
            let stage = Stage::spawn("fails", input, output, move |item: Option<i32>| {
                assert!(!panics || item != Some(3), "on purpose");
                match item {
                    Some(3) => Err(Error::new(ErrorKind::Inference, "three")),
                    other => Ok(other),
                }
            })
            .unwrap();
            let feeder = std::thread::spawn(move || {
                (0..100).take_while(|&n| sender.send(n).is_ok()).count()
            });
            assert_eq!(std::iter::from_fn(|| receiver.recv()).count(), 3);
            assert!(feeder.join().unwrap() < 100);
            let kind = stage.join().unwrap_err().kind();
            assert_eq!(
                kind,
                if panics {
                    ErrorKind::Internal
                } else {
                    ErrorKind::Inference
                }
            );
        }
    }
}
