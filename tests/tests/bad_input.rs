//! Everything else a caller can get wrong: videos, frames, words, times, the native library.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use atom_core::ErrorKind;
use atom_core::control::Control;
use atom_core::frame::{Frame, FrameFormat, MAX_SIDE, PixelFormat, Plane};
use atom_core::index::Access;
use atom_core::runtime::{Runtime, RuntimeOptions};
use atom_core::task::search::SearchQuery;
use atom_tests::refusal::{refuses, survives};
use atom_tests::{foreign_atom, json, ort_library, pack, root, temporary, video};

fn command(cache: &Path, words: &[&str]) -> Command {
    foreign_atom(cache, &cache.join("store"), words)
}

fn index(cache: &Path, file: &Path) -> Command {
    let mut command = command(cache, &["index"]);
    command.arg(file);
    command
}

#[test]
fn every_bad_input_is_an_error() {
    let folder = temporary();
    let cache = folder.path();
    let real = std::fs::read(video("carphone")).unwrap();
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = cache.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    refuses(
        "no such video",
        &mut index(cache, Path::new("nowhere.mp4")),
        "not_found",
        &["nowhere.mp4"],
    );
    refuses(
        "a folder for a video",
        &mut index(cache, &root().join("core")),
        "bad_media",
        &["core"],
    );
    for (name, bytes) in [
        ("empty.mp4", &[][..]),
        (
            "text.mp4",
            b"this is a letter, not a video, however long it goes on and on",
        ),
        ("zeros.mp4", &[0; 100_000]),
        ("head.mp4", &real[..64]),
        ("half.mp4", &real[..real.len() / 2]),
        ("tail.mp4", &real[real.len() / 2..]),
    ] {
        refuses(
            name,
            &mut index(cache, &file(name, bytes)),
            "bad_media",
            &[name],
        );
    }
    let source = std::fs::read(root().join("Cargo.lock")).unwrap();
    refuses(
        "a lock file",
        &mut index(cache, &file("lock.mp4", &source)),
        "bad_media",
        &["lock.mp4"],
    );

    // Bytes changed anywhere: any end but a crash or a hang.
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let mut accepted = 0;
    for round in 0..24 {
        let mut bytes = real.clone();
        let (start, length) = match round % 3 {
            // The headers, wherever they lie; the whole file; the first kilobyte.
            0 => (bytes.len().saturating_sub(8192), 8192),
            1 => (0, bytes.len()),
            _ => (0, 1024),
        };
        for _ in 0..1 + next(40) {
            let at = start + next(length.min(real.len() - start));
            bytes[at] = next(256) as u8;
        }
        let name = format!("changed{round}.mp4");
        let done = survives(&name, &mut index(cache, &file(&name, &bytes)));
        accepted += usize::from(done.status.success());
    }
    println!("24 videos with changed bytes: {accepted} indexed, the others refused, none crashed");

    // Words and numbers.
    json(&mut index(cache, &video("carphone")));
    let blank: &[(&str, &[&str])] = &[
        ("blank query", &["search", "  "]),
        ("no hits wanted", &["search", "x", "-k", "0"]),
        ("too many hits wanted", &["search", "x", "-k", "99999999"]),
        (
            "range the wrong way round",
            &["search", "x", "--from", "3", "--to", "1"],
        ),
        ("time that is no number", &["search", "x", "--from", "nan"]),
        (
            "endless time",
            &["caption", "--stream", "carphone.mp4", "--at", "inf"],
        ),
        (
            "blank question",
            &["ask", "--stream", "carphone.mp4", "--at", "0", " "],
        ),
        (
            "endless deadline",
            &[
                "caption",
                "--stream",
                "carphone.mp4",
                "--at",
                "0",
                "--deadline",
                "inf",
            ],
        ),
        ("no picture named", &["caption", "--at", "0"]),
        (
            "a span backwards",
            &[
                "caption",
                "--stream",
                "carphone.mp4",
                "--at",
                "2",
                "--to",
                "1",
            ],
        ),
        (
            "no tokens wanted",
            &[
                "caption",
                "--stream",
                "carphone.mp4",
                "--at",
                "0",
                "--max-tokens",
                "0",
            ],
        ),
    ];
    for (name, words) in blank {
        refuses(name, &mut command(cache, words), "invalid_argument", &[]);
    }
    refuses(
        "no such stream",
        &mut command(cache, &["search", "x", "--stream", "door"]),
        "not_found",
        &["door"],
    );
    refuses(
        "no such stream",
        &mut command(cache, &["caption", "--stream", "door", "--at", "0"]),
        "not_found",
        &["door"],
    );
    refuses(
        "after the end",
        &mut command(
            cache,
            &["caption", "--stream", "carphone.mp4", "--at", "1000"],
        ),
        "not_found",
        &["1000"],
    );
    let mut late = command(cache, &["caption", "--at", "1000"]);
    refuses(
        "after a file's end",
        late.arg(video("carphone")),
        "invalid_argument",
        &["1000"],
    );

    let mut raw = command(cache, &["search"]);
    raw.arg(OsStr::from_bytes(b"caf\xe9 \xff\xfe"));
    let done = survives("a query that is not UTF-8", &mut raw);
    let text = String::from_utf8_lossy(&done.stderr);
    println!("a query that is not UTF-8: {} {text}", done.status);
    assert!(!done.status.success() && text.contains("UTF-8"), "{text}");
}

