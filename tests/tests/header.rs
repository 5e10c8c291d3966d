//! `atom.h` is what the sources say, compiles everywhere, and keeps its promises about numbers and names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use atom_tests::root;

/// In the order of the header.
const SOURCES: [&str; 17] = [
    "version",
    "status",
    "log",
    "control",
    "frame",
    "runtime",
    "memory",
    "store",
    "ingest",
    "search",
    "assemble",
    "generation",
    "caption",
    "ask",
    "queue",
    "event",
    "trace",
];

fn header() -> PathBuf {
    root().join("capi/include/atom/atom.h")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The generated header; with `ATOM_UPDATE` set it is also the committed one before any test looks.
fn generated() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let text = generate();
        if updating() {
            std::fs::write(header(), &text).unwrap();
        }
        text
    })
}

fn updating() -> bool {
    std::env::var_os("ATOM_UPDATE").is_some()
}

/// The committed header.
fn committed() -> String {
    generated();
    read(&header())
}

fn generate() -> String {
    let capi = root().join("capi");
    let config = cbindgen::Config::from_file(capi.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for name in SOURCES {
        builder = builder.with_src(capi.join(format!("src/{name}.rs")));
    }
    let mut bytes = Vec::new();
    builder.generate().unwrap().write(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    // What Rust calls safety, the manual at the top says once.
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        if line.contains("See the rules at the top of the header.") {
            for _ in 0..2 {
                let cut = out
                    .trim_end_matches('\n')
                    .rfind('\n')
                    .map_or(0, |at| at + 1);
                assert!(
                    out[cut..].contains("# Safety") || out[cut..].trim() == "*",
                    "{}",
                    &out[cut..]
                );
                out.truncate(cut);
            }
            continue;
        }
        out.push_str(line);
    }
    out
}

#[test]
fn header_is_what_the_sources_say() {
    let generated = generated();
    let committed = committed();
    let differs = committed
        .lines()
        .zip(generated.lines())
        .position(|(a, b)| a != b);
    assert!(
        committed == generated,
        "capi/include/atom/atom.h is stale from line {} on: run \
         `ATOM_UPDATE=1 cargo test --release -p atom-tests --test header` and commit it",
        differs.unwrap_or_else(|| committed.lines().count().min(generated.lines().count())) + 1
    );
    for file in std::fs::read_dir(root().join("capi/src"))
        .unwrap()
        .flatten()
    {
        let name = file
            .path()
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let exports = read(&file.path()).contains("#[unsafe(no_mangle)]");
        assert!(
            !exports || SOURCES.contains(&name.as_str()),
            "capi/src/{name}.rs is not in SOURCES"
        );
    }
}

#[test]
fn header_compiles_alone_and_twice_as_c11_and_cxx17() {
    // Not while it is being made again.
    generated();
    let folder = tempfile::tempdir().unwrap();
    for (compiler, standard, name) in [
        ("cc", "-std=c11", "twice.c"),
        ("c++", "-std=c++17", "twice.cpp"),
    ] {
        let twice = folder.path().join(name);
        std::fs::write(
            &twice,
            "#include <atom/atom.h>\n#include <atom/atom.h>\nint main(void) { return ATOM_STATUS_OK; }\n",
        )
        .unwrap();
        let language = if compiler == "cc" { "c" } else { "c++" };
        for source in [header(), twice] {
            let done = Command::new(compiler)
                .args([
                    standard,
                    "-Wall",
                    "-Wextra",
                    "-Werror",
                    "-pedantic",
                    "-fsyntax-only",
                    "-x",
                    language,
                ])
                .arg("-I")
                .arg(root().join("capi/include"))
                .arg(&source)
                .output()
                .unwrap_or_else(|error| {
                    panic!("{compiler}: {error} (apt-get install build-essential)")
                });
            let told = String::from_utf8_lossy(&done.stderr);
            // As the main file a header may say `#pragma once` or nothing; ours has a guard.
            assert!(
                done.status.success(),
                "{compiler} {standard} {}: {told}",
                source.display()
            );
        }
    }
}

/// The words of a text that look like Atom's names.
fn words<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with(prefix))
        .collect()
}

