//! Storyboards of the demo's three videos: what `atom assemble` chooses, and that others can read what it writes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use atom_tests::refusal::refuses;
use atom_tests::{atom, json, pack, python_json, root, temporary, video};
use serde_json::Value;

const SCRIPT: &str = "# Five shots out of three clips\nCars parked along a street\nPeople riding bicycles\n\n\
                      A man wearing a bow tie\n  An animal outdoors \nA submarine under the sea\n";
/// A stream's name that would do harm in a page if it got there as it is.
const EVIL: &str = "<script>alert(\"x\")</script>' & <b>";

/// A store of the three clips, one of them once more under an ugly name; made once.
fn store() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = temporary();
        json(
            command(folder.path(), &["index"])
                .args(["bikes", "bigbuckbunny", "carphone"].map(video)),
        );
        json(command(&evil(folder.path()), &["index", "--stream", EVIL]).arg(video("carphone")));
        folder
    });
    folder.path()
}

fn evil(store: &Path) -> PathBuf {
    store.join("evil")
}

fn command(store: &Path, words: &[&str]) -> Command {
    let mut command = atom();
    command.arg("--json").args(words).arg("--pack").arg(pack());
    command.arg("--store").arg(store.join("store"));
    command
}

/// `atom assemble` of `script` with more arguments.
fn assemble(script: &str, words: &[&str]) -> Value {
    let folder = temporary();
    let file = folder.path().join("script.txt");
    std::fs::write(&file, script).unwrap();
    json(command(store(), &["assemble"]).arg(&file).args(words))
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name]
        .as_array()
        .unwrap_or_else(|| panic!("no {name} in {value}"))
}

