//! SQLite as the store uses it: a connection that knows its file, and errors that name it.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, Row};

use crate::error::{Error, ErrorKind, Result};

/// A connection, and the file that it is to.
pub(super) struct Database {
    pub(super) conn: Connection,
    pub(super) path: PathBuf,
}

impl Database {
    /// Runs SQL, with errors that name the file.
    pub(super) fn run<T>(
        &self,
        body: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        body(&self.conn).map_err(|e| sql(&self.path, &e))
    }
}

/// A column that is never negative.
pub(super) fn unsigned(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, value))
}

/// The error for what SQLite says about the catalogue at `path`.
pub(super) fn sql(path: &Path, error: &rusqlite::Error) -> Error {
    // Growing the log's index on a full disk has no code of its own.
    const IOERR_SHMSIZE: i32 = 10 | 19 << 8;
    let message = format!("{}: {error}", path.display());
    let Some(cause) = error.sqlite_error() else {
        return Error::new(ErrorKind::Internal, message);
    };
    match cause.code {
        _ if cause.extended_code == IOERR_SHMSIZE => Error::new(ErrorKind::DiskFull, message),
        ErrorCode::DiskFull => Error::new(ErrorKind::DiskFull, message),
        ErrorCode::ReadOnly => Error::new(ErrorKind::ReadOnly, message)
            .remedy("open it read-only, or make it writable"),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            Error::new(ErrorKind::Busy, message).remedy("try again")
        }
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            Error::new(ErrorKind::StoreCorrupt, message)
                .remedy("delete the store and index the videos again")
        }
        _ => Error::new(ErrorKind::Io, message),
    }
}
