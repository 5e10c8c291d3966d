//! Processes: killed ones, a reader beside a writer, two writers.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use atom_core::ErrorKind;

use crate::{Random, append, camera, expect, readable, writable};

const STORE: &str = "ATOM_TEST_STORE";

fn child(name: &str, store: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(STORE, store)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn store_of_parent() -> Option<PathBuf> {
    std::env::var_os(STORE).map(PathBuf::from)
}

/// One line, at once: `println` to a pipe would wait for more. The test harness has begun a line of its own.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

#[test]
#[ignore = "run by the test below"]
fn appending_child() {
    let Some(path) = store_of_parent() else {
        return;
    };
    let store = writable(&path).unwrap();
    let stream = camera(&store, "a");
    let last = store.segments(stream, None, None).unwrap().len() as u64;
    // Where the killed one may have stopped between commit and answer: again is as good as new.
    for number in last.saturating_sub(1).. {
        append(&store, stream, number).unwrap();
        say(&format!("ack {number}"));
    }
}

#[test]
fn no_acknowledged_segment_is_lost_by_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut random = Random(9);
    let mut acknowledged = 0;
    for round in 0..50 {
        let mut child = child("crash::appending_child", &path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acks = |line: Option<std::io::Result<String>>| -> Option<u64> {
            line?.ok()?.strip_prefix("ack ")?.parse().ok()
        };
        // Every fifth dies while it opens the store, the others after some answers and a moment.
        if round % 5 != 0 {
            let mut wanted = 1 + random.below(30);
            while wanted > 0 {
                let line = lines.next();
                assert!(line.is_some(), "the child ended by itself");
                if let Some(number) = acks(line) {
                    acknowledged = acknowledged.max(number + 1);
                    wanted -= 1;
                }
            }
        }
        std::thread::sleep(Duration::from_micros(random.below(6000)));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had answered and we had not read yet.
        for line in lines {
            if let Some(number) = acks(Some(line)) {
                acknowledged = acknowledged.max(number + 1);
            }
        }
        let store = writable(&path).unwrap();
        let stream = camera(&store, "a");
        let from = if round % 10 == 9 {
            0
        } else {
            acknowledged.saturating_sub(40)
        };
        for number in from..acknowledged {
            expect(&store, stream, number).unwrap();
        }
        let stats = store.stats().unwrap();
        assert!(stats.segments >= acknowledged);
        assert_eq!((stats.corrupt_records, stats.damaged_partitions), (0, 0));
    }
    println!("{acknowledged} acknowledged segments, 50 kills");
    assert!(acknowledged > 300);
}

#[test]
#[ignore = "run by the test below"]
fn reading_child() {
    let Some(path) = store_of_parent() else {
        return;
    };
    let store = readable(&path).unwrap();
    let stream = store.stream("a").unwrap().id;
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (from, to) = line.split_once(' ').unwrap();
        let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
        let mut bad = (from..to).filter_map(|n| expect(&store, stream, n).err());
        let stats = store.stats().unwrap();
        let answer = match bad.next() {
            Some(what) => what,
            None if stats.segments != to - from => format!("{} segments", stats.segments),
            None if stats.damaged_partitions + stats.corrupt_records > 0 => format!("{stats:?}"),
            None => "fine".into(),
        };
        say(&format!("= {answer}"));
    }
}

#[test]
fn a_reader_in_another_process_sees_every_acknowledged_segment() {
    let folder = tempfile::tempdir().unwrap();
    let store = writable(folder.path()).unwrap();
    let stream = camera(&store, "a");
    let mut child = child("crash::reading_child", folder.path());
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ask = |from: u64, to: u64| {
        writeln!(stdin, "{from} {to}").unwrap();
        let answer = lines
            .by_ref()
            .map(|line| line.unwrap())
            .find_map(|line| line.strip_prefix("= ").map(str::to_owned));
        assert_eq!(answer.as_deref(), Some("fine"), "{from}..{to}");
    };
    let mut from = 0;
    for number in 0..80 {
        append(&store, stream, number).unwrap();
        ask(from, number + 1);
        if number % 25 == 24 {
            let stats = store.stats().unwrap();
            let bytes = stats.vector_bytes + stats.blob_bytes + stats.catalogue_bytes;
            from += store.retain(bytes - 1).unwrap().segments;
            ask(from, number + 1);
        }
    }
    assert!(from > 0);
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
#[ignore = "run by the test below"]
fn second_writer_child() {
    if let Some(path) = store_of_parent() {
        let error = writable(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreLocked);
        say(&format!("= {error}"));
    }
}

#[test]
fn a_second_writer_is_told_who_writes() {
    let folder = tempfile::tempdir().unwrap();
    let store = writable(folder.path()).unwrap();
    let child = child("crash::second_writer_child", folder.path());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let told = format!("is being written by process {} ", std::process::id());
    assert!(text.contains(&told), "{text}");
    append(&store, camera(&store, "a"), 1).unwrap();
}
