//! libatom as a C program meets it: installed, linked, misused, watched by AddressSanitizer and valgrind.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use atom_core::frame::PixelFormat;
use atom_media::VideoReader;
use atom_tests::{
    cache, foreign_pack, likeliest_pack, ort_library, output, pack, release_dir, root, video,
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(command: &mut Command) -> Output {
    let done = output(command);
    assert!(
        done.status.success(),
        "{command:?}: {}\n{}{}",
        done.status,
        text(&done.stdout),
        text(&done.stderr)
    );
    done
}

/// The package, installed in the target folder as `make install` does it.
fn installed() -> &'static Path {
    static DONE: OnceLock<()> = OnceLock::new();
    let place = Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/libatom"));
    DONE.get_or_init(|| {
        // Brings the archive up to date too.
        let out = release_dir();
        let _ = std::fs::remove_dir_all(place);
        succeed(
            Command::new("make")
                .args(["-C", "capi", "install", "CARGO=true"])
                .arg(format!("TARGET_DIR={}", out.parent().unwrap().display()))
                .arg(format!("PREFIX={}", place.display()))
                .env_remove("MAKEFLAGS")
                .current_dir(root()),
        );
    });
    place
}

/// Compiles one of the tests' C programs against the installed package.
fn compile(name: &str, flags: &[&str], folder: &Path) -> PathBuf {
    let program = folder.join(name);
    let lib = installed().join("lib");
    succeed(
        Command::new("cc")
            .args([
                "-std=c11",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-pedantic",
                "-g",
                "-O1",
            ])
            .args(flags)
            .arg("-I")
            .arg(installed().join("include"))
            .arg(root().join(format!("tests/c/{name}.c")))
            .arg("-o")
            .arg(&program)
            .arg("-L")
            .arg(&lib)
            .args(["-latom", "-pthread"])
            .arg(format!("-Wl,-rpath,{}", lib.display())),
    );
    program
}

const SANITIZE: [&str; 3] = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
];

/// Every fifth frame of the bicycles as raw NV12, at most `count`; their size.
fn nv12(path: &Path, count: usize) -> (u32, u32) {
    let mut reader = VideoReader::open(video("bikes")).unwrap();
    let mut bytes = Vec::new();
    let mut size = (0, 0);
    let mut number = 0;
    while let Some(frame) = reader.next_frame().unwrap() {
        number += 1;
        if number % 5 != 1 {
            continue;
        }
        let frame = frame.as_frame().unwrap();
        let format = frame.format();
        assert_eq!(format.pixels, PixelFormat::I420);
        size = (format.width, format.height);
        let [y, u, v] = [0, 1, 2].map(|plane| frame.plane(plane).data);
        bytes.extend_from_slice(y);
        bytes.extend(u.iter().zip(v).flat_map(|(u, v)| [*u, *v]));
        if number / 5 + 1 >= count {
            break;
        }
    }
    std::fs::write(path, bytes).unwrap();
    size
}

/// A command with the cache set and a locale that changes nothing.
fn run(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("ATOM_CACHE", cache()).env("LC_ALL", "C");
    command
}

