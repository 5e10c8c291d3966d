//! What the modes took, beside one another and beside the least there is to do.

use std::collections::BTreeMap;
use std::path::Path;

use atom_core::{Error, ErrorKind, Result};
use serde::Serialize;

use super::job::{Outcome, Outputs};
use crate::chart::Bars;
use crate::limits::Limits;
use crate::memory::Peak;
use crate::stats::Spread;
use atom_cli::output::{bytes, print_json, print_line, table};
use atom_cli::session::Session;

/// Phases in the order they are shown; what comes before `WORK` of them only gets things ready.
const PHASES: [&str; 12] = [
    "open",
    "load",
    "prepare",
    "release",
    "read frames",
    "decode video and index",
    "encode",
    "store",
    "text",
    "scan",
    "prefill",
    "decode",
];
const READY: usize = 4;

/// One mode's rounds.
pub struct Mode {
    pub name: &'static str,
    pub walls: Vec<f64>,
    pub phases: Vec<BTreeMap<String, f64>>,
    pub loads: BTreeMap<String, u64>,
    pub peak: Peak,
    /// The same in every round.
    pub outputs: Outputs,
}

impl Mode {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            walls: Vec::new(),
            phases: Vec::new(),
            loads: BTreeMap::new(),
            peak: Peak::default(),
            outputs: Outputs::default(),
        }
    }

    /// # Errors
    /// [`ErrorKind::Inference`] when this round said something else than the one before.
    pub fn add(&mut self, outcome: Outcome) -> Result<()> {
        self.said(outcome.outputs)?;
        self.walls.push(outcome.wall_s);
        self.phases.push(outcome.phases_s);
        self.loads = outcome.loads;
        Ok(())
    }

    /// # Errors
    /// As [`add`](Self::add).
    pub fn watch(&mut self, outcome: Outcome) -> Result<()> {
        self.said(outcome.outputs)?;
        self.peak = outcome.peak;
        Ok(())
    }

    fn said(&mut self, outputs: Outputs) -> Result<()> {
        if self.outputs == Outputs::default() {
            self.outputs = outputs;
        } else if self.outputs != outputs {
            return Err(Error::new(
                ErrorKind::Inference,
                format!("{} said something else in another round", self.name),
            ));
        }
        Ok(())
    }

    fn phase(&self, name: &str) -> Option<f64> {
        let values: Vec<f64> = self
            .phases
            .iter()
            .filter_map(|phases| phases.get(name).copied())
            .collect();
        (!values.is_empty()).then(|| Spread::of(values).median)
    }

    fn row(&self) -> Row {
        Row {
            wall_s: Spread::of(self.walls.iter().copied()).median,
            wall: Spread::of(self.walls.iter().copied()),
            loads: self.loads.values().sum(),
            loads_by_module: self.loads.clone(),
            peak_pss_bytes: self.peak.pss_bytes,
            peak_anon_pss_bytes: self.peak.anon_pss_bytes,
            phases_s: PHASES
                .iter()
                .filter_map(|name| Some((*name, self.phase(name)?)))
                .collect(),
        }
    }
}

#[derive(Serialize)]
pub struct Report {
    modes: BTreeMap<&'static str, Row>,
    /// `shared` divided by each other mode.
    ratios: BTreeMap<&'static str, Ratio>,
    end_to_end: EndToEnd,
    limit: Limit,
    outputs: Said,
    machine: Limits,
    #[serde(skip)]
    order: Vec<&'static str>,
}

#[derive(Serialize)]
struct Row {
    wall_s: f64,
    wall: Spread,
    loads: u64,
    loads_by_module: BTreeMap<String, u64>,
    peak_pss_bytes: u64,
    peak_anon_pss_bytes: u64,
    phases_s: BTreeMap<&'static str, f64>,
}

#[derive(Serialize)]
struct Ratio {
    /// Of each round, then median and range.
    wall: Spread,
    peak_pss: f64,
    peak_anon_pss: f64,
}

#[derive(Serialize)]
struct EndToEnd {
    modes: BTreeMap<&'static str, EndRow>,
    ratio: Spread,
}

#[derive(Serialize)]
struct EndRow {
    wall_s: f64,
    wall: Spread,
    loads: u64,
}

/// The least: `shared`'s own work, and one read of every module's weights.
#[derive(Serialize)]
struct Limit {
    weights_bytes: u64,
    one_read_s: f64,
    work_s: f64,
    /// `shared` divided by the two together.
    shared_over_limit: f64,
}

#[derive(Serialize)]
struct Said {
    equal: bool,
    texts: Vec<String>,
    prompt_tokens: Vec<usize>,
}

