//! The one error type of the crate.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, as a class a program can act on. The C ABI gives each a frozen number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is outside what the function documents.
    InvalidArgument,
    /// A frame's size, stride, format or planes do not fit together.
    BadFrame,
    /// The thing named does not exist.
    NotFound,
    /// It exists already, and differs from what was asked for.
    AlreadyExists,
    /// The pack, the build or the device cannot do this.
    Unsupported,
    /// Somebody else holds it now; trying again later may work.
    Busy,
    /// The caller cancelled the operation.
    Cancelled,
    /// The deadline passed before the operation ended.
    DeadlineExceeded,
    /// The memory budget cannot hold it.
    OutOfBudget,
    /// The pack's manifest or files are wrong.
    BadPack,
    /// A model does not load, or its ports do not fit the manifest.
    BadModel,
    /// A model ran and failed, or returned something unusable.
    Inference,
    /// The ONNX Runtime library is missing, too old or broken.
    NativeLibrary,
    /// The store is damaged beyond what opening it mends.
    StoreCorrupt,
    /// The store was written by a newer version of Atom.
    StoreVersion,
    /// The store's vectors were made by another pack.
    StoreForeign,
    /// Another process is writing to the store.
    StoreLocked,
    /// The store is read-only.
    ReadOnly,
    /// No space is left on the device.
    DiskFull,
    /// A video cannot be read or decoded.
    BadMedia,
    /// The operating system refused an operation.
    Io,
    /// A defect of Atom itself.
    Internal,
}

impl ErrorKind {
    /// The class as a stable word for JSON and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::BadFrame => "bad_frame",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Unsupported => "unsupported",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::OutOfBudget => "out_of_budget",
            Self::BadPack => "bad_pack",
            Self::BadModel => "bad_model",
            Self::Inference => "inference",
            Self::NativeLibrary => "native_library",
            Self::StoreCorrupt => "store_corrupt",
            Self::StoreVersion => "store_version",
            Self::StoreForeign => "store_foreign",
            Self::StoreLocked => "store_locked",
            Self::ReadOnly => "read_only",
            Self::DiskFull => "disk_full",
            Self::BadMedia => "bad_media",
            Self::Io => "io",
            Self::Internal => "internal",
        }
    }
}

/// An error: its class, what happened to which thing, and what the reader can do about it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error(Box<Inner>);

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Inner {
    kind: ErrorKind,
    message: String,
    remedy: Option<String>,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of class `kind`; `message` names the thing it is about.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            remedy: None,
        }))
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// Puts `context` and a colon before the message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// An I/O error on `what`; a full disk and a read-only medium keep a class of their own.
    pub fn io(what: impl fmt::Display, source: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let kind = match source.kind() {
            K::NotFound => ErrorKind::NotFound,
            K::StorageFull | K::QuotaExceeded => ErrorKind::DiskFull,
            K::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            _ => ErrorKind::Io,
        };
        Self::new(kind, format!("{what}: {source}"))
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What happened, without the remedy.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the reader can do about it, if that is known.
    pub fn remedy_text(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.remedy {
            Some(remedy) => write!(f, " ({remedy})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_thing_and_remedy() {
        let error = Error::new(ErrorKind::NotFound, "no stream \"door\"")
            .remedy("list them with `atom search`");
        assert_eq!(
            error.to_string(),
            "no stream \"door\" (list them with `atom search`)"
        );
        assert_eq!(
            error.context("store /x").message(),
            "store /x: no stream \"door\""
        );
    }

    #[test]
    fn full_disk_has_its_own_class() {
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(Error::io("part", &full).kind(), ErrorKind::DiskFull);
    }
}
