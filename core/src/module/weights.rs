//! The files a session has mapped its weights from.

use std::path::PathBuf;

use crate::error::{ErrorKind, Result};
use crate::os::file;
use crate::os::madvise::FileMappings;
use crate::trace;

/// The mappings of one session: it must live as long as they are used.
#[derive(Debug, Clone, Default)]
pub(super) struct Weights(Vec<FileMappings>);

impl Weights {
    /// All mappings there are now of `files`.
    pub(super) fn of(files: &[PathBuf]) -> Result<Self> {
        let _span = trace::span("memory", "measure");
        let mappings = files.iter().map(|file| FileMappings::ranges_of(file));
        Ok(Self(mappings.collect::<Result<_>>()?))
    }

    /// These without those in `earlier`, of the same files: what one load added.
    pub(super) fn added_since(self, earlier: &Self) -> Self {
        let pairs = self.0.into_iter().zip(&earlier.0);
        Self(pairs.map(|(now, then)| now.added_since(then)).collect())
    }

    /// Bytes of address space.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(FileMappings::bytes).sum()
    }

    /// Sends the pages out of memory; the bytes that left it. Where the kernel does not do that for this file (another
    /// user's, an old kernel), they are taken out of this process and the file is asked out of the page cache.
    pub(super) fn park(&self) -> Result<u64> {
        self.0.iter().map(park).sum()
    }

    /// Has the kernel read the pages again. Does not wait for it; failing costs the next run page faults.
    pub(super) fn will_need(&self) {
        for mappings in &self.0 {
            if let Err(e) = mappings.will_need() {
                log::debug!("{e}");
            }
        }
    }
}

fn park(mappings: &FileMappings) -> Result<u64> {
    let (before, after) = match mappings.park() {
        Ok(parked) if parked.after < parked.before / 2 => {
            // The rest was read by the load alone: what is prepacked lies in the file as it was, too.
            file::uncache(mappings.path())?;
            return Ok(parked.freed());
        }
        Ok(parked) => (parked.before, parked.after),
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            let before = mappings.resident_bytes()?;
            (before, before)
        }
        Err(e) => return Err(e),
    };
    log::debug!(
        "{}: {after} of {before} bytes did not leave memory by themselves",
        mappings.path().display()
    );
    // SAFETY: the session that made the mappings is held by who parks it (`Weights` belongs to its `Resident`), and ONNX
    // Runtime only reads from them: that they have no pages of their own is checked.
    unsafe { mappings.drop_pages() }?;
    file::uncache(mappings.path())?;
    Ok(before.saturating_sub(mappings.resident_bytes()?))
}
