//! What loads took, form beside form, and where the time of ours goes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use atom_core::{Error, Result};
use serde::Serialize;

use super::job::Outcome;
use super::module::Form;
use super::parking;
use crate::chart::Bars;
use crate::limits::Limits;
use crate::stats::Spread;
use atom_cli::output::{bytes, print_json, print_line, table};
use atom_cli::session::Session;

/// Parts of a load in the order they are shown; "rest" is what no span covers.
const PARTS: [&str; 7] = [
    "check", "read", "create", "describe", "trim", "measure", "rest",
];

/// All rounds of one form.
pub struct Measured {
    pub form: Form,
    pub files: Vec<PathBuf>,
    pub bytes: u64,
    cold: Vec<Outcome>,
    warm: Vec<Outcome>,
}

impl Measured {
    /// # Errors
    /// A file that is not there.
    pub fn new(form: Form, files: Vec<PathBuf>) -> Result<Self> {
        let size = |path: &PathBuf| {
            let meta =
                std::fs::metadata(path).map_err(|error| Error::io(path.display(), &error))?;
            Ok(meta.len())
        };
        let bytes = files.iter().map(size).sum::<Result<u64>>()?;
        Ok(Self {
            form,
            files,
            bytes,
            cold: Vec::new(),
            warm: Vec::new(),
        })
    }

    pub fn add(&mut self, cold: bool, outcome: Outcome) {
        if cold {
            self.cold.push(outcome);
        } else {
            self.warm.push(outcome);
        }
    }

    /// Reloads of each process, cold or warm at first: by then the page cache has the files.
    fn reloads(&self) -> Vec<f64> {
        self.all(|outcome| median(&outcome.reload_ms))
    }

    /// Those where all that was free had been given back.
    fn bare_reloads(&self) -> Vec<f64> {
        self.all(|outcome| median(&outcome.bare_reload_ms))
    }

    fn all(&self, value: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.warm.iter().chain(&self.cold).map(value).collect()
    }

    fn parking(&self) -> Option<parking::Row> {
        let all = self.warm.iter().chain(&self.cold);
        parking::Row::of(all.flat_map(|outcome| &outcome.parking))
    }

    fn row(&self) -> Row {
        let over = |outcomes: &[Outcome], value: &dyn Fn(&Outcome) -> f64| {
            Spread::of(outcomes.iter().map(value))
        };
        let first = |outcomes: &[Outcome]| First {
            load_ms: over(outcomes, &|outcome| outcome.load_ms),
            first_run_ms: over(outcomes, &|outcome| outcome.first_run_ms),
        };
        let parts =
            |value: &dyn Fn(&Outcome) -> &BTreeMap<String, f64>| -> BTreeMap<&'static str, f64> {
                let part = |name: &'static str| {
                    let values = self
                        .warm
                        .iter()
                        .filter_map(|outcome| value(outcome).get(name).copied());
                    let values: Vec<f64> = values.collect();
                    (!values.is_empty()).then(|| (name, median(&values)))
                };
                PARTS.iter().filter_map(|name| part(name)).collect()
            };
        Row {
            files_bytes: self.bytes,
            cold: first(&self.cold),
            cold_kept_bytes: self
                .cold
                .iter()
                .map(|outcome| outcome.kept_bytes)
                .max()
                .unwrap_or(0),
            warm: first(&self.warm),
            second_run_ms: Spread::of(self.all(|outcome| outcome.second_run_ms)),
            anon_bytes: median(&self.all(|outcome| outcome.anon_bytes as f64)) as u64,
            release_ms: Spread::of(self.all(|outcome| outcome.release_ms)),
            released_anon_bytes: median(&self.all(|outcome| outcome.released_anon_bytes as f64))
                as u64,
            reload_ms: Spread::of(self.reloads()),
            bare_reload_ms: Spread::of(self.bare_reloads()),
            bare_anon_bytes: median(&self.all(|outcome| outcome.bare_anon_bytes as f64)) as u64,
            rerun_ms: Spread::of(self.all(|outcome| median(&outcome.rerun_ms))),
            load_parts_ms: parts(&|outcome| &outcome.load_parts_ms),
            reload_parts_ms: parts(&|outcome| &outcome.reload_parts_ms),
            cosine: self
                .all(|outcome| outcome.cosine)
                .into_iter()
                .fold(1.0, f64::min),
        }
    }
}

fn median(values: &[f64]) -> f64 {
    Spread::of(values.iter().copied()).median
}

#[derive(Serialize)]
pub struct Report {
    limits: Limits,
    modules: BTreeMap<String, Module>,
    #[serde(skip)]
    order: Vec<String>,
}

#[derive(Serialize)]
struct Module {
    /// Whether ours is a prepacked form, or the pack's own files.
    prepacked: bool,
    forms: BTreeMap<&'static str, Row>,
    /// `ours` divided by each other form, process by process, then median and range.
    ratios: BTreeMap<&'static str, Ratios>,
    limit: Limit,
    /// Absent where ours maps hardly any weights.
    parked: Option<parking::Row>,
}

