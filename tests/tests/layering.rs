//! The invariants of ARCHITECTURE.md that are about structure.

use std::collections::{BTreeMap, BTreeSet};

use atom_tests::cargo;
use atom_tests::source::{report, sources};

/// Rooms of core/src from the ground up. A room may import rooms of lines above its own, never of its own line.
const LAYERS: &[&[&str]] = &[
    &["error", "cache", "identity"],
    &["control", "frame", "features"],
    &["os"],
    &["trace", "onnx"],
    &["ort", "budget", "flow"],
    &["pack"],
    &["decoder"],
    &["module"],
    &["vision", "language", "index"],
    &["storyboard", "caption"],
    &["task"],
    &["runtime"],
    &["engine"],
];

/// What a room may not import although the layers would let it, and why.
const ALSO_NOT: &[(&str, &[&str], &str)] = &[
    (
        "os",
        &["control", "frame", "features"],
        "os/ knows nothing of models or frames",
    ),
    (
        "budget",
        &["control", "frame", "features"],
        "budget/ knows bytes and owners only",
    ),
    (
        "onnx",
        &["cache", "control", "frame", "features"],
        "onnx/ knows files, not what is done with models",
    ),
    (
        "flow",
        &["os", "features"],
        "queues carry whatever they are given",
    ),
    (
        "index",
        &["ort", "budget", "flow", "pack", "module", "frame"],
        "the index knows vectors, not models",
    ),
    (
        "caption",
        &["flow", "frame", "vision", "index"],
        "a captioner reads features, and knows no picture and no store",
    ),
    (
        "storyboard",
        &[
            "ort", "budget", "flow", "pack", "module", "vision", "language", "frame",
        ],
        "a storyboard is of what is stored, and runs no model",
    ),
];

/// Where `unsafe` may be written, by prefix.
const UNSAFE: &[&str] = &[
    "core/src/os/",
    "core/src/ort/",
    "core/src/flow/ring",
    "core/src/index/",
    // Dropping pages is sound only while the session that mapped them is held, and only who holds it can say so.
    "core/src/module/weights.rs",
    "capi/src/",
];

/// The room of a file of core/src: its folder, or its own name.
fn room(file: &str) -> Option<&str> {
    let inside = file.strip_prefix("core/src/")?;
    let name = inside.split('/').next()?;
    Some(name.strip_suffix(".rs").unwrap_or(name))
}

#[test]
fn only_ort_names_the_ort_crate() {
    let mut broken = Vec::new();
    let mut users = 0;
    for (file, source) in sources() {
        let names = |path: &&Vec<String>| path[0] == "ort" || path[0] == "ort_sys";
        match source.paths.iter().find(names) {
            Some(_) if file.starts_with("core/src/ort/") => users += 1,
            Some(path) => broken.push(format!("{file} names {}", path.join("::"))),
            None => {}
        }
    }
    report(broken);
    assert!(
        users > 0,
        "core/src/ort does not use the ort crate: this test no longer sees it"
    );
}

#[test]
fn rooms_import_downwards_only() {
    let level: BTreeMap<&str, usize> = LAYERS
        .iter()
        .enumerate()
        .flat_map(|(level, rooms)| rooms.iter().map(move |room| (*room, level)))
        .collect();
    let mut broken = Vec::new();
    let mut seen = 0;
    for (file, source) in sources() {
        let Some(own) = room(&file).filter(|own| *own != "lib") else {
            continue;
        };
        let Some(own_level) = level.get(own) else {
            broken.push(format!("{file}: room {own} is in no layer of this test"));
            continue;
        };
        for path in source.paths.iter().filter(|path| path[0] == "crate") {
            let other = path[1].as_str();
            if other == own {
                continue;
            }
            // `crate::Error`, `crate::Result`: what lib.rs re-exports.
            let Some(other_level) = level.get(other) else {
                continue;
            };
            seen += 1;
            if other_level >= own_level {
                broken.push(format!("{file} ({own}) imports {}", path.join("::")));
            }
            for (room, not, why) in ALSO_NOT {
                if *room == own && not.contains(&other) {
                    broken.push(format!("{file} ({own}) imports {}: {why}", path.join("::")));
                }
            }
        }
    }
    broken.sort();
    broken.dedup();
    report(broken);
    assert!(
        seen > 20,
        "only {seen} imports between rooms found: this test no longer sees them"
    );
}

#[test]
fn tasks_never_import_each_other() {
    let all = sources();
    let tasks: BTreeSet<String> = all
        .keys()
        .filter_map(|file| file.strip_prefix("core/src/task/"))
        .map(|name| {
            name.split('/')
                .next()
                .unwrap_or(name)
                .trim_end_matches(".rs")
                .to_owned()
        })
        .filter(|name| name != "mod")
        .collect();
    assert!(tasks.len() >= 2, "core/src/task holds {tasks:?}");
    let mut broken = Vec::new();
    for (file, source) in &all {
        let Some(own) = file.strip_prefix("core/src/task/") else {
            continue;
        };
        let own = own.split('/').next().unwrap_or(own).trim_end_matches(".rs");
        if own == "mod" {
            continue;
        }
        for path in &source.paths {
            let skip = match path[0].as_str() {
                "crate" if path[1] == "task" => 2,
                "super" => path.iter().take_while(|part| *part == "super").count(),
                _ => continue,
            };
            if let Some(other) = path
                .get(skip)
                .filter(|other| tasks.contains(*other) && *other != own)
            {
                broken.push(format!("{file} imports task {other}: {}", path.join("::")));
            }
        }
    }
    report(broken);
}

