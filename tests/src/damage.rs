//! Packs broken on purpose.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{atom, foreign_pack, hash_and_size, ort_library, temporary, video};

/// A copy of the foreign pack to damage.
pub struct Pack {
    /// Holds the pack, and what commands on it leave.
    pub folder: TempDir,
}

impl Pack {
    /// A fresh copy.
    pub fn copy() -> Self {
        let pack = Self {
            folder: temporary(),
        };
        copy(foreign_pack(), &pack.path());
        pack
    }

    /// Where it lies.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("pack")
    }

    /// The text of pack.toml.
    pub fn manifest(&self) -> String {
        std::fs::read_to_string(self.path().join("pack.toml")).unwrap()
    }

    /// Replaces text in pack.toml; it must be there.
    pub fn edit(&self, from: &str, to: &str) {
        let text = self.manifest();
        assert!(text.contains(from), "pack.toml has no {from:?}");
        std::fs::write(self.path().join("pack.toml"), text.replace(from, to)).unwrap();
    }

    /// Changes a file's bytes and leaves pack.toml as it is.
    pub fn damage(&self, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.path().join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    }

    /// Changes a file's bytes and makes pack.toml agree, as a pack made from a damaged model would be.
    pub fn rewrite(&self, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.path().join(file);
        let old = hash_and_size(&std::fs::read(&path).unwrap());
        self.damage(file, change);
        self.edit(&old, &hash_and_size(&std::fs::read(&path).unwrap()));
    }

    /// `atom index` of a clip with this pack, which loads the visual encoder.
    pub fn index(&self) -> Command {
        let mut command = atom();
        command
            .env("ATOM_CACHE", self.folder.path())
            .env("ATOM_ORT_LIBRARY", ort_library());
        command.args(["--json", "index", "--pack"]).arg(self.path());
        command
            .arg("--store")
            .arg(self.folder.path().join("store"))
            .arg(video("carphone"));
        command
    }

    /// `atom caption` of a clip, which loads every module but the text encoder.
    pub fn caption(&self) -> Command {
        let mut command = atom();
        command
            .env("ATOM_CACHE", self.folder.path())
            .env("ATOM_ORT_LIBRARY", ort_library());
        command
            .args([
                "--json",
                "caption",
                "--at",
                "0",
                "--max-tokens",
                "4",
                "--pack",
            ])
            .arg(self.path())
            .arg(video("carphone"));
        command
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
