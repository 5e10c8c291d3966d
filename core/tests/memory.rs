//! Memory pressure and parking as the kernel does them: in a memory cgroup of the test's own, with a real limit. Each
//! test runs itself again as a child in that group. Where no such group can be made (it takes version 1 of the memory
//! controller, and the right to make groups) it says so, and what needs none is tested without.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atom_core::budget::Governor;
use atom_core::budget::pressure::{CgroupShares, CgroupSource, Level, Monitor, Source};
use atom_core::cache;
use atom_core::module::Registry;
use atom_core::ort::{Environment, EnvironmentOptions};
use atom_core::os::cgroup::{CgroupFs, MemoryCgroup, Version};
use atom_core::os::file::uncache;
use atom_core::os::madvise::FileMappings;
use atom_core::os::poll::{self, Ready};
use atom_core::pack::{ArtifactCache, Pack};
use memmap2::{Mmap, MmapMut, MmapOptions};

/// Set in the child: it is in its group.
const CHILD: &str = "ATOM_TEST_IN_GROUP";
/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);
const MB: u64 = 1_000_000;

/// A memory cgroup that ends with the test.
struct Group(PathBuf);

impl Group {
    fn new(name: &str, limit: u64) -> Result<Self, String> {
        let own = CgroupFs::default().memory().map_err(|e| e.to_string())?;
        if own.version() != Version::V1 {
            return Err(
                "the memory controller is version 2, where groups of processes have no children"
                    .into(),
            );
        }
        let path = own
            .path()
            .join(format!("atom-test-{name}-{}", std::process::id()));
        let failed = |e: io::Error| format!("{}: {e}", path.display());
        fs::create_dir(&path).map_err(failed)?;
        let group = Self(path.clone());
        fs::write(path.join("memory.limit_in_bytes"), limit.to_string()).map_err(failed)?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} is left over: {error}", self.0.display());
        }
    }
}

/// Where a test runs.
enum Place {
    /// In a group of its own.
    Group(MemoryCgroup),
    /// In no such group: none can be made.
    Outside,
    /// It has run, in a child.
    Done,
}

/// Runs `test` in a child whose group has that limit, and tells the child of its group.
fn in_group(test: &str, limit: u64) -> Place {
    if std::env::var_os(CHILD).is_some() {
        let mut go = String::new();
        io::stdin().lock().read_line(&mut go).expect("stdin");
        let group = CgroupFs::default().memory().expect("a group");
        assert!(group.name().contains(test), "{}", group.name());
        return Place::Group(group);
    }
    let group = match Group::new(test, limit) {
        Ok(group) => group,
        Err(why) => {
            eprintln!("SKIPPED: no memory cgroup of its own: {why}");
            return Place::Outside;
        }
    };
    let mut child = again(test).stdin(Stdio::piped()).spawn().expect("child");
    let moved = fs::write(group.0.join("cgroup.procs"), child.id().to_string());
    // Ends the child's wait; without the move it ends at once.
    let told = child.stdin.take().map(|mut stdin| stdin.write_all(b"go\n"));
    let status = child.wait().expect("ended");
    moved.expect("moved into the group");
    told.expect("stdin").expect("told");
    assert!(status.success(), "the child: {status}");
    Place::Done
}

/// This binary, to run that test alone, as a child.
fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("own name"));
    command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1");
    command
}

/// Anonymous memory, touched, so charged.
fn allocate(bytes: u64) -> MmapMut {
    let mut block = MmapMut::map_anon(bytes as usize).expect("address space");
    block.fill(1);
    block
}

fn folder() -> tempfile::TempDir {
    // Not the system's temporary folder: that may be a tmpfs, whose pages have nowhere to go.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("folder")
}

fn source() -> CgroupSource {
    CgroupSource::new(&CgroupFs::default(), CgroupShares::default())
}

