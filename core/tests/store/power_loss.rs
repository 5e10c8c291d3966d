//! Loss of power, replayed: a child writes a store while every write, sync, creation and removal is recorded. At many points the
//! record is cut; what a disk may hold then (everything synced, and of the rest any sectors) is laid out, and the store opened.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use atom_core::index::NewSegment;

use crate::{Random, STEP, append, camera, caption, expect, sample, writable};

pub(crate) const STORE: &str = "ATOM_TEST_RECORDED_STORE";

/// Not a test of its own: what the recorded child does.
#[test]
#[ignore = "run by the test below"]
fn recorded_child() {
    let Some(folder) = std::env::var_os(STORE).map(PathBuf::from) else {
        return;
    };
    let mut acks = fs::File::create(folder.join("acks")).unwrap();
    let mut say = |line: String| acks.write_all(line.as_bytes()).unwrap();
    let path = folder.join("store");
    let mut store = writable(&path).unwrap();
    let (mut a, b) = (camera(&store, "a"), camera(&store, "b"));
    for number in 0..120 {
        if number % 10 == 4 {
            // Came with the one before.
        } else if number % 10 == 3 {
            let both: Vec<_> = [number, number + 1].map(|n| (n, sample(n))).into();
            let segments: Vec<_> = both
                .iter()
                .map(|(n, (features, thumbnail))| NewSegment {
                    start_ns: *n as i64 * STEP,
                    end_ns: (*n as i64 + 1) * STEP,
                    keyframe_ns: *n as i64 * STEP + STEP / 2,
                    features,
                    thumbnail,
                })
                .collect();
            store.append_batch(a, &segments).unwrap();
            say(format!("a {number}\na {}\n", number + 1));
        } else if number % 7 == 0 && number < 90 {
            append(&store, b, number).unwrap();
            say(format!("b {number}\n"));
        } else {
            let id = append(&store, a, number).unwrap();
            say(format!("a {number}\n"));
            if number % 6 == 0 {
                let caption = caption(&format!("{number}"));
                store.set_caption(id, "m", &caption).unwrap();
                say(format!("caption {number}\n"));
            }
        }
        if number == 40 {
            drop(store);
            store = writable(&path).unwrap();
            a = camera(&store, "a");
        }
        if number == 70 {
            say("retain\n".into());
            let stats = store.stats().unwrap();
            let bytes = stats.vector_bytes + stats.blob_bytes;
            let removed = store.retain(bytes / 2 + stats.catalogue_bytes).unwrap();
            assert!(removed.partitions > 2);
            let first = store.segments(a, None, None).unwrap()[0].start_ns / STEP;
            say(format!("retained {first}\n"));
        }
        if number == 90 {
            say("delete\n".into());
            store.delete_stream(b).unwrap();
            say("deleted\n".into());
        }
    }
}

#[derive(Debug)]
pub(crate) enum Op {
    Create,
    Write(u64, Vec<u8>),
    Truncate(u64),
    Sync,
    Unlink,
    Mkdir,
}

fn parse(log: &[u8], root: &Path) -> Vec<(PathBuf, Op)> {
    let mut ops = Vec::new();
    let mut rest = log;
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(32);
        let number = |i: usize| u64::from_ne_bytes(head[i * 8..i * 8 + 8].try_into().unwrap());
        let (path, tail) = tail.split_at(number(1) as usize);
        let (data, tail) = tail.split_at(number(3) as usize);
        rest = tail;
        let path = PathBuf::from(String::from_utf8(path.to_vec()).unwrap());
        let op = match number(0) {
            1 => Op::Create,
            2 => Op::Write(number(2), data.to_vec()),
            3 => Op::Truncate(number(2)),
            4 => Op::Sync,
            5 => Op::Unlink,
            6 => Op::Mkdir,
            other => panic!("operation {other} on {}", path.display()),
        };
        ops.push((path.strip_prefix(root).unwrap().to_owned(), op));
    }
    ops
}

/// A file as the disk has it, and what was asked of it since its last sync.
#[derive(Default, Clone)]
struct Inode {
    synced: Vec<u8>,
    pending: Vec<Change>,
    folder: bool,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>, mut sector: impl FnMut() -> bool) {
        match self {
            Change::Write(at, data) => {
                let (mut at, mut data) = (*at as usize, data.as_slice());
                while !data.is_empty() {
                    let (now, later) = data.split_at(data.len().min(512 - at % 512));
                    if sector() {
                        if content.len() < at + now.len() {
                            content.resize(at + now.len(), 0);
                        }
                        content[at..at + now.len()].copy_from_slice(now);
                    }
                    (at, data) = (at + now.len(), later);
                }
            }
            Change::Truncate(len) => {
                if sector() {
                    content.resize(*len as usize, 0);
                }
            }
        }
    }
}

