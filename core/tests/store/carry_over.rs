//! A store of format 2, written by the Atom of that format, becomes one of format 3: once, whole, and never by half.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use atom_core::ErrorKind;
use atom_core::features::{Features, Variant};
use atom_core::identity::Digest;
use atom_core::index::{
    Access, Earlier, Filter, Identity, NewSegment, Provenance, SegmentId, Store, StoreOptions,
};
use atom_core::pack::Manifest;

use crate::power_loss::{Disk, Kept, Op, STORE, record};
use crate::{Random, camera};

/// What captions are filed under today. The old name is the pack's.
const MAKER: &str = "maker of today";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// A fresh copy of the store in the folder `to`.
fn place(to: &Path) {
    let from = fixtures().join("stores/foreign");
    fs::create_dir_all(to.join("parts")).unwrap();
    for name in ["parts/00000001.blob", "parts/00000001.vec", "atom.db"] {
        let bytes = fs::read(from.join(name)).unwrap();
        fs::write(to.join(name), bytes).unwrap();
        fs::File::open(to.join(name)).unwrap().sync_all().unwrap();
    }
    for folder in [&to.join("parts"), to, to.parent().unwrap()] {
        fs::File::open(folder).unwrap().sync_all().unwrap();
    }
}

/// How the pack that made the store opens it, without the pack: its manifest is enough.
fn options(access: Access) -> StoreOptions {
    let text = fs::read_to_string(fixtures().join("identity/foreign.toml")).unwrap();
    let manifest = Manifest::parse(&text).unwrap();
    let made_by = manifest.index_identity().unwrap();
    let legacy = manifest.legacy_identity().unwrap().unwrap();
    let identity = Identity {
        hash: made_by.embedding.finish().0,
        dim: made_by.dim,
        description: made_by.description,
    };
    let old = legacy.captions.unwrap().to_string();
    StoreOptions {
        provenance: Provenance {
            remakes_maps: false,
            encoding: made_by.embedding.bytes(),
            earlier: Some(Earlier {
                identity: legacy.store.0,
                forms: vec![(legacy.forms[0].0, made_by.forms[0].hash)],
                captions: vec![(old, MAKER.into())],
            }),
            forms: made_by.forms,
            features: made_by.features,
        },
        ..StoreOptions::new(identity, access)
    }
}

fn version(store: &Path) -> i64 {
    let conn = rusqlite::Connection::open(store.join("atom.db")).unwrap();
    conn.query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap()
}

/// Everything a store holds for its readers.
#[derive(Debug, PartialEq)]
struct Content {
    segments: Vec<(SegmentId, i64, i64, Features, Vec<u8>)>,
    captions: Vec<String>,
    variant: Option<Variant>,
    scores: Vec<(SegmentId, f32)>,
}

fn content(store: &Store) -> Content {
    let stream = store.stream("carphone.mp4").unwrap().id;
    let all = store.segments(stream, None, None).unwrap();
    let features = |id| store.features(id).unwrap();
    let query = features(all[1].id).embedding;
    let hits = store.search(&query, &Filter::best(9)).unwrap();
    Content {
        captions: {
            let caption = |s: &atom_core::index::Segment| store.caption(s.id, MAKER).unwrap();
            all.iter().filter_map(caption).map(|c| c.text).collect()
        },
        segments: {
            let read = |s: &atom_core::index::Segment| {
                let thumbnail = store.thumbnail(s.id).unwrap();
                (s.id, s.start_ns, s.end_ns, features(s.id), thumbnail)
            };
            all.iter().map(read).collect()
        },
        variant: store.variant().unwrap(),
        scores: {
            let all_of = hits.iter().filter(|hit| hit.stream == "carphone.mp4");
            all_of.map(|hit| (hit.segment, hit.score)).collect()
        },
    }
}

/// Every file of a folder with its checksum. Without those that SQLite keeps beside an open database.
fn files(folder: &Path) -> BTreeMap<PathBuf, u32> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            all.extend(files(&path));
        } else if !name.ends_with("-shm") && !name.ends_with("-wal") {
            all.insert(path.clone(), crc32fast::hash(&fs::read(&path).unwrap()));
        }
    }
    all
}

