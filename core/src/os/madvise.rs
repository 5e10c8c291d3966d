//! Drops and fetches the pages of mapped files while the mappings stay.
//!
//! Three counts differ; an eviction is worth what the last one says:
//! * what this process has in its page tables (RSS, PSS): [`FileMappings::mapped`];
//! * what of the file is in the page cache: [`FileMappings::resident_bytes`];
//! * what is charged to the memory cgroup: [`MemoryCgroup::charge`](super::cgroup::MemoryCgroup::charge). Page cache is
//!   charged, to the group whose process read it first.
//!
//! [`FileMappings::drop_pages`] (`MADV_DONTNEED`) lowers the first, and [`uncache`](super::file::uncache)
//! (`POSIX_FADV_DONTNEED`) then the other two. [`FileMappings::page_out`] (`MADV_PAGEOUT`) lowers all three without knowing
//! what is mapped, but the kernel notes what it paged out, and reading that again takes up to twice as long.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::memory::page_size;
use super::smaps::{Mapping, file_mappings, file_ranges};
use super::{file, leaf};
use crate::error::{Error, ErrorKind, Result};

/// Bytes read between two checks for cancellation: a few milliseconds on most disks.
const PIECE: u64 = 4 << 20;

/// Private mappings of one file in this process that hold nothing but the file's own pages.
///
/// **The ranges are addresses; they do not keep the mappings alive.** The owner must keep what made the mappings (a session, a
/// map) for as long, and drop it only while no call runs: afterwards the addresses may belong to something else. All calls but
/// [`Self::drop_pages`] are then slow or fail, and change no content.
///
/// Thread-safe; calls may overlap with reads of the mapped memory, which see the same bytes, some of them later.
#[derive(Debug, Clone)]
pub struct FileMappings {
    path: PathBuf,
    file: Arc<File>,
    pieces: Vec<Piece>,
    excluded: u64,
    extent: u64,
}

/// A range of addresses and where in the file it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    addresses: Range<usize>,
    offset: u64,
}

/// What paging out did, in bytes of page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagedOut {
    /// Of the mapped ranges, in the page cache before.
    pub before: u64,
    /// And afterwards.
    pub after: u64,
}

impl PagedOut {
    /// What left memory.
    pub fn freed(&self) -> u64 {
        self.before.saturating_sub(self.after)
    }
}

/// What of the ranges this process has in its page tables, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mapped {
    /// All of it.
    pub rss: u64,
    /// Pages divided among the processes that have them.
    pub pss: u64,
}

impl FileMappings {
    /// The current mappings of the file at `path`, without shared ones and those with pages that are no longer the file's
    /// ([`Self::excluded_bytes`]). There may be none.
    ///
    /// # Errors
    /// As [`file_mappings`].
    pub fn of(path: &Path) -> Result<Self> {
        Self::among(path, file_mappings(path)?)
    }

    /// As [`of`](Self::of), but does not exclude mappings with pages that are no longer the file's: that takes milliseconds in a
    /// process with much memory. [`drop_pages`](Self::drop_pages) checks, and refuses them.
    ///
    /// # Errors
    /// As [`file_ranges`].
    pub fn ranges_of(path: &Path) -> Result<Self> {
        Self::among(path, file_ranges(path)?)
    }

