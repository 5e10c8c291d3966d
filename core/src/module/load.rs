//! The load of a module: room for it, a provider that serves it, what it costs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::cost::Load;
use super::made::{Maker, Measured, Refusal, estimate};
use super::memory_account::MemoryAccount;
use super::place::Place;
use super::provider_residue::{ProviderResidue, ResidueGuard};
use super::resident::Resident;
use super::serving::Serving;
use crate::budget::{Events, Ledger, Owner, WaitPolicy, What};
use crate::error::{Error, ErrorKind, Result};
use crate::ort::{Environment, Provider, Rescue};
use crate::pack::{ArtifactCache, LoadPath, ModuleSpec, Pack, Policy};
use crate::trace;

/// What a load needs.
pub(super) struct Loader<'a> {
    pub(super) pack: &'a Arc<Pack>,
    pub(super) spec: &'a ModuleSpec,
    pub(super) environment: &'static Environment,
    pub(super) ledger: &'a Ledger,
    pub(super) events: &'a Events,
    pub(super) artifacts: &'a ArtifactCache,
    pub(super) residue: &'a Arc<ProviderResidue>,
    pub(super) place: &'a Place,
}

impl Loader<'_> {
    /// Loads the session by the fastest way there is and charges what it was measured to take. What it will take is asked
    /// for first, as `wait` says.
    pub(super) fn load(&self, wait: &WaitPolicy<'_>) -> Result<Resident> {
        let (pack, spec, place) = (self.pack, self.spec, self.place);
        let named = |e: Error| e.context(format_args!("module {:?}", spec.id));
        let providers = candidates(spec);
        let owner = Owner::Module(spec.id.clone());
        let need = self.need(providers[0]);
        let charge = self
            .ledger
            .charge_with(owner.clone(), need, 0, wait)
            .inspect_err(|e| {
                if e.kind() == ErrorKind::OutOfBudget {
                    let (owner, bytes) = (owner.clone(), need);
                    self.events.add(What::Refused { owner, bytes });
                }
            })?;
        let _under_way = place.load_under_way(need);
        let lock = self.ledger.load_lock();
        let span = trace::span("module", "load").what(&place.id);
        let started = Instant::now();
        let maker = Maker {
            pack,
            environment: self.environment,
            artifacts: self.artifacts,
            measured: Measured {
                charge: &charge,
                cost: Some(&place.cost),
            },
        };
        let settled = place.variant.get().copied();
        // Not what the first provider would run: a store, or another provider before, has settled it.
        let held = settled.filter(|variant| *variant != spec.variant_for(providers[0]));
        let named = |e: Error| match held {
            Some(variant) => {
                named(e.context(format_args!("held to {}", spec.variant(variant).name)))
            }
            None => named(e),
        };
        let mut refused: Vec<String> = Vec::new();
        let mut found = None;
        for (at, &provider) in providers.iter().enumerate() {
            let variant = settled.unwrap_or_else(|| spec.variant_for(provider));
            self.residue.note_baseline(provider);
            match maker.make(spec, variant, provider) {
                Ok(made) => {
                    // Nobody else settles it meanwhile: that waits for the turn.
                    place.variant.get_or_init(|| variant);
                    found = Some((at, variant, made));
                    break;
                }
                Err(Refusal::Module(e)) => return Err(named(e)),
                Err(Refusal::Provider(e)) if providers.len() == 1 => return Err(named(e)),
                Err(Refusal::Provider(e)) => {
                    log::warn!("module {}: {provider} does not serve it: {e}", spec.id);
                    refused.push(format!("{provider}: {e}"));
                }
            }
        }
        let Some((at, variant, mut made)) = found else {
            return Err(named(
                Error::new(
                    ErrorKind::Unsupported,
                    format!("no provider of its list serves it: {}", refused.join("; ")),
                )
                .remedy("list \"cpu\" in providers, or use policy = \"allow\""),
            ));
        };
        drop((span, lock));
        let serving = Arc::new(Serving::new(providers[at], &made, refused));
        let residue = ResidueGuard::new(self.residue, providers[at]);
        for &provider in &providers[..at] {
            residue.also(provider);
        }
        let account = Arc::new(MemoryAccount::new(charge, &made.loaded, residue));
        if at > 0 {
            // Those that were tried in vain may keep something.
            account.charge_residue();
        }
        if providers[at] != Provider::Cpu {
            let rescue = self.rescue(&providers[at..], variant, &serving, &account);
            made.loaded.session.on_failure(rescue);
        }
        let (loaded, decoder) = (made.loaded, made.decoder);
        let ms = started.elapsed().as_secs_f64() * 1e3;
        place.loads.fetch_add(1, Ordering::Relaxed);
        let arena = loaded.session.arena();
        let meanwhile = arena.most_in_use.saturating_sub(arena.in_use);
        let load = Load {
            provider: providers[at],
            kept: loaded.measured,
            arena: meanwhile,
            peak: loaded.meanwhile,
            ms,
        };
        place.cost.loaded(&load);
        log::debug!("module {}: {}", spec.id, loaded.placement);
        self.events.add(What::Loaded {
            owner,
            ms,
            anon_bytes: loaded.anon,
            mapped_bytes: loaded.weights.bytes(),
            evicted_before: place.usage.take_evicted(),
        });
        let name = spec.variant(variant);
        let session = (loaded.session, decoder);
        Ok(Resident::new(&spec.id, session, name, serving, ms, account))
    }

    /// What is done when a run fails: the first of `providers`, which serves the module now, gets another try, then the others
    /// get theirs, all in the form `variant` that runs now: what it makes goes on being the same.
    fn rescue(
        &self,
        providers: &[Provider],
        variant: Option<usize>,
        serving: &Arc<Serving>,
        account: &Arc<MemoryAccount>,
    ) -> Rescue {
        let (pack, spec) = (Arc::clone(self.pack), self.spec.clone());
        let (environment, artifacts) = (self.environment, self.artifacts.clone());
        let ledger = self.ledger.clone();
        let (serving, account) = (Arc::clone(serving), Arc::clone(account));
        let mut left: VecDeque<Provider> = providers.iter().copied().collect();
        Box::new(move |error| {
            let now = serving.now().provider;
            log::warn!("module {}: {now} failed while running: {error}", spec.id);
            serving.refused(format!("{now} failed while running: {error}"));
            let _lock = ledger.load_lock();
            // The step that failed waits for this.
            let _at_rest = ledger.at_rest();
            let maker = Maker {
                pack: &pack,
                environment,
                artifacts: &artifacts,
                measured: Measured {
                    charge: &account.charge,
                    cost: None,
                },
            };
            while let Some(provider) = left.pop_front() {
                match maker.make(&spec, variant, provider) {
                    Ok(made) => {
                        log::warn!("module {}: {provider} serves it again", spec.id);
                        serving.by(provider, &made);
                        account.replace(&made.loaded, provider);
                        return Some(made.loaded.session);
                    }
                    Err(Refusal::Provider(e) | Refusal::Module(e)) => {
                        serving.refused(format!("{provider}: {e}"));
                    }
                }
            }
            None
        })
    }

    /// Anonymous bytes to ask for: what it took before, or an estimate before it was ever loaded, with what loads and runs need
    /// beyond.
    fn need(&self, provider: Provider) -> u64 {
        let (spec, cost) = (self.spec, &self.place.cost);
        // Beyond that, while it loads: a graph with its weights inside is read as a whole, and weights are packed anew node by
        // node, in a heap that cannot use all of what is free. 11 to 38 MB were seen for the reference pack's 111 MB decoder.
        let meanwhile = spec.model.bytes.max(spec.bytes() / 4);
        let more = cost.more().max(meanwhile);
        let key = ArtifactCache::key(spec, self.environment.version(), provider);
        match (cost.anon(), spec.load) {
            (Some(anon), _) => anon + more,
            (None, LoadPath::Prepacked) if self.artifacts.has(&key) => {
                estimate(spec.model.bytes, 0) + more
            }
            // Packed anew in memory, beside the original while that is done.
            (None, LoadPath::Prepacked) => spec.bytes() * 2 + cost.more(),
            (None, LoadPath::Plain) => {
                estimate(spec.model.bytes, spec.bytes() - spec.model.bytes) + more
            }
        }
    }
}

/// The providers that may serve `spec`, in order.
fn candidates(spec: &ModuleSpec) -> Vec<Provider> {
    let mut all = match spec.policy {
        Policy::Require => spec.providers.iter().take(1).copied().collect(),
        Policy::Prefer | Policy::Allow => spec.providers.clone(),
    };
    if spec.policy == Policy::Allow && !all.contains(&Provider::Cpu) {
        all.push(Provider::Cpu);
    }
    all
}
