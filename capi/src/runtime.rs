//! The runtime: a pack opened for work, its modules and its memory.

use std::ffi::{CString, c_char};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use atom_core::Error;
use atom_core::caption::CaptionerKind;
use atom_core::control::CancelToken;
use atom_core::engine::{Engine, Handles, Request, Response};
use atom_core::module::ModuleStatus;
use atom_core::runtime::{MemoryOptions, Runtime, RuntimeOptions, Task};

use crate::boundary::{
    MAX_PATH, Out, OutStruct, Outcome, borrow, guard, handle, optional_text, read, read_struct,
    sized, take, text,
};
use crate::status::{Failure, atom_status, to_c_string};

/// Options of a runtime; NULL or zeros are the defaults.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_runtime_options {
    /// sizeof(atom_runtime_options).
    pub struct_size: usize,
    /// Folder for what can be made again (optimised model forms); NULL: $ATOM_CACHE/artifacts, else under
    /// $XDG_CACHE_HOME or ~/.cache.
    pub artifacts: *const c_char,
    /// ONNX Runtime's library; NULL: $ATOM_ORT_LIBRARY, else $ATOM_CACHE/ort, else what the loader finds.
    pub ort_library: *const c_char,
    /// Threads of ONNX Runtime's pool; 0: every core. The first open of the process decides, for good: another number
    /// later is ATOM_STATUS_INVALID_ARGUMENT.
    pub threads: u32,
    /// 1: memory is not governed. No budget, no pressure is listened to but atom_runtime_set_pressure(), nothing idle is given
    /// up. 0: it is, with a budget of 0.9 of the cgroup's or the machine's memory; see atom_runtime_set_budget_share(),
    /// atom_runtime_set_budget() and atom_runtime_set_idle().
    pub ungoverned: u32,
    /// A file that gets the runtime's state as JSON about once a second, for `atom top`; NULL: none. Replaced by renaming; it
    /// stays when the runtime is closed.
    pub status_file: *const c_char,
}
sized!(atom_runtime_options);

/// What a pack may be able to do.
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_task {
    /// Frames to stored segments.
    INDEX = 1,
    /// Words to segments.
    SEARCH = 2,
    /// A segment or picture to a sentence.
    CAPTION = 3,
    /// A segment or picture and a question to an answer.
    ASK = 4,
    /// A script to a storyboard.
    ASSEMBLE = 5,
}

/// A module of the pack as it is now.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_module {
    /// sizeof(atom_module), set by the caller.
    pub struct_size: usize,
    /// Its id in the pack. This and the other strings are valid until the atom_modules is closed.
    pub id: *const c_char,
    /// What it is: "visual-encoder", "text-encoder", "language-decoder" …
    pub kind: *const c_char,
    /// "cold", "loading", "resident", "parked" (its weights were given back to the kernel) or "failed".
    pub state: *const c_char,
    /// The execution provider asked for; "" before the first load.
    pub provider: *const c_char,
    /// Where its nodes really run; "" before the first load.
    pub placement: *const c_char,
    /// Why it failed; "" unless the state is "failed".
    pub error: *const c_char,
    /// Times it was loaded.
    pub loads: u64,
    /// Times it ran.
    pub runs: u64,
    /// Anonymous bytes it holds.
    pub anon_bytes: u64,
    /// Bytes of files it has mapped, which the kernel may drop.
    pub mapped_bytes: u64,
    /// Milliseconds the last load took; 0 before the first.
    pub load_ms: f64,
}
sized!(atom_module);

/// A pack opened for work. Close it with atom_runtime_close().
pub struct atom_runtime {
    pub(crate) engine: Engine,
}
handle!(atom_runtime, b"runt");

/// What the program has open: a store opened with one runtime may be used with another of the same pack.
static HANDLES: LazyLock<Arc<Handles>> = LazyLock::new(Arc::default);