#[test]
fn a_store_of_format_2_is_read_as_it_is_and_carried_over_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    place(&path);

    // Readers leave it alone, and see all of it.
    let before = files(&path);
    let reader = Store::open(&path, &options(Access::ReadOnly)).unwrap();
    let old = content(&reader);
    assert_eq!(old.segments.len(), 4);
    assert_eq!(old.captions.len(), 4);
    assert_eq!(old.scores.len(), 4);
    let form = options(Access::ReadOnly).provenance.forms[0].clone();
    assert_eq!(old.variant, Some(form.clone()));
    assert!(
        old.segments
            .iter()
            .all(|s| s.3.map.rows == 24 && !s.4.is_empty())
    );
    assert_eq!(version(&path), 2);
    assert_eq!(files(&path), before);
    assert_eq!(reader.stats().unwrap().outdated_segments, 0);

    // A writer carries it over, beside that reader, which goes on.
    let store = Store::open(&path, &options(Access::ReadWrite)).unwrap();
    assert_eq!(version(&path), 3);
    assert_eq!(content(&store), old);
    assert_eq!(content(&reader), old);
    assert_eq!(
        store.identity().hash,
        options(Access::ReadOnly).identity.hash
    );
    // The last to close empties the log into the catalogue, which a reader cannot.
    drop(reader);
    drop(store);

    // Once: the next writer finds nothing to do.
    let before = files(&path);
    let store = Store::open(&path, &options(Access::ReadWrite)).unwrap();
    assert_eq!(content(&store), old);
    drop(store);
    let after = files(&path);
    assert_eq!(after, before);

    // Under the names of today alone; the files' headers stay as they were. Once into the old partition, which is made young
    // for it, once into a new one.
    let conn = rusqlite::Connection::open(path.join("atom.db")).unwrap();
    conn.execute("UPDATE parts SET created_ns = ?1", [i64::MAX])
        .unwrap();
    drop(conn);
    let mut plain = options(Access::ReadWrite);
    plain.provenance.earlier = None;
    let mut features = old.segments[0].3.clone();
    for (number, partition_bytes) in [(0, u64::MAX), (1, 1)] {
        plain.partition_bytes = partition_bytes;
        let store = Store::open(&path, &plain).unwrap();
        assert_eq!(content(&store), old);
        features.made_by = Some(form.clone().into());
        let new = NewSegment {
            start_ns: number,
            end_ns: number,
            keyframe_ns: number,
            features: &features,
            thumbnail: &[],
        };
        let id = store.append(camera(&store, "new"), &new).unwrap();
        features.made_by = None;
        // Rows for a captioner are kept in half precision.
        for value in &mut features.map.data {
            *value = half::f16::from_f32(*value).to_f32();
        }
        assert_eq!(store.features(id).unwrap(), features);
        let all = Filter::best(9);
        let hits = store.search(&features.embedding, &all).unwrap();
        assert_eq!(hits.len() as i64, 5 + number);
        let stats = store.stats().unwrap();
        assert_eq!(stats.partitions as i64, 1 + number);
        assert_eq!(stats.damaged_partitions, 0);
    }
    let store = Store::open(&path, &plain).unwrap();
    assert_eq!(content(&store), old);
}

#[test]
fn another_pack_leaves_a_store_of_format_2_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    place(&path);
    let before = files(&path);
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let mut other = options(access);
        other.provenance.earlier.as_mut().unwrap().identity = [9; 32];
        let error = Store::open(&path, &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreForeign, "{error}");
        other.provenance.earlier = None;
        let error = Store::open(&path, &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreForeign, "{error}");
    }
    let mut after = files(&path);
    // The lock file is there now, and nothing else is different.
    after.retain(|path, _| before.contains_key(path) || !path.ends_with("lock"));
    assert_eq!(after, before);
    assert_eq!(version(&path), 2);
}

/// The store at `path`, whatever stopped what carried it over: it is of one format or the other, and opens.
fn check(path: &Path, expected: &Content) -> Result<i64, String> {
    let found = version(path);
    if found != 2 && found != 3 {
        return Err(format!("format {found}"));
    }
    for access in [Access::ReadOnly, Access::ReadWrite, Access::ReadOnly] {
        let store = Store::open(path, &options(access)).map_err(|e| e.to_string())?;
        if content(&store) != *expected {
            return Err(format!("{access:?}: {:?}", content(&store)));
        }
        let stats = store.stats().map_err(|e| e.to_string())?;
        if stats.corrupt_records + stats.damaged_partitions + stats.outdated_segments > 0 {
            return Err(format!("{stats:?}"));
        }
    }
    if version(path) != 3 {
        return Err("not carried over".into());
    }
    Ok(found)
}

