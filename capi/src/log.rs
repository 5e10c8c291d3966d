//! Atom's log, handed to the program: the library itself prints nothing.

use std::ffi::{c_char, c_void};
use std::sync::{Once, RwLock};

use crate::boundary::{InCallback, guard};
use crate::status::{Failure, atom_status, to_c_string};

/// How grave a log line is.
#[repr(i32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_log_level {
    /// Nothing at all.
    OFF = 0,
    /// Something failed.
    ERROR = 1,
    /// Something is wrong, and work goes on.
    WARN = 2,
    /// What happens, in few lines.
    INFO = 3,
    /// For those who look for a defect.
    DEBUG = 4,
}

/// Receives one line of log. May run on any thread, several at once; must return soon, and must not call Atom.
/// `level` is an atom_log_level number, `message` is valid during the call only.
pub type atom_log_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        level: i32,
        module: *const c_char,
        message: *const c_char,
    ),
>;

struct Sink {
    call: unsafe extern "C" fn(*mut c_void, i32, *const c_char, *const c_char),
    user: *mut c_void,
}
// SAFETY: the callback is documented to run on any thread, several at once, with this pointer.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

struct Logger;

impl ::log::Log for Logger {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        metadata.level() <= ::log::max_level()
    }

    fn log(&self, record: &::log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let sink = SINK.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(sink) = sink.as_ref() {
            let level = match record.level() {
                ::log::Level::Error => 1,
                ::log::Level::Warn => 2,
                ::log::Level::Info => 3,
                ::log::Level::Debug | ::log::Level::Trace => 4,
            };
            let module = to_c_string(record.target());
            let message = to_c_string(&record.args().to_string());
            let _inside = InCallback::enter();
            // SAFETY: the caller keeps function and pointer good until another is set.
            unsafe { (sink.call)(sink.user, level, module.as_ptr(), message.as_ptr()) }
        }
    }

    fn flush(&self) {}
}

/// Sends lines up to `level` (an atom_log_level number) to `callback` from now on; NULL stops it. When the call
/// returns, the callback set before is not running any more and will not be called again; until then `user` must stay good.
/// Concerns the whole process.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_log_set(
    callback: atom_log_fn,
    user: *mut c_void,
    level: i32,
) -> atom_status {
    guard("atom_log_set", || {
        let filter = match level {
            0 => ::log::LevelFilter::Off,
            1 => ::log::LevelFilter::Error,
            2 => ::log::LevelFilter::Warn,
            3 => ::log::LevelFilter::Info,
            4 => ::log::LevelFilter::Debug,
            other => {
                return Err(Failure::argument(format!(
                    "level is {other}: it must be one of ATOM_LOG_LEVEL_* (0 to 4)"
                )));
            }
        };
        static INSTALL: Once = Once::new();
        // A Rust program that links the crate may have a logger already; its choice stands.
        INSTALL.call_once(|| {
            let _ = ::log::set_logger(&Logger);
        });
        // Waits for lines that are being delivered.
        let mut sink = SINK
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        *sink = callback.map(|call| Sink { call, user });
        ::log::set_max_level(if sink.is_some() {
            filter
        } else {
            ::log::LevelFilter::Off
        });
        Ok(atom_status::OK)
    })
}
