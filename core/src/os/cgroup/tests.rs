//! On recorded trees (core/tests/data/cgroup), on made-up lines, and on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use super::find::{Found, memory, unified};
use super::notify::watch_file;
use super::*;
use crate::error::ErrorKind;
use crate::os::poll;

fn tree(name: &str) -> (CgroupFs, PathBuf) {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/cgroup")
        .join(name);
    (CgroupFs::at(tree.join("proc"), &tree), tree)
}

#[test]
fn version_2_is_read_from_the_group_that_counts_upwards() -> Result<()> {
    let (fs, tree) = tree("v2");
    let group = fs.memory()?;
    assert_eq!(group.version(), Version::V2);
    // The worker's own group has no memory controller.
    assert_eq!(group.name(), "/system.slice/atom.service");
    assert_eq!(group.charge()?, 264_241_152);
    let levels = group.read()?;
    assert_eq!(levels.len(), 2, "{levels:?}");
    let own = &levels[0];
    assert_eq!((own.limit, own.high), (Some(314_572_800), None));
    assert_eq!((own.anon, own.file), (201_326_592, 50_331_648));
    // active_file + inactive_file - file_dirty - file_writeback + slab_reclaimable: tmpfs is not in the file lists.
    assert_eq!(
        own.reclaimable,
        25_165_824 + 20_971_520 - 2 * 1_048_576 + 8_388_608
    );
    assert_eq!(own.unreclaimable(), own.usage - own.reclaimable);
    assert_eq!(
        own.events,
        Events {
            high: 0,
            max: 17,
            oom: 1,
            oom_kill: 1
        }
    );
    let above = &levels[1];
    assert_eq!(above.name, "/system.slice");
    assert_eq!(
        (above.limit, above.high, above.bound()),
        (None, Some(800_000_000), Some(800_000_000))
    );
    assert_eq!(above.events.high, 5);
    assert_eq!(
        fs.memory_pressure()?,
        tree.join("sys/fs/cgroup/system.slice/atom.service/worker/memory.pressure")
    );
    Ok(())
}

#[test]
fn version_1_is_read_beside_a_unified_hierarchy_without_the_controller() -> Result<()> {
    let (fs, tree) = tree("v1");
    let group = fs.memory()?;
    assert_eq!(group.version(), Version::V1);
    assert_eq!(group.name(), "/vision/atom");
    assert_eq!(group.path(), tree.join("sys/fs/cgroup/memory/vision/atom"));
    assert_eq!(group.charge()?, 150_994_944);
    let levels = group.read()?;
    let names: Vec<&str> = levels.iter().map(|level| level.name.as_str()).collect();
    assert_eq!(names, ["/vision/atom", "/vision", "/"]);
    // With what is below, so the total_ counters.
    assert_eq!((levels[0].anon, levels[0].file), (104_857_600, 41_943_040));
    assert_eq!(levels[0].reclaimable, 16_777_216 + 20_971_520 - 1_048_576);
    assert_eq!((levels[0].events.max, levels[0].events.oom_kill), (3, 1));
    let held: Vec<bool> = levels.iter().map(|level| level.under_oom).collect();
    assert_eq!(held, [false, true, false]);
    let limits: Vec<Option<u64>> = levels.iter().map(LevelMemory::bound).collect();
    // Nothing is hidden: the tightest limit is one of those seen, and the top stays without.
    assert_eq!(limits, [Some(209_715_200), Some(134_217_728), None]);
    let root = fs.memory_pressure().expect_err("the root group has none");
    assert!(root.message().contains("root cgroup"), "{root}");
    Ok(())
}

#[test]
fn a_limit_from_outside_a_container_counts() -> Result<()> {
    let (fs, tree) = tree("v1-container");
    let group = fs.memory()?;
    assert_eq!(group.name(), "/docker/0f3c");
    assert_eq!(group.path(), tree.join("sys/fs/cgroup/memory"));
    let levels = group.read()?;
    assert_eq!(levels.len(), 1);
    assert_eq!(levels[0].limit, Some(100_663_296));
    Ok(())
}

#[test]
fn a_parent_that_does_not_count_its_children_does_not_bind_them() -> std::io::Result<()> {
    let dir = copied("v1")?;
    let groups = dir.path().join("sys/fs/cgroup/memory");
    fs::write(groups.join("vision/memory.use_hierarchy"), "0\n")?;
    let fs_of = CgroupFs::at(dir.path().join("proc"), dir.path());
    let levels = fs_of.memory().and_then(|group| group.read());
    let levels = levels.expect("readable");
    assert_eq!(levels.len(), 1, "{levels:?}");
    Ok(())
}