    fn among(path: &Path, found: Vec<Mapping>) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path.display(), &e))?;
        let mut mappings = Self {
            path: path.to_owned(),
            file: Arc::new(file),
            pieces: Vec::new(),
            excluded: 0,
            extent: u64::MAX,
        };
        for mapping in found {
            if is_clean(&mapping) {
                mappings.pieces.push(Piece {
                    addresses: mapping.addresses,
                    offset: mapping.offset,
                });
            } else {
                mappings.excluded += mapping.addresses.len() as u64;
            }
        }
        Ok(mappings)
    }

    /// These without those in `earlier`: what one load mapped, if others had mapped the same file before.
    #[must_use]
    pub fn added_since(mut self, earlier: &Self) -> Self {
        for old in &earlier.pieces {
            self.pieces = self
                .pieces
                .into_iter()
                .flat_map(|piece| without(piece, &old.addresses))
                .collect();
        }
        self.excluded = self.excluded.saturating_sub(earlier.excluded);
        self
    }

    /// These, of which [`read_in`](Self::read_in) reads only what lies in the first `bytes` of the file, because their user reads
    /// little or nothing beyond.
    #[must_use]
    pub fn up_to(mut self, bytes: u64) -> Self {
        self.extent = bytes;
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of address space in the ranges.
    pub fn bytes(&self) -> u64 {
        self.pieces
            .iter()
            .map(|piece| piece.addresses.len() as u64)
            .sum()
    }

    /// Bytes of mappings of the file that were left out, because dropping them would lose something.
    pub fn excluded_bytes(&self) -> u64 {
        self.excluded
    }

    /// Sends the pages out of memory: those in the page tables (`MADV_PAGEOUT`, since Linux 5.4), then those that were
    /// only read ahead or never used (`POSIX_FADV_DONTNEED`). Takes some tens of milliseconds for 100 MB. The next use
    /// fetches them from the file, bit-equal.
    ///
    /// Silently, the kernel pages out only files that this user owns or may write, and skips pages that another mapping of this
    /// or another process has too: check the result. Pages that stay are marked (`MADV_COLD`) to be reclaimed first.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] on older kernels; [`ErrorKind::Internal`] when a range is no longer mapped.
    pub fn page_out(&self) -> Result<PagedOut> {
        leaf::assert_free("pages are dropped");
        let before = self.resident_bytes()?;
        self.advise(libc::MADV_PAGEOUT, "MADV_PAGEOUT")?;
        self.drop_cached()?;
        let after = self.resident_bytes()?;
        if after > 0 {
            self.advise(libc::MADV_COLD, "MADV_COLD")?;
        }
        Ok(PagedOut { before, after })
    }

    /// Reads the pages into the kernel's cache, as `file::read_in` does, adjacent ones in one go. Ends early when `check`, called
    /// every few megabytes, returns an error.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file cannot be read; what `check` returns.
    pub fn read_in(&self, check: &dyn Fn() -> Result<()>) -> Result<()> {
        for stretch in self.stretches() {
            let (mut at, end) = (stretch.start, stretch.end.min(self.extent));
            while at < end {
                check()?;
                let piece = at..end.min(at + PIECE);
                at = piece.end;
                file::read_in(&self.file, piece).map_err(|e| Error::io(self.path.display(), &e))?;
            }
        }
        Ok(())
    }

    /// Takes the pages out of this process's page tables (`MADV_DONTNEED`); they stay in the page cache, and in the
    /// cgroup's charge, until the kernel needs them or [`uncache`](super::file::uncache) drops them.
    ///
    /// Checks before that the ranges are still private mappings of this file without pages of their own.
    ///
    /// # Safety
    /// From the call to its return nobody may unmap one of the ranges, or write to one: what made the mappings is held,
    /// and never writes to them. A page written to would lose what was written, and memory that took the place of an
    /// unmapped range would be lost.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when a range is no longer such a mapping; nothing is dropped then.
    pub unsafe fn drop_pages(&self) -> Result<()> {
        let now = file_mappings(&self.path)?;
        for piece in &self.pieces {
            if !covered(piece, &now) {
                return Err(self.gone(piece));
            }
        }
        // Destructive where a range is no clean mapping of the file: checked above, and the caller keeps it so.
        self.advise(libc::MADV_DONTNEED, "MADV_DONTNEED")
    }

    /// Bytes of the ranges that are in the page cache, whoever mapped or read them (mincore(2)).
    ///
    /// For a file that this user neither owns nor may write, the kernel claims that all pages are there.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when a range is no longer mapped.
    pub fn resident_bytes(&self) -> Result<u64> {
        let page = page_size();
        let mut pages = Vec::new();
        let mut resident = 0u64;
        for piece in &self.pieces {
            pages.clear();
            pages.resize(piece.addresses.len().div_ceil(page), 0u8);
            let start = piece.addresses.start as *mut libc::c_void;
            // SAFETY: mincore reads no memory in the range, which may even be unmapped (ENOMEM), and writes one byte a
            // page to `pages`, which has as many.
            let code =
                unsafe { libc::mincore(start, piece.addresses.len(), pages.as_mut_ptr().cast()) };
            if code != 0 {
                return Err(self.failed("mincore", piece, &io::Error::last_os_error()));
            }
            resident += pages.iter().filter(|page| **page & 1 != 0).count() as u64 * page as u64;
        }
        Ok(resident)
    }

    /// What of the ranges is in this process's page tables. Reads all of smaps.
    ///
    /// # Errors
    /// As [`file_mappings`].
    pub fn mapped(&self) -> Result<Mapped> {
        let now = file_mappings(&self.path)?;
        let inside = now.iter().filter(|mapping| {
            self.pieces
                .iter()
                .any(|piece| overlap(&piece.addresses, &mapping.addresses))
        });
        Ok(inside.fold(Mapped::default(), |sum, mapping| Mapped {
            rss: sum.rss + mapping.rss,
            pss: sum.pss + mapping.pss,
        }))
    }

    /// Asks the kernel to drop from its cache what the ranges show of the file.
    fn drop_cached(&self) -> Result<()> {
        for Range { start, end } in self.stretches() {
            let Some(length) = NonZeroU64::new(end - start) else {
                continue;
            };
            file::drop_cached(&self.file, start, Some(length))
                .map_err(|e| Error::io(self.path.display(), &e))?;
        }
        Ok(())
    }

    /// What the ranges show of the file, neighbours and what overlaps joined.
    pub fn stretches(&self) -> Vec<Range<u64>> {
        let pieces = self.pieces.iter();
        let mut all: Vec<Range<u64>> = pieces
            .map(|piece| piece.offset..piece.offset + piece.addresses.len() as u64)
            .collect();
        all.sort_by_key(|stretch| stretch.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for stretch in all {
            match joined.last_mut() {
                Some(last) if stretch.start <= last.end => last.end = last.end.max(stretch.end),
                _ => joined.push(stretch),
            }
        }
        joined
    }

    /// Gives `advice` on every range; all but `MADV_DONTNEED` leave contents as they are, whatever is mapped there.
    fn advise(&self, advice: libc::c_int, name: &str) -> Result<()> {
        for piece in &self.pieces {
            let start = piece.addresses.start as *mut libc::c_void;
            // SAFETY: advice other than MADV_DONTNEED changes no content of any mapping and fails on unmapped
            // addresses. For MADV_DONTNEED the only caller, `drop_pages`, has seen that the range maps clean pages of
            // the file, which a read brings back, and its own caller promises that it stays so.
            let code = unsafe { libc::madvise(start, piece.addresses.len(), advice) };
            if code != 0 {
                return Err(self.failed(name, piece, &io::Error::last_os_error()));
            }
        }
        Ok(())
    }

    fn failed(&self, call: &str, piece: &Piece, error: &io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::ENOMEM) => self.gone(piece),
            Some(libc::EINVAL) => Error::new(
                ErrorKind::Unsupported,
                format!("{}: {call}: this kernel cannot", self.path.display()),
            ),
            _ => Error::io(format!("{}: {call}", self.path.display()), error),
        }
    }

    fn gone(&self, piece: &Piece) -> Error {
        Error::new(
            ErrorKind::Internal,
            format!(
                "{}: {:x}-{:x} is no clean mapping of it any more",
                self.path.display(),
                piece.addresses.start,
                piece.addresses.end
            ),
        )
    }
}

