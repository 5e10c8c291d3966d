//! Status numbers and the message of the last failure.

use std::cell::RefCell;
use std::ffi::{CString, c_char};

use atom_core::{Error, ErrorKind};

/// What every call returns. Zero is success; positive numbers are answers that are no failure; negative numbers are
/// failures, explained by atom_last_error(). A number never changes its meaning; later versions add numbers, so a
/// program must treat an unknown negative number as a failure.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum atom_status {
    /// Done; the outputs are written.
    OK = 0,
    /// There is no room now: the frame was dropped and counted, or the request was not queued. Nothing was kept.
    FULL = 1,
    /// There is no event now; wait for the queue's descriptor.
    EMPTY = 2,
    /// An argument is outside what the function documents (NULL, not UTF-8, too long, unknown number, bad struct_size).
    INVALID_ARGUMENT = -1,
    /// A frame's size, stride, format or planes do not fit together.
    BAD_FRAME = -2,
    /// The thing named does not exist.
    NOT_FOUND = -3,
    /// It exists already, and differs from what was asked for.
    ALREADY_EXISTS = -4,
    /// The pack, the build, this version or the device cannot do this.
    UNSUPPORTED = -5,
    /// Somebody else holds it now; trying again later may work.
    BUSY = -6,
    /// The caller cancelled the operation.
    CANCELLED = -7,
    /// The deadline passed before the operation ended.
    DEADLINE_EXCEEDED = -8,
    /// The memory budget cannot hold it.
    OUT_OF_BUDGET = -9,
    /// The pack's manifest or files are wrong.
    BAD_PACK = -10,
    /// A model does not load, or its ports do not fit the manifest.
    BAD_MODEL = -11,
    /// A model ran and failed, or returned something unusable.
    INFERENCE = -12,
    /// The ONNX Runtime library is missing, too old or broken.
    NATIVE_LIBRARY = -13,
    /// The store is damaged beyond what opening it mends.
    STORE_CORRUPT = -14,
    /// The store was written by a newer version of Atom.
    STORE_VERSION = -15,
    /// The store's vectors were made by another pack.
    STORE_FOREIGN = -16,
    /// Another process is writing to the store.
    STORE_LOCKED = -17,
    /// The store is read-only.
    READ_ONLY = -18,
    /// No space is left on the device.
    DISK_FULL = -19,
    /// A video cannot be read or decoded.
    BAD_MEDIA = -20,
    /// The operating system refused an operation.
    IO = -21,
    /// A defect of Atom itself.
    INTERNAL = -22,
    /// The function may not be called from inside one of Atom's callbacks.
    IN_CALLBACK = -23,
}

impl From<ErrorKind> for atom_status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidArgument => Self::INVALID_ARGUMENT,
            ErrorKind::BadFrame => Self::BAD_FRAME,
            ErrorKind::NotFound => Self::NOT_FOUND,
            ErrorKind::AlreadyExists => Self::ALREADY_EXISTS,
            ErrorKind::Unsupported => Self::UNSUPPORTED,
            ErrorKind::Busy => Self::BUSY,
            ErrorKind::Cancelled => Self::CANCELLED,
            ErrorKind::DeadlineExceeded => Self::DEADLINE_EXCEEDED,
            ErrorKind::OutOfBudget => Self::OUT_OF_BUDGET,
            ErrorKind::BadPack => Self::BAD_PACK,
            ErrorKind::BadModel => Self::BAD_MODEL,
            ErrorKind::Inference => Self::INFERENCE,
            ErrorKind::NativeLibrary => Self::NATIVE_LIBRARY,
            ErrorKind::StoreCorrupt => Self::STORE_CORRUPT,
            ErrorKind::StoreVersion => Self::STORE_VERSION,
            ErrorKind::StoreForeign => Self::STORE_FOREIGN,
            ErrorKind::StoreLocked => Self::STORE_LOCKED,
            ErrorKind::ReadOnly => Self::READ_ONLY,
            ErrorKind::DiskFull => Self::DISK_FULL,
            ErrorKind::BadMedia => Self::BAD_MEDIA,
            ErrorKind::Io => Self::IO,
            // `Internal`, and kinds newer than this table: a test keeps the table whole.
            _ => Self::INTERNAL,
        }
    }
}

/// Why a call failed, on its way to the boundary.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) status: atom_status,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: atom_status, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self::new(atom_status::INVALID_ARGUMENT, message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.kind().into(), error.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::new(CString::default());
}

pub(crate) fn set_last_error(message: &str) {
    let text = to_c_string(message);
    // A thread that is being torn down has nobody left to read the message.
    let _ = LAST.try_with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = text;
        }
    });
}

/// `text` for C: a NUL inside it would hide what follows, so it becomes U+FFFD.
pub(crate) fn to_c_string(text: &str) -> CString {
    CString::new(text)
        .or_else(|_| CString::new(text.replace('\0', "\u{fffd}")))
        .unwrap_or_default()
}

/// What went wrong in the last call that failed on this thread, and what can be done about it; "" when none has.
/// A successful call leaves it as it is. The string belongs to Atom and stays valid until the next call that fails on
/// this thread, or the thread's end. Never fails.
#[unsafe(no_mangle)]
pub extern "C" fn atom_last_error() -> *const c_char {
    LAST.try_with(|last| last.try_borrow().map_or(c"".as_ptr(), |text| text.as_ptr()))
        .unwrap_or(c"".as_ptr())
}

/// The name of a status number, for logs: "ATOM_STATUS_NOT_FOUND"; "ATOM_STATUS_UNKNOWN" for a number this version
/// does not have. Static; do not free. Never fails. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn atom_status_name(status: i32) -> *const c_char {
    macro_rules! names {
        ($($name:ident)*) => {
            match status {
                $(number if number == atom_status::$name as i32 => {
                    concat!("ATOM_STATUS_", stringify!($name), "\0")
                })*
                _ => "ATOM_STATUS_UNKNOWN\0",
            }
        };
    }
    let name: &'static str = names! {
        OK FULL EMPTY INVALID_ARGUMENT BAD_FRAME NOT_FOUND ALREADY_EXISTS UNSUPPORTED BUSY CANCELLED DEADLINE_EXCEEDED
        OUT_OF_BUDGET BAD_PACK BAD_MODEL INFERENCE NATIVE_LIBRARY STORE_CORRUPT STORE_VERSION STORE_FOREIGN
        STORE_LOCKED READ_ONLY DISK_FULL BAD_MEDIA IO INTERNAL IN_CALLBACK
    };
    name.as_ptr().cast()
}
