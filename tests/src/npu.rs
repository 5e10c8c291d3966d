//! What the tests of NPUs share: the emulator, and packs of one quantised module.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::{atom, cached, hash_and_size, ort_library, output, temporary};

/// The QNN provider's library; `None`, said loudly, on a machine whose C library or processor it does not run on.
///
/// # Panics
/// When it could run and is not there.
pub fn emulator() -> Option<PathBuf> {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let told = told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned());
    let version = told.unwrap_or_default();
    let mut parts = version
        .trim()
        .trim_start_matches("glibc ")
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    let glibc = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if std::env::consts::ARCH != "x86_64" || glibc < (2, 35) {
        eprintln!(
            "SKIPPED, NOT TESTED: the QNN emulator needs x86_64 and glibc 2.35; this is {} with {version:?}",
            std::env::consts::ARCH
        );
        return None;
    }
    Some(cached("qnn/libonnxruntime_providers_qnn.so"))
}

/// The visual encoder of the NPU pack as a pack of its own, and a folder for what is made from it.
pub struct NpuPack {
    /// Holds all of it.
    pub folder: TempDir,
    /// Environment of the commands.
    pub environment: Vec<(&'static str, String)>,
}

impl Default for NpuPack {
    fn default() -> Self {
        Self::new()
    }
}

impl NpuPack {
    /// A fresh one, whose commands find the emulator.
    ///
    /// # Panics
    /// When the NPU pack is not there.
    pub fn new() -> Self {
        let folder = temporary();
        let source = cached("packs/reference-npu");
        let pack = folder.path().join("pack");
        std::fs::create_dir_all(pack.join("golden")).unwrap();
        for entry in std::fs::read_dir(&source).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("visual_encoder") {
                std::fs::copy(&path, pack.join(&name)).unwrap();
            }
        }
        for entry in std::fs::read_dir(source.join("golden")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), pack.join("golden").join(entry.file_name())).unwrap();
        }
        let text = std::fs::read_to_string(source.join("pack.toml")).unwrap();
        let mut modules = text.split("\n[[module]]\n");
        let head: Vec<&str> = modules.next().unwrap().lines().collect();
        let head = head
            .into_iter()
            .filter(|line| !line.starts_with("detector"));
        let head = head.collect::<Vec<_>>().join("\n");
        let (before, search) = head.split_once("[tasks.search]").unwrap();
        let after = search.split_once("\n\n").map_or("", |(_, after)| after);
        let visual = modules.next().unwrap();
        assert!(visual.contains("visual-encoder"), "{visual}");
        let text = format!("{before}{after}\n[[module]]\n{visual}\n");
        std::fs::write(pack.join("pack.toml"), text).unwrap();
        let environment = vec![
            ("ATOM_CACHE", folder.path().to_string_lossy().into_owned()),
            (
                "ATOM_ORT_LIBRARY",
                ort_library().to_string_lossy().into_owned(),
            ),
            (
                "ATOM_QNN_LIBRARY",
                cached("qnn/libonnxruntime_providers_qnn.so")
                    .to_string_lossy()
                    .into_owned(),
            ),
        ];
        Self {
            folder,
            environment,
        }
    }

    /// Where the pack lies.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("pack")
    }

    /// Replaces text of pack.toml, which must be there.
    ///
    /// # Panics
    /// When it is not.
    pub fn edit(&self, from: &str, to: &str) -> &Self {
        let path = self.path().join("pack.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "pack.toml has no {from:?}:\n{text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
        self
    }

    /// Sets policy and providers.
    pub fn policy(&self, policy: &str) -> &Self {
        let providers = match policy {
            "prefer" => r#"["qnn", "cpu"]"#,
            _ => r#"["qnn"]"#,
        };
        self.edit(r#"["qnn", "cpu"]"#, providers)
            .edit(r#"policy = "prefer""#, &format!("policy = {policy:?}"))
    }

    /// Takes the quantised variant out.
    ///
    /// # Panics
    /// When there is none.
    pub fn without_variant(&self) -> &Self {
        let path = self.path().join("pack.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once("variant = [\n").unwrap();
        let (_, after) = rest.split_once("] } },\n]\n").unwrap();
        std::fs::write(path, format!("{before}{after}")).unwrap();
        self
    }

    /// Replaces a file's content and makes pack.toml agree.
    ///
    /// # Panics
    /// When the file or its mention is missing.
    pub fn rewrite(&self, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> &Self {
        let path = self.path().join(file);
        let old = std::fs::read(&path).unwrap();
        let before = hash_and_size(&old);
        let new = change(old);
        let after = hash_and_size(&new);
        std::fs::write(&path, new).unwrap();
        self.edit(&before, &after)
    }

    /// The environment, with one variable changed.
    ///
    /// # Panics
    /// Never.
    pub fn with(&mut self, name: &'static str, value: impl Into<String>) -> &mut Self {
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.into()));
        self
    }

    /// A command on this pack.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = atom();
        command.args(["--json", "--pack"]).arg(self.path());
        command.args(arguments);
        command.env_remove("ATOM_QNN_SOC");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// What `atom doctor` says of the visual encoder, all it says, and how it ends.
    ///
    /// # Panics
    /// When it says nothing readable, or anything else on standard output.
    pub fn doctor(&self) -> Doctor {
        let done = output(&mut self.command(&["doctor"]));
        let text = String::from_utf8_lossy(&done.stdout);
        let said = serde_json::from_str::<Value>(&text).unwrap_or_else(|error| {
            panic!("{error}: {text}{}", String::from_utf8_lossy(&done.stderr))
        });
        Doctor {
            module: said["modules"][0].clone(),
            said,
            output: done,
        }
    }

    /// The compiled entry of the cache.
    ///
    /// # Panics
    /// When there is not exactly one.
    pub fn entry(&self) -> PathBuf {
        let found = compiled(&self.folder.path().join("artifacts"));
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }
}

/// What `atom doctor` said.
pub struct Doctor {
    /// Of the visual encoder.
    pub module: Value,
    /// All.
    pub said: Value,
    /// The process.
    pub output: Output,
}

impl Doctor {
    /// The exit code.
    pub fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// The module's error or the reasons of its fallbacks.
    pub fn why(&self) -> String {
        match self.module["error"].as_str() {
            Some(error) => error.to_owned(),
            None => self.module["fallbacks"].to_string(),
        }
    }
}

/// The entries of an artifacts folder that a provider compiled.
///
/// # Panics
/// When the folder cannot be read.
pub fn compiled(artifacts: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(artifacts)
        .unwrap_or_else(|error| panic!("{}: {error}", artifacts.display()))
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("placement.json").is_file())
        .collect();
    found.sort();
    found
}
