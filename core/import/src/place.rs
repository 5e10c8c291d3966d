//! Files of a pack under construction. It grows in a hidden folder beside its place and is moved there when it is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use atom_core::control::Control;
use atom_core::onnx::Model;
use atom_core::os::file::sync_dir;
use atom_core::pack::FileRef;
use atom_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

use crate::plan::{Extra, Plan, Source};

/// Bytes that are copied at a time.
const BLOCK: usize = 1 << 20;

/// What was written, by its path in the pack.
pub(crate) type Files = BTreeMap<String, FileRef>;

/// A pack under construction. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Site {
    /// What is removed.
    scratch: PathBuf,
    /// The pack so far.
    pub(crate) dir: PathBuf,
    /// Where it will be.
    to: PathBuf,
    link: bool,
    pub(crate) files: Files,
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.scratch)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            // Nothing more can be done; the folder's name says what it is.
            let _ = e;
        }
    }
}

impl Site {
    /// Begins the pack that will be at `to`. `link` makes hard links of weights in place of copies, where that is possible.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if something is there already; [`ErrorKind::InvalidArgument`] for a path without a name; what
    /// making folders gives.
    pub(crate) fn begin(to: &Path, link: bool) -> Result<Self> {
        let Some(name) = to.file_name().and_then(|name| name.to_str()) else {
            let what = format!("{} does not name a folder to make", to.display());
            return Err(Error::new(ErrorKind::InvalidArgument, what)
                .remedy("give the pack's folder with -o"));
        };
        let io = |path: &Path, e: &std::io::Error| {
            Error::io(path.display(), e).remedy("give a folder that can be written to")
        };
        match fs::read_dir(to).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            _ => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("{} exists already", to.display()),
                )
                .remedy("remove it, or give another folder with -o"));
            }
        }
        let parent = to
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        if !parent.is_dir() {
            fs::create_dir_all(parent).map_err(|e| io(parent, &e))?;
        }
        let begins = format!(".{name}.import-");
        remove_abandoned(parent, &begins);
        let scratch = parent.join(format!("{begins}{}", std::process::id()));
        fs::create_dir(&scratch).map_err(|e| io(&scratch, &e))?;
        let site = Self {
            dir: scratch.join("pack"),
            scratch,
            to: to.to_owned(),
            link,
            files: Files::new(),
        };
        fs::create_dir(&site.dir).map_err(|e| io(&site.dir, &e))?;
        Ok(site)
    }

    /// Writes graphs, weights and other files of `plan`.
    ///
    /// # Errors
    /// What reading and writing gives; a cancelled import.
    pub(crate) fn fill(&mut self, plan: &Plan, control: &Control) -> Result<()> {
        for module in &plan.modules {
            self.graph(&module.source, control)?;
            let words = module.words.iter().map(|words| &words.file);
            let template = module
                .decoder
                .iter()
                .filter_map(|decoder| decoder.chat_template.as_ref());
            for extra in words.chain(template) {
                self.extra(extra)?;
            }
        }
        let captioner = plan.captioner.iter();
        for extra in captioner
            .flat_map(|captioner| captioner.image_prompt.iter().chain(&captioner.video_prompt))
        {
            self.extra(extra)?;
        }
        Ok(())
    }

    fn graph(&mut self, source: &Source, control: &Control) -> Result<()> {
        match &source.cut {
            None => self.copy(&source.file, &source.target, control)?,
            Some(cut) => {
                let part = part_of(source, &cut.inputs, &cut.outputs)?;
                self.bytes(&source.target, &part.to_vec()?)?;
            }
        }
        for ((_, file), target) in source.data.iter().zip(source.data_targets()) {
            self.copy(file, &target, control)?;
        }
        Ok(())
    }

    /// Writes the graph of `source`, with its weights, into the folder `name` beside the pack, and returns its path.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub(crate) fn aside(&self, source: &Source, name: &str, control: &Control) -> Result<PathBuf> {
        let mut aside = Self {
            scratch: self.scratch.join(name),
            dir: self.scratch.join(name),
            to: PathBuf::new(),
            link: true,
            files: Files::new(),
        };
        aside.graph(source, control)?;
        let path = aside.dir.join(&source.target);
        // Removed together with the pack's own scratch.
        std::mem::forget(aside);
        Ok(path)
    }

    fn room_for(&self, target: &str) -> Result<PathBuf> {
        let path = self.dir.join(target);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io(parent.display(), &e))?;
        }
        Ok(path)
    }

    fn extra(&mut self, extra: &Extra) -> Result<()> {
        self.bytes(&extra.target, &extra.content)
    }

    /// Writes the file `target` with this content.
    ///
    /// # Errors
    /// What writing gives.
    pub(crate) fn bytes(&mut self, target: &str, content: &[u8]) -> Result<()> {
        let path = self.room_for(target)?;
        let io = |e: std::io::Error| Error::io(path.display(), &e);
        let mut file = File::create(&path).map_err(io)?;
        file.write_all(content)
            .and_then(|()| file.sync_all())
            .map_err(io)?;
        self.note(target, &Sha256::digest(content), content.len() as u64);
        Ok(())
    }

    /// Copies or links the file `from` to `target`, once.
    fn copy(&mut self, from: &Path, target: &str, control: &Control) -> Result<()> {
        if self.files.contains_key(target) {
            return Ok(());
        }
        let to = self.room_for(target)?;
        let linked = self.link && fs::hard_link(from, &to).is_ok();
        let mut file = File::open(from).map_err(|e| Error::io(from.display(), &e))?;
        let io = |e: std::io::Error| Error::io(to.display(), &e);
        let mut copy = if linked {
            None
        } else {
            Some(File::create(&to).map_err(io)?)
        };
        let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
        let mut block = vec![0; BLOCK];
        loop {
            control.check()?;
            let read = file
                .read(&mut block)
                .map_err(|e| Error::io(from.display(), &e))?;
            if read == 0 {
                break;
            }
            hash.update(&block[..read]);
            bytes += read as u64;
            if let Some(copy) = &mut copy {
                copy.write_all(&block[..read]).map_err(io)?;
            }
        }
        if let Some(copy) = copy {
            copy.sync_all().map_err(io)?;
        }
        self.note(target, &hash.finalize(), bytes);
        Ok(())
    }

    /// Notes that the file `target` was written anew.
    ///
    /// # Errors
    /// What reading it gives.
    pub(crate) fn changed(&mut self, target: &str) -> Result<()> {
        let path = self.dir.join(target);
        let io = |e: std::io::Error| Error::io(path.display(), &e);
        let mut file = File::open(&path).map_err(io)?;
        let mut hash = Sha256::new();
        let bytes = std::io::copy(&mut file, &mut hash).map_err(io)?;
        self.note(target, &hash.finalize(), bytes);
        Ok(())
    }

    fn note(&mut self, target: &str, hash: &[u8], bytes: u64) {
        let sha256 = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let file = FileRef {
            file: target.to_owned(),
            sha256,
            bytes,
        };
        self.files.insert(target.to_owned(), file);
    }

    /// Moves the pack to its place.
    ///
    /// # Errors
    /// What moving gives.
    pub(crate) fn finish(self) -> Result<PathBuf> {
        let io = |e: std::io::Error| Error::io(self.to.display(), &e);
        sync_dir(&self.dir)?;
        fs::rename(&self.dir, &self.to).map_err(io)?;
        if let Some(parent) = self
            .to
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            sync_dir(parent)?;
        }
        Ok(self.to.clone())
    }
}

/// The part of the graph `source` that makes `outputs` of `inputs`.
fn part_of(source: &Source, inputs: &[String], outputs: &[String]) -> Result<Model> {
    let names = |names: &[String]| names.to_vec();
    let (inputs, outputs) = (names(inputs), names(outputs));
    let (inputs, outputs): (Vec<&str>, Vec<&str>) = (
        inputs.iter().map(String::as_str).collect(),
        outputs.iter().map(String::as_str).collect(),
    );
    let model = Model::read(&source.file)?;
    model
        .extract(&inputs, &outputs)
        .map_err(|e| e.context(&source.shown))
}

/// Removes what imports to the same place left behind that were killed.
fn remove_abandoned(parent: &Path, begins: &str) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let maker = name
            .to_str()
            .and_then(|name| name.strip_prefix(begins)?.parse::<u32>().ok());
        if maker.is_some_and(|maker| !Path::new(&format!("/proc/{maker}")).exists()) {
            // What cannot be removed is in nobody's way.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