impl atom_runtime {
    pub(crate) fn runtime(&self) -> &Runtime {
        self.engine.runtime()
    }
}

/// The modules of a pack as they were at one moment. Close it with atom_modules_close().
pub struct atom_modules {
    modules: Vec<(ModuleStatus, [CString; 6])>,
}
handle!(atom_modules, b"mods");

/// Runs a request that gives no text on this thread.
pub(crate) fn run<T>(engine: &Engine, request: Request, cancel: &CancelToken) -> Outcome<T>
where
    T: TryFrom<Response, Error = Error>,
{
    let response = engine.run(request, cancel, &mut |_| ControlFlow::Continue(()))?;
    Ok(response.try_into()?)
}

/// Opens the pack in folder `pack`, and ONNX Runtime if this is the process's first. Loads no module: the first task
/// that needs one does. `options` may be NULL. ATOM_STATUS_BAD_PACK for a wrong pack, ATOM_STATUS_NATIVE_LIBRARY when
/// ONNX Runtime is missing or too old.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_runtime_open(
    pack: *const c_char,
    options: *const atom_runtime_options,
    out: *mut *mut atom_runtime,
) -> atom_status {
    guard("atom_runtime_open", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (pack, given, out) = unsafe {
            (
                text(pack, "pack", MAX_PATH)?,
                read_struct(options)?,
                Out::new(out, "out")?,
            )
        };
        if pack.is_empty() {
            return Err(Failure::argument("pack is empty"));
        }
        let mut options = RuntimeOptions::new(pack);
        options.captioners = captioners();
        if let Some(given) = given {
            // SAFETY: strings as the header asks for, or NULL.
            let (artifacts, library, status_file) = unsafe {
                (
                    optional_text(given.artifacts, "artifacts", MAX_PATH)?,
                    optional_text(given.ort_library, "ort_library", MAX_PATH)?,
                    optional_text(given.status_file, "status_file", MAX_PATH)?,
                )
            };
            options.memory = match given.ungoverned {
                0 => MemoryOptions::default(),
                1 => MemoryOptions::ungoverned(),
                other => {
                    return Err(Failure::argument(format!(
                        "ungoverned is {other}, not 0 or 1"
                    )));
                }
            };
            options.memory.status_file = status_file.map(PathBuf::from);
            options.artifacts = artifacts.map(PathBuf::from);
            options.ort_library = library.map(PathBuf::from);
            options.threads = (given.threads > 0).then_some(given.threads as usize);
        }
        out.write_handle(atom_runtime {
            engine: Engine::new(Runtime::open(&options)?, HANDLES.clone()),
        });
        Ok(atom_status::OK)
    })
}

/// The kinds of captioners that this library links, besides core's.
fn captioners() -> Vec<Arc<dyn CaptionerKind>> {
    vec![
        #[cfg(feature = "grounding")]
        Arc::new(atom_grounding::Grounded),
    ]
}

/// Closes a runtime. Its modules are released when everything made from it (ingests, queues, requests) is closed too,
/// in any order. ONNX Runtime itself and its threads, which sleep, stay until the process ends; opening again is fine.
/// NULL is fine.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_runtime_close(runtime: *mut atom_runtime) -> atom_status {
    guard("atom_runtime_close", || {
        // SAFETY: a handle the caller gives up, or NULL.
        drop(unsafe { take(runtime) }?);
        Ok(atom_status::OK)
    })
}

/// Whether the pack can serve `task` (an atom_task number): ATOM_STATUS_OK, or ATOM_STATUS_UNSUPPORTED.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_runtime_serves(
    runtime: *const atom_runtime,
    task: u32,
) -> atom_status {
    guard("atom_runtime_serves", || {
        // SAFETY: a handle of the caller's, or NULL.
        let runtime = unsafe { borrow(runtime) }?.runtime().clone();
        let task = match task {
            1 => Task::Index,
            2 => Task::Search,
            3 => Task::Caption,
            4 => Task::Ask,
            5 => Task::Assemble,
            other => {
                return Err(Failure::argument(format!(
                    "task is {other}: it must be one of ATOM_TASK_* (1 to 5)"
                )));
            }
        };
        runtime.expect(task)?;
        Ok(atom_status::OK)
    })
}

