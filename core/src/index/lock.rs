//! One writer per store, over all processes: an advisory lock that the kernel gives back however the holder ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind as IoKind, Read, Write};
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::os::file;

pub(super) const FILE: &str = "lock";

/// Held as long as it lives.
pub(super) struct WriterLock {
    file: File,
}

impl WriterLock {
    pub(super) fn acquire(store: &Path) -> Result<Self> {
        let path = store.join(FILE);
        let mut file = open(&path).map_err(|e| match e.kind() {
            IoKind::ReadOnlyFilesystem | IoKind::PermissionDenied => Error::new(
                ErrorKind::ReadOnly,
                format!("store {} cannot be written: {e}", store.display()),
            )
            .remedy("open it read-only, or make it writable"),
            _ => Error::io(path.display(), &e),
        })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let holder = match file.read_to_string(&mut pid).map(|_| pid.trim()) {
                    Ok(pid) if !pid.is_empty() => format!("process {pid}"),
                    _ => "another process".to_owned(),
                };
                return Err(Error::new(
                    ErrorKind::StoreLocked,
                    format!("store {} is being written by {holder}", store.display()),
                )
                .remedy("wait until it ends, or open the store read-only"));
            }
            Err(TryLockError::Error(e)) => return Err(Error::io(path.display(), &e)),
        }
        // For the message of whoever comes second; on a full disk the message only says less.
        if let Err(e) = file
            .set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
        {
            log::debug!("{}: {e}", path.display());
        }
        Ok(Self { file })
    }
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        // Said, not left to closing: a process that another thread is just forking shares the descriptor until it has become
        // something else.
        if let Err(e) = self.file.unlock() {
            log::warn!("store lock: {e}");
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Why the store cannot be written, if it cannot. Asks the lock file, or the folder where there is none (a store copied without
/// it): opening and closing the catalogue here would drop the locks SQLite holds on it.
pub(super) fn why_unwritable(store: &Path) -> Option<IoKind> {
    let lock = OpenOptions::new().write(true).open(store.join(FILE));
    let why = match lock.map_err(|e| e.kind()) {
        Ok(_) => return None,
        Err(IoKind::NotFound) => file::may_write(store).err()?.kind(),
        Err(why) => why,
    };
    matches!(why, IoKind::ReadOnlyFilesystem | IoKind::PermissionDenied).then_some(why)
}