fn runtime(folder: &Path) -> Runtime {
    let mut options = RuntimeOptions::new(pack());
    options.ort_library = Some(ort_library());
    options.artifacts = Some(folder.join("artifacts"));
    Runtime::open(&options).unwrap()
}

#[test]
fn long_and_odd_texts() {
    let folder = temporary();
    let runtime = runtime(folder.path());
    let store = runtime
        .open_store(&folder.path().join("store"), Access::ReadWrite)
        .unwrap();
    let search =
        |text: String| runtime.search(&store, &SearchQuery::new(text), &Control::default());
    let error = search("a ".repeat(1 << 19)).unwrap_err();
    println!("1 MB query: {error}");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    for text in [
        "\0",
        "a\0b",
        "\u{202e}abc",
        "🚲".repeat(2000).as_str(),
        "x".repeat(60_000).as_str(),
        "\u{fffd}",
        "a{}b{}",
    ] {
        assert!(
            search(text.to_owned()).is_ok(),
            "{:?}",
            text.chars().take(8).collect::<String>()
        );
    }
}

#[test]
fn frames_that_do_not_fit_are_refused_and_odd_ones_work() {
    let folder = temporary();
    let runtime = runtime(folder.path());
    let data = vec![128; 1 << 20];
    let plane = |stride| Plane {
        data: &data,
        stride,
    };
    let refused = |width, height, planes: &[Plane<'_>], pixels| {
        let error = Frame::new(FrameFormat::new(pixels, width, height), planes, 0).unwrap_err();
        println!("{error}");
        assert_eq!(error.kind(), ErrorKind::BadFrame);
    };
    refused(0, 10, &[plane(10)], PixelFormat::Gray8);
    refused(10, 0, &[plane(10)], PixelFormat::Gray8);
    refused(MAX_SIDE + 1, 1, &[plane(1 << 16)], PixelFormat::Gray8);
    refused(u32::MAX, u32::MAX, &[plane(usize::MAX)], PixelFormat::Gray8);
    refused(10, 10, &[plane(29)], PixelFormat::Rgb8);
    refused(10, 10, &[plane(usize::MAX)], PixelFormat::Rgb8);
    refused(10, 10, &[plane(10)], PixelFormat::Nv12);
    refused(11, 11, &[plane(11), plane(11)], PixelFormat::Nv12);
    refused(4096, 4096, &[plane(4096)], PixelFormat::Gray8);
    // One pixel, one row, one column, odd sizes: pictures all the same.
    for (width, height) in [(1, 1), (1, 333), (333, 1), (3, 5), (641, 363)] {
        for pixels in [
            PixelFormat::Nv12,
            PixelFormat::I420,
            PixelFormat::Rgb8,
            PixelFormat::Bgr8,
            PixelFormat::Gray8,
        ] {
            let frame = Frame::packed(FrameFormat::new(pixels, width, height), &data, 0).unwrap();
            let features = runtime.observe(&frame, &Control::default()).unwrap();
            let norm: f32 = features.embedding.iter().map(|value| value * value).sum();
            assert!(
                (norm - 1.0).abs() < 1e-3,
                "{pixels:?} {width}x{height}: norm {norm}"
            );
        }
    }
}

/// A library that answers as an ONNX Runtime of another age does.
fn fake_library(folder: &Path, name: &str, code: &str) -> PathBuf {
    let source = folder.join(format!("{name}.c"));
    std::fs::write(&source, code).unwrap();
    let library = folder.join(format!("lib{name}.so"));
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status()
        .unwrap();
    assert!(done.success());
    library
}

#[test]
fn native_libraries_that_do_not_fit_are_refused() {
    let folder = temporary();
    let with = |library: &Path| {
        let mut command = index(folder.path(), &video("carphone"));
        command.env("ATOM_ORT_LIBRARY", library);
        command
    };
    refuses(
        "missing library",
        &mut with(Path::new("/nowhere/libonnxruntime.so")),
        "native_library",
        &["/nowhere/libonnxruntime.so"],
    );
    let text = folder.path().join("libtext.so");
    std::fs::write(&text, "not a library").unwrap();
    refuses(
        "a text for a library",
        &mut with(&text),
        "native_library",
        &["libtext.so"],
    );
    let other = fake_library(folder.path(), "other", "int answer(void) { return 42; }");
    refuses(
        "another library",
        &mut with(&other),
        "native_library",
        &["libother.so"],
    );
    let old = fake_library(
        folder.path(),
        "old",
        "static const void *get(unsigned v) { (void)v; return 0; }\n\
         static const char *version(void) { return \"1.16.3\"; }\n\
         static const struct { const void *(*api)(unsigned); const char *(*version)(void); } base = {get, version};\n\
         const void *OrtGetApiBase(void) { return &base; }\n",
    );
    refuses(
        "too old a library",
        &mut with(&old),
        "native_library",
        &["1.16.3"],
    );
    // Nothing named and nothing in the cache.
    let mut command = index(folder.path(), &video("carphone"));
    command
        .env_remove("ATOM_ORT_LIBRARY")
        .env("ATOM_CACHE", folder.path().join("empty"));
    let done = survives("no library anywhere", &mut command);
    let text = String::from_utf8_lossy(&done.stderr);
    println!("no library anywhere: {text}");
    // A machine may have one installed in the loader's path; then it is used.
    assert!(
        done.status.success() || text.contains("native_library"),
        "{text}"
    );
}
