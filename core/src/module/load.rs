//! From a module's files to a session.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::cost::Cost;
use super::place::Place;
use super::ports;
use super::probe::Probe;
use super::resident::{Loaded, Resident};
use super::weights::Weights;
use crate::budget::{Charge, Events, Ledger, Owner, Patience, What};
use crate::error::{Error, ErrorKind, Result};
use crate::ort::{Environment, GraphForm, Session, SessionConfig, Threads};
use crate::pack::{
    ArtifactCache, LoadPath, ModuleKind, ModuleSpec, Pack, Policy, Provider, realign,
};
use crate::trace;

/// What a load needs.
pub(super) struct Loader<'a> {
    pub(super) pack: &'a Pack,
    pub(super) spec: &'a ModuleSpec,
    pub(super) environment: &'static Environment,
    pub(super) ledger: &'a Ledger,
    pub(super) events: &'a Events,
    pub(super) artifacts: &'a ArtifactCache,
    pub(super) place: &'a Place,
}

impl Loader<'_> {
    /// Loads the session by the fastest way there is and charges what it was measured to take. What it will take is asked
    /// for first: others are evicted for it, or waited for with `patience`.
    pub(super) fn load(&self, patience: &Patience<'_>) -> Result<Resident> {
        let (pack, spec, place) = (self.pack, self.spec, self.place);
        let named = |e: Error| e.context(format_args!("module {:?}", spec.id));
        let provider = provider(spec).map_err(named)?;
        let span = trace::span("module", "check");
        let model = pack.checked(&spec.model).map_err(named)?;
        let mut data = Vec::new();
        for file in &spec.data {
            data.push(pack.checked(file).map_err(named)?);
        }
        drop(span);
        let owner = Owner::Module(spec.id.clone());
        let need = self.need(provider);
        let charge = self
            .ledger
            .charge_with(owner.clone(), need, 0, patience)
            .inspect_err(|e| {
                if e.kind() == ErrorKind::OutOfBudget {
                    let (owner, bytes) = (owner.clone(), need);
                    self.events.add(What::Refused { owner, bytes });
                }
            })?;
        let _under_way = place.load_under_way(need);
        let turn = self.ledger.turn();
        let span = trace::span("module", "load").what(&place.id);
        let started = Instant::now();
        let source = SessionConfig {
            environment: self.environment,
            model,
            form: GraphForm::Source,
            threads: match spec.kind {
                // One token is hundreds of nodes of a few microseconds.
                ModuleKind::LanguageDecoder => Threads::Own,
                _ => Threads::Shared,
            },
            profile: None,
        };
        let measured = Measured {
            charge: &charge,
            cost: &place.cost,
        };
        let loaded = match prepacked(pack, spec, &source, provider, self.artifacts, &measured) {
            Some(loaded) => loaded,
            None => measured.load(&source, &data).map_err(named)?,
        };
        drop((span, turn));
        ports::check(spec, &loaded.session)?;
        let ms = started.elapsed().as_secs_f64() * 1e3;
        place.loads.fetch_add(1, Ordering::Relaxed);
        let arena = loaded.session.arena();
        let meanwhile = arena.most_in_use.saturating_sub(arena.in_use);
        place.cost.loaded(loaded.measured, meanwhile, ms);
        log::debug!("module {}: {}", spec.id, loaded.session.placement());
        self.events.add(What::Loaded {
            owner,
            ms,
            anon_bytes: loaded.anon,
            mapped_bytes: loaded.weights.bytes(),
            evicted_before: place.usage.take_evicted(),
        });
        Ok(Resident::new(&spec.id, loaded, provider.name(), ms, charge))
    }

    /// Anonymous bytes to ask for: what it took before, with what loads and runs needed beyond; an estimate before it was
    /// ever loaded.
    fn need(&self, provider: Provider) -> u64 {
        let (spec, cost) = (self.spec, &self.place.cost);
        if let Some(anon) = cost.anon() {
            return anon + cost.more();
        }
        let key = ArtifactCache::key(spec, self.environment.version(), provider);
        let kept = match spec.load {
            LoadPath::Prepacked if self.artifacts.has(&key) => estimate(spec.model.bytes, 0),
            // Packed anew in memory, beside the original while that is done.
            LoadPath::Prepacked => spec.bytes() * 2,
            LoadPath::Plain => estimate(spec.model.bytes, spec.bytes() - spec.model.bytes),
        };
        kept + cost.more()
    }
}

