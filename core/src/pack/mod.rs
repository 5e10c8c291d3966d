//! Packs: a folder with `pack.toml` and the files it names.

mod artifact_cache;
mod checks;
mod decoder;
mod file_ref;
mod files;
mod generation;
mod identity;
mod legacy;
pub mod manifest;
mod parse;
mod preprocess;
mod replaced;
mod spec;
mod validate;
mod validate_captioner;
mod validate_decoder;
mod validate_preprocess;
mod validate_providers;
mod validate_values;
mod variant;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use crate::features::Source;
pub use crate::ort::{DType, Dim};
pub use artifact_cache::ArtifactCache;
pub use checks::Checks;
pub use decoder::{Constant, DecoderPorts, DecoderSpec, KvForm, LayerName, Scalar};
pub use file_ref::FileRef;
pub use generation::{EarlyStopping, GenerationSpec, Never};
pub use identity::{Forms, IndexIdentity};
pub use legacy::LegacyIdentity;
pub use manifest::{
    CaptionerSpec, ContentForm, IndexTask, Manifest, PromptTask, RowsPolicy, SearchTask, Task,
    TasksSpec, VideoSpec,
};
pub use preprocess::{
    At, CropStep, Fit, Layout, LongestEdgeStep, Order, PadStep, PreprocessSpec, Resample,
    ShortestEdgeStep, SquashStep, StepSpec, TilesStep, VideoSteps, ViewSpec, Whole,
};
pub use spec::{
    DetectorSpec, GoldenPort, GoldenSpec, LoadPath, ModuleKind, ModuleSpec, Policy, PortSpec,
    Precision, Provider, Role, TokenizerSpec, VariantSpec,
};

use crate::error::{Error, ErrorKind, Result};

/// Largest `pack.toml` that is read, in bytes.
const MAX_MANIFEST: u64 = 4 << 20;

/// An opened pack. Immutable, except for what is remembered about checked files; thread-safe.
#[derive(Debug)]
pub struct Pack {
    dir: PathBuf,
    manifest: Manifest,
    checks: Checks,
}

/// How near a module's outputs come to its golden ones.
#[derive(Debug, Clone, PartialEq)]
pub struct GoldenReport {
    /// The module.
    pub module: String,
    /// The smallest cosine over its golden outputs; 0 when one is not finite.
    pub cosine: f64,
    /// What it must reach.
    pub floor: f64,
}

/// What [`Pack::verify`] looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Files hashed.
    pub files: usize,
    /// Their size together.
    pub bytes: u64,
}

impl Pack {
    /// Opens the pack in folder `dir`: reads and validates `pack.toml`, and sees that every file it names is there, inside
    /// the folder, and of the size it declares. Hashes are checked when a file is first used.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no pack, else [`ErrorKind::BadPack`] naming key or file and the remedy.
    pub fn open(dir: &Path) -> Result<Self> {
        let dir = std::fs::canonicalize(dir).map_err(|e| {
            Error::io(format_args!("pack {}", dir.display()), &e)
                .remedy("give the folder that holds pack.toml")
        })?;
        let path = dir.join("pack.toml");
        let io = |e: &std::io::Error| {
            Error::io(path.display(), e).remedy("give the folder that holds pack.toml")
        };
        let size = std::fs::metadata(&path).map_err(|e| io(&e))?.len();
        if size > MAX_MANIFEST {
            return Err(Error::new(
                ErrorKind::BadPack,
                format!(
                    "{}: {size} bytes, more than a manifest can have",
                    path.display()
                ),
            ));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData => Error::new(
                ErrorKind::BadPack,
                format!("{}: not UTF-8 text", path.display()),
            ),
            _ => io(&e),
        })?;
        let manifest = Manifest::parse(&text).map_err(|e| e.context(path.display()))?;
        for file in manifest.files() {
            files::locate(&dir, file)?;
        }
        Ok(Self {
            dir,
            manifest,
            checks: Checks::default(),
        })
    }

    /// The validated manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The pack's folder, by its real path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The module called `id`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming the modules there are.
    pub fn module(&self, id: &str) -> Result<&ModuleSpec> {
        self.manifest.module(id)
    }

    /// The labels of the index task's detectors, one detector's after another's: what
    /// [`Detection::label`](crate::features::Detection::label) counts in. Empty without a detector.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when a detector is no module of the pack.
    pub fn labels(&self) -> Result<Vec<String>> {
        let mut labels = Vec::new();
        for id in self
            .manifest
            .tasks
            .index
            .iter()
            .flat_map(|index| &index.detectors)
        {
            let spec = self.module(id)?.detector.as_ref();
            labels.extend(spec.iter().flat_map(|spec| spec.labels.iter().cloned()));
        }
        Ok(labels)
    }

    /// Where `file` lies. The file may have changed since the pack was opened.
    pub fn path(&self, file: &FileRef) -> PathBuf {
        self.dir.join(&file.file)
    }

    /// The path of `file` after seeing that it is what the manifest says: inside the pack, size, and SHA-256 unless that
    /// was checked since the last boot and nobody touched the file.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] naming the file, [`ErrorKind::Io`] when it cannot be read.
    pub fn checked(&self, file: &FileRef) -> Result<PathBuf> {
        let path = files::locate(&self.dir, file)?;
        self.checks.ensure(&path, &file.sha256)?;
        Ok(path)
    }

    /// The content of `file`, checked against the manifest.
    ///
    /// # Errors
    /// As [`checked`](Self::checked).
    pub fn read(&self, file: &FileRef) -> Result<Vec<u8>> {
        let path = files::locate(&self.dir, file)?;
        let bytes = std::fs::read(&path).map_err(|e| Error::io(path.display(), &e))?;
        if checks::hex(Sha256::digest(&bytes)) != file.sha256 {
            return Err(checks::differs(&path));
        }
        Ok(bytes)
    }

    /// Hashes every file of the pack anew. `progress` is told the file under way, bytes done and bytes in all.
    ///
    /// # Errors
    /// As [`checked`](Self::checked), for the first bad file.
    pub fn verify(&self, progress: &mut dyn FnMut(&str, u64, u64)) -> Result<VerifyReport> {
        let mut files: Vec<&FileRef> = self.manifest.files().collect();
        files.sort_by(|a, b| a.file.cmp(&b.file));
        files.dedup_by(|a, b| a.file == b.file);
        let total = files.iter().map(|file| file.bytes).sum();
        let mut report = VerifyReport::default();
        for file in files {
            let path = files::locate(&self.dir, file)?;
            let before = report.bytes;
            self.checks.hash_now(&path, &file.sha256, &mut |done| {
                progress(&file.file, before + done, total);
            })?;
            report.files += 1;
            report.bytes += file.bytes;
        }
        Ok(report)
    }

    /// What is remembered about checked files.
    pub fn checks(&self) -> &Checks {
        &self.checks
    }
}