/// The header without comments.
fn code(header: &str) -> String {
    let mut out = String::new();
    let mut rest = header;
    while let Some((before, after)) = rest.split_once("/*") {
        out.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, rest)| rest);
    }
    out + rest
}

#[test]
fn every_name_the_manual_mentions_exists() {
    let text = committed();
    let code = code(&text);
    let defined: BTreeSet<_> = words(&code, "ATOM_")
        .into_iter()
        .chain(words(&code, "atom_"))
        .collect();
    // Environment variables, and an answer of atom_status_name().
    let other = [
        "ATOM_CACHE",
        "ATOM_ORT_LIBRARY",
        "ATOM_UPDATE",
        "ATOM_STATUS_UNKNOWN",
    ];
    for word in words(&text, "ATOM_")
        .into_iter()
        .chain(words(&text, "atom_"))
    {
        let family = word.ends_with('_') && defined.iter().any(|name| name.starts_with(word));
        assert!(
            defined.contains(word) || family || other.contains(&word),
            "atom.h mentions {word}"
        );
    }
}

#[test]
fn symbols_are_the_functions_of_the_header() {
    let code = code(&committed());
    let functions: BTreeSet<&str> = code
        .split('(')
        .filter_map(|before| {
            before
                .rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .next()
        })
        .filter(|name| name.starts_with("atom_"))
        .collect();
    assert!(functions.len() > 30, "{functions:?}");
    let symbols = root().join("capi/symbols.txt");
    let wanted: String = functions.iter().map(|name| format!("{name}\n")).collect();
    if updating() {
        std::fs::write(&symbols, &wanted).unwrap();
    }
    assert_eq!(
        read(&symbols),
        wanted,
        "capi/symbols.txt locks the exported functions: a line removed or changed breaks programs"
    );
}

#[test]
fn version_is_the_package_version() {
    let text = committed();
    let macros = ["MAJOR", "MINOR", "PATCH"].map(|part| {
        let (_, rest) = text
            .split_once(&format!("#define ATOM_VERSION_{part} "))
            .unwrap();
        rest.lines().next().unwrap().trim().to_owned()
    });
    assert_eq!(macros.join("."), env!("CARGO_PKG_VERSION"));
}

