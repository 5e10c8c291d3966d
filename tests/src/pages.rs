//! The project's pages (Markdown) and the commands on them.
//!
//! A fenced block says what it is: `sh` is commands, one a line; `text` is something to look at, and right behind a block of
//! commands their output. A span of code outside of blocks is a command if it begins with a program. With placeholders (`FILE`,
//! `[…]`, `…`), or of two words (`make lint`, `atom doctor`), it names a command, and is held against what the program offers.

use std::path::Path;

/// Something on a page that has to do with commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A command as it stands.
    Command(String),
    /// Output of the commands of the block before it, a line each.
    Output(Vec<String>),
    /// The name of a command, or a command with placeholders.
    Synopsis(String),
}

/// Where on a page, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Line, from 1 on.
    pub line: usize,
    /// What stands there.
    pub part: Part,
}

/// What a block may say it is.
const KINDS: [&str; 6] = ["sh", "text", "mermaid", "toml", "c", "rust"];
/// First words of commands. Words with a `/` are programs too, if they do not end in one.
const PROGRAMS: [&str; 8] = [
    "make",
    "cargo",
    "atom",
    "atom-bench",
    "python3",
    "rustup",
    "apt-get",
    "git",
];

/// What a page has of commands, in order; and what is wrong with its blocks.
pub fn parts(page: &str) -> (Vec<Placed>, Vec<String>) {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    let mut lines = page.lines().zip(1..);
    // Whether nothing but blank lines came after a block of commands.
    let mut behind_commands = false;
    // The program of a table's first column, where its head says so: `PROGRAM …`.
    let mut column: Option<String> = None;
    while let Some((line, number)) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let mut body: Vec<(&str, usize)> = Vec::new();
            let mut closed = false;
            for (line, number) in lines.by_ref() {
                if line == "```" {
                    closed = true;
                    break;
                }
                body.push((line, number));
            }
            if !closed {
                wrong.push(format!("{number}: the block does not end"));
            }
            if !KINDS.contains(&kind) {
                wrong.push(format!("{number}: say what the block is: one of {KINDS:?}"));
            }
            if kind == "sh" {
                found.extend(commands(&body));
            }
            if kind == "text" && behind_commands {
                let lines = body.iter().map(|(line, _)| (*line).to_owned());
                found.push(Placed {
                    line: number,
                    part: Part::Output(lines.filter(|line| !line.trim().is_empty()).collect()),
                });
            }
            behind_commands = kind == "sh";
            continue;
        }
        behind_commands &= line.trim().is_empty();
        if line.matches('`').count() % 2 == 1 {
            wrong.push(format!(
                "{number}: a span of code that ends on another line"
            ));
        }
        let spans: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        let row = line.starts_with('|');
        if let (true, Some(program), Some(first)) = (row, &column, first_cell(line)) {
            let options = spans.iter().filter(|span| span.starts_with("--"));
            let whole = options.fold(format!("{program} {first}"), |whole, option| {
                format!("{whole} [{option}]")
            });
            found.push(Placed {
                line: number,
                part: Part::Synopsis(whole),
            });
            continue;
        }
        if row && column.is_none() {
            column = first_cell(line)
                .and_then(|cell| cell.strip_suffix(" …"))
                .filter(|program| PROGRAMS.contains(program))
                .map(str::to_owned);
            if column.is_some() {
                continue;
            }
        } else if !row {
            column = None;
        }
        for span in spans.iter().filter(|span| is_command(span)) {
            let text = (*span).to_owned();
            found.push(Placed {
                line: number,
                part: if has_placeholders(span) || is_name(span) {
                    Part::Synopsis(text)
                } else {
                    Part::Command(text)
                },
            });
        }
    }
    (found, wrong)
}

/// The code of a row's first cell, if that is all it holds.
fn first_cell(row: &str) -> Option<&str> {
    let cell = row.split('|').nth(1)?.trim();
    let code = cell.strip_prefix('`')?.strip_suffix('`')?;
    (!code.contains('`')).then_some(code)
}

fn commands(body: &[(&str, usize)]) -> Vec<Placed> {
    let mut found: Vec<Placed> = Vec::new();
    let mut open = false;
    for (line, number) in body {
        let line = line.split(" # ").next().unwrap_or(line).trim_end();
        let more = line.ends_with('\\');
        match found.last_mut().map(|placed| &mut placed.part) {
            Some(Part::Command(begun)) if open => {
                begun.push('\n');
                begun.push_str(line);
            }
            _ if line.is_empty() || line.starts_with('#') => {}
            _ => found.push(Placed {
                line: *number,
                part: Part::Command(line.to_owned()),
            }),
        }
        open = more;
    }
    found
}

/// The words of a command behind assignments to its environment.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace().skip_while(|word| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        })
    })
}

fn is_command(span: &str) -> bool {
    let mut words = words(span);
    let Some(program) = words.next() else {
        return false;
    };
    let path = program.contains('/')
        && !program.contains("://")
        && !program.ends_with('/')
        && !program.contains('<');
    words.next().is_some() && (PROGRAMS.contains(&program) || path)
}