#[test]
fn pressure_rises_towards_the_limit_and_falls_after_freeing() {
    let limit = 200 * MB;
    let Place::Group(group) = in_group(
        "pressure_rises_towards_the_limit_and_falls_after_freeing",
        limit,
    ) else {
        return;
    };
    let sources: Vec<Box<dyn Source>> = vec![Box::new(source())];
    let mut monitor = Monitor::of(sources, Duration::ZERO, Duration::ZERO).expect("monitor");
    let mut seen = vec![Level::None];
    let mut check = || {
        let change = monitor.check(Instant::now()).expect("readable");
        if let Some(change) = change {
            println!("{} MB: {change:?}", group.charge().expect("charge") / MB);
            assert_eq!(change.source, "cgroup");
            seen.push(change.to);
        }
        monitor.level()
    };
    assert_eq!(check(), Level::None);

    // Page cache up to the limit is no pressure. A file of holes costs no disk.
    let folder = folder();
    let holes = folder.path().join("holes");
    File::create(&holes)
        .and_then(|file| file.set_len(limit * 3 / 2))
        .expect("a sparse file");
    let read = io::copy(&mut File::open(&holes).expect("open"), &mut io::sink()).expect("read");
    assert_eq!(read, limit * 3 / 2);
    let charge = group.charge().expect("charge");
    assert!(charge > limit * 85 / 100, "{charge} charged of {limit}");
    assert_eq!(check(), Level::None);

    let mut blocks = Vec::new();
    while check() != Level::Critical {
        blocks.push(allocate(4 * MB));
        assert!(blocks.len() < 50, "more than the limit, and no word of it");
    }
    while check() != Level::None {
        assert!(blocks.pop().is_some(), "all is freed");
    }
    drop(blocks);
    use Level::{Critical, Low, None};
    assert_eq!(seen, [None, Low, Critical, Low, None]);
}

#[test]
fn a_crossed_threshold_is_told() {
    let Place::Group(_) = in_group("a_crossed_threshold_is_told", 200 * MB) else {
        return;
    };
    let mut source = source();
    let told = |source: &CgroupSource, timeout| {
        let ready = poll::wait(&source.events(), timeout).expect("poll");
        assert!(!ready.is_empty(), "nothing to wait for");
        ready
    };
    let any = |ready: &[Ready]| ready.iter().any(|ready| ready.event);
    assert!(!any(&told(&source, Duration::ZERO)));
    let block = allocate(180 * MB);
    let ready = told(&source, LONG);
    assert!(any(&ready), "180 of 200 MB, and no word of it");
    source.acknowledge(&ready);
    assert_eq!(source.read().level(), Level::Low);
    assert!(!any(&told(&source, Duration::ZERO)), "told twice");
    // Downwards, too.
    drop(block);
    let ready = told(&source, LONG);
    assert!(any(&ready), "all freed, and no word of it");
    source.acknowledge(&ready);
    assert_eq!(source.read().level(), Level::None);
}

/// A file of 64 MiB without two equal pages, out of the page cache.
fn weights(folder: &Path) -> io::Result<PathBuf> {
    let path = folder.join("weights");
    let mut state = 1u64;
    let bytes: Vec<u8> = (0..8 << 20)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    let mut file = File::create(&path)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    uncache(&path).map_err(io::Error::other)?;
    Ok(path)
}

/// Whether that folder's files are on no disk.
fn in_memory(folder: &Path) -> bool {
    let kind = Command::new("stat")
        .args(["--file-system", "--format=%T"])
        .arg(folder)
        .output()
        .expect("stat");
    let in_memory = matches!(kind.stdout.trim_ascii(), b"tmpfs" | b"ramfs");
    if in_memory {
        eprintln!("SKIPPED: {} is in memory", folder.display());
    }
    in_memory
}

fn map(path: &Path) -> io::Result<Mmap> {
    // SAFETY: the file is this test's own; nobody truncates it while it is mapped.
    unsafe { MmapOptions::new().map_copy_read_only(&File::open(path)?) }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.as_chunks::<8>().0.iter().fold(0, |sum, word| {
        sum.rotate_left(5) ^ u64::from_le_bytes(*word)
    })
}

