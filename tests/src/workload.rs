//! Two hundred mixed tasks over a store that does not change, and the memory they take.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use atom_core::Result;
use atom_core::control::{Control, TextOptions};
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::index::{Access, SegmentId, Store};
use atom_core::os::smaps::process_memory;
use atom_core::runtime::Runtime;
use atom_core::task::assemble::AssembleQuery;
use atom_core::task::ingest::IngestOptions;
use atom_core::task::search::SearchQuery;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::picture;

/// Threads that work at once.
pub const THREADS: usize = 4;
/// Tasks in all.
pub const TASKS: usize = 200;

const QUERIES: [&str; 5] = [
    "people riding bicycles in the street",
    "a man wearing a bow tie",
    "a street with parked cars",
    "an animal",
    "a submarine under the sea",
];
const QUESTIONS: [&str; 4] = [
    "Is there a car?",
    "How many people are there?",
    "What animal is this?",
    "Is there a bicycle?",
];

/// What the tasks came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// One line a task, in order: its result, or "error: …".
    pub results: Vec<String>,
    /// How long all took, in seconds.
    pub wall_s: f64,
    /// The most anonymous memory the process had, in bytes, when looked at every few milliseconds.
    pub peak_anon_bytes: u64,
    /// Loads of modules.
    pub loads: u64,
}

/// The streams and segments that tasks are about.
pub struct Stage {
    runtime: Runtime,
    store: Store,
    segments: Vec<SegmentId>,
}

impl Stage {
    /// The store in `folder`, made of the demo's clips by `atom index` before.
    ///
    /// # Errors
    /// What opening it gives.
    pub fn open(runtime: &Runtime, folder: &Path) -> Result<Self> {
        let store = runtime.open_store(folder, Access::ReadOnly)?;
        let mut segments = Vec::new();
        for stream in store.streams()? {
            segments.extend(store.segments(stream.id, None, None)?.iter().map(|s| s.id));
        }
        Ok(Self {
            runtime: runtime.clone(),
            store,
            segments,
        })
    }

    /// Task number `number`, as a line that says what came out.
    ///
    /// # Errors
    /// What the task gives.
    pub fn task(&self, number: usize) -> Result<String> {
        // Whole rounds of all kinds, each with other inputs.
        let round = number / 5;
        let control = Control::default();
        let mut listen = |_: &str| ControlFlow::Continue(());
        match number % 5 {
            0 => {
                let mut query = SearchQuery::new(QUERIES[round % QUERIES.len()]);
                query.min_score = Some(-1.0);
                let hits = self.runtime.search(&self.store, &query, &control)?;
                let hits = hits
                    .iter()
                    .map(|hit| format!("{}:{:08x}", hit.segment, hit.score.to_bits()));
                Ok(format!("search {}", hits.collect::<Vec<_>>().join(" ")))
            }
            1 | 2 => {
                let segment = self.segments[round % self.segments.len()];
                let features = self.store.features(segment)?;
                let text = TextOptions::default();
                let said = if number % 5 == 1 {
                    self.runtime
                        .caption(&[&features], &text, &control, &mut listen)?
                } else {
                    let question = QUESTIONS[round % QUESTIONS.len()];
                    self.runtime
                        .ask(&[&features], question, &text, &control, &mut listen)?
                };
                Ok(format!("said {}", said.text))
            }
            3 => {
                let (width, height) = (640, 360);
                let pixels = picture(round as u64 % 8, width, height);
                let format = FrameFormat::new(PixelFormat::Rgb8, width, height);
                let seen = self
                    .runtime
                    .observe(&Frame::packed(format, &pixels, 0)?, &control)?;
                let mut hash = Sha256::new();
                for value in seen.embedding.iter().chain(&seen.posteriors) {
                    hash.update(value.to_le_bytes());
                }
                hash.update(format!("{:?}", seen.detections));
                Ok(format!("seen {:x}", hash.finalize()))
            }
            _ => {
                let lines = [QUERIES[round % 5], QUERIES[(round + 1) % 5]];
                let query = AssembleQuery {
                    script: lines.join("\n"),
                    ..AssembleQuery::default()
                };
                let board = self.runtime.assemble(&self.store, &query, &control)?;
                let clips = board.clips.iter();
                let clips = clips.map(|clip| format!("{}:{}", clip.line, clip.segment));
                Ok(format!("board {}", clips.collect::<Vec<_>>().join(" ")))
            }
        }
    }

    /// All tasks, by [`THREADS`] threads.
    pub fn run(&self) -> Outcome {
        let began = Instant::now();
        let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut results: Vec<(usize, String)> = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let now = process_memory().map_or(0, |memory| memory.pss_anon);
                    peak.fetch_max(now, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(4));
                }
            });
            let work = |first: usize| {
                let mine = (first..TASKS).step_by(THREADS);
                mine.map(|number| {
                    let line = self.task(number);
                    (number, line.unwrap_or_else(|e| format!("error: {e}")))
                })
                .collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..THREADS)
                .map(|first| scope.spawn(move || work(first)))
                .collect();
            for thread in threads {
                results.extend(thread.join().unwrap_or_default());
            }
            done.store(true, Ordering::Relaxed);
        });
        results.sort();
        Outcome {
            results: results.into_iter().map(|(_, line)| line).collect(),
            wall_s: began.elapsed().as_secs_f64(),
            peak_anon_bytes: peak.into_inner(),
            loads: self.runtime.modules().iter().map(|m| m.loads).sum(),
        }
    }

    /// Indexes `frames` made-up pictures into `store`, as a stream called `name`.
    ///
    /// # Errors
    /// What indexing gives.
    pub fn index(runtime: &Runtime, store: &Store, name: &str, frames: u64) -> Result<u64> {
        let (width, height) = (320, 240);
        let format = FrameFormat::new(PixelFormat::Rgb8, width, height);
        let ingest = runtime.ingest(store, &IngestOptions::new(name, format.packed_bytes()))?;
        for index in 0..frames {
            let pixels = picture(index / 4, width, height);
            let at = index as i64 * 250_000_000;
            ingest.push_wait(&Frame::packed(format, &pixels, at)?)?;
        }
        Ok(ingest.finish()?.keyframes)
    }
}
