//! How the command must refuse: an error of the right class that names the thing, never a signal, a panic or a hang.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Bounds a hang, far above what any refusal takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs `command` to its end.
///
/// # Panics
/// When it cannot be started, ends by a signal or a panic, or does not end.
pub fn survives(name: &str, command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let began = Instant::now();
    // What is printed on the way is far below a pipe's capacity.
    while child
        .try_wait()
        .unwrap_or_else(|error| panic!("{name}: {error}"))
        .is_none()
    {
        if began.elapsed() > LIMIT {
            let _ = child.kill();
            panic!("{name}: still running after {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let done = child
        .wait_with_output()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let errors = String::from_utf8_lossy(&done.stderr);
    let code = done.status.code();
    assert!(
        code.is_some(),
        "{name}: ended by a signal: {}\n{errors}",
        done.status
    );
    assert!(
        code != Some(101) && !errors.contains("panicked at"),
        "{name}: panicked\n{errors}"
    );
    done
}

/// Runs `command` (with `--json`), which must fail with an error of `kind` whose text holds every one of `words`.
///
/// # Panics
/// When it succeeds, or fails another way.
pub fn refuses(name: &str, command: &mut Command, kind: &str, words: &[&str]) {
    let done = survives(name, command);
    let errors = String::from_utf8_lossy(&done.stderr);
    let line = errors
        .lines()
        .rev()
        .find(|line| line.starts_with("{\"error\""));
    let Some(error) = line.and_then(|line| serde_json::from_str::<Value>(line).ok()) else {
        panic!(
            "{name}: {} and no error document:\n{}{errors}",
            done.status,
            String::from_utf8_lossy(&done.stdout)
        );
    };
    let error = &error["error"];
    let text = format!("{} {}", error["message"], error["remedy"]);
    println!(
        "{name}: exit {}, {} — {text}",
        done.status.code().unwrap_or(-1),
        error["kind"]
    );
    assert!(
        !done.status.success(),
        "{name}: an error was printed, and the exit code is 0"
    );
    assert_eq!(error["kind"], kind, "{name}: {text}");
    for word in words {
        assert!(
            text.contains(word),
            "{name}: the error does not name {word:?}: {text}"
        );
    }
}