/// Spreads are over processes: one a round for cold and for warm, both together for the rest.
#[derive(Serialize)]
struct Row {
    files_bytes: u64,
    cold: First,
    /// The most that the kernel kept in the page cache though told to drop it.
    cold_kept_bytes: u64,
    warm: First,
    second_run_ms: Spread,
    anon_bytes: u64,
    release_ms: Spread,
    released_anon_bytes: u64,
    /// Loaded again in the same process after a release.
    reload_ms: Spread,
    /// The same where the heap had given back to the kernel what was free after the release, and what it still had then.
    bare_reload_ms: Spread,
    bare_anon_bytes: u64,
    /// The first run after a reload.
    rerun_ms: Spread,
    /// Of the first load, warm.
    load_parts_ms: BTreeMap<&'static str, f64>,
    reload_parts_ms: BTreeMap<&'static str, f64>,
    cosine: f64,
}

#[derive(Serialize)]
struct First {
    load_ms: Spread,
    first_run_ms: Spread,
}

#[derive(Serialize)]
struct Ratios {
    load_cold: Spread,
    load_warm: Spread,
    reload: Spread,
    /// Both where the memory of the release was given back.
    bare_reload: Spread,
    /// A reload and the run after it: what is mapped is read by then.
    reload_and_run: Spread,
    anon: f64,
}

/// The least there is to do: the bytes of our files once.
#[derive(Serialize)]
struct Limit {
    /// Read from memory by one thread.
    memory_read_ms: f64,
    /// Copied out of the page cache with `read`, by one thread.
    file_read_ms: f64,
    /// Our reload and the run after it less a run that needs no load, over `memory_read_ms`.
    reload_over_limit: f64,
}

impl Report {
    pub fn new(
        measured: Vec<(String, Vec<Measured>)>,
        read_s: &BTreeMap<String, f64>,
        limits: Limits,
    ) -> Self {
        let order = measured.iter().map(|(id, _)| id.clone()).collect();
        let modules = measured
            .into_iter()
            .map(|(id, forms)| {
                let read_ms = 1e3 * read_s.get(&id).copied().unwrap_or(f64::NAN);
                let module = Module::new(&forms, read_ms, &limits);
                (id, module)
            })
            .collect();
        Self {
            limits,
            modules,
            order,
        }
    }

