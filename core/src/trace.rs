//! What ran when, on which thread: spans of the process's work, written as Chrome trace JSON (open it in Perfetto or
//! `chrome://tracing`).
//!
//! One recording at a time, of the whole process, since sessions share one ONNX Runtime and its threads. While none runs
//! a span costs one load of an atomic; while one runs, two clock readings and a push into a lock-free queue (a thread's
//! first span takes a lock once). The newest spans are kept, what no longer fits is counted.
//!
//! ```
//! use atom_core::trace::{self, Recording};
//! let recording = Recording::start(1024).unwrap();
//! drop(trace::span("index", "encode").arg("rows", 2));
//! let trace = recording.finish();
//! assert_eq!(trace.spans[0].name, "encode");
//! ```

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use crossbeam::queue::ArrayQueue;
use serde_json::json;

use crate::error::{Error, ErrorKind, Result};
use crate::os::thread;

/// Spans a recording keeps when nothing else is said: some 13 MB.
pub const SPANS: usize = 1 << 17;

/// The most spans a recording may keep.
pub const MAX_SPANS: usize = 1 << 24;

/// Number of the recording under way; 0 while there is none.
static CURRENT: AtomicU64 = AtomicU64::new(0);
static RECORDER: ArcSwapOption<Recorder> = ArcSwapOption::const_empty();

thread_local! {
    /// The last recording that knows this thread's name.
    static KNOWN_TO: Cell<u64> = const { Cell::new(0) };
}

struct Recorder {
    number: u64,
    started: Instant,
    spans: ArrayQueue<SpanRecord>,
    dropped: AtomicU64,
    threads: Mutex<Vec<ThreadName>>,
}

/// A named value of a span.
pub type Arg = (&'static str, u64);

/// One span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanRecord {
    /// What was done: "encode", "token" …
    pub name: &'static str,
    /// For which part of the work: "index", "language" …
    pub category: &'static str,
    /// Which module or thing, where there are several.
    pub what: Option<Arc<str>>,
    /// The kernel's number of the thread.
    pub thread: u32,
    /// Start, in nanoseconds since the recording's.
    pub start_ns: u64,
    /// Length in nanoseconds.
    pub duration_ns: u64,
    /// Numbers that tell more.
    pub args: [Option<Arg>; 2],
}

impl SpanRecord {
    /// The number called `name`, if it has one.
    pub fn arg(&self, name: &str) -> Option<u64> {
        let mut args = self.args.iter().flatten();
        Some(args.find(|(own, _)| *own == name)?.1)
    }

    /// When it ended, in nanoseconds since the recording's start.
    pub fn end_ns(&self) -> u64 {
        self.start_ns + self.duration_ns
    }

    /// Whether both ran at some moment.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start_ns < other.end_ns() && other.start_ns < self.end_ns()
    }
}

/// A thread that recorded something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadName {
    /// The kernel's number.
    pub id: u32,
    /// Its name.
    pub name: String,
}

/// A span under way; recorded when dropped.
#[derive(Debug)]
#[must_use = "a span ends when it is dropped"]
pub struct Span(Option<Open>);

#[derive(Debug)]
struct Open {
    name: &'static str,
    category: &'static str,
    what: Option<Arc<str>>,
    start: Instant,
    args: [Option<Arg>; 2],
}

/// Begins a span. Costs one atomic load while nothing is recorded.
pub fn span(category: &'static str, name: &'static str) -> Span {
    if CURRENT.load(Ordering::Relaxed) == 0 {
        return Span(None);
    }
    Span(Some(Open {
        name,
        category,
        what: None,
        start: Instant::now(),
        args: [None; 2],
    }))
}

impl Span {
    /// Adds a number; of more than two the last ones are left out.
    pub fn arg(mut self, name: &'static str, value: u64) -> Self {
        if let Some(open) = &mut self.0
            && let Some(free) = open.args.iter_mut().find(|arg| arg.is_none())
        {
            *free = Some((name, value));
        }
        self
    }

    /// Says which module or thing it is about.
    pub fn what(mut self, what: &Arc<str>) -> Self {
        if let Some(open) = &mut self.0 {
            open.what = Some(Arc::clone(what));
        }
        self
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(open) = self.0.take()
            && let Some(recorder) = &*RECORDER.load()
        {
            recorder.push(open);
        }
    }
}

