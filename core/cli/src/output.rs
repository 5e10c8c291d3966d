//! How results and errors are printed.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use atom_core::{Error, ErrorKind, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// The exit code of each class of error; the README lists them.
pub fn exit_code(kind: ErrorKind) -> ExitCode {
    use ErrorKind as K;
    ExitCode::from(match kind {
        K::InvalidArgument => 2,
        K::NotFound => 3,
        K::BadPack | K::BadModel | K::Inference | K::Unsupported => 4,
        K::StoreCorrupt
        | K::StoreVersion
        | K::StoreForeign
        | K::StoreLocked
        | K::AlreadyExists
        | K::ReadOnly
        | K::DiskFull => 5,
        K::BadMedia | K::BadFrame => 6,
        K::NativeLibrary => 7,
        K::Cancelled | K::DeadlineExceeded => 8,
        _ => 1,
    })
}

/// Prints an error of `program` on standard error, as a JSON document if asked.
pub fn print_error(program: &str, error: &Error, json: bool) {
    #[derive(Serialize)]
    struct Body<'a> {
        kind: &'static str,
        message: &'a str,
        remedy: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Document<'a> {
        error: Body<'a>,
    }
    if json {
        let document = Document {
            error: Body {
                kind: error.kind().name(),
                message: error.message(),
                remedy: error.remedy_text(),
            },
        };
        if let Ok(text) = serde_json::to_string(&document) {
            complain(format_args!("{text}"));
            return;
        }
    }
    complain(format_args!("{program}: {}", error.message()));
    if let Some(remedy) = error.remedy_text() {
        complain(format_args!("  try: {remedy}"));
    }
}

/// A line on standard error. Where that cannot be written the exit code still tells.
fn complain(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints one JSON document on a line of its own.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value)
        .map_err(|error| Error::new(ErrorKind::Internal, format!("writing JSON: {error}")))?;
    print_line(&text)
}

/// Prints a line; a reader that went away is no error of ours.
pub fn print_line(text: &str) -> Result<()> {
    print_text(&format!("{text}\n"))
}

/// What standard output was when the command began.
static OUTPUT: OnceLock<File> = OnceLock::new();

/// Keeps standard output for the command's own documents: whatever else is written there from now on goes to standard error.
/// QNN's emulator greets on it from native code, which would spoil a JSON document. Done here and not in the library,
/// because the descriptor is the program's: only who owns the process may move it, and only before it has other threads.
pub fn keep_output() {
    let kept = io::stdout().as_fd().try_clone_to_owned().and_then(|kept| {
        rustix::stdio::dup2_stdout(io::stderr())?;
        Ok(kept)
    });
    match kept {
        Ok(kept) => {
            let _ = OUTPUT.set(File::from(kept));
        }
        // Closed, or no descriptor is left: as it was.
        Err(e) => log::debug!("standard output stays shared: {e}"),
    }
}

/// Whether a person reads what is printed.
pub fn is_terminal() -> bool {
    OUTPUT
        .get()
        .map_or_else(|| io::stdout().is_terminal(), IsTerminal::is_terminal)
}

/// Prints text at once, without ending the line.
pub fn print_text(text: &str) -> Result<()> {
    let write = |out: &mut dyn Write| {
        out.write_all(text.as_bytes())?;
        out.flush()
    };
    let written = match OUTPUT.get() {
        Some(mut out) => write(&mut out),
        None => write(&mut io::stdout().lock()),
    };
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Error::io("standard output", &error)),
    }
}

/// Writes a document the user asked for, and says so unless `quiet`; devices and pipes will do.
pub fn write_file(path: &Path, text: &str, quiet: bool) -> Result<()> {
    std::fs::write(path, text).map_err(|error| Error::io(path.display(), &error))?;
    match quiet {
        true => Ok(()),
        false => print_line(&format!("  written: {}", path.display())),
    }
}

/// Rows under headings, columns as wide as their widest cell; columns in `right` are right-aligned.
pub fn table(head: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::from(" ");
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            let cell = if right.contains(&column) {
                format!(" {cell:>width$} ")
            } else {
                format!(" {cell:<width$} ")
            };
            text.push_str(&cell);
        }
        text.truncate(text.trim_end().len());
        text
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| line(&mut row.iter().map(String::as_str))),
    );
    lines.join("\n")
}

/// Bytes as a person reads them.
pub fn bytes(count: u64) -> String {
    if count >= 1 << 20 {
        format!("{:.1} MiB", count as f64 / f64::from(1 << 20))
    } else if count >= 1 << 10 {
        format!("{:.1} KiB", count as f64 / 1024.0)
    } else {
        format!("{count} B")
    }
}

/// Nanoseconds as seconds.
pub fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

/// Seconds on the command line as nanoseconds.
pub fn nanoseconds(what: &str, seconds: f64) -> Result<i64> {
    if !seconds.is_finite() || !(0.0..=1e9).contains(&seconds) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{what} of {seconds} s: 0 to 1e9 is possible"),
        ));
    }
    Ok((seconds * 1e9).round() as i64)
}

/// A bar on standard error for long work; silent when that is no terminal.
pub fn progress(total: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) =
        ProgressStyle::with_template("  {msg:24!} [{bar:30}] {percent:>3} %  {elapsed} (eta {eta})")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_aligns() {
        let rows = vec![
            vec!["a".to_owned(), "10".to_owned()],
            vec!["long".to_owned(), "9".to_owned()],
        ];
        assert_eq!(
            table(&["id", "n"], &rows, &[1]),
            "  id     n\n  a     10\n  long   9"
        );
    }

    #[test]
    fn seconds_out_of_range_are_refused() {
        for bad in [f64::NAN, f64::INFINITY, -1.0, 1e10] {
            assert!(nanoseconds("--at", bad).is_err(), "{bad}");
        }
        assert_eq!(nanoseconds("--at", 1.5), Ok(1_500_000_000));
    }
}
