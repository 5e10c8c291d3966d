//! Stores that cannot be used, or not by this pack, or not now.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atom_tests::refusal::{refuses, survives};
use atom_tests::{atom, cached, foreign_atom, foreign_pack, json, ort_library, temporary, video};

fn index(cache: &Path, store: &Path) -> Command {
    let mut command = foreign_atom(cache, store, &["index", "--max-segment", "0.5"]);
    command.arg(video("carphone"));
    command
}

fn search(cache: &Path, store: &Path) -> Command {
    foreign_atom(cache, store, &["search", "a man"])
}

/// A store with something in it.
fn filled() -> tempfile::TempDir {
    let folder = temporary();
    json(&mut index(folder.path(), &folder.path().join("store")));
    folder
}

/// Runs `script` with a mount namespace of its own, in which it may mount things on its folders.
fn with_mounts(script: &str, command: &Command) -> Command {
    let mut wrapped = Command::new("unshare");
    wrapped.args([
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        &format!("{script} && exec \"$@\""),
        "sh",
    ]);
    let probe = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "mount",
            "-t",
            "tmpfs",
            "none",
            "/mnt",
        ])
        .output();
    assert!(
        probe.as_ref().is_ok_and(|done| done.status.success()),
        "this test mounts a small tmpfs in a user namespace, which this machine forbids ({probe:?}): run it where \
         `unshare --user --map-root-user --mount true` works, or as root"
    );
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

#[test]
fn another_packs_store_is_refused() {
    let folder = filled();
    let store = folder.path().join("store");
    let mut other = atom();
    other
        .env("ATOM_CACHE", folder.path())
        .env("ATOM_ORT_LIBRARY", ort_library());
    other
        .args(["--json", "search", "a man", "--pack"])
        .arg(atom_tests::pack())
        .arg("--store")
        .arg(&store);
    refuses(
        "search with another pack",
        &mut other,
        "store_foreign",
        &["foreign", "reference"],
    );
    let mut other = atom();
    other
        .env("ATOM_CACHE", folder.path())
        .env("ATOM_ORT_LIBRARY", ort_library());
    other
        .args(["--json", "index", "--pack"])
        .arg(atom_tests::pack())
        .arg("--store")
        .arg(&store)
        .arg(video("bikes"));
    refuses(
        "index with another pack",
        &mut other,
        "store_foreign",
        &["foreign", "reference"],
    );
}

#[test]
fn newer_store_is_refused() {
    let folder = filled();
    let store = folder.path().join("store");
    let newer = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA user_version = 9999'); c.commit()";
    let done = Command::new(cached("venv/bin/python"))
        .args(["-c", newer])
        .arg(store.join("atom.db"))
        .status();
    assert!(done.unwrap().success());
    refuses(
        "newer store, read",
        &mut search(folder.path(), &store),
        "store_version",
        &["9999"],
    );
    refuses(
        "newer store, write",
        &mut index(folder.path(), &store),
        "store_version",
        &["9999"],
    );
}

#[test]
fn damaged_stores_are_errors() {
    let folder = filled();
    let whole = folder.path().join("store");
    let mut files = Vec::new();
    let mut open = vec![whole.clone()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path)
            } else {
                files.push(path)
            }
        }
    }
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    let (mut refused, mut mended) = (0, 0);
    for file in &files {
        let original = std::fs::read(file).unwrap();
        for (name, damage) in [
            ("emptied", (|bytes| bytes.clear()) as fn(&mut Vec<u8>)),
            ("halved", |bytes| bytes.truncate(bytes.len() / 2)),
            ("overwritten", |bytes| bytes.fill(0xA5)),
            ("a byte flipped", |bytes| {
                if let Some(byte) = bytes.get_mut(40) {
                    *byte ^= 0xFF;
                }
            }),
        ] {
            let mut bytes = original.clone();
            damage(&mut bytes);
            std::fs::write(file, bytes).unwrap();
            for command in [
                &mut search(folder.path(), &whole),
                &mut index(folder.path(), &whole),
            ] {
                let done = survives(&format!("{} {name}", file.display()), command);
                if done.status.success() {
                    mended += 1;
                } else {
                    refused += 1;
                    let errors = String::from_utf8_lossy(&done.stderr);
                    assert!(
                        errors.contains("{\"error\""),
                        "{} {name}: {errors}",
                        file.display()
                    );
                }
            }
            // What a writer mended or added goes too: every case begins from the same store.
            std::fs::remove_dir_all(&whole).unwrap();
            json(&mut index(folder.path(), &whole));
            if !file.exists() {
                break;
            }
        }
        if file.exists() {
            let _ = std::fs::write(file, original);
        }
        std::fs::remove_dir_all(&whole).unwrap();
        json(&mut index(folder.path(), &whole));
    }
    println!(
        "{} files: {refused} commands refused, {mended} mended or did not need the damaged part",
        files.len()
    );
    assert!(refused > 0);
}

