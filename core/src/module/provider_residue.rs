//! What providers keep of memory after their sessions, on the ledger.

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
    /// Anonymous bytes that nobody owned before the first session of each provider.
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

    /// To be called before a session of `provider` is made.
    pub(super) fn watch(&self, provider: Provider) {
        if provider != Provider::Cpu {
            let unowned = self.unowned();
            lock(&self.before).entry(provider).or_insert(unowned);
        }
    }

    /// To be called after a session of `provider` is gone and its module is no longer charged with it. What the provider keeps
    /// is what nobody owns and was not there before, but not more than its sessions took: the rest is the program's own.
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
    /// Anonymous bytes of the process that are in no entry of the ledger.
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

/// The providers of a module's sessions: to be dropped after the last of these.
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

    /// Another session is `provider`'s.
    pub(super) fn also(&self, provider: Provider) {
        self.providers().insert(provider);
    }

    /// Has the ledger say what the providers keep now: some of the sessions are gone.
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
