//! Writes one copy of the slot's and of the ring's rooms for the sources as they are, and one for each mutation of
//! `mutations.txt`: the source with one place changed. So models and mutations are compiled once, and the sources carry
//! no trace of them.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

/// (room, source, the source's name for what it synchronises with, model).
const ROOMS: [(&str, &str, &str, &str); 2] = [
    ("slot", "core/src/module/slot.rs", "sync", "slot_model.rs"),
    (
        "ring",
        "core/src/flow/ring.rs",
        "ring_sync",
        "ring_model.rs",
    ),
];

struct Mutation {
    room: String,
    name: String,
    model: String,
    says: String,
    from: String,
    to: String,
}

fn main() {
    let own = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let own = Path::new(&own);
    let out = env::var("OUT_DIR").expect("cargo sets it");
    let out = Path::new(&out);
    let root = own.join("../..").canonicalize().expect("the repository");
    let list = own.join("mutations.txt");
    let mutations = parse(&fs::read_to_string(&list).expect("mutations.txt"));
    println!("cargo::rerun-if-changed={}", list.display());

    let mut instances = String::new();
    let mut expected = String::new();
    for (room, source, sync, model) in ROOMS {
        let path = root.join(source);
        println!("cargo::rerun-if-changed={}", path.display());
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let model = own.join("src").join(model);
        let mut instance = |name: &str, source: &Path| {
            writeln!(
                instances,
                "pub mod {name} {{\n    use crate::stand_in::{room} as {sync};\n    #[path = {source:?}]\n    \
                 pub mod {room};\n    #[path = {model:?}]\n    pub mod model;\n}}"
            )
            .expect("a string takes it");
        };
        instance(room, &path);
        for m in mutations.iter().filter(|m| m.room == room) {
            let found = places(&text, &m.from);
            let [(from, to)] = found[..] else {
                panic!(
                    "mutations.txt, {}: its text stands {} times in {source}; let it follow the source",
                    m.name,
                    found.len()
                );
            };
            let mutant = out.join(format!("{}.rs", m.name));
            let text = [&text[..from], &m.to, &text[to..]].concat();
            fs::write(&mutant, text).expect("OUT_DIR takes it");
            instance(&m.name, &mutant);
            writeln!(
                expected,
                "    Mutation {{ name: {0:?}, model: {1:?}, says: {2:?}, models: {0}::model::MODELS }},",
                m.name, m.model, m.says
            )
            .expect("a string takes it");
        }
    }
    let all = format!(
        "{instances}\n/// Every mutation.\npub const MUTATIONS: &[Mutation] = &[\n{expected}];\n"
    );
    fs::write(out.join("instances.rs"), all).expect("OUT_DIR takes it");
}

/// Where `wanted` stands in `text`, from and to; a space stands for any white space.
fn places(text: &str, wanted: &str) -> Vec<(usize, usize)> {
    let words: Vec<_> = wanted.split_whitespace().collect();
    let ends = |at: usize| {
        let mut rest = &text[at..];
        for (i, word) in words.iter().enumerate() {
            rest = if i == 0 { rest } else { rest.trim_start() };
            rest = rest.strip_prefix(word)?;
        }
        Some(text.len() - rest.len())
    };
    let starts = text.match_indices(words[0]);
    starts.filter_map(|(at, _)| Some((at, ends(at)?))).collect()
}

/// Entries of five lines each, blank lines and comments between: see the top of mutations.txt.
fn parse(text: &str) -> Vec<Mutation> {
    let lines = text.lines().map(str::trim);
    let lines: Vec<_> = lines
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .collect();
    let value = |line: &str, key: &str| {
        let value = line
            .strip_prefix(key)
            .and_then(|rest| rest.strip_prefix(':'));
        let value =
            value.unwrap_or_else(|| panic!("mutations.txt: {line:?} where {key:?} belongs"));
        value.trim().to_owned()
    };
    assert_eq!(lines.len() % 5, 0, "mutations.txt: an entry has five lines");
    let entry = |lines: &[&str]| {
        let name = value(lines[0], "mutation");
        let model = value(lines[1], "model");
        let (room, _) = model.split_once("::").expect("mutations.txt: ROOM::MODEL");
        Mutation {
            room: room.to_owned(),
            model: model.clone(),
            name,
            says: value(lines[2], "says"),
            from: value(lines[3], "from"),
            to: value(lines[4], "to"),
        }
    };
    lines.chunks(5).map(entry).collect()
}
