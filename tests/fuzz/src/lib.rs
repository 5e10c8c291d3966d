//! What the fuzz targets share: the exports of the tests, in folders that are written anew for each input.

pub mod edits;
pub mod folders;
pub mod graphs;
pub mod seeds;

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

use atom_core::{Error, ErrorKind};

/// The longest message of an error. Those of folders with many files list some of them.
const LONGEST_MESSAGE: usize = 4000;

/// The folder `tests/fixtures` of the checkout.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// Every file below `dir`, by its path relative to `dir`, sorted.
///
/// # Panics
/// When the checkout is not complete.
pub fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            let below = files(&path).into_iter();
            found.extend(below.map(|(file, content)| (format!("{name}/{file}"), content)));
        } else {
            found.push((name, fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

/// Runs `call`. A panic inside is the code's own matter, as that of a library which it catches; one that leaves `call` is shown
/// and goes on. libFuzzer's own hook would end the process at the first.
pub fn shown<T>(call: impl FnOnce() -> T) -> T {
    thread_local!(static LAST: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) });
    panic::set_hook(Box::new(|info| {
        let trace = std::backtrace::Backtrace::force_capture();
        LAST.with(|last| *last.borrow_mut() = format!("{info}\n{trace}"));
    }));
    match panic::catch_unwind(panic::AssertUnwindSafe(call)) {
        Ok(value) => value,
        Err(payload) => {
            LAST.with(|last| eprintln!("{}", last.borrow()));
            panic::resume_unwind(payload)
        }
    }
}

/// Sees that an error is one that a user can have.
///
/// # Panics
/// When it is not.
pub fn is_an_answer(error: &Error, kinds: &[ErrorKind]) {
    assert!(kinds.contains(&error.kind()), "{error:?}");
    assert!(error.message().len() <= LONGEST_MESSAGE, "{error}");
}
