//! Every command on the project's pages is run as it stands, in the order of the page, and prints what the page shows.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use atom_tests::npu::emulator;
use atom_tests::pages::{Part, Placed, pages, parts, same_shape, synopsis};
use atom_tests::source::report;
use atom_tests::{cache, cargo, output, program, root, temporary};

/// Commands that are not run here: page, beginning of the command, and why.
const NOT_RUN: &[(&str, &str, &str)] = &[
    ("README.md", "make test", "this test is a part of it"),
    ("README.md", "rustup component add", "changes the machine"),
    ("README.md", "apt-get install", "changes the machine"),
    (
        "CONTRIBUTING.md",
        "python3 models/setup.py test",
        "fetches what this test is run with",
    ),
    (
        "CONTRIBUTING.md",
        "ATOM_UPDATE=1",
        "writes the file that another test checks",
    ),
    ("ARCHITECTURE.md", "ATOM_UPDATE=1", "writes the page"),
    ("models/README.md", "ATOM_UPDATE=1", "writes the page"),
    (
        "CONTRIBUTING.md",
        "cargo deny check advisories",
        "needs a database from the network",
    ),
    (
        "CONTRIBUTING.md",
        "tests/fuzz/run.sh",
        "builds everything anew, with counters, and takes as long as it is told",
    ),
    (
        "tests/bench/README.md",
        "cargo test --release --workspace --locked --test memory governed",
        "takes minutes, and is a test of the suite",
    ),
    (
        "tests/bench/README.md",
        "cargo test --release --workspace --locked --test memory released",
        "is a test of the suite",
    ),
    (
        "tests/bench/README.md",
        "target/release/atom-bench ledger",
        "takes half a minute, and bench.rs runs it",
    ),
    (
        "models/README.md",
        "$ATOM_CACHE/venv/bin/python models/judge.py",
        "takes minutes, and prints what people judge",
    ),
    (
        "tests/bench/README.md",
        "target/release/atom-bench pressure",
        "fills a memory cgroup, or the machine, until the kernel kills",
    ),
];

/// Says what was, also commands that are gone.
const NOT_CHECKED: &str = "CHANGELOG.md";

/// Seconds that a command may take.
const LIMIT: &str = "300";

