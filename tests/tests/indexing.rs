//! What `atom index` leaves on disk of real video: once and only once, also after kills. With the small foreign pack, so
//! that most of a run is reading and storing, which is where a kill may hurt.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use atom_core::ErrorKind;
use atom_core::index::{Access, Store};
use atom_core::runtime::{Runtime, RuntimeOptions};
use atom_tests::{atom, foreign_pack, json, ort_library, temporary, video};

const KILLS: u32 = 50;

fn runtime(cache: &Path) -> Runtime {
    let mut options = RuntimeOptions::new(foreign_pack());
    options.artifacts = Some(cache.join("artifacts"));
    options.ort_library = Some(ort_library());
    Runtime::open(&options).unwrap()
}

/// `atom index` of every clip into `store`, with segments short enough that there are many.
fn index(cache: &Path, store: &Path, clips: &[&str]) -> Command {
    let mut command = atom();
    command
        .env("ATOM_CACHE", cache)
        .env("ATOM_ORT_LIBRARY", ort_library());
    command
        .args(["--json", "index", "--max-segment", "0.5", "--pack"])
        .arg(foreign_pack())
        .arg("--store")
        .arg(store);
    command.args(clips.iter().map(|clip| video(clip)));
    command
}

/// One segment as a reader sees it: stream, times, and every number and byte kept with it.
type Kept = (String, i64, i64, i64, Vec<u32>, Vec<u32>, Vec<u8>);

fn contents(store: &Store) -> Vec<Kept> {
    let bits = |values: &[f32]| {
        values
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<u32>>()
    };
    let mut all = Vec::new();
    for stream in store.streams().unwrap() {
        for segment in store.segments(stream.id, None, None).unwrap() {
            let features = store.features(segment.id).unwrap();
            all.push((
                stream.name.clone(),
                segment.start_ns,
                segment.end_ns,
                segment.keyframe_ns,
                bits(&features.embedding),
                bits(&features.map.data),
                store.thumbnail(segment.id).unwrap(),
            ));
        }
    }
    all.sort();
    all
}

#[test]
fn indexing_twice_adds_nothing() {
    let folder = temporary();
    let store = folder.path().join("store");
    let first = json(&mut index(folder.path(), &store, &["bikes", "carphone"]));
    let runtime = runtime(folder.path());
    let before = contents(&runtime.open_store(&store, Access::ReadOnly).unwrap());
    let second = json(&mut index(folder.path(), &store, &["bikes", "carphone"]));
    let after = contents(&runtime.open_store(&store, Access::ReadOnly).unwrap());
    println!(
        "first: {first}\nsecond: {second}\n{} segments",
        before.len()
    );
    assert!(before.len() >= 15);
    assert_eq!(before, after);
    for stream in second["streams"].as_array().unwrap() {
        assert_eq!(stream["added"], 0, "{stream}");
        assert!(stream["segments"].as_u64().unwrap() >= 5, "{stream}");
    }
    // The same file under another path is the same source.
    let copy = folder.path().join("bikes.mp4");
    std::fs::copy(video("bikes"), &copy).unwrap();
    let mut again = atom();
    again
        .env("ATOM_CACHE", folder.path())
        .env("ATOM_ORT_LIBRARY", ort_library());
    again
        .args(["--json", "index", "--max-segment", "0.5", "--pack"])
        .arg(foreign_pack())
        .arg("--store")
        .arg(&store)
        .arg(&copy);
    assert_eq!(json(&mut again)["streams"][0]["added"], 0);
    assert_eq!(
        before,
        contents(&runtime.open_store(&store, Access::ReadOnly).unwrap())
    );
}

#[test]
fn no_acknowledged_segment_is_lost() {
    let folder = temporary();
    let cache = folder.path();
    let whole = cache.join("whole");
    json(&mut index(cache, &whole, &["bikes"]));
    let runtime = runtime(cache);
    let expected = contents(&runtime.open_store(&whole, Access::ReadOnly).unwrap());

    let store = cache.join("killed");
    // What another process sees has been acknowledged.
    let look = |when: &str| match runtime.open_store(&store, Access::ReadOnly) {
        Ok(store) => contents(&store),
        // Before the store was there.
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{when}: {error}"),
    };
    let mut seen: Vec<Kept> = Vec::new();
    let (mut killed, mut finished, mut rounds, mut grew) = (0, 0, 0, 0);
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    while killed < KILLS {
        rounds += 1;
        assert!(
            rounds < KILLS * 6,
            "{killed} kills in {rounds} rounds: the command ends before it can be killed"
        );
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut child = index(cache, &store, &["bikes"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The kill falls some milliseconds after up to three more segments are there: into the storing of the next ones.
        let enough = seen.len() + (random % 4) as usize;
        let before = loop {
            let before = look("beside the writer");
            if before.len() >= enough || child.try_wait().unwrap().is_some() {
                break before;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        std::thread::sleep(Duration::from_micros(random / 4 % 12_000));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status} after {killed} kills");
            finished += 1;
            // Complete: begin again, or every later run would end at once.
            assert_eq!(
                look("after a run"),
                expected,
                "a store finished after kills differs from one never killed"
            );
            std::fs::remove_dir_all(&store).unwrap();
            seen.clear();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
        let now = look("after a kill");
        for kept in seen.iter().chain(&before) {
            assert!(
                now.binary_search(kept).is_ok(),
                "segment at {} ns of an earlier run is lost or changed",
                kept.1
            );
        }
        for kept in &now {
            assert!(
                expected.binary_search(kept).is_ok(),
                "segment at {} ns is none of the video's",
                kept.1
            );
        }
        grew += usize::from(now.len() > seen.len());
        seen = now;
    }
    println!(
        "{killed} kills, {grew} of them after new segments, {finished} runs completed between; {} segments each",
        expected.len()
    );
    assert!(grew >= 20, "too few kills fell into the work: {grew}");
    json(&mut index(cache, &store, &["bikes"]));
    assert_eq!(
        contents(&runtime.open_store(&store, Access::ReadOnly).unwrap()),
        expected
    );
}
