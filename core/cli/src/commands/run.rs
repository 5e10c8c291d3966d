//! `atom run`: several commands, one process, modules loaded once.

use std::path::PathBuf;
use std::process::ExitCode;

use atom_cli::output::print_line;
use atom_cli::session::Session;
use atom_core::{Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The script: one command a line as after `atom`, `#` starts a comment, `$NAME` is taken from the environment.
    pub script: PathBuf,
}

/// `parse` makes a command of a line's words, and `perform` does it.
pub fn run<C>(
    session: &mut Session,
    args: &Args,
    parse: impl Fn(Vec<String>) -> Result<C>,
    perform: impl Fn(&mut Session, C) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let script = std::fs::read_to_string(&args.script)
        .map_err(|error| Error::io(format!("script {}", args.script.display()), &error))?;
    for (number, line) in script.lines().enumerate() {
        let place = format!("{}:{}", args.script.display(), number + 1);
        let words = split(line)
            .map_err(|why| Error::new(ErrorKind::InvalidArgument, format!("{place}: {why}")))?;
        if words.is_empty() {
            continue;
        }
        let command = parse(words).map_err(|error| error.context(&place))?;
        if !session.global.json {
            print_line(&format!("\n$ atom {}", line.trim()))?;
        }
        let code = perform(session, command).map_err(|error| error.context(place))?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Words of a line: quotes keep spaces, `#` starts a comment, `$NAME` is an environment variable.
fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '#' if !quoted && word.is_none() => break,
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            '$' => {
                let mut name = String::new();
                while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                }
                let value = std::env::var(&name).map_err(|_| format!("${name} is not set"))?;
                word.get_or_insert_default().push_str(&value);
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_quotes_and_comments() {
        let words = split(r#"search "two words" -k 3 # why"#).unwrap();
        assert_eq!(words, ["search", "two words", "-k", "3"]);
        assert!(split("").unwrap().is_empty());
        assert!(split("  # only a comment").unwrap().is_empty());
        assert_eq!(split(r#"ask """#).unwrap(), ["ask", ""]);
        assert!(split(r#"ask "open"#).is_err());
        assert!(split("$ATOM_NO_SUCH_VARIABLE").is_err());
    }
}