/// A folder that looks like the source tree, with a home and a cache of its own for what commands write. What is large or
/// slow to make is shared: `target`, and what the cache already holds.
struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let scratch = Self {
            folder: temporary(),
        };
        for folder in ["tree", "home", "bin", "cache", "tree/examples-c"] {
            fs::create_dir(scratch.path(folder)).unwrap();
        }
        // Programs for C are built in place.
        link_all(
            &root().join("examples-c"),
            &scratch.path("tree/examples-c"),
            |_| true,
        );
        link_all(root(), &scratch.path("tree"), |name| name != "examples-c");
        link_all(&cache(), &scratch.path("cache"), |name| {
            !["demo", "tmp", ".lock"].contains(&name)
        });
        for name in ["atom", "atom-bench"] {
            symlink(program(name).get_program(), scratch.path("bin").join(name)).unwrap();
        }
        // Where the tree is decides whether cargo builds it again; so cargo runs in the real one.
        let real = cargo();
        let shim = format!(
            "#!/bin/sh\ncd '{}' && exec '{}' \"$@\"\n",
            root().display(),
            Path::new(real.get_program()).display()
        );
        let path = scratch.path("bin/cargo");
        fs::write(&path, shim).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        scratch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Begins a new shell.
    fn forget(&self) {
        let _ = fs::remove_file(self.path("state"));
    }

    /// Runs a command as the next one of a shell: what was exported before is still there.
    fn run(&self, command: &str) -> (bool, String) {
        let state = self.path("state");
        let script = format!(
            "[ ! -e '{state}' ] || source '{state}'\nset -euo pipefail\ncd '{tree}'\n{command}\nexport -p >'{state}'\n",
            state = state.display(),
            tree = self.path("tree").display(),
        );
        let search = std::env::var("PATH").unwrap_or_default();
        let home = std::env::var("HOME").unwrap_or_default();
        let mut bash = Command::new("timeout");
        bash.args([LIMIT, "bash", "-c", &format!("exec 2>&1\n{script}")])
            .env("PATH", format!("{}:{search}", self.path("bin").display()))
            .env("HOME", self.path("home"))
            .env("ATOM_CACHE", self.path("cache"))
            .env("CARGO", "cargo")
            // Where `make install` puts things that is told nothing else.
            .env("PREFIX", self.path("prefix"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        for (name, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if std::env::var_os(name).is_none() {
                bash.env(name, Path::new(&home).join(folder));
            }
        }
        for name in ["ATOM_PACK", "ATOM_STORE", "MAKEFLAGS", "MAKELEVEL"] {
            bash.env_remove(name);
        }
        let done = output(&mut bash);
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        (done.status.success(), text)
    }
}

fn link_all(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) {
    let entries = fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    for entry in entries.flatten() {
        let name = entry.file_name();
        if wanted(&name.to_string_lossy()) {
            symlink(entry.path(), to.join(name)).unwrap();
        }
    }
}

/// What is wrong with the name or the synopsis of a command.
fn against_help(text: &str) -> Option<String> {
    let (command, options) = synopsis(text);
    let (first, mut subcommand) = command.split_first()?;
    if first == "make" {
        let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
        let target = format!("{}:", subcommand.first()?);
        let there = makefile.lines().any(|line| line.starts_with(&target));
        return (!there).then(|| "the Makefile has no such target".to_owned());
    }
    if subcommand == ["help"] {
        subcommand = &[];
    }
    let name = ["atom", "atom-bench"]
        .into_iter()
        .find(|own| first.rsplit('/').next() == Some(own))?;
    let done = output(program(name).args(subcommand).arg("--help"));
    let help = String::from_utf8_lossy(&done.stdout);
    let words: Vec<&str> = help
        .split(|c: char| c.is_whitespace() || ",[]=".contains(c))
        .collect();
    if !done.status.success() {
        return Some(format!("there is no {}", command.join(" ")));
    }
    options
        .iter()
        .find(|option| !words.contains(&option.as_str()))
        .map(|option| format!("{} has no option {option}", command.join(" ")))
}

#[test]
fn every_command_on_a_page_runs_as_it_stands() {
    let scratch = Scratch::new();
    let npu = emulator().is_some();
    let (mut broken, mut ran, mut held) = (Vec::new(), 0, 0);
    let mut excused = vec![false; NOT_RUN.len()];
    for (page, text) in pages().into_iter().filter(|(page, _)| page != NOT_CHECKED) {
        let (found, wrong) = parts(&text);
        broken.extend(wrong.iter().map(|wrong| format!("{page}:{wrong}")));
        // A reader begins a page with a fresh shell.
        scratch.forget();
        let mut printed = String::new();
        let mut before = 0;
        for Placed { line, part } in found {
            match part {
                Part::Command(command) => {
                    let excuse = NOT_RUN
                        .iter()
                        .position(|(on, begins, _)| *on == page && command.starts_with(begins));
                    if let Some(excuse) = excuse {
                        excused[excuse] = true;
                        continue;
                    }
                    if !npu
                        && ["npu", "compile", "QNN"]
                            .iter()
                            .any(|word| command.contains(word))
                    {
                        eprintln!("SKIPPED, NOT TESTED: {page}:{line}: {command}");
                        continue;
                    }
                    let began = Instant::now();
                    let (well, output) = scratch.run(&command);
                    println!(
                        "{:6.1} s  {page}:{line}: {command}",
                        began.elapsed().as_secs_f64()
                    );
                    ran += 1;
                    if line > before + 1 {
                        printed.clear();
                    }
                    before = line;
                    printed += &output;
                    if !well {
                        broken.push(format!("{page}:{line}: {command}\n{output}"));
                    }
                }
                Part::Output(shown) => {
                    for shown in shown {
                        held += 1;
                        if !printed.lines().any(|line| same_shape(&shown, line)) {
                            broken.push(format!(
                                "{page}:{line}: not printed: {shown}\nbut\n{printed}"
                            ));
                        }
                    }
                }
                Part::Synopsis(text) => {
                    held += 1;
                    if let Some(wrong) = against_help(&text) {
                        broken.push(format!("{page}:{line}: {wrong}: {text}"));
                    }
                }
            }
        }
    }
    for (excuse, (page, command, why)) in excused.iter().zip(NOT_RUN) {
        if !excuse {
            broken.push(format!(
                "{page} no longer has `{command}`: take it off NOT_RUN ({why})"
            ));
        }
    }
    println!(
        "{ran} commands ran, {held} synopses and lines of output were held against what there is"
    );
    report(broken);
    assert!(
        ran > 20 && held > 15,
        "this test no longer sees the commands"
    );
}
