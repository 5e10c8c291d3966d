//! `atom-bench search`: what a search costs by the size of the store, beside an exact scan of the same vectors and the
//! memory bandwidth it needs, and how many of the exact ten nearest it finds.
//!
//! One store grows from size to size, made as indexing makes it: segments appended in batches, partitions sealed at their
//! default size. Every search runs on one thread. Between two searches the exact scan reads every vector in single
//! precision, so a search finds the caches as an hour of other work would leave them.

mod report;
mod set;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use crate::common::Common;
use atom_core::features::Features;
use atom_core::index::{
    Access, Filter, Identity, NewSegment, NewStream, Store, StoreOptions, StreamId,
};
use atom_core::os::memory;
use atom_core::trace::{Recording, SpanRecord};
use atom_core::{Error, ErrorKind, Result, cache};
use serde::{Deserialize, Serialize};

use crate::stats::{Spread, percentile};
use crate::{limits, peer};
use atom_cli::output::progress;
use atom_cli::session::Session;
use report::{Report, Row, Scanned, Stage};
use set::{BATCH, Kind, Maker};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Vectors in the store, each size measured as it grows.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000], value_name = "N,…",
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub sizes: Vec<u64>,
    /// Values of a vector.
    #[arg(long, default_value_t = 384, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=4096))]
    pub dim: u64,
    /// Searches for each size in each round, of three kinds in turn.
    #[arg(long, default_value_t = 99, value_name = "N", value_parser = clap::value_parser!(u64).range(3..=100_000))]
    pub queries: u64,
    /// Where the store is made, in a folder of its own that is removed afterwards (default: the cache). It takes some
    /// 2.2 kB a vector of 384 values.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<std::path::PathBuf>,
    /// Another program that searches the same vectors in turn with Atom, such as "python3 models/peer_search.py"; it gets
    /// the job as JSON in its last argument and prints the result.
    #[arg(long, value_name = "COMMAND")]
    pub peer: Option<String>,
}

/// Hits of every search.
const HITS: usize = 10;
/// Streams the segments are spread over.
const STREAMS: usize = 8;
/// Searches before those that are timed.
const WARM: usize = 3;
/// Of the scan in single precision, so many are enough that the best ten in double precision are among them.
const ENOUGH: usize = 64;

/// What a peer is to do.
#[derive(Debug, Serialize)]
struct Job {
    /// Little-endian f32, one vector behind the other, all of length 1.
    vectors: String,
    count: usize,
    dim: usize,
    queries: String,
    query_count: usize,
    k: usize,
    rounds: u32,
}