fn number(value: &Value, name: &str) -> f64 {
    value[name]
        .as_f64()
        .unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// From the first segment to the last, of a stream.
fn range(stream: &str) -> (f64, f64) {
    let found = json(&mut command(
        store(),
        &[
            "search",
            "x",
            "-k",
            "100",
            "--min-score",
            "-1",
            "--stream",
            stream,
        ],
    ));
    let hits = list(&found, "hits");
    let edge = |name: &str, pick: fn(f64, f64) -> f64| {
        hits.iter()
            .map(|hit| number(hit, name))
            .reduce(pick)
            .unwrap()
    };
    (edge("start_s", f64::min), edge("end_s", f64::max))
}

/// What holds of every storyboard.
fn check(board: &Value, min_length: f64, max_length: f64) {
    let clips = list(board, "clips");
    for clip in clips {
        let (start, end) = (number(clip, "start_s"), number(clip, "end_s"));
        let keyframe = number(clip, "keyframe_s");
        let (first, last) = range(clip["stream"].as_str().unwrap());
        assert!(first <= start && end <= last, "past the stream: {clip}");
        assert!(end - start >= min_length - 1e-9, "too short: {clip}");
        assert!(end - start <= max_length + 1e-9, "too long: {clip}");
        assert!(
            (start..=end).contains(&keyframe),
            "without its keyframe: {clip}"
        );
        let line = &list(board, "lines")[clip["line"].as_u64().unwrap() as usize];
        assert_eq!(line["text"], clip["text"]);
        assert_eq!(line["matched"], true);
    }
    for (at, a) in clips.iter().enumerate() {
        for b in &clips[..at] {
            assert_ne!(a["segment"], b["segment"]);
            assert!(
                a["stream"] != b["stream"]
                    || number(a, "end_s") <= number(b, "start_s")
                    || number(b, "end_s") <= number(a, "start_s"),
                "overlap: {a} {b}"
            );
        }
    }
    let order: Vec<u64> = clips
        .iter()
        .map(|clip| clip["line"].as_u64().unwrap())
        .collect();
    assert!(order.is_sorted(), "{order:?}");
    for (at, line) in list(board, "lines").iter().enumerate() {
        assert_eq!(line["matched"], order.contains(&(at as u64)), "{line}");
        assert_eq!(line["reason"].is_null(), line["matched"] == true, "{line}");
    }
}

#[test]
fn five_lines_become_a_storyboard_of_three_videos() {
    let board = assemble(SCRIPT, &[]);
    check(&board, 1.0, 10.0);
    let lines = list(&board, "lines");
    let texts: Vec<&str> = lines
        .iter()
        .map(|line| line["text"].as_str().unwrap())
        .collect();
    assert_eq!(
        texts,
        [
            "Cars parked along a street",
            "People riding bicycles",
            "A man wearing a bow tie",
            "An animal outdoors",
            "A submarine under the sea"
        ]
    );
    let chosen: Vec<(u64, &str)> = list(&board, "clips")
        .iter()
        .map(|clip| {
            (
                clip["line"].as_u64().unwrap(),
                clip["stream"].as_str().unwrap(),
            )
        })
        .collect();
    let wanted = [
        (0, "bikes.mp4"),
        (1, "bikes.mp4"),
        (2, "carphone.mp4"),
        (3, "bigbuckbunny.mp4"),
    ];
    assert_eq!(chosen, wanted);
    assert_eq!(lines[4]["reason"], "no_match");
    assert!(lines.iter().all(|line| line["written_by"] == "script"));

    // The scores are the search's own.
    for clip in list(&board, "clips") {
        let found = json(&mut command(
            store(),
            &["search", clip["text"].as_str().unwrap()],
        ));
        let same = |hit: &&Value| {
            hit["stream"] == clip["stream"] && hit["keyframe_s"] == clip["keyframe_s"]
        };
        let hit = list(&found, "hits").iter().find(same).expect("a hit");
        assert_eq!(hit["score"], clip["score"]);
    }
    // And the same again.
    assert_eq!(board, assemble(SCRIPT, &[]));
}

#[test]
fn options_bound_what_is_chosen() {
    let long = assemble(
        SCRIPT,
        &[
            "--min-length",
            "3",
            "--max-length",
            "3.5",
            "--per-line",
            "2",
        ],
    );
    check(&long, 3.0, 3.5);
    assert!(list(&long, "clips").len() >= 4, "{long}");

    // Lines that want the same thing share it out, down to the threshold.
    let same = "a bicycle\na bicycle\na bicycle\na bicycle\na bicycle\n";
    let shared = assemble(same, &["--min-score", "0.2"]);
    check(&shared, 1.0, 10.0);
    assert!(
        list(&shared, "clips")
            .iter()
            .all(|clip| number(clip, "score") >= 0.2)
    );
    assert!(list(&shared, "clips").len() >= 3, "{shared}");
    let few = assemble(same, &["--min-score", "0.6"]);
    assert_eq!(list(&few, "clips").len(), 1, "{few}");
    let reasons: Vec<&Value> = list(&few, "lines")
        .iter()
        .map(|line| &line["reason"])
        .collect();
    assert_eq!(
        reasons.iter().filter(|reason| **reason == "taken").count(),
        4
    );

    // No clip where no stream is as long as the shortest may be.
    let none = assemble(SCRIPT, &["--min-length", "60", "--max-length", "60"]);
    check(&none, 60.0, 60.0);
    assert_eq!(list(&none, "lines")[0]["reason"], "too_short");

    let part = assemble(
        SCRIPT,
        &["--from", "2", "--to", "9", "--stream", "bikes.mp4"],
    );
    check(&part, 1.0, 10.0);
    for clip in list(&part, "clips") {
        assert_eq!(clip["stream"], "bikes.mp4");
        assert!(
            number(clip, "start_s") >= 2.0 && number(clip, "end_s") <= 9.0,
            "{clip}"
        );
    }
    assert!(!list(&part, "clips").is_empty());
}

#[test]
fn opentimelineio_reads_what_is_written() {
    let folder = temporary();
    let file = folder.path().join("board.otio");
    let document = folder.path().join("board.json");
    let board = assemble(
        SCRIPT,
        &[
            "--per-line",
            "2",
            "--title",
            "A \"day\" out",
            "--otio",
            &file.to_string_lossy(),
            "-o",
            &document.to_string_lossy(),
        ],
    );
    let written: Value = serde_json::from_slice(&std::fs::read(document).unwrap()).unwrap();
    assert_eq!(written, board);
    let read = python_json(
        &root().join("tests/fixtures/otio_read.py"),
        &[&file.to_string_lossy()],
        None,
    );
    assert_eq!(read["name"], "A \"day\" out");
    assert_eq!(read["tracks"], serde_json::json!(["Video"]));
    assert_eq!(list(&read, "lines").len(), 5);
    assert_eq!(list(&read, "lines")[4]["reason"], "no_match");
    let clips = list(&board, "clips");
    assert_eq!(list(&read, "clips").len(), clips.len());
    let mut at = 0.0;
    for (read, clip) in list(&read, "clips").iter().zip(clips) {
        let span = |name: &str| {
            let span = list(read, name);
            (span[0].as_f64().unwrap(), span[1].as_f64().unwrap())
        };
        // Milliseconds.
        let near = |a: f64, b: f64| assert!((a - b).abs() <= 0.000_501, "{a} {b}: {read} {clip}");
        near(span("source").0, number(clip, "start_s"));
        near(span("source").1, number(clip, "end_s"));
        near(read["marker"].as_f64().unwrap(), number(clip, "keyframe_s"));
        let (first, last) = range(clip["stream"].as_str().unwrap());
        near(span("available").0, first);
        near(span("available").1, last);
        // Cut against each other, in order.
        near(span("in_track").0, at);
        at = span("in_track").1;
        assert_eq!(read["name"], clip["text"]);
        for name in ["line", "text", "stream", "segment", "keyframe_s"] {
            assert_eq!(read["atom"][name], clip[name], "{name}");
        }
        assert_eq!(
            number(&read["atom"], "score") as f32,
            number(clip, "score") as f32
        );
        // The clip's file, wherever the timeline is.
        assert_eq!(read["media"], "ExternalReference");
        let url = read["url"].as_str().unwrap();
        let path = url
            .strip_prefix("file://")
            .unwrap_or_else(|| panic!("{url}"));
        assert!(Path::new(path).is_file(), "{url}");
        assert!(url.ends_with(clip["stream"].as_str().unwrap()), "{url}");
    }
    assert!((number(&read, "duration") - at).abs() < 1e-6);
}

/// The tags of a page that load or run something.
fn check_page(page: &str, pictures: usize) {
    assert_eq!(page.matches("<img ").count(), pictures);
    assert_eq!(
        page.matches("src=\"data:image/jpeg;base64,/9j/").count(),
        pictures
    );
    assert_eq!(page.matches(" alt=\"Keyframe of ").count(), pictures);
    assert_eq!(page.matches(" src=\"").count(), pictures);
    for never in [
        "<script", "href", "url(", "@import", "http:", "https:", "<iframe", "<object", "<link",
    ] {
        assert!(!page.contains(never), "{never} in the page");
    }
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
}

#[test]
fn pages_hold_everything_and_trust_nothing() {
    let folder = temporary();
    let page = folder.path().join("page.html");
    let html = page.to_string_lossy().into_owned();
    let board = assemble(SCRIPT, &["--html", &html]);
    let text = std::fs::read_to_string(&page).unwrap();
    check_page(&text, list(&board, "clips").len());
    for line in list(&board, "lines") {
        assert!(text.contains(line["text"].as_str().unwrap()));
    }
    assert!(text.contains("No clip: nothing in the store is similar enough"));
    assert!(text.contains("00:00.0"), "times");

    let found = json(&mut command(
        store(),
        &["search", "a bicycle", "--html", &html],
    ));
    check_page(
        &std::fs::read_to_string(&page).unwrap(),
        list(&found, "hits").len(),
    );
    json(&mut command(
        store(),
        &["search", "a submarine", "--html", &html],
    ));
    let empty = std::fs::read_to_string(&page).unwrap();
    check_page(&empty, 0);
    assert!(empty.contains("No match"));

    // Words and names that try to be more than words and names.
    let words = "a man with a tie <script>alert('x')</script> \"quoted\" <img src=x onerror=y>";
    let script = folder.path().join("evil.txt");
    std::fs::write(&script, words).unwrap();
    let mut evils = command(
        &evil(store()),
        &["assemble", "--title", EVIL, "--html", &html],
    );
    let board = json(evils.args(["--min-score", "-1"]).arg(&script));
    assert_eq!(list(&board, "clips")[0]["stream"], EVIL);
    check_page(&std::fs::read_to_string(&page).unwrap(), 1);
    json(&mut command(
        &evil(store()),
        &["search", words, "--min-score", "-1", "--html", &html],
    ));
    check_page(&std::fs::read_to_string(&page).unwrap(), 1);
}

#[test]
fn bad_scripts_and_options_are_refused() {
    let folder = temporary();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let good = file("good", SCRIPT.as_bytes());
    let scripts = [
        (
            "no script",
            folder.path().join("nowhere"),
            "not_found",
            "nowhere",
        ),
        ("empty", file("empty", b""), "invalid_argument", "no lines"),
        (
            "comments",
            file("comments", b"# a\n\n#b\n"),
            "invalid_argument",
            "no lines",
        ),
        (
            "not UTF-8",
            file("latin", b"caf\xe9\n"),
            "invalid_argument",
            "not UTF-8",
        ),
        (
            "huge",
            file("huge", &vec![b'a'; 1 << 20]),
            "invalid_argument",
            "65536",
        ),
        (
            "many lines",
            file("many", &b"a\n".repeat(101)),
            "invalid_argument",
            "101 lines",
        ),
        ("a folder", folder.path().to_owned(), "io", "script"),
        (
            "endless",
            PathBuf::from("/dev/zero"),
            "invalid_argument",
            "65536",
        ),
    ];
    for (name, path, kind, word) in scripts {
        refuses(
            name,
            command(store(), &["assemble"]).arg(path),
            kind,
            &[word],
        );
    }
    for (words, word) in [
        (&["--per-line", "0"][..], "clips a line"),
        (&["--per-line", "21"], "105 clips"),
        (&["--min-length", "nan"], "--min-length"),
        (&["--min-length", "601", "--max-length", "700"], "601"),
        (&["--min-length", "5", "--max-length", "4"], "at most 4"),
        (&["--max-length", "0", "--min-length", "0"], "at most 0"),
        (&["--variety", "1.1"], "variety"),
        (&["--variety", "nan"], "variety"),
        (&["--min-score", "2"], "score"),
        (&["--from", "3", "--to", "3"], "empty"),
    ] {
        refuses(
            words[0],
            command(store(), &["assemble"]).arg(&good).args(words),
            "invalid_argument",
            &[word],
        );
    }
    refuses(
        "no such stream",
        command(store(), &["assemble", "--stream", "nobody"]).arg(&good),
        "not_found",
        &["nobody"],
    );
    refuses(
        "a page in a folder that is not there",
        command(
            store(),
            &["assemble", "--html", "/no/such/folder/page.html"],
        )
        .arg(&good),
        "not_found",
        &["page.html"],
    );
}

#[test]
fn standard_input_is_a_script_too() {
    let mut child = command(store(), &["assemble", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(SCRIPT.as_bytes())
        .unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success());
    let board: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(board, assemble(SCRIPT, &[]));
}