/// What a session takes of a graph of so many bytes with weights that it copies: thirty times the graph, measured on the
/// reference pack's modules (21 to 56).
fn estimate(graph: u64, copied: u64) -> u64 {
    graph * 30 + copied
}

/// The session of the prepacked form, made first if need be; `None` when the module does not want one or there is no
/// way to have one: it then loads as it lies in the pack.
fn prepacked(
    pack: &Pack,
    spec: &ModuleSpec,
    source: &SessionConfig,
    provider: Provider,
    artifacts: &ArtifactCache,
    measured: &Measured<'_>,
) -> Option<Loaded> {
    artifacts.dir()?;
    if spec.load != LoadPath::Prepacked {
        return None;
    }
    let key = ArtifactCache::key(spec, source.environment.version(), provider);
    if artifacts.condemned(&key) {
        log::info!(
            "module {} loads without its prepacked form, which is unusable",
            spec.id
        );
        return None;
    }
    // Twice: an entry that turns out bad is made anew once.
    for _ in 0..2 {
        let span = trace::span("module", "check");
        let found = artifacts.find(&key);
        drop(span);
        if let Some(model) = found {
            let data = [model.with_added_extension("data")];
            let config = SessionConfig {
                model,
                form: GraphForm::Prepacked,
                ..source.clone()
            };
            match measured.load(&config, &data) {
                Ok(loaded) => return Some(loaded),
                Err(e) => artifacts.quarantine(&key, &e),
            }
        }
        let mut faithful = true;
        let made = artifacts.create(&key, &spec.id, |path| {
            let form = |form| SessionConfig {
                form,
                ..source.clone()
            };
            let mut original = Session::load(&form(GraphForm::SourceAndSave(path.to_owned())))?;
            let expected = Probe::new(pack, spec, &original)?
                .run(&mut original)
                .inspect_err(|_| faithful = false)?;
            drop(original);
            realign(path)?;
            let mut saved = Session::load(&SessionConfig {
                model: path.to_owned(),
                ..form(GraphForm::Prepacked)
            })?;
            expected
                .same_from(&mut saved)
                .inspect_err(|_| faithful = false)
        });
        if let Err(e) = made {
            log::warn!("module {} loads without its prepacked form: {e}", spec.id);
            // What a run shows, it shows every time; a file that cannot be written may be written another time.
            if !faithful {
                artifacts.condemn(&key, &e);
            }
            return None;
        }
    }
    log::warn!(
        "module {} loads without its prepacked form, which cannot be read back",
        spec.id
    );
    None
}

/// Measures what a session takes, for its charge.
struct Measured<'a> {
    charge: &'a Charge,
    cost: &'a Cost,
}

impl Measured<'_> {
    /// `data` are the files whose weights the session maps.
    fn load(&self, config: &SessionConfig, data: &[PathBuf]) -> Result<Loaded> {
        let mapped = Weights::of(data)?;
        let (session, measured) = self.charge.measure(|| Session::load(config))?;
        let weights = Weights::of(data)?.added_since(&mapped);
        let size = |path: &PathBuf| path.metadata().map_or(0, |file| file.len());
        let known = measured.or(self.cost.anon()).unwrap_or_else(|| {
            let all: u64 = data.iter().map(size).sum();
            estimate(size(&config.model), all.saturating_sub(weights.bytes()))
        });
        Ok(Loaded {
            anon: known.max(session.arena().in_use),
            measured,
            session,
            weights,
        })
    }
}

/// The provider to use: the first of the list that this build has.
fn provider(spec: &ModuleSpec) -> Result<Provider> {
    let preferred = spec.providers.first().copied().unwrap_or(Provider::Cpu);
    if preferred == Provider::Cpu {
        return Ok(Provider::Cpu);
    }
    let listed = spec.providers.contains(&Provider::Cpu);
    if spec.policy == Policy::Require || (spec.policy == Policy::Prefer && !listed) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("provider {:?} is not in this build", preferred.name()),
        )
        .remedy("list \"cpu\" in providers with policy = \"prefer\", or use policy = \"allow\""));
    }
    log::warn!(
        "module {}: provider {} is not in this build, the processor runs it",
        spec.id,
        preferred.name()
    );
    Ok(Provider::Cpu)
}