impl Recorder {
    fn push(&self, open: Open) {
        let end = Instant::now();
        // Begun under an earlier recording.
        if open.start < self.started {
            return;
        }
        let thread = thread::id();
        if KNOWN_TO.get() != self.number {
            KNOWN_TO.set(self.number);
            let name = thread::name();
            let threads = self.threads.lock();
            let mut threads = threads.unwrap_or_else(PoisonError::into_inner);
            threads.push(ThreadName { id: thread, name });
        }
        let record = SpanRecord {
            name: open.name,
            category: open.category,
            what: open.what,
            thread,
            start_ns: nanoseconds(self.started, open.start),
            duration_ns: nanoseconds(open.start, end),
            args: open.args,
        };
        if self.spans.force_push(record).is_some() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn nanoseconds(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}

/// A recording under way. Dropping it throws away what was recorded.
#[derive(Debug)]
pub struct Recording(Option<u64>);

impl Recording {
    /// Starts recording all threads' spans, the newest `capacity` (1 to [`MAX_SPANS`]) of them.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a capacity out of range, [`ErrorKind::Busy`] while another recording runs.
    pub fn start(capacity: usize) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if !(1..=MAX_SPANS).contains(&capacity) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a trace of {capacity} spans: 1 to {MAX_SPANS} are possible"),
            ));
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let claimed = CURRENT.compare_exchange(0, number, Ordering::AcqRel, Ordering::Relaxed);
        if claimed.is_err() {
            return Err(
                Error::new(ErrorKind::Busy, "a trace is being recorded in this process")
                    .remedy("stop that one first"),
            );
        }
        RECORDER.store(Some(Arc::new(Recorder {
            number,
            started: Instant::now(),
            spans: ArrayQueue::new(capacity),
            dropped: AtomicU64::new(0),
            threads: Mutex::default(),
        })));
        Ok(Self(Some(number)))
    }

    /// Stops recording. Spans still under way are left out.
    pub fn finish(mut self) -> Trace {
        let Some(recorder) = self.end() else {
            return Trace::default();
        };
        let mut spans: Vec<_> = std::iter::from_fn(|| recorder.spans.pop()).collect();
        // What holds another comes first.
        spans.sort_by_key(|span| (span.start_ns, std::cmp::Reverse(span.duration_ns)));
        let threads = recorder.threads.lock();
        Trace {
            spans,
            threads: threads.unwrap_or_else(PoisonError::into_inner).clone(),
            dropped: recorder.dropped.load(Ordering::Relaxed),
        }
    }

    fn end(&mut self) -> Option<Arc<Recorder>> {
        self.0.take()?;
        let recorder = RECORDER.swap(None);
        CURRENT.store(0, Ordering::Release);
        recorder
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.end();
    }
}

/// What was recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// By start.
    pub spans: Vec<SpanRecord>,
    /// The threads they ran on.
    pub threads: Vec<ThreadName>,
    /// Older spans that were given up for newer ones.
    pub dropped: u64,
}

impl Trace {
    /// The spans called `name`.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a SpanRecord> {
        self.spans.iter().filter(move |span| span.name == name)
    }

    /// Writes Chrome trace JSON: complete events (`ph` "X") with times in microseconds, and the threads' names.
    ///
    /// # Errors
    /// What `out` gives.
    pub(crate) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let process = std::process::id();
        let other = json!({
            "atom": env!("CARGO_PKG_VERSION"),
            "spans": self.spans.len(),
            "dropped_spans": self.dropped,
        });
        write!(
            out,
            "{{\"displayTimeUnit\":\"ms\",\"otherData\":{other},\"traceEvents\":["
        )?;
        let name = |event: &str, thread: u32, name: &str| json!({"ph": "M", "name": event, "pid": process, "tid": thread, "args": {"name": name}});
        write!(out, "\n{}", name("process_name", process, "atom"))?;
        for thread in &self.threads {
            write!(out, ",\n{}", name("thread_name", thread.id, &thread.name))?;
        }
        for span in &self.spans {
            let mut args = serde_json::Map::new();
            if let Some(what) = &span.what {
                args.insert("what".into(), json!(&**what));
            }
            for (name, value) in span.args.iter().flatten() {
                args.insert((*name).into(), json!(value));
            }
            let event = json!({
                "ph": "X",
                "name": span.name,
                "cat": span.category,
                "pid": process,
                "tid": span.thread,
                "ts": span.start_ns as f64 / 1e3,
                "dur": span.duration_ns as f64 / 1e3,
                "args": args,
            });
            write!(out, ",\n{event}")?;
        }
        writeln!(out, "\n]}}")
    }
}

/// A recording that ends in a file.
#[derive(Debug)]
pub struct TraceFile {
    recording: Recording,
    file: File,
    path: PathBuf,
}

