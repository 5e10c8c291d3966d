//! Who serves a module, and why not those that would be preferred.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::built::BuiltSession;
use crate::ort::{Placement, Provider};

/// Changes while the module is in memory, when its provider fails. Thread-safe.
#[derive(Debug)]
pub(super) struct Serving(Mutex<Now>);

#[derive(Debug, Clone)]
pub(super) struct Now {
    pub(super) provider: Provider,
    pub(super) placement: Placement,
    /// How near its golden outputs it came, and the milliseconds that took to see; the processor is not asked.
    pub(super) golden: Option<(f64, f64)>,
    /// Why those before it in the list do not serve the module, and what it leaves to others.
    pub(super) fallbacks: Vec<String>,
}

impl Serving {
    /// `refused` are the reasons of those before `provider`.
    pub(super) fn new(provider: Provider, made: &BuiltSession, refused: Vec<String>) -> Self {
        let serving = Self(Mutex::new(Now {
            provider,
            placement: Placement::default(),
            golden: None,
            fallbacks: refused,
        }));
        serving.by(provider, made);
        serving
    }

    /// From now on `provider` serves it.
    pub(super) fn by(&self, provider: Provider, made: &BuiltSession) {
        let mut now = self.lock();
        now.provider = provider;
        now.placement = made.loaded.placement.clone();
        now.golden = made.golden;
        now.fallbacks.extend(made.remark.clone());
    }

    pub(super) fn refused(&self, why: String) {
        self.lock().fallbacks.push(why);
    }

    pub(super) fn now(&self) -> Now {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
