//! The state of a runtime as one document: what `atom doctor --json`, `atom top` and `atom_runtime_status_json` show.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Runtime;
use crate::budget::Counters;
use crate::budget::pressure::Reading;
use crate::error::{Error, ErrorKind, Result};
use crate::language::PrefixStats;
use crate::ort::{Presence, Share};
use crate::os::cgroup::CgroupFs;
use crate::os::{file, memory, smaps};
use crate::pack::Task;

/// Events that are shown.
const SHOWN: usize = 32;

/// All of it, as of one moment. The names are stable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Atom's.
    pub version: String,
    /// ONNX Runtime as the process loaded it.
    pub onnxruntime: Library,
    /// The pack.
    pub pack: Pack,
    /// The execution providers, as far as is known without loading any; [`Runtime::providers`] looks closer.
    #[serde(default)]
    pub providers: Vec<Provider>,
    /// Its modules, in the manifest's order.
    pub modules: Vec<Module>,
    /// Who owns which bytes.
    pub ledger: Vec<Entry>,
    /// Beginnings of prompts kept for the next.
    pub prefixes: PrefixStats,
    /// The kernel's figures beside the ledger's.
    pub memory: Memory,
    /// How short memory is.
    pub pressure: Pressure,
    /// How often what happened.
    pub counters: Counters,
    /// What happened last, oldest first.
    pub events: Vec<Event>,
}

/// A native library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Library {
    /// What it calls itself.
    pub version: String,
    /// Its file.
    pub path: String,
    /// Threads that sessions share.
    pub threads: usize,
}

/// An opened pack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pack {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its folder.
    pub path: String,
    /// The tasks it serves.
    pub tasks: Vec<String>,
}

/// An execution provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provider {
    /// Whether it can be used, and on what.
    #[serde(flatten)]
    pub presence: Presence,
    /// Anonymous bytes that stayed after its last session was released.
    pub floor_bytes: u64,
}

impl Provider {
    /// One for each there is.
    pub(super) fn all(look: impl Fn(crate::ort::Provider) -> Presence) -> Vec<Self> {
        let all = crate::ort::Provider::ALL.into_iter();
        all.map(|provider| Self {
            presence: look(provider),
            floor_bytes: provider.floor_bytes(),
        })
        .collect()
    }
}

/// A module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Module {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: String,
    /// cold, loading, resident, parked or failed.
    pub state: String,
    /// Times it was loaded.
    pub loads: u64,
    /// Times it ran.
    pub runs: u64,
    /// Leases now.
    pub leases: usize,
    /// Anonymous and mapped bytes together.
    pub bytes: u64,
    /// Anonymous bytes.
    pub anon_bytes: u64,
    /// Bytes of files it maps.
    pub mapped_bytes: u64,
    /// The provider asked for.
    pub provider: Option<String>,
    /// The form it runs in: its own graph or a variant's, with its precision.
    #[serde(default)]
    pub variant: Option<String>,
    /// Where its nodes run.
    pub placement: Option<String>,
    /// The same by provider, with the operators of each.
    #[serde(default)]
    pub nodes: Vec<Share>,
    /// How near its golden outputs it came when it was loaded; absent on the processor.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub golden_cosine: Option<f64>,
    /// How much of the load was spent on that, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub golden_ms: Option<f64>,
    /// Why preferred providers do not serve it, and what of it they leave to others.
    #[serde(default)]
    pub fallbacks: Vec<String>,
    /// Milliseconds of the last load.
    pub load_ms: Option<f64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// A charge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What for.
    pub owner: String,
    /// Anonymous bytes.
    pub anon_bytes: u64,
    /// Bytes of files mapped.
    pub mapped_bytes: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Proportional set size of the process.
    pub pss_bytes: u64,
    /// Its anonymous part.
    pub pss_anon_bytes: u64,
    /// Resident set size.
    pub rss_bytes: u64,
    /// Of the machine.
    pub machine_total_bytes: u64,
    /// What new work can have.
    pub machine_available_bytes: u64,
    /// Anonymous bytes on the ledger.
    pub ledger_anon_bytes: u64,
    /// Mapped bytes on the ledger.
    pub ledger_mapped_bytes: u64,
    /// Anonymous bytes the process had when the runtime was opened: the program's own.
    pub program_anon_bytes: u64,
    /// The most anonymous bytes the ledger may come to; absent: no bound.
    pub budget_bytes: Option<u64>,
    /// The process's memory cgroup, if it is in one that can be read.
    pub cgroup: Option<Cgroup>,
}

/// A memory cgroup, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its name.
    pub name: String,
    /// The tightest limit of it and what is above it.
    pub limit_bytes: Option<u64>,
    /// Its charge.
    pub charge_bytes: u64,
    /// Anonymous memory in it.
    pub anon_bytes: u64,
    /// Page cache in it.
    pub file_bytes: u64,
}

/// Memory pressure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// none, low or critical.
    pub level: String,
    /// Who is asked.
    pub sources: Vec<Source>,
}

