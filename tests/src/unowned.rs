//! What memory nobody owns while work goes on.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use atom_core::budget::Entry;
use atom_core::os::smaps::anonymous;
use atom_core::runtime::Runtime;

/// How often the thread looks.
const LOOK: Duration = Duration::from_micros(300);

/// The most, and what was on its way into memory then.
#[derive(Debug, Clone, Default)]
pub struct Most {
    /// Anonymous bytes that the kernel counts beyond the ledger and the program's own.
    pub bytes: u64,
    coming: Vec<Entry>,
}

impl fmt::Display for Most {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MB at most were nobody's", self.bytes as f64 / 1e6)?;
        let mut between = ", while there came";
        for Entry {
            owner,
            pending_bytes,
            anon_bytes,
            ..
        } in &self.coming
        {
            let (pending, all) = (*pending_bytes as f64 / 1e6, *anon_bytes as f64 / 1e6);
            write!(f, "{between} {pending:.1} of {all:.1} of {owner}")?;
            between = ",";
        }
        Ok(())
    }
}

/// A thread that looks on until the value is dropped.
pub struct Unowned(Arc<Mutex<Most>>);

impl Unowned {
    /// Looks at `runtime`.
    pub fn watch(runtime: &Runtime) -> Self {
        let most = Arc::new(Mutex::new(Most::default()));
        let (seen, runtime) = (Arc::downgrade(&most), runtime.clone());
        thread::spawn(move || {
            while let Some(most) = seen.upgrade() {
                // What changes hands between the looks counts as owned.
                let before = runtime.ledger().total().0;
                let kernel = anonymous().unwrap_or(0);
                let mut coming = runtime.ledger().snapshot();
                let owned: u64 = coming.iter().map(|entry| entry.anon_bytes).sum();
                let owned = owned.max(before) + runtime.program_anon_bytes();
                let bytes = kernel.saturating_sub(owned);
                let mut most = most.lock().unwrap();
                if bytes > most.bytes {
                    coming.retain(|entry| entry.pending_bytes > 0);
                    *most = Most { bytes, coming };
                }
                drop(most);
                thread::sleep(LOOK);
            }
        });
        Self(most)
    }

    /// The most since this was last asked.
    pub fn take(&self) -> Most {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}