/// Whether dropping its pages loses nothing. What this process wrote is anonymous, in memory or in swap, and would be lost. Dirty
/// pages are no loss: they are the file's own, on their way to the disk.
fn is_clean(mapping: &Mapping) -> bool {
    mapping.private && mapping.anonymous == 0 && mapping.swap == 0
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Whether clean mappings show all of `piece` at the same places of the file. The kernel joins neighbours that fit and
/// cuts mappings whose parts differ, so the ranges need not be equal.
fn covered(piece: &Piece, now: &[Mapping]) -> bool {
    let mut at = piece.addresses.start;
    while at < piece.addresses.end {
        let offset = piece.offset + (at - piece.addresses.start) as u64;
        let next = now.iter().find(|mapping| {
            is_clean(mapping)
                && mapping.addresses.contains(&at)
                && mapping.offset + (at - mapping.addresses.start) as u64 == offset
        });
        match next {
            Some(mapping) => at = mapping.addresses.end,
            None => return false,
        }
    }
    true
}

/// What is left of `piece` outside `hole`: none, one or two parts.
fn without(piece: Piece, hole: &Range<usize>) -> Vec<Piece> {
    let Range { start, end } = piece.addresses;
    if !overlap(&piece.addresses, hole) {
        return vec![piece];
    }
    let part = |from: usize, to: usize| {
        (from < to).then(|| Piece {
            addresses: from..to,
            offset: piece.offset + (from - start) as u64,
        })
    };
    let before = part(start, hole.start.clamp(start, end));
    let after = part(hole.end.clamp(start, end), end);
    before.into_iter().chain(after).collect()
}

#[cfg(test)]
#[path = "madvise_tests.rs"]
mod tests;
