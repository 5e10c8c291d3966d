//! Exports that are broken on purpose, and how they must be refused.

use std::fs;
use std::path::{Path, PathBuf};

use atom_core::control::Control;
use atom_core::{Error, ErrorKind};
use atom_import::{ImportOptions, import};
use serde_json::Value;
use tempfile::TempDir;

use crate::exports::export;
use crate::{ort_library, temporary};

/// A copy of an export, to be broken.
pub struct Folder {
    /// Holds the folder, and `out`, where the pack is to go.
    pub all: TempDir,
}

impl Folder {
    /// A copy of export `name`.
    ///
    /// # Panics
    /// When that fails.
    pub fn copy(name: &str) -> Self {
        let folder = Self { all: temporary() };
        fs::create_dir(folder.all.path().join("out")).unwrap();
        copy(&export(name).join("export"), &folder.path());
        folder
    }

    /// A folder with nothing in it.
    ///
    /// # Panics
    /// When that fails.
    pub fn empty() -> Self {
        let folder = Self { all: temporary() };
        fs::create_dir(folder.all.path().join("out")).unwrap();
        fs::create_dir(folder.path()).unwrap();
        folder
    }

    /// Where it lies.
    ///
    /// # Panics
    /// When that fails.
    pub fn path(&self) -> PathBuf {
        self.all.path().join("model")
    }

    /// The file `name`.
    ///
    /// # Panics
    /// When that fails.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file.
    ///
    /// # Panics
    /// When that fails.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Removes a file.
    ///
    /// # Panics
    /// When that fails.
    pub fn remove(&self, name: &str) -> &Self {
        fs::remove_file(self.file(name)).unwrap();
        self
    }

    /// Changes a JSON file.
    ///
    /// # Panics
    /// When that fails.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) -> &Self {
        let mut value: Value = serde_json::from_slice(&fs::read(self.file(name)).unwrap()).unwrap();
        change(&mut value);
        self.write(name, value.to_string())
    }

    /// Replaces bytes of a file by as many others, everywhere.
    ///
    /// # Panics
    /// When they are not there.
    pub fn patch(&self, name: &str, from: &str, to: &str) -> &Self {
        assert_eq!(from.len(), to.len());
        let mut bytes = fs::read(self.file(name)).unwrap();
        let mut found = 0;
        for at in 0..bytes.len() - from.len() {
            if bytes[at..].starts_with(from.as_bytes()) {
                bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
                found += 1;
            }
        }
        assert!(found > 0, "{name} has no {from:?}");
        self.write(name, bytes)
    }

    /// How it is imported.
    ///
    /// # Panics
    /// When that fails.
    pub fn options(&self) -> ImportOptions {
        ImportOptions {
            folders: vec![self.path()],
            pack: self.all.path().join("out/pack"),
            ort_library: Some(ort_library()),
            ..ImportOptions::default()
        }
    }

    /// The folder is refused with an error of this class that names all of `parts`.
    ///
    /// # Panics
    /// When it is not, or something is left behind.
    pub fn refused(&self, kind: ErrorKind, parts: &[&str]) {
        self.refused_with(&self.options(), kind, parts);
    }

    /// As [`refused`](Self::refused), imported by `options`.
    ///
    /// # Panics
    /// When it is not refused, or something is left behind.
    pub fn refused_with(&self, options: &ImportOptions, kind: ErrorKind, parts: &[&str]) {
        let error =
            import(options, &Control::default()).expect_err(&format!("{parts:?}: it was imported"));
        holds(&error, kind, parts);
        let left: Vec<_> = fs::read_dir(self.all.path().join("out"))
            .unwrap()
            .flatten()
            .collect();
        assert!(left.is_empty(), "{parts:?}: {left:?} is left behind");
    }
}

fn holds(error: &Error, kind: ErrorKind, parts: &[&str]) {
    let all = format!(
        "{} | {}",
        error.message(),
        error.remedy_text().unwrap_or_default()
    );
    println!("{}: {all}", error.kind().name());
    assert_eq!(error.kind(), kind, "{all}");
    for part in parts {
        assert!(all.contains(part), "{part:?} is not in: {all}");
    }
    assert!(error.remedy_text().is_some(), "no remedy: {all}");
}

/// Copies a folder.
///
/// # Panics
/// When that fails.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
