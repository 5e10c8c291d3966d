//! What the tests share: where things are, the command, the counting shim, and the sources as tokens.

pub mod broken;
pub mod damage;
pub mod exports;
pub mod hand_packs;
pub mod imported;
pub mod imports;
pub mod npu;
pub mod pages;
pub mod picture;
pub mod refusal;
pub mod shim;
pub mod source;
pub mod texts;
pub mod unowned;
pub mod workload;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};

use atom_core::runtime::RuntimeOptions;

/// The top of the source tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| panic!("{} has no parent", env!("CARGO_MANIFEST_DIR")))
}

/// `cargo`, as the tests were built with, at the top of the source tree.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// `$ATOM_CACHE`, or its default.
pub fn cache() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("ATOM_CACHE").map_or_else(
        || {
            set("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")))
                .unwrap_or_else(|| panic!("set ATOM_CACHE, XDG_CACHE_HOME or HOME"))
                .join("atom")
        },
        PathBuf::from,
    )
}

/// `relative` inside the cache. A test never passes because its input is missing.
///
/// # Panics
/// When it is not there; the message says what to run.
pub fn cached(relative: &str) -> PathBuf {
    let path = cache().join(relative);
    assert!(
        path.exists(),
        "{} is missing: run `python3 models/setup.py test` (or `make test`) first",
        path.display()
    );
    path
}

/// The reference pack.
pub fn pack() -> PathBuf {
    cached("packs/reference")
}

/// The reference pack with a decoder that words captions: for tests of what a decoder does.
pub fn likeliest_pack() -> PathBuf {
    cached("packs/reference-likeliest")
}

/// How tests open the pack in folder `pack`: with ONNX Runtime from the cache and every kind of captioner there is.
pub fn runtime_options(pack: impl Into<PathBuf>) -> RuntimeOptions {
    let mut options = RuntimeOptions::new(pack);
    options.ort_library = Some(ort_library());
    options.captioners = vec![Arc::new(atom_grounding::Grounded)];
    options
}

/// ONNX Runtime's library.
pub fn ort_library() -> PathBuf {
    std::env::var_os("ATOM_ORT_LIBRARY")
        .map_or_else(|| cached("ort/libonnxruntime.so"), PathBuf::from)
}

/// A clip of the demo: `bikes`, `bigbuckbunny` or `carphone`.
pub fn video(name: &str) -> PathBuf {
    cached(&format!("videos/{name}.mp4"))
}

/// Runs a Python script of the project with the converters' Python and returns what it printed.
///
/// # Panics
/// When Python or the script fails; the message holds what it printed.
pub fn python(script: &Path, args: &[&str], stdin: Option<&str>) -> String {
    use std::io::Write;
    let mut child = Command::new(cached("venv/bin/python"))
        .arg(script)
        .args(args)
        .env("ATOM_CACHE", cache())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("python {}: {error}", script.display()));
    let mut pipe = child.stdin.take();
    let text = stdin.unwrap_or_default().to_owned();
    let writer = std::thread::spawn(move || {
        if let Some(pipe) = pipe.as_mut() {
            // A script that does not read its input closes it; that is no failure.
            let _ = pipe.write_all(text.as_bytes());
        }
    });
    let output = child
        .wait_with_output()
        .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let _ = writer.join();
    assert!(
        output.status.success(),
        "{} {args:?} failed: {}\n{}",
        script.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `python` for a script that prints one JSON document.
///
/// # Panics
/// When the script fails or prints something else.
pub fn python_json(script: &Path, args: &[&str], stdin: Option<&str>) -> serde_json::Value {
    let text = python(script, args, stdin);
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{}: {error}:\n{text}", script.display()))
}

/// The folder of this build's programs and libraries, which are brought up to date once per test process.
///
/// # Panics
/// When they do not build.
pub fn release_dir() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // The same selection as the Makefile's, so that nothing is built twice with other features.
        let built = cargo()
            .args(["build", "--release", "--workspace"])
            .args(["--locked", "--offline", "--quiet"])
            .output()
            .unwrap_or_else(|error| panic!("cargo: {error}"));
        assert!(
            built.status.success(),
            "`cargo build --release --workspace` failed:\n{}",
            String::from_utf8_lossy(&built.stderr)
        );
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root().join("target"), PathBuf::from);
        target.join("release")
    })
}

/// The `atom` command with the cache set, ready for arguments.
pub fn atom() -> Command {
    program("atom")
}

/// `atom-bench` with the cache set, ready for arguments.
pub fn atom_bench() -> Command {
    program("atom-bench")
}

