//! Memory: the budget, pressure, what is kept and what was evicted.

use std::ffi::{CString, c_char};
use std::time::Duration;

use atom_core::budget::pressure::Level;
use atom_core::budget::{Event, Idle, What};
use atom_core::module::Keep;
use atom_core::runtime::Budget;

use crate::boundary::{
    MAX_PATH, Out, OutStruct, Outcome, borrow, guard, handle, read, sized, take, text,
};
use crate::runtime::atom_runtime;
use crate::status::{Failure, atom_status, to_c_string};

/// How short the machine is of memory.
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_pressure {
    /// Not short.
    NONE = 0,
    /// Getting short: what costs little to have again goes.
    LOW = 1,
    /// Give back all that can be given back.
    CRITICAL = 2,
}

/// How dear a module is to the application.
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_keep {
    /// As it is used. The default.
    USUAL = 0,
    /// Goes before others.
    LESS = 1,
    /// Goes after others.
    MORE = 2,
    /// Is never evicted.
    PINNED = 3,
}

/// What happened to memory.
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_memory_event_kind {
    /// A module was loaded, or a vocabulary read: anon_bytes and mapped_bytes are what it takes.
    LOADED = 1,
    /// An arena or a cache was shrunk: the bytes are what came back, as with the next two.
    SHRUNK = 2,
    /// A module's weights were given back to the kernel; it stays usable.
    PARKED = 3,
    /// A module or a vocabulary was released; the next use loads it again.
    RELEASED = 4,
    /// The level of memory pressure changed; `text` says to which and why.
    PRESSURE = 5,
    /// The budget could not hold something; anon_bytes is what was asked for.
    REFUSED = 6,
}

/// One event of memory.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_memory_event {
    /// sizeof(atom_memory_event), set by the caller.
    pub struct_size: usize,
    /// 1 for the first since the runtime was opened; without gaps.
    pub number: u64,
    /// An atom_memory_event_kind number.
    pub kind: u32,
    /// The module's id or another owner's name; "" with PRESSURE. This and `text` are valid until the atom_memory_events is
    /// closed.
    pub subject: *const c_char,
    /// Anonymous bytes.
    pub anon_bytes: u64,
    /// Bytes of mapped files.
    pub mapped_bytes: u64,
    /// All of it in a sentence.
    pub text: *const c_char,
}
sized!(atom_memory_event);

/// Events of memory. Close it with atom_memory_events_close().
pub struct atom_memory_events {
    events: Vec<(Event, [CString; 2])>,
}
handle!(atom_memory_events, b"memo");

pub(crate) fn level(level: u32) -> Outcome<Level> {
    match level {
        0 => Ok(Level::None),
        1 => Ok(Level::Low),
        2 => Ok(Level::Critical),
        other => Err(Failure::argument(format!(
            "level is {other}: it must be one of ATOM_PRESSURE_* (0 to 2)"
        ))),
    }
}

/// Says how short the machine is of memory, `level` being an atom_pressure number, until another level is set. Atom watches
/// the kernel's own signs as well; the worst counts. What the level leads to is done on return: LOW shrinks arenas and caches
/// and parks idle modules, CRITICAL releases every module that no task holds, and parks the others. Each is loaded again when
/// it is next needed.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_runtime_set_pressure(
    runtime: *const atom_runtime,
    level: u32,
) -> atom_status {
    guard("atom_runtime_set_pressure", || {
        // SAFETY: a handle of the caller's, or NULL.
        let runtime = unsafe { borrow(runtime) }?.runtime().clone();
        runtime.set_pressure(self::level(level)?);
        Ok(atom_status::OK)
    })
}

/// As atom_runtime_set_pressure(), but nobody will say when it is over, as with Android's onTrimMemory(). `returned_bytes`,
/// unless NULL, gets the bytes that came back, anonymous and mapped.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_runtime_trim(
    runtime: *const atom_runtime,
    level: u32,
    returned_bytes: *mut u64,
) -> atom_status {
    guard("atom_runtime_trim", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (runtime, out) = unsafe {
            (
                borrow(runtime)?.runtime().clone(),
                Out::optional(returned_bytes, "returned_bytes")?,
            )
        };
        let returned = runtime.trim(self::level(level)?);
        if let Some(out) = out {
            out.write(returned);
        }
        Ok(atom_status::OK)
    })
}

/// Sets the most anonymous bytes that modules, generations and caches may hold together; 0: no bound. What is held beyond it
/// is evicted as far as no task holds it. What does not fit later waits for others to finish, and is else
/// ATOM_STATUS_OUT_OF_BUDGET with budget, need and holders in atom_last_error().
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_runtime_set_budget(
    runtime: *const atom_runtime,
    anon_bytes: u64,
) -> atom_status {
    guard("atom_runtime_set_budget", || {
        // SAFETY: a handle of the caller's, or NULL.
        let runtime = unsafe { borrow(runtime) }?.runtime().clone();
        runtime.set_budget(match anon_bytes {
            0 => Budget::Unlimited,
            bytes => Budget::Bytes(bytes),
        })?;
        Ok(atom_status::OK)
    })
}

/// Sets the budget to what keeps memory below `share` (over 0, at most 1) of the memory cgroup's limit and of the machine's
/// memory, the tighter of the two; followed once a second as others take and give back. A runtime starts with 0.9.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_runtime_set_budget_share(
    runtime: *const atom_runtime,
    share: f64,
) -> atom_status {
    guard("atom_runtime_set_budget_share", || {
        // SAFETY: a handle of the caller's, or NULL.
        let runtime = unsafe { borrow(runtime) }?.runtime().clone();
        runtime.set_budget(Budget::Share(share))?;
        Ok(atom_status::OK)
    })
}