fn is_name(span: &str) -> bool {
    let words: Vec<&str> = span.split_whitespace().collect();
    words.len() == 2 && ["make", "atom", "atom-bench"].contains(&words[0])
}

fn has_placeholders(span: &str) -> bool {
    span.contains('…')
        || span.contains('[')
        || words(span).any(|word| {
            !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c == ',')
        })
}

/// The subcommand and the options of a synopsis of a program.
pub fn synopsis(text: &str) -> (Vec<String>, Vec<String>) {
    let clean: String = text
        .chars()
        .map(|c| if "[]".contains(c) { ' ' } else { c })
        .collect();
    let (mut command, mut options) = (Vec::new(), Vec::new());
    for word in words(&clean) {
        if word.starts_with('-') {
            options.push(word.to_owned());
        } else if !has_placeholders(word) && (options.is_empty() || command.len() == 1) {
            // The subcommand may come behind options of the program itself.
            command.push(word.to_owned());
        }
    }
    (command, options)
}

/// Whether a line of output is of the shape that a page shows: the same words, any numbers, any units of bytes, any
/// amount of space, and anything at all where the page has `…`.
pub fn same_shape(shown: &str, line: &str) -> bool {
    let (shown, line) = (shape(shown), shape(line));
    let pieces: Vec<&str> = shown.split('…').map(str::trim).collect();
    let mut rest = line.as_str();
    for (at, piece) in pieces.iter().enumerate() {
        let Some(found) = rest.find(piece) else {
            return false;
        };
        if at == 0 && found > 0 {
            return false;
        }
        rest = &rest[found + piece.len()..];
    }
    rest.is_empty() || pieces.last().is_some_and(|last| last.is_empty())
}

fn shape(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        if ["B", "KiB", "MiB", "GiB"].contains(&word) {
            return "bytes".to_owned();
        }
        let mut shape = String::new();
        let mut number = false;
        for c in word.chars() {
            let digit = c.is_ascii_digit() || (number && c == '.');
            if digit && !number {
                shape.push('#');
            } else if !digit {
                shape.push(c);
            }
            number = digit;
        }
        shape
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Every page of the project, by relative name, and its text.
///
/// # Panics
/// When one cannot be read.
pub fn pages() -> Vec<(String, String)> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    crate::source::files(crate::root(), "md")
        .iter()
        .map(|path| (crate::source::relative(path), read(path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_output_and_synopses_are_told_apart() {
        let page = "Say `make demo`, not `error`.\n\
                    \n\
                    ```sh\n\
                    # first\n\
                    export A=b\n\
                    one \\\n  two   # and so on\n\
                    ```\n\
                    \n\
                    ```text\nprinted 5 ms\n\n```\n\
                    | `atom index [--captions] FILE…` | `X=1 atom doctor`, `/a/b` and `a/b c` |\n\
                    \n\
                    | `atom-bench …` | options |\n|---|---|\n| `load` | so much; `--rounds N` |\n\
                    \n\
                    `cargo doc --lib`\n\
                    ```\nwhat is it\n```\n";
        let (found, wrong) = parts(page);
        let command = |text: &str| Part::Command(text.to_owned());
        let synopsis = |text: &str| Part::Synopsis(text.to_owned());
        let parts: Vec<Part> = found.into_iter().map(|placed| placed.part).collect();
        assert_eq!(
            parts,
            [
                synopsis("make demo"),
                command("export A=b"),
                command("one \\\n  two"),
                Part::Output(vec!["printed 5 ms".to_owned()]),
                synopsis("atom index [--captions] FILE…"),
                command("X=1 atom doctor"),
                command("a/b c"),
                synopsis("atom-bench load [--rounds N]"),
                command("cargo doc --lib"),
            ]
        );
        assert_eq!(wrong.len(), 1, "{wrong:?}");
    }

    #[test]
    fn synopses_are_taken_apart() {
        let apart = |text| {
            let (command, options) = synopsis(text);
            (command.join(" "), options.join(" "))
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            apart("atom search WORDS [-k N] [--from S]"),
            pair("atom search", "-k --from")
        );
        assert_eq!(
            apart("atom --pack … compile --soc 36,43 -o DIR"),
            pair("atom compile", "--pack --soc -o")
        );
        assert_eq!(apart("atom pack list FILE"), pair("atom pack list", ""));
    }

    #[test]
    fn shapes_are_of_words_not_of_numbers() {
        let shown = "qnn  usable  cpu …, emulated  keeps 29.5 MiB";
        assert!(same_shape(
            shown,
            "  qnn usable cpu AMD, emulated keeps 316 KiB"
        ));
        assert!(!same_shape(shown, "qnn absent cpu AMD, emulated keeps 3 B"));
        assert!(!same_shape(
            shown,
            "qnn usable cpu AMD, emulated keeps 3 B of"
        ));
        assert!(!same_shape("exit code 9", "the exit code 9"));
        assert!(same_shape("wrote …", "wrote a b"));
    }
}
