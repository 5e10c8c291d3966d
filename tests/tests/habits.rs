//! Habits that a test can hold: files stay short, nothing is left unfinished, no machine is named, no dependency needs a newer Rust.

use atom_tests::source::{files, relative, report, sources, texts};
use atom_tests::{cargo, json, root};

/// Files longer than the limit, and why.
const LONG: &[(&str, &str)] = &[(
    "core/src/onnx/schema.rs",
    "generated from ONNX's schema by tests/onnx-schema",
)];
const LONGEST: usize = 500;

#[test]
fn files_stay_short() {
    let mut broken = Vec::new();
    for path in ["core", "capi", "tests", "models", "examples-c"]
        .iter()
        .map(|folder| root().join(folder))
        .filter(|folder| folder.is_dir())
        .flat_map(|folder| {
            ["rs", "py", "c"]
                .map(|extension| files(&folder, extension))
                .concat()
        })
    {
        let file = relative(&path);
        // A file's own tests, at its end, do not count.
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines = text
            .lines()
            .take_while(|line| *line != "#[cfg(test)]")
            .count();
        let excused = LONG.iter().any(|(name, _)| *name == file);
        if lines > LONGEST && !excused {
            broken.push(format!("{file} has {lines} lines (at most {LONGEST}; split it, or list it in LONG with the reason)"));
        }
        if lines <= LONGEST && excused {
            broken.push(format!("{file} is short again: take it off LONG"));
        }
    }
    report(broken);
}

#[test]
fn no_machine_is_named() {
    // Home folders and registry hosts of whoever wrote a line mean nothing to whoever reads it.
    let marks = [
        ["/ro", "ot/"].concat(),
        ["/ho", "me/"].concat(),
        ["/wo", "rk/"].concat(),
        ["127.0", ".0.1"].concat(),
    ];
    let texts = texts();
    assert!(texts.len() > 20, "only {} files read", texts.len());
    let broken = texts
        .iter()
        // A worktree's .git file names its own place.
        .filter(|(file, _)| file != ".git")
        .flat_map(|(file, text)| {
            text.lines()
                .enumerate()
                .filter(|(_, line)| marks.iter().any(|mark| line.contains(mark.as_str())))
                .map(move |(number, line)| format!("{file}:{}: {}", number + 1, line.trim()))
        })
        .collect();
    report(broken);
}

#[test]
fn nothing_is_left_unfinished() {
    let words = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["XX", "X"].concat(),
    ];
    let mut broken = Vec::new();
    for (file, text) in texts() {
        if ![".rs", ".py", ".c", ".h", ".md", ".sh"]
            .iter()
            .any(|end| file.ends_with(end))
        {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if line
                .split(|c: char| !c.is_alphanumeric())
                .any(|word| words.iter().any(|mark| word == mark))
            {
                broken.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    for (file, source) in sources() {
        for ident in ["todo", "unimplemented", "dbg"] {
            if source.idents.iter().any(|own| own == ident) {
                broken.push(format!("{file} calls {ident}"));
            }
        }
    }
    report(broken);
}

/// A version's numbers, those left out as zero.
fn numbers(version: &str) -> Vec<u64> {
    let mut numbers: Vec<u64> = version
        .split('.')
        .map(|number| number.parse().unwrap_or(0))
        .collect();
    numbers.resize(3, 0);
    numbers
}

#[test]
fn dependencies_need_no_newer_rust_than_the_workspace_says() {
    // Compiling with that very Rust would show more, where it is installed; this holds everywhere.
    let mut command = cargo();
    command.args(["metadata", "--offline", "--locked", "--format-version", "1"]);
    let here = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command.args(["--filter-platform", &here]);
    let metadata = json(&mut command);
    let packages = metadata["packages"].as_array().unwrap();
    let own = packages
        .iter()
        .find(|package| package["name"] == "atom-core")
        .and_then(|package| package["rust_version"].as_str())
        .unwrap();
    let known: Vec<_> = packages
        .iter()
        .filter_map(|package| Some((package, package["rust_version"].as_str()?)))
        .collect();
    println!(
        "{} of {} packages say what they need",
        known.len(),
        packages.len()
    );
    assert!(known.len() > 50);
    report(
        known
            .iter()
            .filter(|(_, needs)| numbers(needs) > numbers(own))
            .map(|(package, needs)| {
                format!(
                    "{} {} needs Rust {needs}, the workspace promises {own}",
                    package["name"], package["version"]
                )
            })
            .collect(),
    );
}