/// What it prints.
#[derive(Debug, Deserialize)]
struct Answer {
    /// Which library, which index.
    name: String,
    /// Milliseconds of each query, for each round.
    ms: Vec<Vec<f64>>,
    /// Numbers of the vectors found by each query.
    found: Vec<Vec<usize>>,
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    let mut sizes: Vec<usize> = args.sizes.iter().map(|size| *size as usize).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let dim = args.dim as usize;
    let largest = sizes.last().copied().unwrap_or(0);
    enough_memory(largest, dim)?;
    let limits = limits::measure(Some(1));
    let parent = args.dir.clone().unwrap_or_else(cache::dir);
    let io = |error: std::io::Error| Error::io(parent.display(), &error);
    std::fs::create_dir_all(&parent).map_err(io)?;
    let folder = tempfile::Builder::new()
        .prefix("bench-search-")
        .tempdir_in(&parent)
        .map_err(io)?;
    let mut subject = Subject::new(&folder.path().join("store"), largest, dim)?;
    let mut rows = Vec::new();
    for size in sizes {
        let made_s = subject.grow(size)?;
        let mut row = subject.measure(args, &limits)?;
        row.made_s = made_s;
        if let Some(command) = &args.peer {
            row.peer = Some(subject.peer(args, command, folder.path(), &row)?);
        }
        rows.push(row);
    }
    let report = Report {
        dim,
        k: HITS,
        queries: args.queries as usize,
        sizes: rows,
        limits,
    };
    report.print(session)?;
    if let Some(path) = &args.common.svg {
        report.chart().draw(path)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The exact scan has every vector in memory, and the store's files should stay in the page cache beside it.
fn enough_memory(count: usize, dim: usize) -> Result<()> {
    let needed = count as u64 * (dim as u64 * 6);
    let free = memory::machine().available;
    if needed <= free {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!(
            "{count} vectors of {dim} values need {:.1} GB of memory here, {:.1} GB are free",
            needed as f64 / 1e9,
            free as f64 / 1e9
        ),
    )
    .remedy("give smaller --sizes"))
}

/// A growing store and what is in it.
struct Subject {
    store: Store,
    streams: Vec<StreamId>,
    maker: Maker,
    dim: usize,
    vectors: Vec<f32>,
    /// Id of each vector's segment, ascending.
    ids: Vec<u64>,
}

impl Subject {
    fn new(path: &Path, largest: usize, dim: usize) -> Result<Self> {
        let identity = Identity {
            hash: [0; 32],
            dim,
            description: "atom-bench search".to_owned(),
        };
        let store = Store::open(path, &StoreOptions::new(identity, Access::ReadWrite))?;
        let streams = (0..STREAMS)
            .map(|number| {
                store.open_stream(&NewStream {
                    name: format!("camera {number}"),
                    ..NewStream::default()
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            store,
            streams,
            maker: Maker::new(dim),
            dim,
            vectors: Vec::with_capacity(largest * dim),
            ids: Vec::with_capacity(largest),
        })
    }

    fn count(&self) -> usize {
        self.ids.len()
    }

    /// Appends until `size` vectors are there; seconds of the appends.
    fn grow(&mut self, size: usize) -> Result<f64> {
        let bar = progress(
            (size - self.count()) as u64,
            &format!("making {size} vectors"),
        );
        let mut seconds = 0.0;
        let mut features = vec![Features::default(); BATCH];
        while self.count() < size {
            let first = self.count();
            let batch = BATCH.min(size - first);
            for features in &mut features[..batch] {
                features.embedding.clear();
                self.maker.next(&mut features.embedding);
                self.vectors.extend_from_slice(&features.embedding);
            }
            let segments: Vec<NewSegment<'_>> = features[..batch]
                .iter()
                .zip(first as i64..)
                .map(|(features, at)| NewSegment {
                    start_ns: at,
                    end_ns: at,
                    keyframe_ns: at,
                    features,
                    thumbnail: &[],
                })
                .collect();
            let stream = self.streams[first / BATCH % STREAMS];
            let start = Instant::now();
            let ids = self.store.append_batch(stream, &segments)?;
            seconds += start.elapsed().as_secs_f64();
            self.ids.extend(ids.iter().map(|id| id.0));
            bar.inc(batch as u64);
        }
        bar.finish_and_clear();
        Ok(seconds)
    }

    fn measure(&mut self, args: &Args, limits: &limits::Limits) -> Result<Row> {
        let queries: Vec<(Kind, Vec<f32>)> = (0..args.queries as usize)
            .map(|at| self.maker.query(at, &self.vectors))
            .collect();
        let truth: Vec<Vec<usize>> = queries
            .iter()
            .map(|(_, query)| {
                let promising = set::scan(&self.vectors, query, ENOUGH);
                set::exact(&self.vectors, query, &promising, HITS)
            })
            .collect();
        let filter = Filter::best(HITS);
        let start = Instant::now();
        self.store.search(&queries[0].1, &filter)?;
        let first_ms = start.elapsed().as_secs_f64() * 1e3;
        for (_, query) in queries.iter().take(WARM) {
            self.store.search(query, &filter)?;
        }
        let mut found = Vec::new();
        let recording = Recording::start(16 * queries.len())?;
        for (_, query) in &queries {
            let hits = self.store.search(query, &filter)?;
            found.push(self.indices(hits.iter().map(|hit| hit.segment.0))?);
        }
        let stages = stages(&recording.finish().spans, queries.len());

        let rounds = args.common.rounds;
        let bar = progress(
            u64::from(rounds) * args.queries,
            &format!("searching {}", self.count()),
        );
        let (mut ours, mut scans) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (mut round, mut scan) = (Vec::new(), Vec::new());
            for (_, query) in &queries {
                let start = Instant::now();
                self.store.search(query, &filter)?;
                round.push(start.elapsed().as_secs_f64() * 1e3);
                let start = Instant::now();
                std::hint::black_box(set::scan(&self.vectors, query, HITS));
                scan.push(start.elapsed().as_secs_f64() * 1e3);
                bar.inc(1);
            }
            round.sort_by(f64::total_cmp);
            scan.sort_by(f64::total_cmp);
            ours.push(round);
            scans.push(scan);
        }
        bar.finish_and_clear();

        let at =
            |rounds: &[Vec<f64>], part: f64| Spread::of(rounds.iter().map(|r| percentile(r, part)));
        let (p50_ms, exact_p50) = (at(&ours, 0.5), at(&scans, 0.5));
        let bytes: f64 = stages.iter().map(|stage| stage.bytes).sum();
        let read = limits.dram_read_bytes_per_s[0];
        let stats = self.store.stats()?;
        let exact_bytes = (self.vectors.len() * size_of::<f32>()) as f64;
        let ratio = ours.iter().zip(&scans);
        Ok(Row {
            vectors: self.count(),
            partitions: stats.partitions,
            store_bytes: stats.vector_bytes + stats.blob_bytes + stats.catalogue_bytes,
            mapped_bytes: stats.vector_bytes,
            made_s: 0.0,
            first_ms,
            p50_ms,
            p95_ms: at(&ours, 0.95),
            recall: recall(&queries, &found, &truth),
            bytes_per_query: bytes,
            limit_ms: 1e3 * bytes / read,
            of_limit: 1e3 * bytes / read / p50_ms.median,
            stages,
            exact: Scanned {
                p50_ms: exact_p50,
                p95_ms: at(&scans, 0.95),
                bytes_per_query: exact_bytes,
                of_limit: 1e3 * exact_bytes / read / exact_p50.median,
            },
            over_exact: Spread::of(
                ratio.map(|(own, scan)| percentile(own, 0.5) / percentile(scan, 0.5)),
            ),
            peer: None,
            queries,
            truth,
        })
    }

    /// Places in `vectors` of segments.
    fn indices(&self, ids: impl Iterator<Item = u64>) -> Result<Vec<usize>> {
        ids.map(|id| {
            self.ids.binary_search(&id).map_err(|_| {
                Error::new(
                    ErrorKind::Internal,
                    format!("a search found segment {id}, which was not appended"),
                )
            })
        })
        .collect()
    }

    /// The peer's times and recall on the queries of `row`.
    fn peer(&self, args: &Args, command: &str, folder: &Path, row: &Row) -> Result<report::Peer> {
        let write = |name: &str, values: &mut dyn Iterator<Item = f32>| -> Result<String> {
            let path = folder.join(name);
            let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
            std::fs::write(&path, bytes).map_err(|error| Error::io(path.display(), &error))?;
            Ok(path.display().to_string())
        };
        let queries = &row.queries;
        let job = Job {
            vectors: write("vectors.f32", &mut self.vectors.iter().copied())?,
            count: self.count(),
            dim: self.dim,
            queries: write(
                "queries.f32",
                &mut queries.iter().flat_map(|(_, query)| query.iter().copied()),
            )?,
            query_count: queries.len(),
            k: HITS,
            rounds: args.common.rounds,
        };
        let shape = "{\"name\", \"ms\": [[…] per round], \"found\": [[…] per query]}";
        let mut answer: Answer = peer::call(command, &job, shape)?;
        let whole = answer.ms.len() == job.rounds as usize
            && answer
                .ms
                .iter()
                .all(|round| round.len() == queries.len() && round.iter().all(|ms| *ms > 0.0))
            && answer.found.len() == queries.len();
        if !whole {
            return Err(peer::bad(command, "it does not answer its job", shape));
        }
        answer
            .ms
            .iter_mut()
            .for_each(|round| round.sort_by(f64::total_cmp));
        let p50_ms = Spread::of(answer.ms.iter().map(|round| percentile(round, 0.5)));
        Ok(report::Peer {
            name: answer.name,
            p50_ms,
            recall: recall(queries, &answer.found, &row.truth).all,
            over_peer: row.p50_ms.median / p50_ms.median,
        })
    }
}

/// Means over the searches, by what the spans within them are called.
fn stages(spans: &[SpanRecord], searches: usize) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    for span in spans.iter().filter(|span| span.category == "index") {
        let Some(records) = span.arg("records") else {
            continue;
        };
        let place = stages.iter().position(|stage| stage.name == span.name);
        let place = place.unwrap_or_else(|| {
            stages.push(Stage {
                name: span.name,
                ms: 0.0,
                records: 0.0,
                bytes: 0.0,
            });
            stages.len() - 1
        });
        let stage = &mut stages[place];
        stage.ms += span.duration_ns as f64 / 1e6 / searches as f64;
        stage.records += records as f64 / searches as f64;
        stage.bytes += span.arg("bytes").unwrap_or(0) as f64 / searches as f64;
    }
    stages
}

/// The part of the exact nearest that was found, over all queries and those of each kind.
fn recall(
    queries: &[(Kind, Vec<f32>)],
    found: &[Vec<usize>],
    truth: &[Vec<usize>],
) -> report::Recall {
    let of = |kind: Option<Kind>| {
        let (mut hits, mut wanted) = (0, 0);
        for ((own, _), (found, truth)) in queries.iter().zip(found.iter().zip(truth)) {
            if kind.is_none_or(|kind| kind == *own) {
                hits += truth.iter().filter(|at| found.contains(at)).count();
                wanted += truth.len();
            }
        }
        hits as f64 / wanted as f64
    };
    report::Recall {
        all: of(None),
        by_kind: Kind::ALL
            .iter()
            .map(|kind| (kind.name(), of(Some(*kind))))
            .collect(),
    }
}