#[test]
fn shared_library_exports_the_locked_symbols_and_nothing_else() {
    let library = installed().join("lib/libatom.so");
    let names = text(
        &succeed(
            Command::new("nm")
                .args(["-D", "--defined-only", "--format=posix"])
                .arg(&library),
        )
        .stdout,
    );
    let exported: BTreeSet<&str> = names
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|name| name.split('@').next().unwrap_or(name))
        // The version node itself.
        .filter(|name| *name != "ATOM_0")
        .collect();
    let locked = std::fs::read_to_string(root().join("capi/symbols.txt")).unwrap();
    assert_eq!(exported, locked.lines().collect::<BTreeSet<_>>());

    let dynamic = text(&succeed(Command::new("readelf").args(["-d", "-W"]).arg(&library)).stdout);
    assert!(
        dynamic.contains("Library soname: [libatom.so.0]"),
        "{dynamic}"
    );
    // ONNX Runtime is found when a runtime is opened, so that a missing one is an error and not a program that does not start.
    assert!(!dynamic.contains("onnxruntime"), "{dynamic}");
    let real = std::fs::canonicalize(&library).unwrap();
    assert_eq!(
        real.file_name().unwrap().to_string_lossy(),
        concat!("libatom.so.", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn package_description_names_the_installed_folders() {
    let place = installed();
    let description = std::fs::read_to_string(place.join("lib/pkgconfig/atom.pc")).unwrap();
    for line in [
        format!("prefix={}", place.display()),
        format!("Version: {}", env!("CARGO_PKG_VERSION")),
        "Libs: -L${libdir} -latom".to_owned(),
        "Cflags: -I${includedir}".to_owned(),
    ] {
        assert!(
            description.lines().any(|own| own == line),
            "{line}:\n{description}"
        );
    }
    assert!(!description.contains('@'), "{description}");
    assert!(place.join("lib/libatom.a").is_file());
    let header = std::fs::read(place.join("include/atom/atom.h")).unwrap();
    assert_eq!(
        header,
        std::fs::read(root().join("capi/include/atom/atom.h")).unwrap()
    );
}

#[test]
fn bad_arguments_are_told_under_address_sanitizer() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile("boundary", &SANITIZE, folder.path());
    let done = succeed(run(program).arg(pack()).arg(folder.path().join("store")));
    print!("{}", text(&done.stdout));
    // The program prints failures there, and so would a library that prints.
    assert_eq!(text(&done.stderr), "");
}

#[test]
fn calls_keep_their_promises_under_address_sanitizer() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile("calls", &SANITIZE, folder.path());
    let frames = folder.path().join("bikes.nv12");
    let (width, height) = nv12(&frames, 20);
    let done = succeed(
        run(program)
            .arg(likeliest_pack())
            .arg(folder.path().join("store"))
            .arg(&frames)
            .args([width.to_string(), height.to_string()]),
    );
    print!("{}", text(&done.stdout));
    assert_eq!(text(&done.stderr), "");
    let trace = std::fs::read(folder.path().join("store.trace.json")).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    for name in ["encode", "store", "caption", "ask", "search", "load"] {
        assert!(
            events.iter().any(|e| e["name"] == name),
            "no {name} in the trace"
        );
    }
}

/// 83 seconds, almost all of them asleep, beside the other tests of this file.
#[test]
fn a_push_waits_for_nobody_and_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile("ingest", &[], folder.path());
    let done = succeed(
        run(program)
            .arg(foreign_pack())
            .arg(folder.path().join("store"))
            .arg("500")
            .env("ATOM_ORT_LIBRARY", ort_library())
            .env("ATOM_CACHE", folder.path().join("cache")),
    );
    print!("{}", text(&done.stdout));
    assert_eq!(text(&done.stderr), "");
}

/// A program that links the archive instead: what atom.pc says under Libs.private is all it needs.
#[test]
fn archive_links_with_the_libraries_the_package_names() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("version.c");
    std::fs::write(
        &source,
        "#include <atom/atom.h>\n#include <stdio.h>\n\
         int main(void) { atom_runtime *r = 0; puts(atom_version()); return atom_runtime_open(\"\", 0, &r) != \
         ATOM_STATUS_INVALID_ARGUMENT; }\n",
    )
    .unwrap();
    let description = std::fs::read_to_string(installed().join("lib/pkgconfig/atom.pc")).unwrap();
    let private = description
        .lines()
        .find_map(|line| line.strip_prefix("Libs.private: "))
        .unwrap();
    let program = folder.path().join("version");
    succeed(
        Command::new("cc")
            .arg("-I")
            .arg(installed().join("include"))
            .arg(&source)
            .arg(installed().join("lib/libatom.a"))
            .args(private.split_whitespace())
            .arg("-o")
            .arg(&program),
    );
    let done = succeed(&mut run(&program));
    assert_eq!(text(&done.stdout).trim(), env!("CARGO_PKG_VERSION"));
}

/// The example, built by its own Makefile against the installed package.
fn example(flags: &str, folder: &Path) -> PathBuf {
    succeed(
        Command::new("make")
            .args(["-C", "examples-c"])
            .arg(format!("PREFIX={}", installed().display()))
            .arg(format!("OUT={}", folder.display()))
            .arg(format!("CFLAGS=-O1 -g {flags}"))
            .env_remove("MAKEFLAGS")
            .current_dir(root()),
    );
    folder.join("index_search_caption")
}

fn arguments(folder: &Path, frames: usize) -> Vec<String> {
    let raw = folder.join("bikes.nv12");
    let (width, height) = nv12(&raw, frames);
    [
        pack().display().to_string(),
        folder.join("store").display().to_string(),
        "people riding bicycles in the street".to_owned(),
        raw.display().to_string(),
        width.to_string(),
        height.to_string(),
        "5".to_owned(),
    ]
    .into()
}

/// The names in a document, with their paths.
fn names(value: &serde_json::Value) -> BTreeSet<String> {
    match value {
        serde_json::Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| {
                let inner = names(value)
                    .into_iter()
                    .map(move |rest| format!("{name}.{rest}"));
                std::iter::once(name.clone()).chain(inner)
            })
            .collect(),
        serde_json::Value::Array(values) => values.iter().flat_map(names).collect(),
        _ => BTreeSet::new(),
    }
}