#[derive(Clone)]
enum Entry {
    Add(PathBuf, usize),
    Remove(PathBuf),
}

/// How much of what was not synced is on the disk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kept {
    Nothing,
    Everything,
    Torn,
}

#[derive(Default)]
pub(crate) struct Disk {
    inodes: Vec<Inode>,
    /// What the process sees.
    now: BTreeMap<PathBuf, usize>,
    /// What is sure to be there.
    synced: BTreeMap<PathBuf, usize>,
    pending: BTreeMap<PathBuf, Vec<Entry>>,
}

impl Disk {
    fn entry(&mut self, path: &Path, entry: Entry) {
        let parent = path.parent().unwrap().to_owned();
        self.pending.entry(parent).or_default().push(entry);
    }

    pub(crate) fn step(&mut self, path: &Path, op: &Op) {
        match op {
            Op::Create | Op::Mkdir => {
                self.inodes.push(Inode {
                    folder: matches!(op, Op::Mkdir),
                    ..Inode::default()
                });
                let inode = self.inodes.len() - 1;
                self.now.insert(path.to_owned(), inode);
                self.entry(path, Entry::Add(path.to_owned(), inode));
            }
            Op::Unlink => {
                self.now.remove(path);
                self.entry(path, Entry::Remove(path.to_owned()));
            }
            Op::Write(at, data) => self.change(path, Change::Write(*at, data.clone())),
            Op::Truncate(len) => self.change(path, Change::Truncate(*len)),
            Op::Sync => {
                let inode = self.now.get(path).copied();
                if inode.is_none_or(|i| self.inodes[i].folder) {
                    for entry in self.pending.remove(path).unwrap_or_default() {
                        put(&mut self.synced, &entry);
                    }
                } else if let Some(inode) = inode {
                    let inode = &mut self.inodes[inode];
                    for change in std::mem::take(&mut inode.pending) {
                        change.apply(&mut inode.synced, || true);
                    }
                }
            }
        }
    }

    fn change(&mut self, path: &Path, change: Change) {
        // An open file that was unlinked: gone with any crash.
        if let Some(&inode) = self.now.get(path) {
            self.inodes[inode].pending.push(change);
        }
    }

    /// Lays out in `to` what may be left.
    pub(crate) fn crash(&self, to: &Path, kept: Kept, random: &mut Random) {
        let mut names = self.synced.clone();
        for entries in self.pending.values() {
            let count = match kept {
                Kept::Nothing => 0,
                Kept::Everything => entries.len(),
                Kept::Torn => random.below(entries.len() as u64 + 1) as usize,
            };
            for entry in &entries[..count] {
                put(&mut names, entry);
            }
        }
        for (path, &inode) in &names {
            let (inode, to) = (&self.inodes[inode], to.join(path));
            if !to.parent().unwrap().exists() {
                continue; // its folder is not on the disk
            }
            if inode.folder {
                fs::create_dir(&to).unwrap();
                continue;
            }
            let mut content = inode.synced.clone();
            // Some files all, some none, some in part.
            let odds = random.below(5);
            for change in &inode.pending {
                change.apply(&mut content, || match kept {
                    Kept::Nothing => false,
                    Kept::Everything => true,
                    Kept::Torn => random.below(4) < odds,
                });
            }
            fs::write(&to, content).unwrap();
        }
    }
}

fn put(names: &mut BTreeMap<PathBuf, usize>, entry: &Entry) {
    match entry {
        Entry::Add(path, inode) => names.insert(path.clone(), *inode),
        Entry::Remove(path) => names.remove(path),
    };
}

/// What the ignored test `child` does to the files in a folder whose path it finds in [`STORE`].
pub(crate) fn record(folder: &Path, child: &str) -> Vec<(PathBuf, Op)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/record.c");
    let shim = folder.join("record.so");
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let built = Command::new(cc)
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
        .args([&shim, &source])
        .arg("-ldl")
        .status()
        .expect("a C compiler, as the bundled SQLite needs one too");
    assert!(built.success(), "{} does not compile", source.display());
    let root = folder.join("disk");
    fs::create_dir(&root).unwrap();
    let log = folder.join("log");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", child, "--ignored"])
        .args(["--test-threads", "1"])
        .env(STORE, &root)
        .env("ATOM_RECORD_DIR", &root)
        .env("ATOM_RECORD_LOG", &log)
        .env("LD_PRELOAD", &shim)
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    let ops = parse(&fs::read(log).unwrap(), &root);
    // The record explains the files that are there: nothing was written past it.
    let mut disk = Disk::default();
    for (path, op) in &ops {
        disk.step(path, op);
    }
    let replay = folder.join("replay");
    fs::create_dir(&replay).unwrap();
    disk.crash(&replay, Kept::Everything, &mut Random(0));
    for (path, _) in disk.now.iter().filter(|(_, i)| !disk.inodes[**i].folder) {
        let same = fs::read(root.join(path)).unwrap() == fs::read(replay.join(path)).unwrap();
        assert!(
            same,
            "{} was written behind the record's back",
            path.display()
        );
    }
    ops
}

