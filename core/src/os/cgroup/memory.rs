//! What the files of a memory cgroup say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::find::{Found, Version, under, unsupported};
use crate::error::{Error, ErrorKind, Result};
use crate::os::leaf;

/// Version 1 has no word for "no limit": it gives the largest multiple of the page size.
const UNLIMITED: u64 = 1 << 62;

/// How often things happened in a group and below it, since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Events {
    /// The charge was above `memory.high`, and tasks were slowed down and made to reclaim. Version 2 only.
    pub high: u64,
    /// The charge was about to go over the limit. Version 1: `memory.failcnt`. Page cache alone makes this happen,
    /// without harm.
    pub max: u64,
    /// Reclaim did not help, and allocating failed. Version 2 only.
    pub oom: u64,
    /// Processes killed for want of memory; 0 on kernels that do not count them.
    pub oom_kill: u64,
}

/// One level of the hierarchy, in bytes. Everything includes the groups below it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LevelMemory {
    /// The group's name, `/` for the top of what this process sees.
    pub name: String,
    /// The hard limit (`memory.max`, `memory.limit_in_bytes`): at it the kernel reclaims, then kills.
    pub limit: Option<u64>,
    /// The limit above which tasks are slowed down (`memory.high`). Version 2 only.
    pub high: Option<u64>,
    /// The charge: what is held against the limit. Anonymous memory, page cache and kernel memory, swap not included.
    pub usage: u64,
    /// Anonymous memory: goes only when it is freed, or to swap.
    pub anon: u64,
    /// Page cache, tmpfs and shared memory included.
    pub file: u64,
    /// The part of the charge that the kernel takes back without asking and without writing: clean page cache that is
    /// not locked, and slab that can be shrunk (version 2). Weights mapped from files are in here.
    pub reclaimable: u64,
    /// Tasks of the group are held until memory is freed: the limit is reached and killing switched off. Version 1 only.
    pub under_oom: bool,
    /// What happened so far.
    pub events: Events,
}

impl LevelMemory {
    /// The charge that only its owners can give back, or swap, which is not counted on.
    pub fn unreclaimable(&self) -> u64 {
        self.usage.saturating_sub(self.reclaimable)
    }

    /// The smaller of both limits.
    pub fn bound(&self) -> Option<u64> {
        self.limit.into_iter().chain(self.high).min()
    }
}

/// A group and what is above it, own group first. Cheap to keep: files are opened at each reading.
#[derive(Debug, Clone)]
pub struct MemoryCgroup {
    version: Version,
    levels: Vec<Level>,
}

#[derive(Debug, Clone)]
struct Level {
    name: String,
    dir: PathBuf,
}

impl MemoryCgroup {
    pub(super) fn open(root: &Path, found: Found) -> Result<Self> {
        let top = under(root, &found.mount);
        let own = found.dir(root);
        if !own.is_dir() {
            return Err(unsupported(format!(
                "{}: the group {} is not there",
                own.display(),
                found.name
            )));
        }
        let mut levels = Vec::new();
        for (dir, name) in own.ancestors().zip(Path::new(&found.name).ancestors()) {
            let counts = match found.version {
                // Below the last group that has the controller, and in the root, nothing is counted.
                Version::V2 => dir.join("memory.current").exists(),
                // A group above that does not count its children does not bind them, nor do those above it.
                Version::V1 if levels.is_empty() => true,
                Version::V1 => {
                    read(&dir.join("memory.use_hierarchy")).map_or(true, |text| text.trim() != "0")
                }
            };
            if counts {
                levels.push(Level {
                    name: name.to_string_lossy().into_owned(),
                    dir: dir.to_owned(),
                });
            } else if found.version == Version::V1 {
                break;
            }
            if dir == top {
                break;
            }
        }
        if levels.is_empty() {
            return Err(unsupported(format!(
                "{}: neither the group {} nor one above it has the memory controller",
                top.display(),
                found.name
            )));
        }
        Ok(Self {
            version: found.version,
            levels,
        })
    }

    /// Which interface it has.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The name of the group that counts this process's memory.
    pub fn name(&self) -> &str {
        &self.levels[0].name
    }

    /// The folder of its files.
    pub fn path(&self) -> &Path {
        &self.levels[0].dir
    }

    /// The folder of level `index`, 0 being the group's own.
    pub(super) fn dir(&self, index: usize) -> Result<&Path> {
        self.levels
            .get(index)
            .map(|level| level.dir.as_path())
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidArgument,
                    format!("level {index} of {}", self.levels.len()),
                )
            })
    }

    /// Bytes charged to the group now: what the kernel holds against the limit, so what an eviction must bring down.
    ///
    /// The kernel keeps up to 64 pages a core in hand, so it may be that much too high. A page of a file is charged to
    /// the group that read it first, which may be another.
    ///
    /// # Errors
    /// What reading gives: the group is gone, or its file holds no number.
    pub fn charge(&self) -> Result<u64> {
        number(&self.levels[0].dir.join(match self.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        }))
    }

    /// Every level, own group first. Takes some hundred microseconds in a deep hierarchy.
    ///
    /// # Errors
    /// As [`Self::charge`].
    pub fn read(&self) -> Result<Vec<LevelMemory>> {
        if self.version == Version::V2 {
            return self.levels.iter().map(read_v2).collect();
        }
        let mut levels = Vec::with_capacity(self.levels.len());
        let mut effective = u64::MAX;
        for level in &self.levels {
            let (memory, hierarchical) = read_v1(level)?;
            effective = effective.min(hierarchical);
            levels.push(memory);
        }
        // What binds the group from above the mount is not to be seen there, but known.
        let tightest = levels.iter().filter_map(|level| level.limit).min();
        if effective < tightest.unwrap_or(UNLIMITED)
            && let Some(top) = levels.last_mut()
        {
            top.limit = Some(effective);
        }
        Ok(levels)
    }
}

