//! Leases and steps.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::entry::ModuleEntry;
use super::permit::Permit;
use super::resident::Resident;
use super::slot::Held;
use crate::budget::{AtWork, Ledger, WaitPolicy};
use crate::control::Control;
use crate::decoder::DecoderMap;
use crate::error::Result;
use crate::features::Variant;
use crate::ort::{Port, Session};
use crate::pack::{ModuleSpec, Pack};
use crate::trace::{self, Span};

/// Keeps a module resident. Clones share the lease; the module may be released when the last is dropped. Any number of
/// threads may hold one; they take turns in [`step`](Self::step).
#[derive(Clone)]
pub struct Lease(Arc<Inner>);

struct Inner {
    pack: Arc<Pack>,
    /// Index of the module in the manifest.
    index: usize,
    entry: Arc<ModuleEntry>,
    held: Arc<Held<Resident>>,
    /// Told when the lease ends: somebody may wait for the module to become idle.
    ledger: Ledger,
    /// How long it is leased, for who records what is used when.
    _span: Span,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.entry.usage.touched();
        if self.held.release() {
            self.ledger.wake_waiters();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.spec().id).finish()
    }
}

impl Lease {
    /// `held` has this lease counted already.
    pub(super) fn new(
        pack: Arc<Pack>,
        index: usize,
        entry: Arc<ModuleEntry>,
        held: Arc<Held<Resident>>,
        ledger: Ledger,
    ) -> Self {
        let span = trace::span("module", "lease").what(&entry.id);
        Self(Arc::new(Inner {
            _span: span,
            pack,
            index,
            entry,
            held,
            ledger,
        }))
    }

    /// Waits for the turn to use the session. Hold it for one step (a batch, a token, a chunk of at most 128), so that
    /// others get theirs; never take a second one of the same module meanwhile, which would wait for ever.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) or
    /// [`ErrorKind::DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded); [`ErrorKind::OutOfBudget`](crate::ErrorKind::OutOfBudget)
    /// when the memory that a run is known to need cannot be had.
    pub fn step(&self, control: &Control) -> Result<Step<'_>> {
        let (entry, resident) = (&*self.0.entry, self.resident());
        let permit = resident.gate.enter(control)?;
        let check = || control.check();
        resident.reserve(&entry.cost, &WaitPolicy::until(&check, Some(&entry.owner)))?;
        let span = trace::span("module", "step").what(&entry.id);
        // Never contended: the permit is exclusive. A panic in an earlier step leaves the session as usable as before.
        let session = resident
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let runs_before = session.runs();
        Ok(Step {
            entry,
            resident,
            runs_before,
            _at_work: self.0.ledger.at_work(),
            _span: span,
            session,
            _permit: permit,
        })
    }

    /// The module's manifest entry.
    pub fn spec(&self) -> &ModuleSpec {
        &self.0.pack.manifest().modules[self.0.index]
    }

    /// The ports the graph reads.
    pub fn inputs(&self) -> &[Port] {
        &self.resident().inputs
    }

    /// The ports the graph writes.
    pub fn outputs(&self) -> &[Port] {
        &self.resident().outputs
    }

    /// The map of a decoder's graph; `None` for other modules.
    pub(crate) fn decoder(&self) -> Option<&Arc<DecoderMap>> {
        self.resident().decoder.as_ref()
    }

    /// The provider that serves the module now.
    pub fn provider(&self) -> &'static str {
        self.resident().serving.now().provider.name()
    }

    /// The form of the module that runs: the same for every lease of a registry.
    pub fn variant(&self) -> &Arc<Variant> {
        &self.resident().variant
    }

    fn resident(&self) -> &Resident {
        &self.0.held.value
    }
}

/// The exclusive use of a session for one step.
pub struct Step<'a> {
    entry: &'a ModuleEntry,
    resident: &'a Resident,
    runs_before: u64,
    _at_work: AtWork,
    // In this order: the session is let go of before the turn is given on.
    _span: Span,
    session: MutexGuard<'a, Session>,
    _permit: Permit<'a>,
}

impl Deref for Step<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Step<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let runs = self.session.runs() - self.runs_before;
        if runs > 0 {
            self.entry.runs.fetch_add(runs, Ordering::Relaxed);
        }
        // Also what was reserved for a run that failed.
        self.resident.charge_arena(&self.session, &self.entry.cost);
    }
}

impl fmt::Debug for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Step").field(&*self.session).finish()
    }
}