/// What the example must have said.
fn check_example(done: &Output) {
    let told = text(&done.stdout);
    print!("{told}");
    let line = |start: &str| {
        told.lines()
            .find_map(|line| line.strip_prefix(start))
            .unwrap_or_else(|| panic!("no line {start:?} in\n{told}"))
            .to_owned()
    };
    assert!(
        told.lines().any(|line| line.starts_with("  camera ")),
        "no hit:\n{told}"
    );
    let caption = line("caption: ");
    assert!(caption.len() > 3, "{told}");
    assert!(line("answer: ").len() > 1, "{told}");
    assert!(line("search: ").ends_with(" hits"), "{told}");
    let state: serde_json::Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    for module in state["modules"].as_array().unwrap() {
        let loads = module["loads"].as_u64().unwrap();
        assert!(loads <= 1, "loaded more than once: {module}");
    }
    let doctor = atom_tests::json(
        atom_tests::atom()
            .args(["doctor", "--json", "--pack"])
            .arg(pack()),
    );
    assert_eq!(
        names(&state),
        names(&doctor),
        "C and the command name things alike"
    );
    // Neither the library nor what it loads prints.
    assert_eq!(text(&done.stderr), "");
}

#[test]
fn example_runs_clean_under_address_sanitizer() {
    let folder = tempfile::tempdir().unwrap();
    let program = example(&SANITIZE.join(" "), folder.path());
    let done = succeed(run(program).args(arguments(folder.path(), usize::MAX)));
    check_example(&done);
}

/// Without frames it makes up its own, so the example runs anywhere.
#[test]
fn example_runs_on_its_test_pattern() {
    let folder = tempfile::tempdir().unwrap();
    let program = example("", folder.path());
    // Nor does anything it loads write elsewhere: ONNX Runtime's telemetry would, below the home.
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let done = succeed(
        run(program)
            .arg(pack())
            .arg(folder.path().join("store"))
            .arg("a cat")
            .env("HOME", &home)
            .env_remove("XDG_CACHE_HOME")
            .env_remove("ORT_DISABLE_TELEMETRY"),
    );
    let written: Vec<_> = std::fs::read_dir(&home).unwrap().flatten().collect();
    assert!(written.is_empty(), "{written:?}");
    let told = text(&done.stdout);
    assert!(told.contains("30 frames"), "{told}");
    assert_eq!(text(&done.stderr), "");
}

/// Under valgrind everything is fifty times slower, so this is the foreign pack: the same code and the same ONNX Runtime
/// over graphs of a megabyte. `possibly lost` is left to AddressSanitizer, which knows that a pointer into the middle of
/// a block (what an `Arc<dyn …>` in a static holds) keeps it.
#[test]
fn example_runs_clean_under_valgrind() {
    if std::env::var_os("ATOM_WITHOUT_VALGRIND").is_some() {
        println!("left out, as ATOM_WITHOUT_VALGRIND asks");
        return;
    }
    let found = Command::new("valgrind").arg("--version").output();
    assert!(
        found.is_ok_and(|done| done.status.success()),
        "valgrind is missing: apt-get install valgrind, or set ATOM_WITHOUT_VALGRIND=1 to leave this out"
    );
    let folder = tempfile::tempdir().unwrap();
    let program = example("", folder.path());
    let log = folder.path().join("valgrind.log");
    let done = run("valgrind")
        .args([
            "--error-exitcode=9",
            "--leak-check=full",
            "--num-callers=40",
        ])
        .args([
            "--show-leak-kinds=definite,indirect",
            "--errors-for-leak-kinds=definite,indirect",
        ])
        .arg(format!(
            "--suppressions={}",
            root().join("tests/c/valgrind.supp").display()
        ))
        .arg(format!("--log-file={}", log.display()))
        .arg(&program)
        .arg(foreign_pack())
        .arg(folder.path().join("store"))
        .arg("stripes")
        .env("ATOM_CACHE", folder.path().join("cache"))
        .env("ATOM_ORT_LIBRARY", ort_library())
        .env_remove("ORT_DISABLE_TELEMETRY")
        .output()
        .unwrap();
    let log = std::fs::read_to_string(log).unwrap();
    let told = text(&done.stdout);
    assert!(
        done.status.success(),
        "{}\n{log}\n{told}{}",
        done.status,
        text(&done.stderr)
    );
    assert!(log.contains("ERROR SUMMARY: 0 errors"), "{log}");
    // It did the whole work.
    for line in [
        "30 frames, 3 segments, 3 keyframes encoded",
        "caption: ",
        "search: ",
        "answer: ",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
}
