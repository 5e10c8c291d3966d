//! From a module's files to a session.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::ports;
use super::probe::Probe;
use super::slot::Resident;
use crate::budget::{Ledger, Owner};
use crate::error::{Error, ErrorKind, Result};
use crate::ort::{Environment, GraphForm, Session, SessionConfig, Threads};
use crate::os::{memory, smaps};
use crate::pack::{
    ArtifactCache, LoadPath, ModuleKind, ModuleSpec, Pack, Policy, Provider, realign,
};

/// One load at a time in the process: peaks do not add up, and what a load costs can be told.
static LOADING: Mutex<()> = Mutex::new(());

/// Loads `spec`'s session by the fastest way there is and charges what it was measured to take.
pub(super) fn load(
    pack: &Pack,
    spec: &ModuleSpec,
    environment: &'static Environment,
    ledger: &Ledger,
    artifacts: &ArtifactCache,
) -> Result<Resident> {
    let named = |e: Error| e.context(format_args!("module {:?}", spec.id));
    let provider = provider(spec).map_err(named)?;
    let started = Instant::now();
    let model = pack.checked(&spec.model).map_err(named)?;
    let mut data = Vec::new();
    for file in &spec.data {
        data.push(pack.checked(file).map_err(named)?);
    }
    let _turn = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let source = SessionConfig {
        environment,
        model,
        form: GraphForm::Source,
        threads: match spec.kind {
            // One token is hundreds of nodes of a few microseconds.
            ModuleKind::LanguageDecoder => Threads::Own,
            _ => Threads::Shared,
        },
        profile: None,
    };
    let loaded = match prepacked(pack, spec, &source, provider, artifacts) {
        Some(loaded) => loaded,
        None => Loaded::new(&source, &data).map_err(named)?,
    };
    ports::check(spec, &loaded.session)?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    let Loaded {
        session,
        anon,
        mapped,
    } = loaded;
    let charge = ledger.charge(Owner::Module(spec.id.clone()), anon, mapped)?;
    log::info!(
        "module {} loaded in {load_ms:.0} ms: {anon} bytes anonymous, {mapped} mapped, {}",
        spec.id,
        session.placement()
    );
    Ok(Resident::new(
        &spec.id,
        session,
        provider.name(),
        load_ms,
        charge,
    ))
}

/// The session of the prepacked form, made first if need be; `None` when the module does not want one or there is no
/// way to have one: it then loads as it lies in the pack.
fn prepacked(
    pack: &Pack,
    spec: &ModuleSpec,
    source: &SessionConfig,
    provider: Provider,
    artifacts: &ArtifactCache,
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
        if let Some(model) = artifacts.find(&key) {
            let data = [model.with_added_extension("data")];
            let config = SessionConfig {
                model,
                form: GraphForm::Prepacked,
                ..source.clone()
            };
            match Loaded::new(&config, &data) {
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

/// A session and what it was measured to take.
struct Loaded {
    session: Session,
    anon: u64,
    mapped: u64,
}

impl Loaded {
    /// `data` are the files whose weights the session maps.
    fn new(config: &SessionConfig, data: &[PathBuf]) -> Result<Self> {
        let mapped = || -> u64 {
            let sizes = data
                .iter()
                .map(|path| smaps::mapped_bytes(path).unwrap_or(0));
            sizes.sum()
        };
        let mapped_before = mapped();
        let before = smaps::process_memory().unwrap_or_default();
        let session = Session::load(config)?;
        // What the load itself needed is free by now, but still the heap's.
        memory::trim();
        let after = smaps::process_memory().unwrap_or_default();
        Ok(Self {
            session,
            anon: after.pss_anon.saturating_sub(before.pss_anon),
            mapped: mapped().saturating_sub(mapped_before),
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
