//! Full disks and media that cannot be written. They need a small file system of their own, so root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use atom_core::index::{NewSegment, Store, StreamId};
use atom_core::{ErrorKind, Result};

use crate::{STEP, append, camera, expect, readable, sample, writable};

/// A mounted tmpfs, unmounted at the end.
struct Disk {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

fn mount(args: &[&str], path: &Path) -> bool {
    let done = Command::new("mount").args(args).arg(path).output();
    done.is_ok_and(|output| output.status.success())
}

impl Disk {
    /// `None`, said loudly, where mounting is not permitted.
    fn new(test: &str, size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        fs::create_dir(&path).unwrap();
        let options = format!("size={size}");
        if !mount(&["-t", "tmpfs", "-o", &options, "tmpfs"], &path) {
            eprintln!("SKIPPED {test}: mounting a tmpfs is not permitted here (it needs root)");
            return None;
        }
        Some(Self {
            path,
            _folder: folder,
        })
    }

    fn read_only(&self) {
        assert!(mount(&["-o", "remount,ro"], &self.path));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// A segment whose content follows from `number`, heavier than the usual.
fn append_heavy(store: &Store, stream: StreamId, number: u64, bytes: usize) -> Result<()> {
    let (features, _) = sample(number);
    let start_ns = number as i64 * STEP;
    let segment = NewSegment {
        start_ns,
        end_ns: start_ns + STEP,
        keyframe_ns: start_ns,
        features: &features,
        thumbnail: &vec![number as u8; bytes],
    };
    store.append(stream, &segment).map(drop)
}

fn expect_heavy(store: &Store, stream: StreamId, numbers: std::ops::Range<u64>, bytes: usize) {
    for number in numbers {
        let found = store.segment_at(stream, number as i64 * STEP).unwrap();
        let id = found.unwrap_or_else(|| panic!("{number} is gone")).id;
        assert_eq!(store.features(id).unwrap(), sample(number).0);
        assert_eq!(store.thumbnail(id).unwrap(), vec![number as u8; bytes]);
    }
}

#[test]
fn a_full_disk_loses_nothing_and_appends_go_on_with_space() {
    // Writes of several sizes, so that the space ends in different files.
    for bytes in [10, 3_000, 40_000] {
        let Some(disk) = Disk::new("full disk", "1m") else {
            return;
        };
        let filler = disk.path.join("filler");
        fs::write(&filler, vec![1; 200 << 10]).unwrap();
        let path = disk.path.join("store");
        let store = writable(&path).unwrap();
        let stream = camera(&store, "a");
        let mut count = 0;
        let error = loop {
            match append_heavy(&store, stream, count, bytes) {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
            assert!(count < 100_000);
        };
        assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}");
        assert!(count > 2);
        for _ in 0..5 {
            let error = append_heavy(&store, stream, count + 1, bytes);
            // One that fits may pass; none may fail otherwise.
            match error {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}"),
            }
        }
        expect_heavy(&store, stream, 0..count, bytes);
        let other = readable(&path).unwrap();
        expect_heavy(&other, stream, 0..count, bytes);
        drop(other);

        // Closed and opened again while there is no room at all.
        drop(store);
        let stuffing = disk.path.join("stuffing");
        let mut stuff = fs::File::create(&stuffing).unwrap();
        while std::io::Write::write_all(&mut stuff, &[2; 512]).is_ok() {}
        drop(stuff);
        let reader = readable(&path).unwrap();
        expect_heavy(&reader, stream, 0..count, bytes);
        drop(reader);
        let store = writable(&path).unwrap();
        expect_heavy(&store, stream, 0..count, bytes);

        fs::remove_file(&stuffing).unwrap();
        fs::remove_file(&filler).unwrap();
        for number in count..count + 3 {
            append_heavy(&store, stream, number, bytes).unwrap();
        }
        expect_heavy(&store, stream, 0..count + 3, bytes);
        drop(store);
        let store = writable(&path).unwrap();
        expect_heavy(&store, stream, 0..count + 3, bytes);
        println!("thumbnails of {bytes} bytes: full after {count} segments");
    }
}

#[test]
fn retention_frees_a_full_disk() {
    let Some(disk) = Disk::new("retention on a full disk", "1m") else {
        return;
    };
    let path = disk.path.join("store");
    let store = writable(&path).unwrap();
    let stream = camera(&store, "a");
    let mut count = 0;
    while append_heavy(&store, stream, count, 3_000).is_ok() {
        count += 1;
    }
    let stuffing = disk.path.join("stuffing");
    let mut stuff = fs::File::create(&stuffing).unwrap();
    while std::io::Write::write_all(&mut stuff, &[2; 512]).is_ok() {}
    let retained = store.retain(600 << 10).unwrap();
    assert!(retained.partitions > 5, "{retained:?}");
    for number in count..count + 5 {
        append_heavy(&store, stream, number, 3_000).unwrap();
    }
    expect_heavy(&store, stream, retained.segments..count + 5, 3_000);
}

#[test]
fn a_read_only_medium_can_be_read() {
    let Some(disk) = Disk::new("read-only medium", "4m") else {
        return;
    };
    let clean = disk.path.join("clean #1?");
    let torn = disk.path.join("torn");
    {
        let store = writable(&clean).unwrap();
        let stream = camera(&store, "a");
        for number in 0..20 {
            append(&store, stream, number).unwrap();
        }
        // As a card pulled while the store was open: a log, and no index of it.
        fs::create_dir_all(torn.join("parts")).unwrap();
        for name in ["atom.db", "atom.db-wal", "lock"] {
            fs::copy(clean.join(name), torn.join(name)).unwrap();
        }
        for entry in fs::read_dir(clean.join("parts")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), torn.join("parts").join(entry.file_name())).unwrap();
        }
        assert!(fs::metadata(torn.join("atom.db-wal")).unwrap().len() > 0);
    }
    disk.read_only();
    for path in [&clean, &torn] {
        let store = readable(path).unwrap();
        let stream = store.stream("a").unwrap().id;
        for number in 0..20 {
            expect(&store, stream, number).unwrap();
        }
        let error = writable(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
        assert!(error.remedy_text().is_some());
    }
    let error = writable(&disk.path.join("new")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
}
