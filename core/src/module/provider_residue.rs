//! Memory that a provider keeps after its last session, and its charge on the ledger.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::budget::{Charge, Ledger, Owner};
use crate::ort::Provider;
use crate::os::{memory, smaps};

/// The charges, one for each provider that keeps something. Thread-safe.
pub(super) struct ProviderResidue {
    ledger: Ledger,
    charges: Mutex<BTreeMap<Provider, Charge>>,
    /// Unowned anonymous bytes before the first session of each provider.
    before: Mutex<BTreeMap<Provider, u64>>,
}

impl ProviderResidue {
    pub(super) fn new(ledger: &Ledger) -> Arc<Self> {
        Arc::new(Self {
            ledger: ledger.clone(),
            charges: Mutex::default(),
            before: Mutex::default(),
        })
    }

    /// Call it before a session of `provider` is made: notes the unowned bytes before the first.
    pub(super) fn note_baseline(&self, provider: Provider) {
        if provider != Provider::Cpu {
            let unowned = self.unowned();
            lock(&self.before).entry(provider).or_insert(unowned);
        }
    }

    /// Call it after a session of `provider` is gone and its module is no longer charged with it. Charges the provider with the
    /// unowned bytes that were not there before its first session, but with no more than its sessions took: the rest is the
    /// program's own.
    fn charge(&self, provider: Provider) {
        let Some(left) = provider.left_bytes() else {
            return;
        };
        let Some(before) = lock(&self.before).get(&provider).copied() else {
            return;
        };
        let mut charges = lock(&self.charges);
        let charged = charges.get(&provider).map_or(0, |charge| charge.bytes().0);
        let bytes = (self.unowned() + charged).saturating_sub(before).min(left);
        provider.seen_floor(bytes);
        if bytes == 0 {
            return;
        }
        let charge = match charges.entry(provider) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let owner = Owner::Provider(provider.name().to_owned());
                match self.ledger.charge(owner, 0, 0) {
                    Ok(charge) => place.insert(charge),
                    Err(e) => {
                        log::debug!("what {provider} keeps is not charged: {e}");
                        return;
                    }
                }
            }
        };
        // Stated, not asked for: it is there already, and nothing gives it back.
        charge.set_measured(bytes, 0);
    }
}

impl ProviderResidue {
    /// Anonymous bytes of the process that no entry of the ledger owns.
    fn unowned(&self) -> u64 {
        memory::trim();
        let process = smaps::anonymous().unwrap_or(0);
        let entries = self.ledger.snapshot().into_iter();
        // What is only promised is not there yet.
        let owned: u64 = entries.map(|of| of.anon_bytes - of.pending_bytes).sum();
        process.saturating_sub(owned)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Charges the residue of a module's providers when it is dropped, which must be after the module's last session.
pub(super) struct ResidueGuard {
    residue: Arc<ProviderResidue>,
    providers: Mutex<BTreeSet<Provider>>,
}

impl ResidueGuard {
    pub(super) fn new(residue: &Arc<ProviderResidue>, provider: Provider) -> Self {
        Self {
            residue: Arc::clone(residue),
            providers: Mutex::new([provider].into()),
        }
    }

    /// Adds `provider`: it has another session of the module.
    pub(super) fn also(&self, provider: Provider) {
        self.providers().insert(provider);
    }

    /// Charges what the providers keep now that some of the sessions are gone.
    pub(super) fn charge(&self) {
        let providers = self.providers().clone();
        for provider in providers {
            self.residue.charge(provider);
        }
    }

    fn providers(&self) -> MutexGuard<'_, BTreeSet<Provider>> {
        lock(&self.providers)
    }
}

impl Drop for ResidueGuard {
    fn drop(&mut self) {
        self.charge();
    }
}