/// The modules of the pack as they are now.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_runtime_modules(
    runtime: *const atom_runtime,
    out: *mut *mut atom_modules,
) -> atom_status {
    guard("atom_runtime_modules", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (runtime, out) = unsafe { (borrow(runtime)?.runtime().clone(), Out::new(out, "out")?) };
        let modules = runtime
            .modules()
            .into_iter()
            .map(|module| {
                let strings = [
                    module.id.as_str(),
                    module.kind.name(),
                    module.state.name(),
                    module.provider.as_deref().unwrap_or_default(),
                    module.placement.as_deref().unwrap_or_default(),
                    module.error.as_deref().unwrap_or_default(),
                ]
                .map(to_c_string);
                (module, strings)
            })
            .collect();
        out.write_handle(atom_modules { modules });
        Ok(atom_status::OK)
    })
}

/// Number of modules; 0 if `modules` is not an open handle.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_modules_count(modules: *const atom_modules) -> usize {
    // SAFETY: a handle of the caller's, or NULL.
    unsafe { read(modules, "atom_modules_count", |it| it.modules.len()) }.unwrap_or(0)
}

/// Copies module `index` to `module`; set module->struct_size first.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_modules_get(
    modules: *const atom_modules,
    index: usize,
    module: *mut atom_module,
) -> atom_status {
    guard("atom_modules_get", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (modules, out) = unsafe { (borrow(modules)?, OutStruct::new(module, "module")?) };
        let (status, strings) = modules.modules.get(index).ok_or_else(|| {
            Failure::argument(format!(
                "module {index} of {} asked for",
                modules.modules.len()
            ))
        })?;
        let [id, kind, state, provider, placement, error] =
            strings.each_ref().map(|string| string.as_ptr());
        out.write(&atom_module {
            struct_size: size_of::<atom_module>(),
            id,
            kind,
            state,
            provider,
            placement,
            error,
            loads: status.loads,
            runs: status.runs,
            anon_bytes: status.anon_bytes,
            mapped_bytes: status.mapped_bytes,
            load_ms: status.load_ms.unwrap_or(0.0),
        });
        Ok(atom_status::OK)
    })
}

/// Frees a list of modules and its strings. NULL is fine.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_modules_close(modules: *mut atom_modules) -> atom_status {
    guard("atom_modules_close", || {
        // SAFETY: a handle the caller gives up, or NULL.
        drop(unsafe { take(modules) }?);
        Ok(atom_status::OK)
    })
}

/// The state of the runtime as JSON, with the names `atom doctor --json` uses: version, onnxruntime, pack, modules,
/// ledger (who owns which bytes), prefixes (beginnings of prompts kept for the next), memory (the kernel's figures and the
/// ledger's), pressure, counters, events. `out` gets a string to be freed with atom_string_free().
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_runtime_status_json(
    runtime: *const atom_runtime,
    out: *mut *mut c_char,
) -> atom_status {
    guard("atom_runtime_status_json", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (runtime, out) = unsafe { (borrow(runtime)?.runtime().clone(), Out::new(out, "out")?) };
        let json = serde_json::to_string(&runtime.status()?)
            .map_err(|e| Failure::new(atom_status::INTERNAL, format!("status: {e}")))?;
        out.write(to_c_string(&json).into_raw());
        Ok(atom_status::OK)
    })
}

/// Frees a string Atom gave out. NULL is fine. Any thread, also in a callback.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_string_free(string: *mut c_char) {
    if !string.is_null() {
        // SAFETY: made by CString::into_raw, by the caller's contract.
        drop(unsafe { CString::from_raw(string) });
    }
}