    pub fn print(&self, session: &Session) -> Result<()> {
        if session.global.json {
            return print_json(self);
        }
        let rows = |cells: &dyn Fn(&Module, Form, &Row) -> Vec<String>| -> Vec<Vec<String>> {
            let modules = self.order.iter().map(|id| (id, &self.modules[id]));
            modules
                .flat_map(|(id, module)| Form::ALL.map(|form| (id, module, form)))
                .map(|(id, module, form)| {
                    let mut row = vec![id.clone(), form.name().to_owned()];
                    row.extend(cells(module, form, &module.forms[form.name()]));
                    row
                })
                .collect()
        };
        let times = rows(&|_, _, row| {
            vec![
                row.cold.load_ms.show(0),
                row.cold.first_run_ms.show(0),
                row.warm.load_ms.show(0),
                row.warm.first_run_ms.show(0),
                row.release_ms.show(0),
                row.reload_ms.show(1),
                row.bare_reload_ms.show(1),
                row.rerun_ms.show(1),
                row.second_run_ms.show(1),
            ]
        });
        let head = [
            "module",
            "form",
            "cold load ms",
            "run ms",
            "warm load ms",
            "run ms",
            "release ms",
            "reload ms",
            "bare ms",
            "run ms",
            "any run ms",
        ];
        print_line(&table(&head, &times, &[2, 3, 4, 5, 6, 7, 8, 9, 10]))?;
        print_line("")?;
        let sizes = rows(&|module, form, row| {
            let ratio = module.ratios.get(form.name());
            let shown = |value: &dyn Fn(&Ratios) -> String| ratio.map_or_else(String::new, value);
            vec![
                bytes(row.files_bytes),
                bytes(row.cold_kept_bytes),
                bytes(row.anon_bytes),
                bytes(row.released_anon_bytes),
                bytes(row.bare_anon_bytes),
                shown(&|ratio| ratio.load_cold.show(2)),
                shown(&|ratio| ratio.load_warm.show(2)),
                shown(&|ratio| ratio.reload.show(2)),
                shown(&|ratio| ratio.bare_reload.show(2)),
                shown(&|ratio| ratio.reload_and_run.show(2)),
                shown(&|ratio| format!("{:.2}", ratio.anon)),
            ]
        });
        let head = [
            "module",
            "form",
            "files",
            "kept",
            "anonymous",
            "released",
            "bare",
            "ours/form: cold",
            "warm",
            "reload",
            "bare",
            "reload+run",
            "anonymous",
        ];
        print_line(&table(&head, &sizes, &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]))?;
        print_line("\n  where a reload's time goes, ms")?;
        let parts = rows(&|_, _, row| {
            let cell = |name: &&str| {
                let part = row.reload_parts_ms.get(*name);
                part.map_or_else(String::new, |ms| format!("{ms:.1}"))
            };
            PARTS.iter().map(cell).collect()
        });
        let head: Vec<&str> = ["module", "form"].into_iter().chain(PARTS).collect();
        print_line(&table(&head, &parts, &[2, 3, 4, 5, 6, 7, 8]))?;
        self.print_parked()?;
        self.print_limits()
    }

    fn print_parked(&self) -> Result<()> {
        let rows: Vec<Vec<String>> = self
            .order
            .iter()
            .filter_map(|id| {
                let parked = self.modules[id].parked.as_ref()?;
                Some([vec![id.clone()], parked.cells().to_vec()].concat())
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        print_line(
            "\n  weights parked: what the kernel's books say came back, and a lease and a run after that",
        )?;
        let head: Vec<&str> = ["module"].into_iter().chain(parking::Row::HEAD).collect();
        print_line(&table(&head, &rows, &(1..head.len()).collect::<Vec<_>>()))
    }

    fn print_limits(&self) -> Result<()> {
        print_line("")?;
        let limits: Vec<Vec<String>> = self
            .order
            .iter()
            .map(|id| {
                let Module {
                    prepacked, limit, ..
                } = &self.modules[id];
                vec![
                    id.clone(),
                    if *prepacked {
                        "prepacked"
                    } else {
                        "the pack's own"
                    }
                    .to_owned(),
                    format!("{:.1}", limit.memory_read_ms),
                    format!("{:.1}", limit.file_read_ms),
                    format!("{:.1}", limit.reload_over_limit),
                ]
            })
            .collect();
        let head = [
            "module",
            "ours is",
            "read of memory ms",
            "read of the files ms",
            "reload over it",
        ];
        print_line(&table(&head, &limits, &[2, 3, 4]))?;
        print_line(&format!(
            "\n  the limit: one read of the form's bytes at {:.1} GB/s by one thread; over it: a reload and what the run \
             after it costs more than any",
            self.limits.dram_read_bytes_per_s[0] / 1e9
        ))?;
        print_line(
            "  kept: what the kernel kept in the page cache though told to drop it; anonymous: after a load; bare: where the \
             heap gave back what was free after the release, which ours does by itself",
        )
    }

    pub fn chart(&self) -> Bars<'_> {
        let all = || {
            self.order
                .iter()
                .flat_map(|id| Form::ALL.map(|form| (id, form)))
        };
        let row = |(id, form): (&String, Form)| &self.modules[id].forms[form.name()];
        Bars {
            title: "Loading a module again after its release, files in the page cache",
            label: "ms",
            rows: all()
                .map(|(id, form)| format!("{id}, {}", form.name()))
                .collect(),
            series: PARTS
                .iter()
                .map(|name| {
                    let part = |of| {
                        row(of)
                            .reload_parts_ms
                            .get(name)
                            .copied()
                            .unwrap_or(f64::NAN)
                    };
                    ((*name).to_owned(), all().map(part).collect())
                })
                .collect(),
            stacked: true,
            limits: vec![(
                "one read of our form".to_owned(),
                all()
                    .map(|(id, _)| self.modules[id].limit.memory_read_ms)
                    .collect(),
            )],
        }
    }
}

impl Module {
    fn new(forms: &[Measured], read_ms: f64, limits: &Limits) -> Self {
        let rows: BTreeMap<&'static str, Row> = forms
            .iter()
            .map(|made| (made.form.name(), made.row()))
            .collect();
        let ours = &forms[forms.len() - 1];
        let by_process = |ours: &[f64], other: &[f64]| {
            Spread::of(ours.iter().zip(other).map(|(ours, other)| ours / other))
        };
        let loads = |outcomes: &[Outcome]| -> Vec<f64> {
            outcomes.iter().map(|outcome| outcome.load_ms).collect()
        };
        let both = |made: &Measured| {
            made.all(|outcome| median(&outcome.reload_ms) + median(&outcome.rerun_ms))
        };
        let row = &rows[Form::Ours.name()];
        let ratios = forms[..forms.len() - 1]
            .iter()
            .map(|other| {
                let ratios = Ratios {
                    load_cold: by_process(&loads(&ours.cold), &loads(&other.cold)),
                    load_warm: by_process(&loads(&ours.warm), &loads(&other.warm)),
                    reload: by_process(&ours.reloads(), &other.reloads()),
                    bare_reload: by_process(&ours.bare_reloads(), &other.bare_reloads()),
                    reload_and_run: by_process(&both(ours), &both(other)),
                    anon: row.anon_bytes as f64 / rows[other.form.name()].anon_bytes as f64,
                };
                (other.form.name(), ratios)
            })
            .collect();
        let memory_read_ms = 1e3 * ours.bytes as f64 / limits.dram_read_bytes_per_s[0];
        let more = row.reload_ms.median + row.rerun_ms.median - row.second_run_ms.median;
        let limit = Limit {
            memory_read_ms,
            file_read_ms: read_ms,
            reload_over_limit: more / memory_read_ms,
        };
        let external = forms.iter().find(|made| made.form == Form::External);
        Self {
            prepacked: external.is_some_and(|external| external.files != ours.files),
            parked: ours.parking(),
            ratios,
            limit,
            forms: rows,
        }
    }
}