/// What was acknowledged before the cut.
#[derive(Default)]
struct Acknowledged {
    a: Vec<u64>,
    b: Vec<u64>,
    captions: Vec<u64>,
    retaining: bool,
    retained: bool,
    deleting: bool,
    deleted: bool,
}

#[test]
fn no_acknowledged_segment_is_lost_with_the_power() {
    // In memory where there is some: hundreds of stores are laid out.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    };
    let folder = folder.path().canonicalize().unwrap();
    let ops = record(&folder, "power_loss::recorded_child");
    let syncs = ops.iter().filter(|(_, op)| matches!(op, Op::Sync)).count();
    println!("{} operations, {syncs} syncs", ops.len());
    let said = |text: &str| -> Option<u64> {
        ops.iter().find_map(|(path, op)| match op {
            Op::Write(_, data) if path == Path::new("acks") => {
                let line = std::str::from_utf8(data).unwrap();
                line.strip_prefix(text)?.trim().parse().ok()
            }
            _ => None,
        })
    };
    let first_retained = said("retained ").unwrap();

    let mut random = Random(2026);
    let mut cuts: Vec<usize> = (0..400)
        .map(|_| random.below(ops.len() as u64 + 1) as usize)
        .collect();
    cuts.push(ops.len());
    cuts.sort_unstable();
    let mut disk = Disk::default();
    let mut acks = Acknowledged::default();
    let mut done = 0;
    let image = folder.join("image");
    for (trial, cut) in cuts.into_iter().enumerate() {
        for (path, op) in &ops[done..cut] {
            if path == Path::new("acks") {
                if let Op::Write(_, data) = op {
                    acks.hear(std::str::from_utf8(data).unwrap());
                }
            } else {
                disk.step(path, op);
            }
        }
        done = cut;
        let kept = [Kept::Torn, Kept::Nothing, Kept::Torn, Kept::Everything][trial % 4];
        let _ = fs::remove_dir_all(&image);
        fs::create_dir(&image).unwrap();
        disk.crash(&image, kept, &mut random);
        if let Err(what) = acks.check(&image.join("store"), first_retained) {
            panic!(
                "power lost after operation {cut} of {}, {kept:?}: {what}",
                ops.len()
            );
        }
    }
    assert!(acks.deleted && acks.retained && acks.a.len() > 90);
}

impl Acknowledged {
    fn hear(&mut self, text: &str) {
        for line in text.lines() {
            let (word, number) = line.split_once(' ').unwrap_or((line, ""));
            let number = number.parse().unwrap_or(0);
            match word {
                "a" => self.a.push(number),
                "b" => self.b.push(number),
                "caption" => self.captions.push(number),
                "retain" => self.retaining = true,
                "retained" => self.retained = true,
                "delete" => self.deleting = true,
                "deleted" => self.deleted = true,
                other => panic!("{other}"),
            }
        }
    }

    fn check(&self, path: &Path, first_retained: u64) -> Result<(), String> {
        let text = |e: atom_core::Error| e.to_string();
        let store = writable(path).map_err(text)?;
        let least = if self.retaining { first_retained } else { 0 };
        if !self.a.is_empty() {
            let a = store.stream("a").map_err(text)?.id;
            for &number in self.a.iter().filter(|n| **n >= least) {
                expect(&store, a, number)?;
            }
            for &number in self.captions.iter().filter(|n| **n >= least) {
                let segment = store.segment_at(a, number as i64 * STEP).map_err(text)?;
                let id = segment.ok_or("a captioned segment is gone")?.id;
                let kept = store.caption(id, "m").map_err(text)?;
                if kept != Some(caption(&number.to_string())) {
                    return Err(format!("caption {number} is gone"));
                }
            }
            let first = store.segments(a, None, None).map_err(text)?;
            if self.retained && first[0].start_ns < least as i64 * STEP {
                return Err(format!("{} is back after its removal", first[0].start_ns));
            }
        }
        if self.deleted {
            if store.stream("b").is_ok() {
                return Err("stream b is back after its deletion".into());
            }
        } else if !self.deleting && !self.b.is_empty() {
            let b = store.stream("b").map_err(text)?.id;
            for &number in self.b.iter().filter(|n| **n >= least) {
                expect(&store, b, number)?;
            }
        }
        let stats = store.stats().map_err(text)?;
        if stats.corrupt_records + stats.damaged_partitions > 0 {
            return Err(format!("damage: {stats:?}"));
        }
        // And it goes on.
        let c = camera(&store, "c");
        append(&store, c, 5).map_err(text)?;
        drop(store);
        let store = writable(path).map_err(text)?;
        expect(&store, c, 5)
    }
}