#[test]
fn odd_files_are_errors_that_name_them() -> std::io::Result<()> {
    let dir = copied("v2")?;
    let group_dir = dir.path().join("sys/fs/cgroup/system.slice/atom.service");
    let group = CgroupFs::at(dir.path().join("proc"), dir.path()).memory();
    let group = group.expect("found");
    for (file, text) in [
        ("memory.max", "lots\n"),
        ("memory.max", ""),
        ("memory.high", "-1\n"),
        ("memory.current", "18446744073709551616\n"),
        ("memory.stat", "anon\nfile x\n\u{0}"),
    ] {
        let path = group_dir.join(file);
        let before = fs::read(&path)?;
        fs::write(&path, text)?;
        let error = group.read().expect_err(file);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{file}: {error}");
        assert!(error.message().contains(file), "{error}");
        fs::write(&path, before)?;
    }
    // Files that older kernels do not have are no error.
    for file in ["memory.high", "memory.events", "memory.max"] {
        fs::remove_file(group_dir.join(file))?;
    }
    let levels = group.read().expect("without them");
    assert_eq!(
        (levels[0].bound(), levels[0].events),
        (None, Events::default())
    );
    fs::remove_dir_all(&group_dir)?;
    assert_eq!(
        group.charge().map_err(|e| e.kind()),
        Err(ErrorKind::NotFound)
    );
    Ok(())
}

/// A copy of a recorded tree that a test may change.
fn copied(name: &str) -> std::io::Result<tempfile::TempDir> {
    fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let to = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                copy(&entry.path(), &to)?;
            } else {
                fs::copy(entry.path(), &to)?;
            }
        }
        Ok(())
    }
    let dir = tempfile::tempdir()?;
    copy(&tree(name).1, dir.path())?;
    Ok(dir)
}

/// One mount of a version 2 hierarchy.
fn mount(root: &str, point: &str) -> String {
    format!("30 24 0:26 {root} {point} rw shared:9 master:1 - cgroup2 none rw,nsdelegate\n")
}

fn place(found: Result<Found>) -> Result<(String, String), ErrorKind> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    found
        .map(|found| (text(found.mount), text(found.below)))
        .map_err(|error| error.kind())
}

#[test]
fn the_group_is_found_below_any_mount() {
    let at = |mount: &str, below: &str| Ok((mount.to_owned(), below.to_owned()));
    let nowhere = Err(ErrorKind::Unsupported);
    // (the group, mounts as root and point, where it is found)
    let cases = [
        (
            "/a/b",
            vec![("/", "/sys/fs/cgroup")],
            at("/sys/fs/cgroup", "a/b"),
        ),
        ("/", vec![("/", "/sys/fs/cgroup")], at("/sys/fs/cgroup", "")),
        // A container without a cgroup namespace.
        ("/docker/x/y", vec![("/docker/x", "/cg")], at("/cg", "y")),
        // The mount that shows more ancestors, whichever comes first.
        ("/a/b", vec![("/a", "/m1"), ("/", "/m2")], at("/m2", "a/b")),
        ("/a/b", vec![("/", "/m2"), ("/a", "/m1")], at("/m2", "a/b")),
        // Names are compared by parts.
        ("/ab", vec![("/a", "/m1")], nowhere.clone()),
        // A blank, written in octal; a colon in the group's name.
        (
            "/a:b c",
            vec![("/", "/mnt/c\\040g")],
            at("/mnt/c g", "a:b c"),
        ),
        // Outside the cgroup namespace, on either side.
        ("/../other", vec![("/", "/cg")], nowhere.clone()),
        ("/a", vec![("/..", "/cg")], nowhere.clone()),
        ("/a", vec![], nowhere),
    ];
    for (name, mounts, want) in cases {
        let mountinfo: String = mounts
            .iter()
            .map(|(root, point)| mount(root, point))
            .collect();
        let cgroup = format!("1:name=systemd:/else\n0::{name}\n");
        assert_eq!(
            place(memory(&cgroup, &mountinfo)),
            want,
            "{name} {mounts:?}"
        );
        assert_eq!(
            place(unified(&cgroup, &mountinfo)),
            want,
            "{name} {mounts:?}"
        );
    }
    // Version 1 goes first, and its mount is told by its options.
    let cgroup = "4:cpu,memory:/m\n0::/u\n";
    let mountinfo = "1 2 0:3 / /cpu rw - cgroup cgroup rw,cpuacct\n\
                     1 2 0:3 / /both rw - cgroup cgroup rw,cpu,memory\n"
        .to_owned()
        + &mount("/", "/unified");
    assert_eq!(place(memory(cgroup, &mountinfo)), at("/both", "m"));
    assert_eq!(place(unified(cgroup, &mountinfo)), at("/unified", "u"));
    // Not mounted: not replaced by the unified hierarchy, which then has no memory controller.
    assert!(place(memory(cgroup, &mount("/", "/unified"))).is_err());
}

