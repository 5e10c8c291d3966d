//! A folder with an exported model. Files are read from inside it only.

use std::fs;
use std::path::{Component, Path, PathBuf};

use atom_core::{Error, ErrorKind, Result};

use crate::config::Document;

/// Longest configuration that is read, in bytes. The largest real ones are some hundred kilobytes.
const LARGEST_CONFIG: u64 = 16 << 20;
/// Longest tokenizer. Those of 256,000 tokens take some 35 MB.
const LARGEST_TOKENIZER: u64 = 128 << 20;
/// How deep below the folder files are looked for.
const DEEPEST: usize = 5;
/// How many files and folders are looked at.
const MOST_ENTRIES: usize = 20_000;

/// A folder with an exported model.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    /// As the user gave it, for messages.
    shown: PathBuf,
    /// Its real path.
    root: PathBuf,
    /// Where links may lead besides the folder: the `blobs` of a Hugging Face cache.
    blobs: Option<PathBuf>,
    /// Every file, by its path relative to the root, sorted.
    files: Vec<String>,
}

impl Folder {
    /// Looks at the folder `dir`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it does not exist; [`ErrorKind::InvalidArgument`] if it is no folder; what reading gives.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let remedy = "give the folder that holds the exported model";
        let root =
            fs::canonicalize(dir).map_err(|e| Error::io(dir.display(), &e).remedy(remedy))?;
        if !root.is_dir() {
            let what = format!("{} is not a folder", dir.display());
            return Err(Error::new(ErrorKind::InvalidArgument, what).remedy(remedy));
        }
        let mut files = Vec::new();
        list(&root, "", 0, &mut files)?;
        files.sort();
        Ok(Self {
            shown: dir.to_owned(),
            blobs: blobs(&root),
            root,
            files,
        })
    }

    /// The folder as the user gave it.
    pub(crate) fn shown(&self) -> &Path {
        &self.shown
    }

    /// Its own name.
    pub(crate) fn name(&self) -> String {
        let name = self.root.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Every file, by its path relative to the folder.
    pub(crate) fn files(&self) -> &[String] {
        &self.files
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.files
            .binary_search_by(|file| file.as_str().cmp(name))
            .is_ok()
    }

    /// How messages name a file.
    pub(crate) fn show(&self, name: &str) -> String {
        self.shown.join(name).display().to_string()
    }

    /// The real path of the file `name`.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] for a file that is missing, leads out of the folder or is no regular file.
    pub(crate) fn locate(&self, name: &str) -> Result<PathBuf> {
        let bad = |what: String| Error::new(ErrorKind::BadModel, what);
        let shown = self.show(name);
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if name.is_empty() || name.contains('\0') || !Path::new(name).components().all(inside) {
            return Err(bad(format!(
                "{shown} is not a file inside of {}",
                self.shown.display()
            ))
            .remedy(
                "put the file into the folder, and name it by a relative path without \"..\"",
            ));
        }
        let named = self.root.join(name);
        let path = fs::canonicalize(&named).map_err(|e| {
            let link = fs::read_link(&named).ok();
            let link = link.map_or_else(String::new, |to| format!(", a link to {}", to.display()));
            Error::io(format!("{shown}{link}"), &e)
                .remedy("copy or download the folder again, with all of its files")
        })?;
        let allowed = |root: &PathBuf| path.starts_with(root);
        if !allowed(&self.root) && !self.blobs.as_ref().is_some_and(allowed) {
            return Err(bad(format!(
                "{shown} is a link that leaves the folder, to {}",
                path.display()
            ))
            .remedy("put the file itself into the folder"));
        }
        if !path.is_file() {
            return Err(bad(format!("{shown} is not a regular file"))
                .remedy("put the file itself into the folder"));
        }
        Ok(path)
    }

    /// The content of the file `name`.
    ///
    /// # Errors
    /// As [`locate`](Self::locate), and [`ErrorKind::BadModel`] for a file that is too long.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let limit = match name.rsplit('/').next() {
            Some("tokenizer.json") => LARGEST_TOKENIZER,
            _ => LARGEST_CONFIG,
        };
        let path = self.locate(name)?;
        let io = |e: std::io::Error| Error::io(self.show(name), &e);
        let bytes = fs::metadata(&path).map_err(io)?.len();
        if bytes > limit {
            let what = format!(
                "{} has {bytes} bytes, at most {limit} are read",
                self.show(name)
            );
            return Err(
                Error::new(ErrorKind::BadModel, what).remedy("copy or download the file again")
            );
        }
        fs::read(&path).map_err(io)
    }

    /// The configuration `name`, if the folder has it.
    ///
    /// # Errors
    /// As [`read`](Self::read) and [`Document::parse`].
    pub(crate) fn document(&self, name: &str) -> Result<Option<Document>> {
        if !self.has(name) {
            return Ok(None);
        }
        Document::parse(&self.show(name), &self.read(name)?).map(Some)
    }

    /// The folder above, if this is a part of an export: `onnx`, or a folder inside of it.
    pub(crate) fn above(&self) -> Option<Result<Self>> {
        let part_of = self
            .root
            .ancestors()
            .take(3)
            .any(|at| at.file_name().is_some_and(|name| name == "onnx"));
        let parent = self.root.parent()?;
        if !part_of {
            return None;
        }
        Some(Self::open(parent).map(|mut folder| {
            let shown = self
                .shown
                .parent()
                .filter(|shown| !shown.as_os_str().is_empty());
            folder.shown = shown.map_or_else(|| parent.to_owned(), Path::to_owned);
            folder
        }))
    }
}

/// The `blobs` folder of the Hugging Face cache that `root` is a snapshot of, or is a part of one.
fn blobs(root: &Path) -> Option<PathBuf> {
    let mut above = root.ancestors();
    let snapshots = above.find(|at| at.file_name().is_some_and(|name| name == "snapshots"))?;
    let blobs = snapshots.parent()?.join("blobs");
    fs::canonicalize(blobs).ok()
}

/// Whether `link` leads to a folder, which must be inside of `root`.
fn linked_folder(root: &Path, link: &Path) -> Result<bool> {
    let Ok(to) = fs::canonicalize(link) else {
        // A link to nothing is an error once something needs it.
        return Ok(false);
    };
    if to.is_dir() && !to.starts_with(root) {
        let what = format!(
            "{} is a link that leaves the folder, to {}",
            link.display(),
            to.display()
        );
        return Err(Error::new(ErrorKind::BadModel, what)
            .remedy("put the folder itself there, or remove the link"));
    }
    Ok(to.is_dir())
}

fn list(root: &Path, under: &str, depth: usize, files: &mut Vec<String>) -> Result<()> {
    let dir = root.join(under);
    let io = |e: std::io::Error| Error::io(dir.display(), &e);
    for entry in fs::read_dir(&dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let Ok(name) = entry.file_name().into_string() else {
            // A name that is not UTF-8 is no file of an export.
            continue;
        };
        let relative = if under.is_empty() {
            name.clone()
        } else {
            format!("{under}/{name}")
        };
        let kind = entry.file_type().map_err(io)?;
        let folder = kind.is_dir() || (kind.is_symlink() && linked_folder(root, &entry.path())?);
        if folder && depth < DEEPEST && !name.starts_with('.') {
            list(root, &relative, depth + 1, files)?;
        } else if !folder {
            files.push(relative);
        }
        if files.len() > MOST_ENTRIES {
            let what = format!("{} has more than {MOST_ENTRIES} files", root.display());
            return Err(Error::new(ErrorKind::InvalidArgument, what)
                .remedy("give the folder of one exported model"));
        }
    }
    Ok(())
}
