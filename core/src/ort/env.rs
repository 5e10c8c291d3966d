//! The one environment of the process: library, thread pool, log.

use std::ffi::{CStr, CString, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ::ort::environment::GlobalThreadPoolOptions;
use ::ort::logging::LogLevel;
use ::ort::{AsPointer, sys};

use super::check;
use crate::cache;
use crate::error::{Error, ErrorKind, Result};

/// Oldest ONNX Runtime that will do: 1.24, the API version the calls are made against.
const API_VERSION: u32 = sys::ORT_API_VERSION;

/// How to open ONNX Runtime.
#[derive(Debug, Clone, Default)]
pub struct EnvironmentOptions {
    /// The library. Default: `ATOM_ORT_LIBRARY`, else `ort/libonnxruntime.so` in the cache folder, else the loader's
    /// `libonnxruntime.so.1` or `libonnxruntime.so`.
    pub library: Option<PathBuf>,
    /// Threads that work on one run, the caller's included. Default: the cores available to the process.
    pub threads: Option<usize>,
}

/// More threads than any board has processors; ONNX Runtime starts whatever number it is given.
const MAX_THREADS: usize = 1024;

/// ONNX Runtime in this process. Opened once and kept until the process ends; its threads sleep while nothing runs.
pub struct Environment {
    inner: ::ort::environment::Environment,
    version: String,
    library: PathBuf,
    threads: usize,
}

static ENVIRONMENT: OnceLock<&'static Environment> = OnceLock::new();

impl Environment {
    /// Opens ONNX Runtime, or returns what is open already. Thread-safe.
    ///
    /// # Errors
    /// [`ErrorKind::NativeLibrary`] when the library is missing, is something else or is older than 1.24;
    /// [`ErrorKind::InvalidArgument`] when it is open with another library or thread count.
    ///
    /// # Environment
    /// The first call sets `ORT_DISABLE_TELEMETRY=1` unless the variable is set already. As with every change of the
    /// environment, no other thread may call C's `getenv` at that moment; a program that cannot promise it sets the
    /// variable before it starts threads.
    pub fn open(options: &EnvironmentOptions) -> Result<&'static Self> {
        // The crate keeps the first library it loaded for ever; `None` until that has happened.
        static LOADED: Mutex<Option<PathBuf>> = Mutex::new(None);
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(threads) = options.threads
            && !(1..=MAX_THREADS).contains(&threads)
        {
            let message = format!("a thread count of {threads}: 1 to {MAX_THREADS} are possible");
            return Err(Error::new(ErrorKind::InvalidArgument, message)
                .remedy("give the number of processors, or leave it out"));
        }
        if let Some(open) = ENVIRONMENT.get() {
            open.agrees_with(options)?;
            return Ok(open);
        }
        silence_telemetry();
        let (library, version) = find(options)?;
        if let Some(loaded) = loaded.as_ref().filter(|loaded| **loaded != library) {
            return Err(conflict("library", loaded.display(), library.display()));
        }
        let broken = |e: &dyn std::fmt::Display| {
            Error::new(
                ErrorKind::NativeLibrary,
                format!("{}: {e}", library.display()),
            )
            .remedy(REMEDY)
        };
        let builder = ::ort::init_from(&library).map_err(|e| broken(&e))?;
        *loaded = Some(library.clone());
        let threads = options.threads.unwrap_or_else(available_threads);
        let pool = GlobalThreadPoolOptions::default()
            .with_intra_threads(threads)
            .and_then(|pool| pool.with_inter_threads(1))
            .and_then(|pool| pool.with_spin_control(false))
            .map_err(|e| broken(&e))?;
        let inner = builder
            .with_name("atom")
            .with_telemetry(false)
            .with_global_thread_pool(pool)
            .with_logger(Arc::new(forward_log))
            .build()
            .map_err(|e| broken(&e))?;
        // A custom logger starts verbose; formatting messages nobody reads costs time in every run.
        inner.set_log_level(LogLevel::Warning);
        let environment: &'static Self = Box::leak(Box::new(Self {
            inner,
            version,
            library,
            threads,
        }));
        log::info!(
            "ONNX Runtime {} from {}, {threads} threads",
            environment.version,
            environment.library.display()
        );
        Ok(ENVIRONMENT.get_or_init(|| environment))
    }

    /// The open environment, if there is one.
    pub fn current() -> Option<&'static Self> {
        ENVIRONMENT.get().copied()
    }

    /// ONNX Runtime's version, such as `1.31.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The library file in use.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Threads that work on one run, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whether the library has the execution provider that ONNX Runtime calls `name` built in.
    pub(super) fn has_provider(&self, name: &str) -> bool {
        let api = ::ort::api();
        let (mut list, mut count) = (std::ptr::null_mut(), 0);
        // SAFETY: both are writable.
        if check(unsafe { (api.GetAvailableProviders)(&mut list, &mut count) }).is_err() {
            return false;
        }
        let has = (0..usize::try_from(count).unwrap_or(0)).any(|at| {
            // SAFETY: the list has `count` NUL-terminated strings.
            unsafe { CStr::from_ptr(*list.add(at)) }.to_str() == Ok(name)
        });
        // SAFETY: the list is the one just received, released once.
        let _ = check(unsafe { (api.ReleaseAvailableProviders)(list, count) });
        has
    }

    /// Says that the library has no provider called `name` built in.
    pub(super) fn lacks(&self, name: &str) -> String {
        format!(
            "ONNX Runtime {} at {} was built without {name}",
            self.version,
            self.library.display()
        )
    }

    pub(super) fn ptr(&self) -> *const sys::OrtEnv {
        self.inner.ptr()
    }

    fn agrees_with(&self, options: &EnvironmentOptions) -> Result<()> {
        if let Some(threads) = options.threads.filter(|&threads| threads != self.threads) {
            return Err(conflict("thread count", self.threads, threads));
        }
        if let Some(library) = &options.library {
            let asked = std::fs::canonicalize(library).unwrap_or_else(|_| library.clone());
            if asked != self.library {
                return Err(conflict(
                    "library",
                    self.library.display(),
                    library.display(),
                ));
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment")
            .field("version", &self.version)
            .field("library", &self.library)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

const REMEDY: &str =
    "give the path of an ONNX Runtime 1.24 or newer, in the options or in ATOM_ORT_LIBRARY";

/// ONNX Runtime 1.31 starts a telemetry thread together with its environment. It leaves a device id and a database below
/// the user's home, and reads strings that were freed when the process exits. The switch of the API comes after both.
fn silence_telemetry() {
    const SWITCH: &str = "ORT_DISABLE_TELEMETRY";
    if std::env::var_os(SWITCH).is_none() {
        // SAFETY: Rust's own readers of the environment are locked out; of C's, `Environment::open` demands that there are
        // none during the first open.
        unsafe { std::env::set_var(SWITCH, "1") };
    }
}

fn conflict(what: &str, open: impl std::fmt::Display, asked: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("ONNX Runtime is open in this process with {what} {open}, asked for was {asked}"),
    )
    .remedy("one process has one ONNX Runtime: ask for the same, or leave it out")
}

fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn forward_log(level: LogLevel, _category: &str, id: &str, location: &str, message: &str) {
    let level = match level {
        LogLevel::Verbose => log::Level::Trace,
        LogLevel::Info => log::Level::Debug,
        LogLevel::Warning => log::Level::Warn,
        LogLevel::Error | LogLevel::Fatal => log::Level::Error,
    };
    log::log!(target: "onnxruntime", level, "{message} [{location} {id}]");
}

/// The library to use, by its real path, and its version.
fn find(options: &EnvironmentOptions) -> Result<(PathBuf, String)> {
    if let Some(path) = &options.library {
        return probe(path);
    }
    if let Some(path) = std::env::var_os("ATOM_ORT_LIBRARY").filter(|path| !path.is_empty()) {
        return probe(Path::new(&path)).map_err(|e| e.context("ATOM_ORT_LIBRARY"));
    }
    let cached = cache::dir().join("ort/libonnxruntime.so");
    if cached.exists() {
        return probe(&cached);
    }
    probe(Path::new("libonnxruntime.so.1"))
        .or_else(|_| probe(Path::new("libonnxruntime.so")))
        .map_err(|e| e.context(format_args!("there is no {}, and", cached.display())))
}

/// Opens the library at `path`, a path or a name for the loader, and asks for its API table, so that everything that can
/// be wrong with it is an error here and not a panic in the crate.
fn probe(path: &Path) -> Result<(PathBuf, String)> {
    let unusable = |why: String| {
        Error::new(
            ErrorKind::NativeLibrary,
            format!("ONNX Runtime library {}: {why}", path.display()),
        )
        .remedy(REMEDY)
    };
    // A path that merely looks like a name must not be searched for by the loader.
    let name = if path.components().count() == 1 && path.exists() {
        Path::new(".").join(path)
    } else {
        path.to_owned()
    };
    let name = CString::new(name.as_os_str().as_bytes())
        .map_err(|_| unusable("the path contains a NUL".into()))?;
    // SAFETY: `name` is a NUL-terminated string. The library's initialisers run, as they do in every program linked to it.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(unusable(loader_error()));
    }
    let found = probe_handle(handle);
    if found.is_err() {
        // SAFETY: `handle` is open and no pointer into the library outlives `probe_handle` when it fails.
        unsafe { libc::dlclose(handle) };
    }
    let (real, version) = found.map_err(unusable)?;
    // A loader's name becomes the file it found.
    let real = std::fs::canonicalize(&real).unwrap_or(real);
    Ok((real, version))
}

fn probe_handle(handle: *mut c_void) -> std::result::Result<(PathBuf, String), String> {
    // SAFETY: `handle` is an open library, the name is NUL-terminated.
    let symbol = unsafe { libc::dlsym(handle, c"OrtGetApiBase".as_ptr()) };
    if symbol.is_null() {
        return Err("it does not export OrtGetApiBase, so it is not ONNX Runtime".into());
    }
    // SAFETY: a symbol of this name is ONNX Runtime's stable entry point, of this type in all versions.
    let entry: extern "C" fn() -> *const sys::OrtApiBase = unsafe { std::mem::transmute(symbol) };
    let base = entry();
    if base.is_null() {
        return Err("OrtGetApiBase returns nothing".into());
    }
    // SAFETY: the base is a static of the library; it has had these two functions in all versions.
    let (api, version) = unsafe {
        let version = ((*base).GetVersionString)();
        let api = ((*base).GetApi)(API_VERSION);
        let version = if version.is_null() {
            "unknown".into()
        } else {
            CStr::from_ptr(version).to_string_lossy().into_owned()
        };
        (api, version)
    };
    if api.is_null() {
        return Err(format!(
            "it is version {version}, too old: 1.{API_VERSION} or newer is needed"
        ));
    }
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: `info` is writable; on success `dli_fname` is a string that lives as long as the library is open.
    let file = unsafe {
        if libc::dladdr(symbol, &mut info) == 0 || info.dli_fname.is_null() {
            return Err("the loader does not know its file".into());
        }
        CStr::from_ptr(info.dli_fname)
    };
    Ok((PathBuf::from(OsStr::from_bytes(file.to_bytes())), version))
}

pub(super) fn loader_error() -> String {
    // SAFETY: dlerror returns NULL or a string valid until the thread's next dl call; it is copied at once.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            "it cannot be loaded".into()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}

/// The API table, once an [`Environment`] is open.
pub(super) fn api() -> Result<&'static sys::OrtApi> {
    // Asking the crate for its table before it has a library makes it look for one itself, and panic without.
    Environment::current().map(|_| ::ort::api()).ok_or_else(|| {
        Error::new(
            ErrorKind::NativeLibrary,
            "ONNX Runtime has not been opened in this process",
        )
        .remedy("call Environment::open first")
    })
}