#[test]
fn garbage_never_panics_and_finds_nothing_outside_the_mounts() -> Result<()> {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    for name in ["v1", "v2", "v1-container"] {
        let (_, tree) = tree(name);
        let cgroup = read(&tree.join("proc/self/cgroup"))?;
        let mountinfo = read(&tree.join("proc/self/mountinfo"))?;
        for _ in 0..3000 {
            let mut spoil = |text: &str| {
                let mut bytes = text.as_bytes().to_vec();
                for _ in 0..=random(4) {
                    match random(3) {
                        0 => bytes.truncate(random(bytes.len() + 1)),
                        1 if !bytes.is_empty() => {
                            let at = random(bytes.len());
                            bytes[at] = b" /:.,-\\07\n\xff"[random(11)];
                        }
                        _ => bytes.insert(random(bytes.len() + 1), b" /:.\n\\"[random(6)]),
                    }
                }
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let (cgroup, mountinfo) = (spoil(&cgroup), spoil(&mountinfo));
            for found in [memory(&cgroup, &mountinfo), unified(&cgroup, &mountinfo)] {
                let Ok(found) = found else { continue };
                let climbs = found
                    .below
                    .components()
                    .any(|part| !matches!(part, std::path::Component::Normal(_)));
                assert!(!climbs, "{found:?} from {cgroup:?} {mountinfo:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn this_machine_has_a_memory_cgroup_or_says_why_not() {
    let fs = CgroupFs::default();
    match fs.memory() {
        Ok(group) => {
            let levels = group.read().expect("readable");
            assert_eq!(levels[0].name, group.name());
            for level in &levels {
                assert!(level.reclaimable <= level.usage + (64 << 20), "{level:?}");
            }
            println!("{:?} {:?}", group.version(), levels[0]);
        }
        Err(why) => {
            assert_eq!(why.kind(), ErrorKind::Unsupported, "{why}");
            eprintln!("SKIPPED: {why}");
        }
    }
}

/// `memory.events` needs the version 2 memory controller; `cgroup.events` tells of changes in the same way, and every
/// unified hierarchy has it.
#[test]
fn a_changed_kernel_file_is_told_once() {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let found = unified(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"));
    let group = match found.map(|found| found.dir(Path::new("/"))) {
        Ok(own) => own.join(format!("atom-test-{}", std::process::id())),
        Err(why) => return eprintln!("SKIPPED: {why}"),
    };
    if let Err(why) = fs::create_dir(&group) {
        return eprintln!("SKIPPED: {}: {why}", group.display());
    }
    let long = std::time::Duration::from_secs(600);
    let told = || -> Result<()> {
        let mut notifier = watch_file(&group.join("cgroup.events"))?;
        let ready = |notifier: &Notifier, timeout| {
            use std::os::fd::AsFd;
            poll::wait(&[(notifier.as_fd(), notifier.interest())], timeout)
                .map(|ready| ready[0].event)
        };
        assert!(!ready(&notifier, std::time::Duration::ZERO)?);
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .map_err(|e| crate::Error::io("cat", &e))?;
        let moved = fs::write(group.join("cgroup.procs"), child.id().to_string());
        let waited = moved
            .map_err(|e| crate::Error::io("cgroup.procs", &e))
            .and_then(|()| ready(&notifier, long));
        drop(child.stdin.take());
        let ended = child.wait();
        assert!(waited?, "nobody told that the group is populated");
        assert!(ended.is_ok());
        // Told again: the group is empty.
        notifier.acknowledge()?;
        assert!(ready(&notifier, long)?);
        notifier.acknowledge()?;
        assert!(!ready(&notifier, std::time::Duration::ZERO)?);
        Ok(())
    };
    let told = told();
    let removed = fs::remove_dir(&group);
    told.expect("told");
    removed.expect("removed");
}
