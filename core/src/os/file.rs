//! Files that survive a power cut.

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Access, Advice, access, fadvise};

use super::leaf;
use super::memory::page_size;
use crate::error::{Error, ErrorKind, Result};

/// Whether this process may write to `path`; the error says why not. Changes nothing.
///
/// # Errors
/// What access(2) gives, such as a read-only file system or a lack of permission.
pub fn may_write(path: &Path) -> std::io::Result<()> {
    Ok(access(path, Access::WRITE_OK)?)
}

/// Makes the entries of folder `dir` (created, renamed, removed files) durable.
///
/// # Errors
/// What opening or syncing the folder gives.
pub fn sync_dir(dir: &Path) -> Result<()> {
    leaf::assert_free("a folder is synced");
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io(dir.display(), &e))
}

/// Replaces `path` by a file holding `bytes`: readers see the old or the new content, never a mixture, and the new one
/// is durable when this returns.
///
/// # Errors
/// What writing gives; the old file is then untouched and no temporary file remains.
pub fn atomic_write(path: &Path, bytes: &[u8]) -> Result<()> {
    atomic_write_with(path, |file| file.write_all(bytes))
}

/// [`atomic_write`] of what `write` puts into the new file.
///
/// # Errors
/// What `write` and the file system give; the old file is then untouched and no temporary file remains.
pub fn atomic_write_with(
    path: &Path,
    write: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    leaf::assert_free("a file is written");
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{} does not name a file", path.display()),
        ));
    };
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    let mut temporary = name.to_owned();
    temporary.push(format!(
        ".tmp-{}-{}",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    ));
    let temporary = dir.join(temporary);
    let written = (|| {
        let mut file = File::create_new(&temporary)?;
        write(&mut file)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if let Err(e) = written {
        let _ = fs::remove_file(&temporary);
        return Err(Error::io(path.display(), &e));
    }
    sync_dir(dir)
}

/// Asks the kernel to drop the file's pages from its cache, so that the next read comes from the device. Pages that are
/// mapped by some process, or not yet written out, stay.
///
/// # Errors
/// What opening the file gives, or a file system that cannot.
pub fn uncache(path: &Path) -> Result<()> {
    leaf::assert_free("a file is uncached");
    File::open(path)
        .and_then(|file| drop_cached(&file, 0, None))
        .map_err(|e| Error::io(path.display(), &e))
}

/// `POSIX_FADV_DONTNEED` on `length` bytes from `offset` on; `None`: to the end.
pub(super) fn drop_cached(
    file: &File,
    offset: u64,
    length: Option<NonZeroU64>,
) -> std::io::Result<()> {
    Ok(fadvise(file, offset, length, Advice::DontNeed)?)
}

/// Reads `bytes` of `file` into the kernel's cache, up to the file's end, and returns when they are there. It really reads,
/// because the kernel then takes large pieces and large pages. After `POSIX_FADV_WILLNEED` it reads small pages, and no more of
/// them than the device reads ahead; `MADV_POPULATE_READ` took up to half as long again.
///
/// # Errors
/// What reading gives.
pub(super) fn read_in(file: &File, bytes: Range<u64>) -> std::io::Result<()> {
    leaf::assert_free("a file is read");
    // Small enough for the processor's cache.
    let mut buffer = vec![0; 256 << 10];
    let mut at = bytes.start;
    while at < bytes.end {
        let room =
            usize::try_from(bytes.end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        match file.read_at(&mut buffer[..room], at) {
            Ok(0) => break,
            Ok(read) => at += read as u64,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// How many places of a file [`warm`] samples.
const LOOKS: usize = 64;

/// Reads the file at `path` into the kernel's cache, unless a sample of its pages, taken in some tens of microseconds, says that
/// nearly all is there. A mapped file that is used without this is fetched in the order of use, in small pieces and small pages.
///
/// # Errors
/// What opening, mapping and reading the file gives.
pub fn warm(path: &Path) -> Result<()> {
    leaf::assert_free("a file is warmed");
    let io = |e: &std::io::Error| Error::io(path.display(), e);
    let file = File::open(path).map_err(|e| io(&e))?;
    let length = file.metadata().map_err(|e| io(&e))?.len();
    if length == 0 {
        return Ok(());
    }
    // SAFETY: nothing is read through the mapping, so it matters to nobody whether the file changes meanwhile.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| io(&e))?;
    let (page, mut missing) = (page_size(), 0);
    let pages = map.len().div_ceil(page);
    for look in 0..LOOKS.min(pages) {
        let at = look * pages / LOOKS.min(pages) * page;
        let mut seen = 0_u8;
        // SAFETY: the page begins within the mapping, on a page's boundary; `seen` has a byte for it.
        let code = unsafe { libc::mincore(map.as_ptr().add(at).cast_mut().cast(), 1, &mut seen) };
        missing += usize::from(code == 0 && seen & 1 == 0);
    }
    if missing * 8 > LOOKS.min(pages) {
        read_in(&file, 0..length).map_err(|e| io(&e))?;
    }
    Ok(())
}

/// Bytes of the file at `path` that are in the kernel's page cache, in whole pages.
///
/// # Errors
/// What opening and mapping the file gives.
pub fn cached_bytes(path: &Path) -> Result<u64> {
    leaf::assert_free("a file is looked at");
    let io = |e: &std::io::Error| Error::io(path.display(), e);
    let file = File::open(path).map_err(|e| io(&e))?;
    let length = file.metadata().map_err(|e| io(&e))?.len();
    if length == 0 {
        return Ok(0);
    }
    // SAFETY: nothing is read through the mapping, so it matters to nobody whether the file changes meanwhile.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| io(&e))?;
    let page = page_size();
    let mut pages = vec![0_u8; map.len().div_ceil(page)];
    // SAFETY: the mapping is page-aligned and that long, `pages` has a byte for each of its pages.
    let code = unsafe {
        libc::mincore(
            map.as_ptr().cast_mut().cast(),
            map.len(),
            pages.as_mut_ptr().cast(),
        )
    };
    if code != 0 {
        return Err(io(&std::io::Error::last_os_error()));
    }
    let cached = pages.iter().filter(|page| **page & 1 != 0).count();
    Ok((cached * page) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_written_is_cached() -> Result<()> {
        let dir = tempfile::tempdir().map_err(|e| Error::io("temp", &e))?;
        let (full, empty) = (dir.path().join("full"), dir.path().join("empty"));
        atomic_write(&full, &[7; 100_000])?;
        atomic_write(&empty, b"")?;
        assert!((100_000..200_000).contains(&cached_bytes(&full)?));
        assert_eq!(cached_bytes(&empty)?, 0);
        warm(&empty)?;
        // The kernel may keep them, but must not fail.
        uncache(&full)?;
        assert!(cached_bytes(&full)? <= 131_072);
        warm(&full)?;
        assert!(cached_bytes(&full)? >= 100_000);
        let missing = warm(&dir.path().join("missing"));
        assert_eq!(missing.map_err(|e| e.kind()), Err(ErrorKind::NotFound));
        let missing = cached_bytes(&dir.path().join("missing"));
        assert_eq!(missing.map_err(|e| e.kind()), Err(ErrorKind::NotFound));
        Ok(())
    }

    #[test]
    fn replaces_whole_files() -> Result<()> {
        let dir = tempfile::tempdir().map_err(|e| Error::io("temp", &e))?;
        let path = dir.path().join("a");
        atomic_write(&path, b"one")?;
        atomic_write(&path, b"two")?;
        assert_eq!(fs::read(&path).ok().as_deref(), Some(&b"two"[..]));
        assert_eq!(fs::read_dir(dir.path()).map(|d| d.count()).ok(), Some(1));
        let missing = atomic_write(&dir.path().join("no/such/file"), b"x");
        assert_eq!(missing.map_err(|e| e.kind()), Err(ErrorKind::NotFound));
        assert!(uncache(&path).is_ok());
        let missing = uncache(&dir.path().join("no")).map_err(|e| e.kind());
        assert_eq!(missing, Err(ErrorKind::NotFound));
        Ok(())
    }
}