/// Sets when modules that nobody uses are given up without any pressure: parked after `park_ms`, released after `release_ms`
/// milliseconds without use; 0: never. A runtime starts with a minute and ten minutes.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_runtime_set_idle(
    runtime: *const atom_runtime,
    park_ms: u32,
    release_ms: u32,
) -> atom_status {
    guard("atom_runtime_set_idle", || {
        // SAFETY: a handle of the caller's, or NULL.
        let runtime = unsafe { borrow(runtime) }?.runtime().clone();
        let after = |ms: u32| (ms > 0).then(|| Duration::from_millis(ms.into()));
        runtime.set_idle(Idle {
            park_after: after(park_ms),
            release_after: after(release_ms),
        });
        Ok(atom_status::OK)
    })
}

/// Says how dear the module called `module` is, `keep` being an atom_keep number. ATOM_STATUS_NOT_FOUND if the pack has no
/// such module.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_runtime_set_keep(
    runtime: *const atom_runtime,
    module: *const c_char,
    keep: u32,
) -> atom_status {
    guard("atom_runtime_set_keep", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (runtime, module) = unsafe {
            (
                borrow(runtime)?.runtime().clone(),
                text(module, "module", MAX_PATH)?,
            )
        };
        let keep = match keep {
            0 => Keep::Usual,
            1 => Keep::Less,
            2 => Keep::More,
            3 => Keep::Pinned,
            other => {
                return Err(Failure::argument(format!(
                    "keep is {other}: it must be one of ATOM_KEEP_* (0 to 3)"
                )));
            }
        };
        runtime.registry().set_keep(module, keep)?;
        Ok(atom_status::OK)
    })
}

/// Begins to load the module called `module`, or to read its weights again if they were parked, and returns at once: for who
/// will need it soon. ATOM_STATUS_NOT_FOUND if the pack has no such module; a load that fails is told to who uses it.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_runtime_prefetch(
    runtime: *const atom_runtime,
    module: *const c_char,
) -> atom_status {
    guard("atom_runtime_prefetch", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (runtime, module) = unsafe {
            (
                borrow(runtime)?.runtime().clone(),
                text(module, "module", MAX_PATH)?,
            )
        };
        runtime.registry().prefetch(module)?;
        Ok(atom_status::OK)
    })
}

/// The events of memory after number `after` (0: all that are kept), oldest first. The newest 256 are kept.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_runtime_memory_events(
    runtime: *const atom_runtime,
    after: u64,
    out: *mut *mut atom_memory_events,
) -> atom_status {
    guard("atom_runtime_memory_events", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (runtime, out) = unsafe { (borrow(runtime)?.runtime().clone(), Out::new(out, "out")?) };
        let events = runtime.events().since(after).into_iter();
        let events = events.map(|event| {
            let strings = [event.what.subject(), event.what.to_string()];
            (event, strings.map(|string| to_c_string(&string)))
        });
        out.write_handle(atom_memory_events {
            events: events.collect(),
        });
        Ok(atom_status::OK)
    })
}

/// Number of events; 0 if `events` is not an open handle.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_memory_events_count(events: *const atom_memory_events) -> usize {
    // SAFETY: a handle of the caller's, or NULL.
    unsafe { read(events, "atom_memory_events_count", |it| it.events.len()) }.unwrap_or(0)
}

/// Copies event `index` to `event`; set event->struct_size first.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_memory_events_get(
    events: *const atom_memory_events,
    index: usize,
    event: *mut atom_memory_event,
) -> atom_status {
    guard("atom_memory_events_get", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (events, out) = unsafe { (borrow(events)?, OutStruct::new(event, "event")?) };
        let (event, [subject, text]) = events.events.get(index).ok_or_else(|| {
            Failure::argument(format!(
                "event {index} of {} asked for",
                events.events.len()
            ))
        })?;
        let (kind, anon_bytes, mapped_bytes) = figures(&event.what);
        out.write(&atom_memory_event {
            struct_size: size_of::<atom_memory_event>(),
            number: event.number,
            kind: kind as u32,
            subject: subject.as_ptr(),
            anon_bytes,
            mapped_bytes,
            text: text.as_ptr(),
        });
        Ok(atom_status::OK)
    })
}

fn figures(what: &What) -> (atom_memory_event_kind, u64, u64) {
    use atom_core::budget::Action;
    match what {
        What::Loaded {
            anon_bytes,
            mapped_bytes,
            ..
        } => (atom_memory_event_kind::LOADED, *anon_bytes, *mapped_bytes),
        What::Evicted {
            action, returned, ..
        } => {
            let kind = match action {
                Action::Shrink => atom_memory_event_kind::SHRUNK,
                Action::Park => atom_memory_event_kind::PARKED,
                Action::Release => atom_memory_event_kind::RELEASED,
            };
            (kind, returned.0, returned.1)
        }
        What::Pressure { .. } => (atom_memory_event_kind::PRESSURE, 0, 0),
        What::Refused { bytes, .. } => (atom_memory_event_kind::REFUSED, *bytes, 0),
    }
}

/// Frees a list of events and its strings. NULL is fine.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_memory_events_close(events: *mut atom_memory_events) -> atom_status {
    guard("atom_memory_events_close", || {
        // SAFETY: a handle the caller gives up, or NULL.
        drop(unsafe { take(events) }?);
        Ok(atom_status::OK)
    })
}