#[test]
fn core_never_imports_capi_media_or_cli() {
    let mut broken = Vec::new();
    for (file, source) in sources() {
        let above: &[&str] = match file.as_str() {
            name if name.starts_with("core/src/") => &[
                "atom_capi",
                "atom_grounding",
                "atom_import",
                "atom_media",
                "atom_cli",
                "atom",
            ],
            name if name.starts_with("capi/") => &["atom_import", "atom_media", "atom_cli"],
            name if name.starts_with("core/import/") => &[
                "atom_capi",
                "atom_grounding",
                "atom_media",
                "atom_cli",
                "atom",
            ],
            name if name.starts_with("core/media/") => &[
                "atom_capi",
                "atom_grounding",
                "atom_import",
                "atom_cli",
                "atom",
            ],
            name if name.starts_with("core/grounding/src/") => {
                &["atom_capi", "atom_import", "atom_media", "atom_cli", "atom"]
            }
            _ => continue,
        };
        broken.extend(
            source
                .paths
                .iter()
                .filter(|path| above.contains(&path[0].as_str()))
                .map(|path| format!("{file} imports {}", path.join("::"))),
        );
    }
    report(broken);
}

/// What a captioner outside core is made from, and no more: no store, no picture, no session.
#[test]
fn grounding_uses_what_a_captioner_needs() {
    let rooms = [
        "caption", "control", "error", "features", "identity", "language", "pack",
    ];
    let mut broken = Vec::new();
    let mut seen = 0;
    for (file, source) in sources() {
        if !file.starts_with("core/grounding/src/") {
            continue;
        }
        for path in source.paths.iter().filter(|path| path[0] == "atom_core") {
            seen += 1;
            let exported = ["Error", "ErrorKind", "Result"].contains(&path[1].as_str());
            if !exported && !rooms.contains(&path[1].as_str()) {
                broken.push(format!("{file} imports {}", path.join("::")));
            }
        }
    }
    report(broken);
    assert!(
        seen > 10,
        "only {seen} imports found: this test no longer sees them"
    );
}

#[test]
fn unsafe_lives_in_its_rooms() {
    let broken = sources()
        .iter()
        .filter(|(file, _)| !UNSAFE.iter().any(|prefix| file.starts_with(prefix)))
        .filter(|(_, source)| source.idents.iter().any(|ident| ident == "unsafe"))
        .map(|(file, _)| format!("{file} has unsafe code outside {UNSAFE:?}"))
        .collect();
    report(broken);
}

/// The packages that libatom links, by name, build and dev dependencies left out.
fn linked(package: &str) -> BTreeSet<String> {
    linked_with(package, &[])
}

/// The same under further options of cargo.
fn linked_with(package: &str, options: &[&str]) -> BTreeSet<String> {
    let done = atom_tests::output(
        cargo()
            .args(["tree", "--offline", "--locked"])
            .args(["--edges", "normal", "--prefix", "none"])
            .args(["--format", "{p}", "--package", package])
            .args(options),
    );
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

#[test]
fn libatom_links_neither_codecs_nor_the_command_line() {
    let library = linked("atom-capi");
    println!("libatom links {} packages", library.len());
    assert!(
        library.contains("atom-core") && library.contains("ort"),
        "{library:?}"
    );
    for not in [
        "atom-import",
        "atom-media",
        "atom-cli",
        "clap",
        "openh264",
        "openh264-sys2",
        "re_mp4",
        "indicatif",
        "env_logger",
    ] {
        assert!(!library.contains(not), "libatom links {not}");
    }
    // The captioner of kind grounded is linked by a feature, and core does not know it.
    assert!(library.contains("atom-grounding"));
    assert!(!linked("atom-core").contains("atom-grounding"));
    for package in ["atom-capi", "atom-cli"] {
        let without = linked_with(package, &["--no-default-features"]);
        assert!(without.contains("atom-core"), "{without:?}");
        assert!(
            !without.contains("atom-grounding"),
            "{package}: {without:?}"
        );
    }
    let command = linked("atom-cli");
    for there in ["clap", "openh264"] {
        assert!(
            command.contains(there),
            "the command no longer links {there}: this test names the wrong package"
        );
    }
    // What only the benchmarks need does not ship with the command.
    let bench = linked("atom-bench");
    for not in ["plotters", "tempfile"] {
        assert!(bench.contains(not), "atom-bench does not link {not}");
        assert!(!command.contains(not), "the command links {not}");
    }
}