#[test]
fn parked_pages_leave_the_charge_and_come_back_equal() {
    let group = match in_group(
        "parked_pages_leave_the_charge_and_come_back_equal",
        500 * MB,
    ) {
        Place::Group(group) => Some(group),
        Place::Outside => None,
        Place::Done => return,
    };
    let folder = folder();
    if in_memory(folder.path()) {
        return;
    }
    let path = weights(folder.path()).expect("written");
    let file = 64 << 20;
    // The kernel counts in steps a core, and pages of the file system's own come and go.
    let slack = 8 << 20;
    let charge = || group.as_ref().map(|group| group.charge().expect("charge"));
    let fell = |before: Option<u64>, after: Option<u64>, want: u64| {
        if let (Some(before), Some(after)) = (before, after) {
            let fell = before.saturating_sub(after);
            assert!(
                fell.abs_diff(want) <= slack,
                "{before} charged, then {after}"
            );
        }
    };

    let map = map(&path).expect("mapped");
    let mappings = FileMappings::of(&path).expect("smaps");
    assert_eq!((mappings.bytes(), mappings.excluded_bytes()), (file, 0));
    let resident = || mappings.resident_bytes().expect("mincore");
    let rss = || mappings.mapped().expect("smaps").rss;
    assert_eq!(resident(), 0);
    let cold = charge();
    let before = sum(&map);
    let warm = charge();
    fell(warm, cold, file);
    assert_eq!((resident(), rss()), (file, file));

    // Dropped from the page tables: gone from RSS, still charged.
    // SAFETY: `map` is held, and it is read-only.
    unsafe { mappings.drop_pages() }.expect("dropped");
    assert_eq!((resident(), rss()), (file, 0));
    let dropped = charge();
    fell(warm, dropped, 0);
    assert_eq!(sum(&map), before);

    // Paged out: gone from the page cache and from the charge.
    let parked = mappings.page_out().expect("parked");
    let after = charge();
    println!("{parked:?}; charged {warm:?}, {dropped:?} when dropped, {after:?} when parked");
    assert_eq!(parked.before, file);
    assert!(parked.freed() > file - slack, "{parked:?}");
    fell(warm, after, file);
    assert!(rss() < slack);
    assert_eq!(sum(&map), before, "not the same bytes");

    // While others read, too.
    std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| scope.spawn(|| [(); 3].map(|()| sum(&map))));
        for _ in 0..5 {
            mappings.page_out().expect("parked");
        }
        for reader in readers {
            assert_eq!(reader.join().expect("read"), [before; 3]);
        }
    });

    // Dropped, then out of the page cache: as a module is parked.
    // SAFETY: as above.
    unsafe { mappings.drop_pages() }.expect("dropped");
    uncache(&path).expect("advice");
    assert!(resident() < slack);

    // Read ahead of use, half of it and then all.
    let half = mappings.clone().up_to(file / 2);
    half.read_in(&|| Ok(())).expect("read");
    // The kernel may have begun to read ahead of the last piece, as far as the device says: 8 MB here.
    let read = resident();
    assert!(
        read >= file / 2 && read < file * 3 / 4,
        "{read} of {file} bytes"
    );
    mappings.read_in(&|| Ok(())).expect("read");
    assert_eq!((resident(), rss()), (file, 0));
    assert_eq!(sum(&map), before);
}

#[test]
fn pages_mapped_twice_go_when_both_are_dropped() {
    let folder = folder();
    if in_memory(folder.path()) {
        return;
    }
    let path = weights(folder.path()).expect("written");
    let (one, two) = (map(&path).expect("mapped"), map(&path).expect("mapped"));
    let before = sum(&one);
    assert_eq!(sum(&two), before);
    let both = FileMappings::of(&path).expect("smaps");
    assert_eq!(both.bytes(), 128 << 20);
    // How much of it the kernel takes depends on its version; what it says it took is gone.
    let parked = both.page_out().expect("parked");
    println!("{parked:?}");
    assert_eq!(both.resident_bytes().expect("mincore"), parked.after);
    assert_eq!((sum(&one), sum(&two)), (before, before));
    // SAFETY: both maps are held, and they are read-only.
    unsafe { both.drop_pages() }.expect("dropped");
    uncache(&path).expect("advice");
    assert!(both.resident_bytes().expect("mincore") < 8 << 20);
    assert_eq!((sum(&one), sum(&two)), (before, before));
}

