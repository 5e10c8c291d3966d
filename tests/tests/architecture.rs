//! ARCHITECTURE.md is short, names rooms and tests that are there, and its picture shows the code.

use std::collections::BTreeSet;

use atom_tests::source::{report, texts};
use atom_tests::{picture, root};

/// Where the picture begins and ends.
const PICTURE: (&str, &str) = ("```mermaid\n", "```\n");
/// Lines of a page, without the picture.
const PAGE: usize = 90;

fn page() -> String {
    std::fs::read_to_string(root().join("ARCHITECTURE.md"))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// What comes before the picture, the picture, and what comes after it.
fn parts(page: &str) -> [&str; 3] {
    let cut = || {
        let (before, rest) = page.split_once(PICTURE.0)?;
        let (picture, after) = rest.split_once(PICTURE.1)?;
        Some([before, picture, after])
    };
    cut().unwrap_or_else(|| panic!("ARCHITECTURE.md has no picture in Mermaid"))
}

#[test]
fn picture_shows_the_code() {
    let text = page();
    let [before, drawn, after] = parts(&text);
    let code = picture::graph();
    let fresh = picture::draw(&code);
    let imports: usize = code.values().map(BTreeSet::len).sum();
    println!("{} crates and rooms, {imports} imports", code.len());
    assert!(
        code.len() > 15 && imports > 60,
        "this test no longer sees the imports: {code:?}"
    );
    if std::env::var_os("ATOM_UPDATE").is_some() && fresh != drawn {
        let text = [before, PICTURE.0, &fresh, PICTURE.1, after].concat();
        std::fs::write(root().join("ARCHITECTURE.md"), text)
            .unwrap_or_else(|error| panic!("{error}"));
        return;
    }
    let redraw = "ATOM_UPDATE=1 cargo test --release --workspace --locked --test architecture";
    let mut broken = match picture::read(drawn) {
        Ok(drawn) => picture::differences(&drawn, &code),
        Err(wrong) => wrong,
    };
    if broken.is_empty() && drawn != fresh {
        broken.push("the picture is right, but not as it is drawn".to_owned());
    }
    if !broken.is_empty() {
        broken.push(format!("draw it again: {redraw}"));
    }
    if !before.contains(redraw) {
        broken.push(format!("the page does not say how it is drawn: {redraw}"));
    }
    report(broken);
}

#[test]
fn architecture_fits_a_page_and_is_true() {
    let text = page();
    let lines = text.lines().count() - parts(&text)[1].lines().count();
    println!("ARCHITECTURE.md: {lines} lines without the picture");
    let mut broken = Vec::new();
    if lines > PAGE {
        broken.push(format!("{lines} lines: more than a page"));
    }
    broken.extend(
        text.lines()
            .filter(|line| line.chars().count() > 160)
            .map(|line| format!("longer than 160 characters: {line}")),
    );

    // The code map: every room there is, and no other.
    let mut rooms: BTreeSet<String> = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("core/src"))
        .unwrap_or_else(|error| panic!("{error}"))
        .flatten()
    {
        if entry.path().is_dir() {
            rooms.insert(format!("{}/", entry.file_name().to_string_lossy()));
        }
    }
    for room in &rooms {
        if !text
            .lines()
            .any(|line| line.trim_start().starts_with(&format!("{room} ")))
        {
            broken.push(format!("the code map has no line for {room}"));
        }
    }

    // Every test named is there: `file.rs::function`, looked for anywhere below core, capi and tests.
    let everything: Vec<(String, String)> = texts()
        .into_iter()
        .filter(|(file, _)| file.ends_with(".rs"))
        .collect();
    let mut named = 0;
    for quoted in text.split('`').skip(1).step_by(2) {
        let Some((file, function)) = quoted.split_once(".rs::") else {
            continue;
        };
        named += 1;
        let there = everything.iter().any(|(path, source)| {
            (path.ends_with(&format!("/{file}.rs")) || *path == format!("{file}.rs"))
                && source.contains(&format!("fn {function}("))
        });
        if !there {
            broken.push(format!("there is no test {quoted}"));
        }
    }
    let invariants = text
        .lines()
        .filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()))
        .count();
    println!("{invariants} invariants, {named} tests named");
    if named < invariants || invariants < 7 {
        broken.push(format!("{invariants} invariants but {named} tests named"));
    }
    report(broken);
}
