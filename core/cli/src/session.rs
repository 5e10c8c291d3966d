//! What the commands of one process share: the runtime and the store, opened when first needed.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atom_core::caption::{CaptionerKind, OnText};
use atom_core::control::{CancelToken, Priority};
use atom_core::engine::{Engine, Handles, Operation, Request, Response, StoreHandle};
use atom_core::index::{Access, Store};
use atom_core::runtime::{MemoryOptions, Runtime, RuntimeOptions};
use atom_core::{Error, ErrorKind, Result, cache};

use crate::options::GlobalOptions;

/// What is open in this process.
pub struct Session {
    /// The options the program was started with.
    pub global: GlobalOptions,
    store_dir: Option<PathBuf>,
    runtime: Option<Runtime>,
    /// What requests name by number.
    handles: Arc<Handles>,
    /// The open store, and whether it can be written to.
    store: Option<(StoreHandle, bool)>,
}

impl Session {
    /// Opens nothing yet. A program without a store gives no `store_dir`.
    pub fn new(global: GlobalOptions, store_dir: Option<PathBuf>) -> Self {
        Self {
            global,
            store_dir,
            runtime: None,
            handles: Arc::default(),
            store: None,
        }
    }

    /// The pack asked for, or the reference pack that the set-up makes.
    pub fn pack_dir(&self) -> PathBuf {
        self.global
            .pack
            .clone()
            .unwrap_or_else(|| cache::dir().join("packs").join("reference"))
    }

    /// The runtime; the first call opens it.
    ///
    /// # Errors
    /// What opening the runtime gives.
    pub fn runtime(&mut self) -> Result<Runtime> {
        if let Some(runtime) = &self.runtime {
            return Ok(runtime.clone());
        }
        let mut options = RuntimeOptions::new(self.pack_dir());
        options.captioners = captioners();
        options.ort_library = self.global.ort_library.clone();
        options.threads = self.global.threads;
        options.memory = if self.global.ungoverned {
            MemoryOptions::ungoverned()
        } else {
            MemoryOptions {
                budget: self.global.budget,
                ..MemoryOptions::default()
            }
        };
        options.memory.status_file = self.global.status_file.clone();
        let runtime = Runtime::open(&options)?;
        Ok(self.runtime.insert(runtime).clone())
    }

    /// The runtime only if a command has opened it.
    pub fn opened(&self) -> Option<&Runtime> {
        self.runtime.as_ref()
    }

    /// Runs `operation` on this thread, ahead of work in the background.
    ///
    /// # Errors
    /// What opening the runtime gives, and what the operation reports.
    pub fn run<T>(&mut self, operation: Operation) -> Result<T>
    where
        T: TryFrom<Response, Error = Error>,
    {
        let request = Request {
            priority: Priority::Interactive,
            ..Request::new(operation)
        };
        self.run_request(request, &mut |_| ControlFlow::Continue(()))?
            .try_into()
    }

    /// Runs `request` on this thread.
    ///
    /// # Errors
    /// What opening the runtime gives, and what the operation reports.
    pub fn run_request(&mut self, request: Request, on_text: OnText<'_>) -> Result<Response> {
        let engine = Engine::new(self.runtime()?, self.handles.clone());
        engine.run(request, &CancelToken::new(), on_text)
    }

    /// The store, and its number in requests. With `write` it is opened for writing, and created if it does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] without a folder; what opening the runtime and the store gives.
    pub fn store(&mut self, write: bool) -> Result<(Store, StoreHandle)> {
        let path = self.store_dir.clone().ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "no store is named").remedy("add --store DIR")
        })?;
        if let Some((handle, writable)) = self.store
            && (writable || !write)
        {
            return Ok((self.handles.store(handle)?, handle));
        }
        if let Some((handle, _)) = self.store.take() {
            self.handles.close_store(handle)?;
        }
        let access = if write {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        let store = self.runtime()?.open_store(&path, access)?;
        let handle = self.handles.add_store(store.clone());
        self.store = Some((handle, write));
        Ok((store, handle))
    }
}

/// The kinds of captioners that this command links, besides core's.
pub fn captioners() -> Vec<Arc<dyn CaptionerKind>> {
    vec![
        #[cfg(feature = "grounding")]
        Arc::new(atom_grounding::Grounded),
    ]
}

/// The name of a file's stream: the file's own name.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when that is not UTF-8.
pub fn stream_name(file: &Path) -> Result<String> {
    file.file_name()
        .and_then(|name| name.to_str())
        .map(str::to_owned)
        .ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("{} has no name that is UTF-8", file.display()),
            )
            .remedy("name the stream with --stream")
        })
}
