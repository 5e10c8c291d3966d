//! What searches took, beside the exact scan and the memory's limit.

use std::collections::BTreeMap;

use atom_core::Result;
use serde::Serialize;

use super::set::Kind;
use crate::chart::{Axis, Lines};
use crate::limits::Limits;
use crate::stats::Spread;
use atom_cli::output::{bytes, print_json, print_line, table};
use atom_cli::session::Session;

#[derive(Serialize)]
pub struct Report {
    pub limits: Limits,
    pub dim: usize,
    /// Hits of every search.
    pub k: usize,
    /// Searches a round.
    pub queries: usize,
    pub sizes: Vec<Row>,
}

/// One size of the store. Spreads are over rounds, of each round's percentile over its searches.
#[derive(Serialize)]
pub struct Row {
    pub vectors: usize,
    pub partitions: usize,
    pub store_bytes: u64,
    /// Of the scan vectors and their sketches, which searches map.
    pub mapped_bytes: u64,
    /// Seconds of appending what came since the size before.
    pub made_s: f64,
    /// The first search after that, which maps and checks the new files.
    pub first_ms: f64,
    pub p50_ms: Spread,
    pub p95_ms: Spread,
    pub recall: Recall,
    pub bytes_per_query: f64,
    /// When those bytes are read from memory by one thread and nothing else costs anything.
    pub limit_ms: f64,
    /// `limit_ms / p50_ms`.
    pub of_limit: f64,
    pub stages: Vec<Stage>,
    /// Every vector in single precision, in memory, by one thread.
    pub exact: Scanned,
    /// Our p50 over the exact scan's, of each round.
    pub over_exact: Spread,
    pub peer: Option<Peer>,
    #[serde(skip)]
    pub queries: Vec<(Kind, Vec<f32>)>,
    /// The exact answers.
    #[serde(skip)]
    pub truth: Vec<Vec<usize>>,
}

/// The part of the ten nearest by exact cosines that is among the ten found, over all queries and for each kind.
#[derive(Serialize)]
pub struct Recall {
    pub all: f64,
    #[serde(flatten)]
    pub by_kind: BTreeMap<&'static str, f64>,
}

/// A part of a search: means over all searches of one pass.
#[derive(Serialize)]
pub struct Stage {
    pub name: &'static str,
    pub ms: f64,
    pub records: f64,
    pub bytes: f64,
}

#[derive(Serialize)]
pub struct Scanned {
    pub p50_ms: Spread,
    pub p95_ms: Spread,
    pub bytes_per_query: f64,
    pub of_limit: f64,
}

#[derive(Serialize)]
pub struct Peer {
    /// Library and index.
    pub name: String,
    pub p50_ms: Spread,
    pub recall: f64,
    /// Our p50 over the peer's.
    pub over_peer: f64,
}

impl Report {
    pub fn print(&self, session: &Session) -> Result<()> {
        if session.global.json {
            return print_json(self);
        }
        let mut head = vec![
            "vectors",
            "p50 ms",
            "p95 ms",
            "recall@10",
            "read",
            "limit ms",
            "of limit",
            "exact p50 ms",
            "over exact",
        ];
        let peers = self.sizes.iter().any(|row| row.peer.is_some());
        if peers {
            head.extend(["peer p50 ms", "peer's recall", "over peer"]);
        }
        let rows: Vec<Vec<String>> = self
            .sizes
            .iter()
            .map(|row| {
                let mut cells = vec![
                    row.vectors.to_string(),
                    row.p50_ms.show(2),
                    row.p95_ms.show(2),
                    format!("{:.4}", row.recall.all),
                    bytes(row.bytes_per_query as u64),
                    format!("{:.2}", row.limit_ms),
                    format!("{:.0} %", 100.0 * row.of_limit),
                    row.exact.p50_ms.show(2),
                    row.over_exact.show(3),
                ];
                if let Some(peer) = &row.peer {
                    cells.push(peer.p50_ms.show(2));
                    cells.push(format!("{:.4}", peer.recall));
                    cells.push(format!("{:.2}", peer.over_peer));
                }
                cells
            })
            .collect();
        print_line(&table(&head, &rows, &(0..head.len()).collect::<Vec<_>>()))?;
        print_line("\n  where a search's time goes, means")?;
        let rows: Vec<Vec<String>> = self
            .sizes
            .iter()
            .flat_map(|row| row.stages.iter().map(move |stage| (row, stage)))
            .map(|(row, stage)| {
                vec![
                    row.vectors.to_string(),
                    stage.name.to_owned(),
                    format!("{:.0}", stage.records),
                    bytes(stage.bytes as u64),
                    format!("{:.3}", stage.ms),
                ]
            })
            .collect();
        let head = ["vectors", "stage", "records", "read", "ms"];
        print_line(&table(&head, &rows, &[0, 2, 3, 4]))?;
        print_line("\n  the store")?;
        let rows: Vec<Vec<String>> = self
            .sizes
            .iter()
            .map(|row| {
                let mut cells = vec![
                    row.vectors.to_string(),
                    row.partitions.to_string(),
                    bytes(row.store_bytes),
                    bytes(row.mapped_bytes),
                    format!("{:.1}", row.made_s),
                    format!("{:.1}", row.first_ms),
                ];
                cells.extend(Kind::ALL.iter().map(|kind| {
                    let recall = row.recall.by_kind.get(kind.name());
                    recall.map_or_else(String::new, |recall| format!("{recall:.4}"))
                }));
                cells
            })
            .collect();
        let mut head = vec![
            "vectors",
            "partitions",
            "on disk",
            "mapped",
            "appending s",
            "first ms",
        ];
        let kinds: Vec<String> = Kind::ALL
            .iter()
            .map(|kind| format!("recall, {}", kind.name()))
            .collect();
        head.extend(kinds.iter().map(String::as_str));
        print_line(&table(&head, &rows, &(0..head.len()).collect::<Vec<_>>()))?;
        print_line(&format!(
            "\n  {} values a vector, {} searches a round; the limit: what a search reads, at {:.1} GB/s by one thread",
            self.dim,
            self.queries,
            self.limits.dram_read_bytes_per_s[0] / 1e9
        ))
    }

    pub fn chart(&self) -> Lines<'_> {
        let line = |value: &dyn Fn(&Row) -> Option<f64>| -> Vec<(f64, f64)> {
            let rows = self.sizes.iter();
            rows.filter_map(|row| Some((row.vectors as f64, value(row)?)))
                .collect()
        };
        let mut series = vec![
            ("Atom, p50".to_owned(), line(&|row| Some(row.p50_ms.median))),
            ("Atom, p95".to_owned(), line(&|row| Some(row.p95_ms.median))),
            (
                "memory's limit for what it reads".to_owned(),
                line(&|row| Some(row.limit_ms)),
            ),
            (
                "exact scan in f32, p50".to_owned(),
                line(&|row| Some(row.exact.p50_ms.median)),
            ),
        ];
        if let Some(peer) = self.sizes.iter().find_map(|row| row.peer.as_ref()) {
            let times = line(&|row| Some(row.peer.as_ref()?.p50_ms.median));
            series.push((format!("{}, p50", peer.name), times));
        }
        Lines {
            title: "Searching: time over the size of the store, one thread",
            x: Axis {
                label: "vectors",
                log: true,
            },
            y: Axis {
                label: "ms",
                log: true,
            },
            series,
            limits: Vec::new(),
        }
    }
}