impl Report {
    /// The last of `modes` is compared with the others.
    pub fn new(
        modes: Vec<Mode>,
        end_to_end: Vec<Mode>,
        (weights_bytes, one_read_s): (u64, f64),
        machine: Limits,
    ) -> Self {
        let shared = &modes[modes.len() - 1];
        let by_round = |ours: &Mode, other: &Mode| {
            let pairs = ours.walls.iter().zip(&other.walls);
            Spread::of(pairs.map(|(ours, theirs)| ours / theirs))
        };
        let part = |ours: u64, theirs: u64| ours as f64 / theirs as f64;
        let others = &modes[..modes.len() - 1];
        let ratios = others
            .iter()
            .map(|mode| {
                let ratio = Ratio {
                    wall: by_round(shared, mode),
                    peak_pss: part(shared.peak.pss_bytes, mode.peak.pss_bytes),
                    peak_anon_pss: part(shared.peak.anon_pss_bytes, mode.peak.anon_pss_bytes),
                };
                (mode.name, ratio)
            })
            .collect();
        let row = shared.row();
        let work_s: f64 = PHASES[READY..]
            .iter()
            .filter_map(|name| row.phases_s.get(name))
            .sum();
        let ends = EndToEnd {
            ratio: by_round(&end_to_end[end_to_end.len() - 1], &end_to_end[0]),
            modes: end_to_end
                .iter()
                .map(|mode| {
                    let Row {
                        wall_s,
                        wall,
                        loads,
                        ..
                    } = mode.row();
                    (
                        mode.name,
                        EndRow {
                            wall_s,
                            wall,
                            loads,
                        },
                    )
                })
                .collect(),
        };
        Self {
            ratios,
            end_to_end: ends,
            limit: Limit {
                weights_bytes,
                one_read_s,
                work_s,
                shared_over_limit: row.wall_s / (work_s + one_read_s),
            },
            outputs: Said {
                equal: true,
                texts: shared.outputs.texts.clone(),
                prompt_tokens: shared.outputs.prompt_tokens.clone(),
            },
            machine,
            order: modes.iter().map(|mode| mode.name).collect(),
            modes: modes.iter().map(|mode| (mode.name, mode.row())).collect(),
        }
    }

    pub fn print(&self, session: &Session) -> Result<()> {
        if session.global.json {
            return print_json(self);
        }
        let rows: Vec<Vec<String>> = self
            .order
            .iter()
            .map(|name| {
                let row = &self.modes[name];
                let ratio = self.ratios.get(name);
                let shown = |part: &dyn Fn(&Ratio) -> f64| {
                    ratio.map_or_else(String::new, |ratio| format!("{:.2}", part(ratio)))
                };
                vec![
                    (*name).to_owned(),
                    row.wall.show(2),
                    row.loads.to_string(),
                    bytes(row.peak_pss_bytes),
                    bytes(row.peak_anon_pss_bytes),
                    ratio.map_or_else(String::new, |ratio| ratio.wall.show(2)),
                    shown(&|ratio| ratio.peak_pss),
                    shown(&|ratio| ratio.peak_anon_pss),
                ]
            })
            .collect();
        let head = [
            "mode",
            "wall, s",
            "loads",
            "peak PSS",
            "anonymous",
            "shared/mode: wall",
            "PSS",
            "anonymous",
        ];
        print_line(&table(&head, &rows, &[1, 2, 3, 4, 5, 6, 7]))?;
        print_line("\n  where the time went, ms")?;
        let names: Vec<&str> = std::iter::once("")
            .chain(self.order.iter().copied())
            .collect();
        let phases: Vec<Vec<String>> = PHASES
            .iter()
            .filter(|phase| {
                self.modes
                    .values()
                    .any(|row| row.phases_s.contains_key(*phase))
            })
            .map(|phase| {
                let cell = |name: &&str| {
                    let seconds = self.modes[name].phases_s.get(phase).copied();
                    format!("{:.0}", seconds.unwrap_or(0.0) * 1e3)
                };
                std::iter::once((*phase).to_owned())
                    .chain(self.order.iter().map(cell))
                    .collect()
            })
            .collect();
        print_line(&table(&names, &phases, &[1, 2, 3, 4, 5, 6]))?;
        print_line("\n  from the video files, decoding and sampling included")?;
        for (name, row) in &self.end_to_end.modes {
            print_line(&format!(
                "  {name:<8} {} s, {} loads",
                row.wall.show(2),
                row.loads
            ))?;
        }
        print_line(&format!(
            "  shared/reload {}",
            self.end_to_end.ratio.show(2)
        ))?;
        let limit = &self.limit;
        print_line(&format!(
            "\n  limit: the work itself {:.0} ms and one read of every module, {} in {:.0} ms; shared takes {:.2} times that",
            limit.work_s * 1e3,
            bytes(limit.weights_bytes),
            limit.one_read_s * 1e3,
            limit.shared_over_limit
        ))?;
        print_line(
            "  embeddings, hits, captions and answers are the same in every mode and round, to the bit",
        )
    }

    pub fn draw(&self, path: &Path) -> Result<()> {
        let shown: Vec<&&str> = PHASES
            .iter()
            .filter(|phase| {
                self.modes
                    .values()
                    .any(|row| row.phases_s.contains_key(*phase))
            })
            .collect();
        let value = |name: &&str, phase: &str| {
            self.modes[name]
                .phases_s
                .get(phase)
                .copied()
                .unwrap_or(f64::NAN)
        };
        let limit = self.limit.work_s + self.limit.one_read_s;
        Bars {
            title: "The same work with modules reloaded, kept apart, and shared",
            label: "seconds",
            rows: self.order.iter().map(|name| (*name).to_owned()).collect(),
            series: shown
                .iter()
                .map(|phase| {
                    let values = self.order.iter().map(|name| value(name, phase));
                    ((**phase).to_owned(), values.collect())
                })
                .collect(),
            stacked: true,
            limits: vec![(
                "limit: work, one read".to_owned(),
                vec![limit; self.order.len()],
            )],
        }
        .draw(path)
    }
}