/// The numbers programs are compiled with. Lines may be added, never changed.
const FROZEN: &str = "
    ATOM_STATUS_OK 0
    ATOM_STATUS_FULL 1
    ATOM_STATUS_EMPTY 2
    ATOM_STATUS_INVALID_ARGUMENT -1
    ATOM_STATUS_BAD_FRAME -2
    ATOM_STATUS_NOT_FOUND -3
    ATOM_STATUS_ALREADY_EXISTS -4
    ATOM_STATUS_UNSUPPORTED -5
    ATOM_STATUS_BUSY -6
    ATOM_STATUS_CANCELLED -7
    ATOM_STATUS_DEADLINE_EXCEEDED -8
    ATOM_STATUS_OUT_OF_BUDGET -9
    ATOM_STATUS_BAD_PACK -10
    ATOM_STATUS_BAD_MODEL -11
    ATOM_STATUS_INFERENCE -12
    ATOM_STATUS_NATIVE_LIBRARY -13
    ATOM_STATUS_STORE_CORRUPT -14
    ATOM_STATUS_STORE_VERSION -15
    ATOM_STATUS_STORE_FOREIGN -16
    ATOM_STATUS_STORE_LOCKED -17
    ATOM_STATUS_READ_ONLY -18
    ATOM_STATUS_DISK_FULL -19
    ATOM_STATUS_BAD_MEDIA -20
    ATOM_STATUS_IO -21
    ATOM_STATUS_INTERNAL -22
    ATOM_STATUS_IN_CALLBACK -23
    ATOM_PIXELS_NV12 1
    ATOM_PIXELS_I420 2
    ATOM_PIXELS_RGB8 3
    ATOM_PIXELS_BGR8 4
    ATOM_PIXELS_GRAY8 5
    ATOM_MATRIX_BT601 0
    ATOM_MATRIX_BT709 1
    ATOM_RANGE_LIMITED 0
    ATOM_RANGE_FULL 1
    ATOM_PRIORITY_BACKGROUND -1
    ATOM_PRIORITY_NORMAL 0
    ATOM_PRIORITY_INTERACTIVE 1
    ATOM_LOG_LEVEL_OFF 0
    ATOM_LOG_LEVEL_ERROR 1
    ATOM_LOG_LEVEL_WARN 2
    ATOM_LOG_LEVEL_INFO 3
    ATOM_LOG_LEVEL_DEBUG 4
    ATOM_TASK_INDEX 1
    ATOM_TASK_SEARCH 2
    ATOM_TASK_CAPTION 3
    ATOM_TASK_ASK 4
    ATOM_TASK_ASSEMBLE 5
    ATOM_WRITER_SCRIPT 0
    ATOM_WRITER_DECODER 1
    ATOM_UNMATCHED_MATCHED 0
    ATOM_UNMATCHED_NO_MATCH 1
    ATOM_UNMATCHED_TOO_SHORT 2
    ATOM_UNMATCHED_TAKEN 3
    ATOM_PRESSURE_NONE 0
    ATOM_PRESSURE_LOW 1
    ATOM_PRESSURE_CRITICAL 2
    ATOM_KEEP_USUAL 0
    ATOM_KEEP_LESS 1
    ATOM_KEEP_MORE 2
    ATOM_KEEP_PINNED 3
    ATOM_MEMORY_EVENT_KIND_LOADED 1
    ATOM_MEMORY_EVENT_KIND_SHRUNK 2
    ATOM_MEMORY_EVENT_KIND_PARKED 3
    ATOM_MEMORY_EVENT_KIND_RELEASED 4
    ATOM_MEMORY_EVENT_KIND_PRESSURE 5
    ATOM_MEMORY_EVENT_KIND_REFUSED 6
    ATOM_ACCESS_READ_WRITE 0
    ATOM_ACCESS_READ_ONLY 1
    ATOM_STOP_OTHER 0
    ATOM_STOP_END_OF_TEXT 1
    ATOM_STOP_MAX_TOKENS 2
    ATOM_STOP_STOP_STRING 3
    ATOM_STOP_DEADLINE 4
    ATOM_STOP_CANCELLED 5
    ATOM_STOP_CONSTRAINT 6
    ATOM_EVENT_KIND_TEXT 1
    ATOM_EVENT_KIND_DONE 2
";

#[test]
fn numbers_are_frozen() {
    let code = code(&committed());
    let found: BTreeSet<(String, String)> = code
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.trim().trim_end_matches(',').split_once(" = "))
        .map(|(name, number)| (name.to_owned(), number.to_owned()))
        .collect();
    let frozen: BTreeSet<(String, String)> = FROZEN
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(name, number)| (name.to_owned(), number.to_owned()))
        .collect();
    let gone: Vec<_> = frozen.difference(&found).collect();
    let new: Vec<_> = found.difference(&frozen).collect();
    assert!(
        gone.is_empty(),
        "changed or gone, which breaks programs: {gone:?}"
    );
    assert!(new.is_empty(), "add these to FROZEN: {new:?}");
}

#[test]
fn every_class_of_error_has_a_status() {
    let errors = read(&root().join("core/src/error.rs"));
    let (_, body) = errors.split_once("pub enum ErrorKind {").unwrap();
    let (body, _) = body.split_once("\n}").unwrap();
    let kinds: Vec<_> = body
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"))
        .filter_map(|line| line.strip_suffix(','))
        .collect();
    assert!(kinds.len() > 15, "{kinds:?}");
    let status = read(&root().join("capi/src/status.rs"));
    for kind in kinds {
        assert!(
            kind == "Internal" || status.contains(&format!("ErrorKind::{kind} => Self::")),
            "ErrorKind::{kind} would reach C as ATOM_STATUS_INTERNAL: give it a number in capi/src/status.rs"
        );
    }
}