fn read_v2(level: &Level) -> Result<LevelMemory> {
    let file = |name: &str| level.dir.join(name);
    let stat = Stat::read(&level.dir)?;
    let events = optional(&file("memory.events"))?.unwrap_or_default();
    let events = Stat::parse(&events);
    let count = |name: &str| events.get(name).unwrap_or(0);
    let part = |name: &str| stat.get(name).unwrap_or(0);
    Ok(LevelMemory {
        name: level.name.clone(),
        limit: maximum(&file("memory.max"))?,
        high: maximum(&file("memory.high"))?,
        usage: number(&file("memory.current"))?,
        anon: stat.need("anon")?,
        file: stat.need("file")?,
        reclaimable: part("active_file")
            .saturating_add(part("inactive_file"))
            .saturating_sub(part("file_dirty").saturating_add(part("file_writeback")))
            .saturating_add(part("slab_reclaimable")),
        under_oom: false,
        events: Events {
            high: count("high"),
            max: count("max"),
            oom: count("oom"),
            oom_kill: count("oom_kill"),
        },
    })
}

/// Also the tightest limit on the group, its ancestors' included.
fn read_v1(level: &Level) -> Result<(LevelMemory, u64)> {
    let file = |name: &str| level.dir.join(name);
    let stat = Stat::read(&level.dir)?;
    // Without the prefix: the group alone, without those below it.
    let whole = |name: &str| {
        stat.get(&format!("total_{name}"))
            .or_else(|| stat.get(name))
    };
    let part = |name: &str| whole(name).unwrap_or(0);
    let oom = optional(&file("memory.oom_control"))?.unwrap_or_default();
    let oom = Stat::parse(&oom);
    let effective = stat.get("hierarchical_memory_limit").unwrap_or(u64::MAX);
    let memory = LevelMemory {
        name: level.name.clone(),
        limit: Some(number(&file("memory.limit_in_bytes"))?).filter(|limit| *limit < UNLIMITED),
        high: None,
        usage: number(&file("memory.usage_in_bytes"))?,
        anon: whole("rss").map_or_else(|| stat.need("total_rss"), Ok)?,
        file: whole("cache").map_or_else(|| stat.need("total_cache"), Ok)?,
        reclaimable: part("active_file")
            .saturating_add(part("inactive_file"))
            .saturating_sub(part("dirty").saturating_add(part("writeback"))),
        under_oom: oom.get("under_oom") == Some(1),
        events: Events {
            max: optional(&file("memory.failcnt"))?
                .map_or(Ok(0), |text| parse_number(&file("memory.failcnt"), &text))?,
            oom_kill: oom.get("oom_kill").unwrap_or(0),
            ..Events::default()
        },
    };
    Ok((memory, effective))
}

/// `name number` lines.
struct Stat {
    path: PathBuf,
    values: BTreeMap<String, u64>,
}

impl Stat {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("memory.stat");
        let mut stat = Self::parse(&read(&path)?);
        stat.path = path;
        Ok(stat)
    }

    fn parse(text: &str) -> Self {
        let values = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
            .collect();
        Self {
            path: PathBuf::new(),
            values,
        }
    }

    fn get(&self, name: &str) -> Option<u64> {
        self.values.get(name).copied()
    }

    fn need(&self, name: &str) -> Result<u64> {
        self.get(name)
            .ok_or_else(|| unsupported(format!("{}: it has no {name}", self.path.display())))
    }
}

/// A small kernel file as text. Names of groups may be no UTF-8: odd bytes become U+FFFD.
pub(super) fn read(path: &Path) -> Result<String> {
    leaf::assert_free("a cgroup file is read");
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|e| Error::io(path.display(), &e))
}

/// The file's text, or none if there is no such file.
fn optional(path: &Path) -> Result<Option<String>> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn number(path: &Path) -> Result<u64> {
    parse_number(path, &read(path)?)
}

/// A limit that may be `max`; none, too, if there is no such file.
fn maximum(path: &Path) -> Result<Option<u64>> {
    match optional(path)? {
        Some(text) if text.trim() != "max" => parse_number(path, &text).map(Some),
        _ => Ok(None),
    }
}

fn parse_number(path: &Path, text: &str) -> Result<u64> {
    text.trim().parse().map_err(|_| {
        let begin: String = text.trim().chars().take(40).collect();
        unsupported(format!("{}: {begin:?} is no number", path.display()))
    })
}
