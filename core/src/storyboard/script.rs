//! A script: one line of text for each shot.

use crate::error::{Error, ErrorKind, Result};

/// The most lines a script may have.
pub const MAX_LINES: usize = 100;
/// The longest script, in bytes.
pub const MAX_SCRIPT_BYTES: usize = 64 << 10;

/// The lines of `text`, without the space around them. Blank lines and those that begin with `#` are left out.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for a text of more than [`MAX_SCRIPT_BYTES`] or [`MAX_LINES`], or without a line.
pub fn parse_script(text: &str) -> Result<Vec<String>> {
    let wrong = |what: String| Error::new(ErrorKind::InvalidArgument, what);
    if text.len() > MAX_SCRIPT_BYTES {
        return Err(wrong(format!(
            "the script has {} bytes, at most {MAX_SCRIPT_BYTES} are possible",
            text.len()
        ))
        .remedy("describe each shot in one short line"));
    }
    let lines: Vec<String> = text
        .trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    match lines.len() {
        0 => Err(wrong("the script has no lines".to_owned())
            .remedy("write one line for each shot; blank lines and # comments do not count")),
        1..=MAX_LINES => Ok(lines),
        count => Err(wrong(format!(
            "the script has {count} lines, at most {MAX_LINES} are possible"
        ))
        .remedy("cut it into several")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blank_lines_do_not_count() {
        let lines = parse_script("\u{feff}# title\r\n\r\n  a cat \r\n\t\n#b\na dog # two").unwrap();
        assert_eq!(lines, ["a cat", "a dog # two"]);
    }

    #[test]
    fn empty_and_oversized_scripts_are_refused() {
        for bad in ["", " \n\t", "# only", "\u{feff}"] {
            let error = parse_script(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.message().contains("no lines"), "{error}");
        }
        assert_eq!(
            parse_script(&"a\n".repeat(MAX_LINES)).unwrap().len(),
            MAX_LINES
        );
        let error = parse_script(&"a\n".repeat(MAX_LINES + 1)).unwrap_err();
        assert!(error.message().contains("101 lines"), "{error}");
        let error = parse_script(&"a".repeat(1 << 20)).unwrap_err();
        assert!(error.message().contains("1048576 bytes"), "{error}");
    }
}