impl TraceFile {
    /// Creates (or empties) the file at `path` at once, so that a wrong path is told before the work, and starts
    /// recording.
    ///
    /// # Errors
    /// As [`Recording::start`]; what creating the file gives.
    pub fn create(path: &Path, capacity: usize) -> Result<Self> {
        let recording = Recording::start(capacity)?;
        let file = File::create(path)
            .map_err(|e| Error::io(format_args!("trace {}", path.display()), &e))?;
        Ok(Self {
            recording,
            file,
            path: path.to_owned(),
        })
    }

    /// Stops recording and writes the file.
    ///
    /// # Errors
    /// What writing gives; the file may then hold a part.
    pub fn finish(self) -> Result<Trace> {
        let trace = self.recording.finish();
        let mut out = BufWriter::new(self.file);
        trace
            .write_json(&mut out)
            .and_then(|()| out.flush())
            .map_err(|e| Error::io(format_args!("trace {}", self.path.display()), &e))?;
        Ok(trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recordings are the process's: the tests that make some take turns.
    static TURN: Mutex<()> = Mutex::new(());

    /// Spans of these tests only: others of this process record too.
    const OWN: &str = "trace-test";

    fn own(trace: &Trace) -> Vec<&SpanRecord> {
        trace.spans.iter().filter(|s| s.category == OWN).collect()
    }

    #[test]
    fn spans_carry_thread_order_and_arguments() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        drop(span(OWN, "before"));
        let early = span(OWN, "too early");
        let recording = Recording::start(100).unwrap();
        assert_eq!(Recording::start(1).unwrap_err().kind(), ErrorKind::Busy);
        drop(early);
        let module: Arc<str> = "encoder".into();
        {
            let _outer = span(OWN, "outer").what(&module).arg("rows", 3);
            let _inner = span(OWN, "inner").arg("a", 1).arg("b", 2).arg("c", 3);
        }
        let other = std::thread::Builder::new().name("helper".into());
        let other = other.spawn(|| drop(span(OWN, "elsewhere"))).unwrap();
        other.join().unwrap();
        let open = span(OWN, "never ended");
        let trace = recording.finish();
        drop(open);
        drop(span(OWN, "after"));

        let spans = own(&trace);
        let names: Vec<_> = spans.iter().map(|span| span.name).collect();
        assert_eq!(names, ["outer", "inner", "elsewhere"]);
        assert_eq!(spans[0].what.as_deref(), Some("encoder"));
        assert_eq!(spans[0].args, [Some(("rows", 3)), None]);
        assert_eq!(spans[1].args, [Some(("a", 1)), Some(("b", 2))]);
        assert_eq!((spans[1].arg("b"), spans[1].arg("c")), (Some(2), None));
        assert!(spans[0].overlaps(spans[1]) && !spans[1].overlaps(spans[2]));
        assert!(spans[0].start_ns <= spans[1].start_ns && spans[1].end_ns() <= spans[0].end_ns());
        assert_ne!(spans[2].thread, spans[0].thread);
        let name = |id| {
            trace
                .threads
                .iter()
                .find(|t| t.id == id)
                .map(|t| &t.name[..])
        };
        assert_eq!(name(spans[2].thread), Some("helper"));

        let mut text = Vec::new();
        trace.write_json(&mut text).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        let outer = events.iter().find(|e| e["name"] == "outer").unwrap();
        assert_eq!((&outer["ph"], &outer["cat"]), (&json!("X"), &json!(OWN)));
        assert_eq!(outer["args"], json!({"what": "encoder", "rows": 3}));
        assert_eq!(outer["ts"], json!(spans[0].start_ns as f64 / 1e3));
        assert!(events.iter().any(|e| e["ph"] == "M"
            && e["tid"] == spans[2].thread
            && e["args"]["name"] == "helper"));
    }

    #[test]
    fn the_newest_spans_are_kept_and_the_others_counted() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let recording = Recording::start(4).unwrap();
        for number in 0..50 {
            drop(span(OWN, "one").arg("number", number));
        }
        let trace = recording.finish();
        // Other tests of this process may have pushed some out.
        assert!(trace.spans.len() <= 4 && trace.dropped >= 46, "{trace:?}");
        if let Some(last) = own(&trace).last() {
            assert_eq!(last.args[0], Some(("number", 49)));
        }
        for capacity in [0, MAX_SPANS + 1] {
            let error = Recording::start(capacity).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn a_file_that_cannot_be_made_is_told_at_once() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let error = TraceFile::create(&folder.path().join("no/such"), 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let path = folder.path().join("trace.json");
        let file = TraceFile::create(&path, 10).unwrap();
        drop(span(OWN, "one"));
        let trace = file.finish().unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(json["otherData"]["spans"], json!(trace.spans.len()));
    }
}
