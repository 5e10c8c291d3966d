//! The files a session has mapped its weights from.

use std::path::PathBuf;

use crate::error::Result;
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

    /// These, of which a run reads no more than what lies in the first `bytes` of each file.
    pub(super) fn up_to(self, bytes: u64) -> Self {
        Self(self.0.into_iter().map(|file| file.up_to(bytes)).collect())
    }

    /// Bytes of address space.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(FileMappings::bytes).sum()
    }

    /// Sends the pages out of memory; the bytes that left it. They are taken out of this process and the file is asked out of
    /// the page cache. Where that cannot be (the kernel does not show what is mapped), they are paged out.
    pub(super) fn park(&self) -> Result<u64> {
        self.0.iter().map(park).sum()
    }

    /// Reads the pages again that every run reads, unless `check` returns an error meanwhile. Failing otherwise costs the next
    /// run page faults.
    pub(super) fn read_in(&self, check: &dyn Fn() -> Result<()>) -> Result<()> {
        let _span = trace::span("memory", "read");
        for mappings in &self.0 {
            if let Err(e) = mappings.read_in(check) {
                check()?;
                log::debug!("{e}");
            }
        }
        Ok(())
    }
}

fn park(mappings: &FileMappings) -> Result<u64> {
    let before = mappings.resident_bytes()?;
    // SAFETY: the session that made the mappings is held by who parks it (`Weights` belongs to its `Resident`), and ONNX
    // Runtime only reads from them: that they have no pages of their own is checked.
    let dropped = unsafe { mappings.drop_pages() };
    if let Err(e) = dropped {
        log::debug!("{e}");
        mappings.page_out()?;
    }
    // Also what was read by the load alone: what is prepacked lies in the file as it was, too.
    file::uncache(mappings.path())?;
    let after = mappings.resident_bytes()?;
    if after > before / 2 {
        log::debug!(
            "{}: {after} of {before} bytes stay in memory; another process may have them mapped",
            mappings.path().display()
        );
    }
    Ok(before.saturating_sub(after))
}