#[test]
fn two_writers_are_refused() {
    let folder = temporary();
    let store = folder.path().join("store");
    json(&mut index(folder.path(), &store));
    let mut held = atom_core::runtime::RuntimeOptions::new(foreign_pack());
    held.ort_library = Some(ort_library());
    held.artifacts = Some(folder.path().join("artifacts"));
    let runtime = atom_core::runtime::Runtime::open(&held).unwrap();
    let writer = runtime
        .open_store(&store, atom_core::index::Access::ReadWrite)
        .unwrap();
    refuses(
        "a second writer",
        &mut index(folder.path(), &store),
        "store_locked",
        &["store"],
    );
    // Readers go on beside a writer.
    assert!(json(&mut search(folder.path(), &store))["hits"].is_array());
    drop(writer);
    json(&mut index(folder.path(), &store));
}

#[test]
fn read_only_and_missing_stores() {
    let folder = filled();
    let store = folder.path().join("store");
    let bind = format!(
        "mount --bind '{0}' '{0}' && mount -o remount,bind,ro '{0}'",
        store.display()
    );
    refuses(
        "index into a read-only store",
        &mut with_mounts(&bind, &index(folder.path(), &store)),
        "read_only",
        &["store"],
    );
    let found = survives(
        "search in a read-only store",
        &mut with_mounts(&bind, &search(folder.path(), &store)),
    );
    println!(
        "search in a read-only store: {}{}",
        String::from_utf8_lossy(&found.stdout),
        String::from_utf8_lossy(&found.stderr)
    );
    assert!(found.status.success());

    refuses(
        "search in no store",
        &mut search(folder.path(), &folder.path().join("nowhere")),
        "not_found",
        &["nowhere"],
    );
    let file = folder.path().join("file");
    std::fs::write(&file, "a file").unwrap();
    refuses(
        "a file for a store",
        &mut search(folder.path(), &file),
        "invalid_argument",
        &["file"],
    );
    refuses(
        "a file for a store, write",
        &mut index(folder.path(), &file),
        "invalid_argument",
        &["file"],
    );
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("letter.txt"), "mine").unwrap();
    refuses(
        "a folder of something else",
        &mut index(folder.path(), &other),
        "invalid_argument",
        &["other"],
    );
    assert_eq!(
        std::fs::read_dir(&other).unwrap().count(),
        1,
        "a foreign folder was written to"
    );
}

#[test]
fn full_disk_is_an_error_and_keeps_what_was_stored() {
    let folder = temporary();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let store = disk.join("store");
    // The catalogue and a few segments fit; all segments of the clip do not. What is on the small disk afterwards is
    // copied off it, since it goes away with its namespace.
    let kept = folder.path().join("kept");
    let mut refused = 0;
    for kilobytes in [0, 16, 64, 128, 256, 512] {
        let _ = std::fs::remove_dir_all(&kept);
        let script = format!(
            "mount -t tmpfs -o size={size}k tmpfs '{disk}' && (\"$@\"; code=$?; mkdir '{kept}' && cp -a '{disk}/.' '{kept}/'; exit $code) && exit 0 || exit 5; true",
            size = kilobytes.max(4),
            disk = disk.display(),
            kept = kept.display(),
        );
        let mut command = with_mounts(&script, &index(folder.path(), &store));
        let done = survives(&format!("disk of {kilobytes} kB"), &mut command);
        let errors = String::from_utf8_lossy(&done.stderr);
        let saved = kept.join("store");
        let after = saved
            .join("atom.db")
            .exists()
            .then(|| survives("search afterwards", &mut search(folder.path(), &saved)));
        println!(
            "disk of {kilobytes} kB: {} {}; search afterwards: {}",
            done.status,
            errors.lines().last().unwrap_or_default(),
            after
                .as_ref()
                .map_or("no store".to_owned(), |done| done.status.to_string())
        );
        if !done.status.success() {
            refused += 1;
            assert!(errors.contains("\"disk_full\""), "{errors}");
        }
        if let Some(after) = after {
            let text = String::from_utf8_lossy(&after.stderr);
            // A store whose making did not get far enough has nothing to lose; any other must open.
            assert!(
                after.status.success() || text.contains("not_found"),
                "{text}"
            );
        }
    }
    assert!(refused >= 2, "no disk was small enough: {refused} refusals");
}

#[test]
fn killed_writer_leaves_no_lock() {
    let folder = temporary();
    let store = folder.path().join("store");
    let mut child = index(folder.path(), &store)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !store.join("atom.db").exists() && began.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let again = json(&mut index(folder.path(), &store));
    assert!(
        again["streams"][0]["segments"].as_u64().unwrap() > 0,
        "{again}"
    );
}
