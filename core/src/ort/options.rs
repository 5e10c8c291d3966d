//! Session options: the same for every module, but for the form of the graph and who works on it.

use std::ffi::CString;
use std::path::Path;
use std::ptr::{self, NonNull};

use ::ort::sys;
use sys::GraphOptimizationLevel as Level;

use super::c_api::c_path;
use super::config::{GraphForm, SessionConfig, Threads};
use super::{api, check, failure};
use crate::error::{Error, ErrorKind, Result};

/// How long a session's own threads stay awake for the next node. Half of it is too short for some nodes that one thread
/// does alone; ten times as much gains nothing and costs a fifth more processor time.
const AWAKE_US: &str = "100";

/// Where a graph that comes from memory has its weights.
const EXTERNAL_FOLDER: &str = "session.model_external_initializers_file_folder_path";

pub(super) struct SessionOptions(NonNull<sys::OrtSessionOptions>);

impl Drop for SessionOptions {
    fn drop(&mut self) {
        if let Ok(api) = api() {
            // SAFETY: owned and not used afterwards.
            unsafe { (api.ReleaseSessionOptions)(self.0.as_ptr()) };
        }
    }
}

impl SessionOptions {
    /// Those of `config` but for its target.
    pub(super) fn new(config: &SessionConfig) -> Result<Self> {
        let form = &config.form;
        let api = api()?;
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` receives an owned pointer.
        check(unsafe { (api.CreateSessionOptions)(&mut raw) }).map_err(|e| refused(&e))?;
        let options = NonNull::new(raw)
            .map(Self)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "ONNX Runtime made no options"))?;
        let level = match form {
            GraphForm::Prepacked => Level::ORT_DISABLE_ALL,
            GraphForm::Source
            | GraphForm::SourceAndSave { .. }
            | GraphForm::InMemory(_)
            | GraphForm::SourceAndCompile(_)
            | GraphForm::Compiled => Level::ORT_ENABLE_ALL,
        };
        // SAFETY: the options are valid.
        check(unsafe { (api.SetSessionGraphOptimizationLevel)(raw, level) })
            .map_err(|e| refused(&e))?;
        options.tune(config)?;
        options.set("session.record_ep_graph_assignment_info", "1")?;
        if let Some(prefix) = &config.profile {
            let prefix = c_path(prefix)?;
            // SAFETY: options and path are valid for the call.
            check(unsafe { (api.EnableProfiling)(raw, prefix.as_ptr()) })
                .map_err(|e| refused(&e))?;
        }
        for (name, size) in &config.fixed {
            options.fix(name, *size)?;
        }
        match form {
            GraphForm::SourceAndSave { to, graph } => {
                options.save_to(to)?;
                if graph.is_some() {
                    options.find_weights(config)?;
                }
            }
            GraphForm::InMemory(_) => options.find_weights(config)?,
            GraphForm::SourceAndCompile(path) => options.compile_to(path)?,
            GraphForm::Source | GraphForm::Prepacked | GraphForm::Compiled => {}
        }
        Ok(options)
    }

    /// Has external weights looked for where the model's file is.
    fn find_weights(&self, config: &SessionConfig) -> Result<()> {
        match config.model.parent() {
            Some(folder) => self.set(EXTERNAL_FOLDER, &folder.to_string_lossy()),
            None => Ok(()),
        }
    }

    /// What differs from ONNX Runtime's defaults.
    fn tune(&self, config: &SessionConfig) -> Result<()> {
        let (api, raw) = (api()?, self.raw());
        let threads = i32::try_from(config.environment.threads()).unwrap_or(i32::MAX);
        if config.untuned {
            // SAFETY: the options are valid.
            return check(unsafe { (api.SetIntraOpNumThreads)(raw, threads) })
                .map_err(|e| refused(&e));
        }
        match config.threads {
            // One set of threads for all, or sessions would fight over the cores.
            // SAFETY: the options are valid.
            Threads::Shared => check(unsafe { (api.DisablePerSessionThreads)(raw) }),
            Threads::Own => {
                // The first needs ONNX Runtime 1.26; before, they stay awake until the run ends.
                self.set("session.intra_op.spin_duration_us", AWAKE_US)?;
                self.set("session.force_spinning_stop", "1")?;
                // SAFETY: as above.
                check(unsafe { (api.SetIntraOpNumThreads)(raw, threads) })
            }
        }
        .map_err(|e| refused(&e))?;
        // A plan of every run's blocks, made at the first of each shape, is held beside the blocks: a third more memory for the
        // reference detector, and no faster.
        // SAFETY: as above.
        check(unsafe { (api.DisableMemPattern)(raw) }).map_err(|e| refused(&e))?;
        // Per-session arenas are freed with the session; shared ones would keep hundreds of megabytes.
        self.set("session.use_env_allocators", "0")?;
        if !matches!(config.form, GraphForm::SourceAndSave { .. }) {
            // Also what was packed on disk is packed again, to be found by its hash (ONNX Runtime 1.31): by all threads.
            self.set("session.prepack.enable_parallel", "1")?;
        }
        Ok(())
    }

    /// Gives the dimension called `name` a size: providers that compile take no other.
    fn fix(&self, name: &str, size: usize) -> Result<()> {
        let api = api()?;
        let name = CString::new(name)
            .map_err(|_| Error::new(ErrorKind::Internal, "a dimension's name contains a NUL"))?;
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        // SAFETY: options and name are valid for the call.
        check(unsafe { (api.AddFreeDimensionOverrideByName)(self.raw(), name.as_ptr(), size) })
            .map_err(|e| refused(&e))
    }

    /// The compiled parts go to a file beside the graph, so that it can be checked apart.
    fn compile_to(&self, path: &Path) -> Result<()> {
        self.set("ep.context_enable", "1")?;
        self.set("ep.context_embed_mode", "0")?;
        self.set("ep.context_file_path", &path.to_string_lossy())
    }

    fn save_to(&self, path: &Path) -> Result<()> {
        let api = api()?;
        let mut data = path.file_name().unwrap_or_default().to_owned();
        data.push(".data");
        let data = data.to_string_lossy();
        let path = c_path(path)?;
        // SAFETY: options and path are valid for the call.
        check(unsafe { (api.SetOptimizedModelFilePath)(self.0.as_ptr(), path.as_ptr()) })
            .map_err(|e| refused(&e))?;
        self.set(
            "session.optimized_model_external_initializers_file_name",
            &data,
        )?;
        self.set("session.save_external_prepacked_constant_initializers", "1")
    }

    fn set(&self, key: &str, value: &str) -> Result<()> {
        let api = api()?;
        let nul = |_| Error::new(ErrorKind::Internal, "a session option contains a NUL");
        let (key, value) = (
            CString::new(key).map_err(nul)?,
            CString::new(value).map_err(nul)?,
        );
        // SAFETY: options and strings are valid for the call.
        check(unsafe { (api.AddSessionConfigEntry)(self.0.as_ptr(), key.as_ptr(), value.as_ptr()) })
            .map_err(|e| refused(&e))
    }

    pub(super) fn ptr(&self) -> *const sys::OrtSessionOptions {
        self.0.as_ptr()
    }

    /// To add to.
    pub(super) fn raw(&self) -> *mut sys::OrtSessionOptions {
        self.0.as_ptr()
    }
}

fn refused(source: &::ort::Error) -> Error {
    failure(ErrorKind::Internal, "session options", source)
}