/// One who sees pressure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// none, low, critical or absent.
    pub level: String,
    /// The figures behind it, or why it sees nothing.
    pub why: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number.
    pub number: u64,
    /// How long ago, in seconds.
    pub ago_s: f64,
    /// loaded, parked, released, shrunk, pressure or refused.
    pub event: String,
    /// The module or other owner; empty for pressure.
    pub subject: String,
    /// All of it, for people.
    pub text: String,
}

impl Status {
    pub(super) fn of(runtime: &Runtime) -> Result<Self> {
        let environment = runtime.environment();
        let manifest = runtime.pack().manifest();
        let modules = runtime.modules().into_iter().map(|module| Module {
            id: module.id,
            kind: module.kind.name().to_owned(),
            state: module.state.name().to_owned(),
            loads: module.loads,
            runs: module.runs,
            leases: module.leases,
            bytes: module.anon_bytes + module.mapped_bytes,
            anon_bytes: module.anon_bytes,
            mapped_bytes: module.mapped_bytes,
            provider: module.provider,
            variant: module.variant,
            placement: module.placement,
            nodes: module.nodes.0,
            golden_cosine: module.golden_cosine,
            golden_ms: module.golden_ms,
            fallbacks: module.fallbacks,
            load_ms: module.load_ms,
            error: module.error,
        });
        let ledger = runtime.ledger().snapshot().into_iter();
        let ledger = ledger.map(|entry| Entry {
            owner: entry.owner.to_string(),
            anon_bytes: entry.anon_bytes,
            mapped_bytes: entry.mapped_bytes,
        });
        let pressure = runtime.pressure();
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            onnxruntime: Library {
                version: environment.version().to_owned(),
                path: environment.library().display().to_string(),
                threads: environment.threads(),
            },
            pack: Pack {
                id: manifest.id.clone(),
                version: manifest.version.clone(),
                path: runtime.pack().dir().display().to_string(),
                tasks: Task::ALL
                    .into_iter()
                    .filter(|task| runtime.serves(*task))
                    .map(|task| task.name().to_owned())
                    .collect(),
            },
            providers: Provider::all(|provider| provider.known(environment)),
            modules: modules.collect(),
            ledger: ledger.collect(),
            prefixes: runtime.prefixes().stats(),
            memory: Memory::of(runtime)?,
            pressure: Pressure {
                level: pressure.level.name().to_owned(),
                sources: pressure
                    .sources
                    .iter()
                    .map(|status| Source {
                        name: status.source.clone(),
                        level: match &status.reading {
                            Reading::Seen { level, .. } => level.name().to_owned(),
                            Reading::Absent { .. } => "absent".to_owned(),
                        },
                        why: status.reading.why().to_owned(),
                    })
                    .collect(),
            },
            counters: runtime.events().counters(),
            events: events(runtime),
        })
    }
}

impl Memory {
    fn of(runtime: &Runtime) -> Result<Self> {
        let process = smaps::process_memory()?;
        let machine = memory::machine();
        let (ledger_anon_bytes, ledger_mapped_bytes) = runtime.ledger().total();
        Ok(Self {
            pss_bytes: process.pss,
            pss_anon_bytes: process.pss_anon,
            rss_bytes: process.rss,
            machine_total_bytes: machine.total,
            machine_available_bytes: machine.available,
            ledger_anon_bytes,
            ledger_mapped_bytes,
            program_anon_bytes: runtime.program_anon_bytes(),
            budget_bytes: runtime.ledger().budget(),
            cgroup: cgroup(),
        })
    }
}

/// Puts the status into `path`; what hinders is logged, since nobody waits for it.
pub(super) fn write(runtime: &Runtime, path: &Path) {
    let text = Status::of(runtime).and_then(|status| {
        serde_json::to_vec(&status).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))
    });
    if let Err(e) = text.and_then(|text| file::atomic_write(path, &text)) {
        log::warn!("status file: {e}");
    }
}

/// `None` where the process is in no group that counts.
fn cgroup() -> Option<Cgroup> {
    let group = CgroupFs::default().memory().ok()?;
    let levels = group.read().ok()?;
    let own = levels.first()?;
    Some(Cgroup {
        name: own.name.clone(),
        limit_bytes: levels.iter().filter_map(|level| level.bound()).min(),
        charge_bytes: own.usage,
        anon_bytes: own.anon,
        file_bytes: own.file,
    })
}

fn events(runtime: &Runtime) -> Vec<Event> {
    let now = Instant::now();
    let events = runtime.events().since(0);
    let skipped = events.len().saturating_sub(SHOWN);
    let shown = events.into_iter().skip(skipped);
    shown
        .map(|event| Event {
            number: event.number,
            ago_s: now.duration_since(event.at).as_secs_f64(),
            event: event.what.name().to_owned(),
            subject: event.what.subject(),
            text: event.what.to_string(),
        })
        .collect()
}
