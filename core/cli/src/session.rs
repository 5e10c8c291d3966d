//! What the commands of one process share: the runtime and the store, opened when first needed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use atom_core::caption::CaptionerKind;
use atom_core::index::{Access, Store};
use atom_core::runtime::{MemoryOptions, Runtime, RuntimeOptions};
use atom_core::{Error, ErrorKind, Result, cache};

use crate::args::Global;

pub struct Session {
    pub global: Global,
    runtime: Option<Runtime>,
    store: Option<(PathBuf, bool, Store)>,
}

impl Session {
    pub fn new(global: Global) -> Self {
        Self {
            global,
            runtime: None,
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

    /// The store; a writer when `write`, which creates it if need be.
    pub fn store(&mut self, write: bool) -> Result<Store> {
        let path = self.global.store.clone().ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "no store is named").remedy("add --store DIR")
        })?;
        if let Some((open, writable, store)) = &self.store
            && open == &path
            && (*writable || !write)
        {
            return Ok(store.clone());
        }
        self.store = None;
        let access = if write {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        let store = self.runtime()?.open_store(&path, access)?;
        self.store = Some((path, write, store.clone()));
        Ok(store)
    }
}

/// The kinds of captioners that this command links, besides core's.
pub fn captioners() -> Vec<Arc<dyn CaptionerKind>> {
    vec![
        #[cfg(feature = "grounding")]
        Arc::new(atom_grounding::Grounded),
    ]
}

/// The name a file's stream gets: the file's own.
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