#[test]
fn weights_of_a_loaded_pack_are_parked_and_its_outputs_stay() -> Result<(), Box<dyn Error>> {
    let folder = folder();
    if in_memory(folder.path()) {
        return Ok(());
    }
    let registry = Registry::new(
        Arc::new(Pack::open(&cache::dir().join("packs/reference"))?),
        Environment::open(&EnvironmentOptions::default())?,
        &Governor::default(),
        ArtifactCache::new(folder.path()),
    );
    for module in registry.status() {
        registry.lease(&module.id)?;
    }
    let golden = || -> atom_core::Result<Vec<u64>> {
        let reports = registry.golden()?;
        Ok(reports.iter().map(|own| own.cosine.to_bits()).collect())
    };
    let before = golden()?;
    let mut files = Vec::new();
    for entry in fs::read_dir(folder.path())? {
        for file in fs::read_dir(entry?.path())? {
            files.push(file?.path());
        }
    }
    let mut freed = 0;
    for file in files {
        let weights = FileMappings::of(&file)?;
        if weights.bytes() == 0 {
            continue;
        }
        let size = fs::metadata(&file)?.len();
        let started = Instant::now();
        let parked = weights.page_out()?;
        println!(
            "{} MB in a file, {} MB mapped, {} MB with pages of their own: {} of {} MB parked in {:.0} ms",
            size / MB,
            weights.bytes() / MB,
            weights.excluded_bytes() / MB,
            parked.freed() / MB,
            parked.before / MB,
            started.elapsed().as_secs_f64() * 1e3
        );
        // ONNX Runtime writes to none of its maps, and maps next to nothing twice.
        assert_eq!(weights.excluded_bytes(), 0);
        assert!(parked.after <= parked.before / 20, "{parked:?}");
        freed += parked.freed();
    }
    let mapped: u64 = registry.status().iter().map(|own| own.mapped_bytes).sum();
    assert!(freed > mapped / 2, "{freed} of {mapped} bytes mapped");
    assert_eq!(golden()?, before);
    Ok(())
}

/// Names the file, in the child that is somebody else.
const FILE: &str = "ATOM_TEST_FILE";
/// A user who owns nothing.
const NOBODY: u32 = 65534;

#[test]
fn a_file_of_somebody_else_is_not_parked_but_can_be_dropped() {
    if let Some(path) = std::env::var_os(FILE) {
        let path = Path::new(&path);
        let map = map(path).expect("mapped");
        let before = sum(&map);
        let mappings = FileMappings::of(path).expect("smaps");
        let parked = mappings.page_out().expect("no error, and no effect");
        println!("{parked:?}");
        assert_eq!(parked.freed(), 0);
        assert_eq!(mappings.mapped().expect("smaps").rss, 64 << 20);
        // SAFETY: `map` is held, and it is read-only.
        unsafe { mappings.drop_pages() }.expect("dropped");
        assert_eq!(mappings.mapped().expect("smaps").rss, 0);
        assert_eq!(sum(&map), before);
        return;
    }
    if atom_core::os::user::effective_id() != 0 {
        eprintln!("SKIPPED: only root can be somebody else");
        return;
    }
    let folder = folder();
    let path = weights(folder.path()).expect("written");
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(folder.path(), mode(0o755)).expect("mode");
    fs::set_permissions(&path, mode(0o644)).expect("mode");
    let may = |mut command: Command| {
        let status = command
            .uid(NOBODY)
            .gid(NOBODY)
            .stdout(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    let mut cat = Command::new("cat");
    cat.arg(&path);
    let mut list = Command::new(std::env::current_exe().expect("own name"));
    list.arg("--list");
    if !may(cat) || !may(list) {
        eprintln!("SKIPPED: another user does not reach {}", path.display());
        return;
    }
    let status = again("a_file_of_somebody_else_is_not_parked_but_can_be_dropped")
        .env(FILE, &path)
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .expect("child");
    assert!(status.success(), "the child: {status}");
}