/// A program of this build with the cache set, ready for arguments.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(release_dir().join(name));
    command.env("ATOM_CACHE", cache());
    command
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started.
pub fn output(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a command that must succeed and print JSON.
///
/// # Panics
/// When it fails or prints something else; the message holds what it printed.
pub fn json(command: &mut Command) -> serde_json::Value {
    let done = output(command);
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success(),
        "{command:?}: {}\n{text}{}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command:?}: {error}:\n{text}"))
}

/// The foreign pack (`tests/fixtures/foreign_pack.py`), built once per test process.
///
/// # Panics
/// When it cannot be built.
pub fn foreign_pack() -> &'static Path {
    static BUILT: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let folder = temporary();
        let out = folder.path().join("foreign");
        python(&foreign_script(), &["build", &out.to_string_lossy()], None);
        folder
    });
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| folder.path().join("foreign"))
}

/// `atom --json WORDS…` with the foreign pack and this store. ONNX Runtime is the set-up's; all else is cached in `cache`.
///
/// # Panics
/// When the pack cannot be built.
pub fn foreign_atom(cache: &Path, store: &Path, words: &[&str]) -> Command {
    let mut command = atom();
    command
        .env("ATOM_CACHE", cache)
        .env("ATOM_ORT_LIBRARY", ort_library())
        .arg("--json")
        .args(words)
        .arg("--pack")
        .arg(foreign_pack())
        .arg("--store")
        .arg(store);
    command
}

/// What pack.toml says of a file with these bytes.
pub fn hash_and_size(bytes: &[u8]) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(bytes);
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256 = \"{hash}\", bytes = {}", bytes.len())
}

/// The generator of the foreign pack, which is its reference too.
pub fn foreign_script() -> PathBuf {
    root().join("tests/fixtures/foreign_pack.py")
}

/// A folder that goes away with the value.
///
/// # Panics
/// When it cannot be made.
pub fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().unwrap_or_else(|error| panic!("temporary folder: {error}"))
}

/// Cosine of two vectors of the same length.
///
/// # Panics
/// When the lengths differ.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "vectors of different lengths");
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter()
            .zip(y)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The numbers of a JSON list.
///
/// # Panics
/// When it is something else.
pub fn floats(value: &serde_json::Value) -> Vec<f32> {
    let list = value
        .as_array()
        .unwrap_or_else(|| panic!("no list: {value}"));
    list.iter()
        .map(|number| number.as_f64().unwrap_or(f64::NAN) as f32)
        .collect()
}

/// A deterministic RGB picture: `seed` decides colours and shapes, which cover the whole frame.
pub fn picture(seed: u64, width: u32, height: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f32 / (1u64 << 53) as f32
    };
    let blobs: Vec<[f32; 6]> = (0..12)
        .map(|_| {
            [
                random(),
                random(),
                0.05 + random() * 0.3,
                random(),
                random(),
                random(),
            ]
        })
        .collect();
    let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
    for y in 0..height {
        for x in 0..width {
            let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
            let mut colour = [u, v, 0.5];
            for [cx, cy, radius, r, g, b] in &blobs {
                let near = ((u - cx).powi(2) + (v - cy).powi(2)).sqrt() / radius;
                if near < 1.0 {
                    colour = [*r, *g, *b];
                }
            }
            pixels.extend(colour.map(|value| (value * 255.0) as u8));
        }
    }
    pixels
}

/// A picture decoded to packed RGB.
pub struct Photo {
    /// File name.
    pub name: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `width * height * 3` bytes.
    pub rgb: Vec<u8>,
}

/// Decodes image files with Pillow.
///
/// # Panics
/// When one cannot be read.
pub fn photos(files: &[PathBuf]) -> Vec<Photo> {
    let folder = temporary();
    let out = folder.path().to_string_lossy().into_owned();
    let names: Vec<String> = files
        .iter()
        .map(|file| file.to_string_lossy().into_owned())
        .collect();
    let mut args = vec![out.as_str()];
    args.extend(names.iter().map(String::as_str));
    let sizes = python_json(&root().join("tests/fixtures/pixels.py"), &args, None);
    files
        .iter()
        .map(|file| {
            let name = file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let side = |index: usize| {
                u32::try_from(sizes[&name][index].as_u64().unwrap_or(0)).unwrap_or(0)
            };
            let path = folder.path().join(format!("{name}.rgb"));
            let rgb =
                std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            Photo {
                width: side(0),
                height: side(1),
                rgb,
                name,
            }
        })
        .collect()
}

/// The files of a folder whose names end in one of `endings`, sorted.
///
/// # Panics
/// When the folder cannot be read, or holds none.
pub fn files_ending(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            endings
                .iter()
                .any(|end| path.to_string_lossy().ends_with(end))
        })
        .collect();
    found.sort();
    assert!(
        !found.is_empty(),
        "{} holds no {endings:?}",
        folder.display()
    );
    found
}