fn expected(folder: &Path) -> Content {
    let path = folder.join("expected");
    place(&path);
    content(&Store::open(&path, &options(Access::ReadOnly)).unwrap())
}

/// Not a test of its own: what the recorded child does.
#[test]
#[ignore = "run by the test below"]
fn recorded_child() {
    let Some(folder) = std::env::var_os(STORE).map(PathBuf::from) else {
        return;
    };
    place(&folder.join("store"));
    fs::write(folder.join("placed"), b"").unwrap();
    drop(Store::open(folder.join("store"), &options(Access::ReadWrite)).unwrap());
}

#[test]
fn loss_of_power_leaves_one_format_or_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let expected = expected(&folder);
    let ops = record(&folder, "carry_over::recorded_child");
    let placed = ops.iter().position(|(path, _)| path == Path::new("placed"));
    let placed = placed.unwrap();
    let commits = ops[placed..].iter();
    let syncs = commits.filter(|(_, op)| matches!(op, Op::Sync)).count();
    let (mut disk, mut random) = (Disk::default(), Random(11));
    let mut found = BTreeMap::<i64, usize>::new();
    let image = folder.join("image");
    for (at, (path, op)) in ops.iter().enumerate() {
        disk.step(path, op);
        if at < placed {
            continue;
        }
        for kept in [Kept::Nothing, Kept::Torn, Kept::Torn, Kept::Everything] {
            let _ = fs::remove_dir_all(&image);
            fs::create_dir(&image).unwrap();
            disk.crash(&image, kept, &mut random);
            match check(&image.join("store"), &expected) {
                Ok(version) => *found.entry(version).or_default() += 1,
                Err(what) => panic!("power lost after operation {at}, {kept:?}: {what}"),
            }
        }
    }
    println!(
        "{} operations with {syncs} syncs: {found:?} stores by their format",
        ops.len() - placed
    );
    assert!(syncs > 0 && found[&2] > 0 && found[&3] > 0);
}

/// Not a test of its own: carries over one store after another.
#[test]
#[ignore = "run by the test below"]
fn killed_child() {
    let Some(folder) = std::env::var_os(STORE).map(PathBuf::from) else {
        return;
    };
    for number in 0.. {
        let path = folder.join(format!("{number}"));
        place(&path);
        println!("\nplaced {number}");
        drop(Store::open(&path, &options(Access::ReadWrite)).unwrap());
    }
}

#[test]
fn a_kill_leaves_one_format_or_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let expected = expected(folder.path());
    let mut random = Random(5);
    let mut found = BTreeMap::<i64, usize>::new();
    for round in 0..40 {
        let folder = folder.path().join(format!("round {round}"));
        fs::create_dir(&folder).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "carry_over::killed_child",
                "--ignored",
                "--nocapture",
            ])
            .args(["--test-threads", "1"])
            .env(STORE, &folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut placed = lines.map_while(|line| {
            let line = line.ok()?;
            Some(
                line.strip_prefix("placed ")
                    .and_then(|n| n.parse::<u64>().ok()),
            )
        });
        let wanted = random.below(3);
        assert!(
            placed.any(|number| number == Some(wanted)),
            "it ended by itself"
        );
        std::thread::sleep(Duration::from_micros(random.below(12_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        // The one that was being carried over; the next may be there in part.
        let version = check(&folder.join(format!("{wanted}")), &expected).unwrap();
        *found.entry(version).or_default() += 1;
    }
    println!("{found:?} stores by their format after the kill");
    assert!(found[&2] > 0 && found[&3] > 0);
}

#[test]
fn the_old_names_are_those_in_the_store() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path());
    let conn = rusqlite::Connection::open(folder.path().join("atom.db")).unwrap();
    let meta = |key: &str| -> [u8; 32] {
        conn.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| {
            row.get(0)
        })
        .unwrap()
    };
    let earlier = options(Access::ReadOnly).provenance.earlier.unwrap();
    assert_eq!(Digest(meta("identity")), Digest(earlier.identity));
    assert_eq!(Digest(meta("variant")), Digest(earlier.forms[0].0));
    let makers: i64 = conn
        .query_row(
            "SELECT count(*) FROM captions WHERE maker = ?1",
            [&earlier.captions[0].0],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(makers, 4);
}
