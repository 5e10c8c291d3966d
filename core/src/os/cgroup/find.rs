//! Where this process's group is, out of `/proc/self/cgroup` and `/proc/self/mountinfo`.

use std::path::{Component, Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Which interface a memory cgroup has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The `memory` controller as a hierarchy of its own.
    V1,
    /// The unified hierarchy.
    V2,
}

/// A group and where its hierarchy is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub version: Version,
    /// The mount point as `mountinfo` names it, absolute.
    pub mount: PathBuf,
    /// The group below the mount point; empty for what is mounted itself.
    pub below: PathBuf,
    /// The group's name as `/proc/self/cgroup` gives it.
    pub name: String,
}

impl Found {
    /// The group's own folder under `root`.
    pub fn dir(&self, root: &Path) -> PathBuf {
        let mount = under(root, &self.mount);
        match self.below.as_os_str().is_empty() {
            true => mount,
            false => mount.join(&self.below),
        }
    }

    /// The group's PSI file.
    pub fn pressure_file(&self, root: &Path) -> Result<PathBuf> {
        if self.name == "/" && !self.dir(root).join("cgroup.events").exists() {
            return Err(unsupported(
                "the process is in the root cgroup: its pressure is the whole machine's",
            ));
        }
        let file = self.dir(root).join("memory.pressure");
        if !file.exists() {
            return Err(unsupported(format!(
                "{}: no such file: the kernel was built without CONFIG_PSI, or booted with psi=0",
                file.display()
            )));
        }
        Ok(file)
    }
}

/// `path`, absolute, below `root`.
pub(super) fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The group whose memory controller counts this process. A controller is in one hierarchy at a time: where a version 1
/// hierarchy has it, the unified one has not.
pub(super) fn memory(cgroup: &str, mountinfo: &str) -> Result<Found> {
    let v1 = lines(cgroup).find(|line| line.controllers.split(',').any(|name| name == "memory"));
    match v1 {
        Some(line) => locate(Version::V1, line.path, mountinfo),
        None => unified(cgroup, mountinfo),
    }
}

/// The group in the unified hierarchy (version 2).
pub(super) fn unified(cgroup: &str, mountinfo: &str) -> Result<Found> {
    let line = lines(cgroup).find(|line| line.id == "0" && line.controllers.is_empty());
    let line = line.ok_or_else(|| {
        unsupported("/proc/self/cgroup names no memory controller and no unified hierarchy")
    })?;
    locate(Version::V2, line.path, mountinfo)
}

struct Line<'a> {
    id: &'a str,
    controllers: &'a str,
    path: &'a str,
}

/// `4:memory:/a/b`, one hierarchy a line; paths may hold colons.
fn lines(cgroup: &str) -> impl Iterator<Item = Line<'_>> {
    cgroup.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        Some(Line {
            id: fields.next()?,
            controllers: fields.next()?,
            path: fields.next().filter(|path| path.starts_with('/'))?,
        })
    })
}

struct Mount {
    root: String,
    point: PathBuf,
}

/// The mounts of one hierarchy, later ones last.
fn mounts(version: Version, mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            // `36 35 98:0 /root /point rw,… [optional fields] - type source options`
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ').skip(3).filter(|path| path.starts_with('/'));
            let (root, point) = (left.next()?, left.next()?);
            let mut right = right.split(' ');
            let kind = right.next()?;
            let options = right.nth(1).unwrap_or_default();
            let fits = match version {
                Version::V1 => {
                    kind == "cgroup" && options.split(',').any(|option| option == "memory")
                }
                Version::V2 => kind == "cgroup2",
            };
            fits.then(|| Mount {
                root: unescape(root),
                point: PathBuf::from(unescape(point)),
            })
        })
        .collect()
}

/// `\040` and the like, as the kernel writes blanks in paths.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let code = (*first == b'\\')
            .then(|| more.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[3..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Finds the group called `name` below one of its hierarchy's mounts: the one that shows most ancestors, of
/// equals the latest.
fn locate(version: Version, name: &str, mountinfo: &str) -> Result<Found> {
    let what = match version {
        Version::V1 => "the version 1 memory hierarchy",
        Version::V2 => "the unified hierarchy",
    };
    let mounts = mounts(version, mountinfo);
    if mounts.is_empty() {
        return Err(unsupported(format!(
            "{what} is not mounted where this process sees it"
        )));
    }
    // A name with `..` is outside the cgroup namespace; so is a mount whose root has one.
    let climbs = |path: &str| {
        Path::new(path)
            .components()
            .any(|part| part == Component::ParentDir)
    };
    let found = mounts
        .iter()
        .filter(|mount| !climbs(&mount.root) && !climbs(name))
        .filter_map(|mount| Some((mount, Path::new(name).strip_prefix(&mount.root).ok()?)))
        .max_by_key(|(_, below)| below.components().count());
    let Some((mount, below)) = found else {
        return Err(unsupported(format!(
            "group {name} is not below what is mounted of {what}: {}",
            mounts
                .iter()
                .map(|mount| format!("{} at {}", mount.root, mount.point.display()))
                .collect::<Vec<_>>()
                .join(", ")
        )));
    };
    Ok(Found {
        version,
        mount: mount.point.clone(),
        below: below.to_owned(),
        name: name.to_owned(),
    })
}

pub(super) fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}
