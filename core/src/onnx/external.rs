//! Where tensors lie whose content is not in the model's file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

use super::schema::{StringStringEntryProto, TensorProto};
use super::{Model, bad, walk};
use crate::error::{Error, ErrorKind, Result};

/// The place of a tensor's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct External<'a> {
    /// The file, relative to the folder of the model.
    pub(super) location: &'a str,
    pub(super) offset: u64,
    /// `None`: up to the end of the file.
    pub(super) length: Option<u64>,
}

impl<'a> External<'a> {
    /// Of `tensor`; `None` where its content is in the model's file.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] naming the tensor when offset or length is no number, or both together are too large for one.
    pub(super) fn of(tensor: &'a TensorProto) -> Result<Option<Self>> {
        if tensor.external_data.is_empty() {
            return Ok(None);
        }
        let value = |key: &str| {
            let mut entries = tensor.external_data.iter();
            entries
                .find_map(|entry| (entry.key.as_deref() == Some(key)).then(|| text(&entry.value)))
        };
        let number = |key: &str| {
            let parsed = value(key).map(str::parse::<u64>).transpose();
            parsed.map_err(|_| wrong(tensor, &format!("its {key} is no number")))
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        if offset.checked_add(length.unwrap_or(0)).is_none() {
            return Err(wrong(tensor, "it ends beyond any file"));
        }
        Ok(Some(Self {
            location: value("location").unwrap_or_default(),
            offset,
            length,
        }))
    }
}

/// Sets one entry of where `tensor` lies.
pub(super) fn set(tensor: &mut TensorProto, key: &str, value: String) {
    let mut entries = tensor.external_data.iter_mut();
    match entries.find(|entry| entry.key.as_deref() == Some(key)) {
        Some(entry) => entry.value = Some(value),
        None => tensor.external_data.push(StringStringEntryProto {
            key: Some(key.to_owned()),
            value: Some(value),
            ..Default::default()
        }),
    }
}

/// A text that may be left out.
pub(super) fn text(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

pub(super) fn wrong(tensor: &TensorProto, why: &str) -> Error {
    bad(format_args!("tensor {:?}: {why}", text(&tensor.name)))
}

/// Refuses the location of a file that is not in the model's folder or below.
fn check_location(tensor: &TensorProto, location: &str) -> Result<()> {
    let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    let usable = !location.is_empty() && !location.contains('\0');
    if usable && Path::new(location).components().all(inside) {
        return Ok(());
    }
    let why = format!("its external data {location:?} is not a file in the model's folder");
    Err(wrong(tensor, &why).remedy("put the weights beside the model and export it again"))
}

impl Model {
    /// The files that hold external weights, relative to the model's folder, and how many bytes each has at least.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] naming the tensor that refers to a file outside of that folder (an absolute path, `..`), or to
    /// no possible place in it.
    pub fn external_files(&self) -> Result<BTreeMap<String, u64>> {
        let mut files = BTreeMap::new();
        for tensor in walk::tensors(&self.proto) {
            if let Some(external) = External::of(tensor)? {
                check_location(tensor, external.location)?;
                let end = external.offset + external.length.unwrap_or(0);
                let bytes = files.entry(external.location.to_owned()).or_insert(end);
                *bytes = end.max(*bytes);
            }
        }
        Ok(files)
    }

    /// Sees that every file of external weights is in the folder `dir` and is long enough.
    ///
    /// # Errors
    /// As [`external_files`](Self::external_files), and [`ErrorKind::NotFound`] or [`ErrorKind::BadModel`] naming the file.
    pub fn check_external_files(&self, dir: &Path) -> Result<()> {
        for (location, bytes) in self.external_files()? {
            let path = dir.join(&location);
            let metadata = fs::metadata(&path).map_err(|e| {
                Error::io(path.display(), &e).remedy("copy the model together with its weights")
            })?;
            if !metadata.is_file() || metadata.len() < bytes {
                let why = format!(
                    "{}: {} bytes, and the model needs {bytes}",
                    path.display(),
                    metadata.len()
                );
                return Err(Error::new(ErrorKind::BadModel, why)
                    .remedy("the file may be cut short: copy it again"));
            }
        }
        Ok(())
    }

    /// Gives the files of external weights other names: `rename` maps a location to its new one. The files themselves are
    /// the caller's to move.
    ///
    /// # Errors
    /// As [`external_files`](Self::external_files), for the new names; the model is then partly renamed.
    pub fn rename_external_files(&mut self, mut rename: impl FnMut(&str) -> String) -> Result<()> {
        walk::edit_tensors(&mut self.proto, &mut |tensor| {
            let Some(external) = External::of(tensor)? else {
                return Ok(());
            };
            let location = rename(external.location);
            check_location(tensor, &location)?;
            set(tensor, "location", location);
            Ok(())
        })
    }
}
