//! `atom-bench`: what it reports is there, adds up, and agrees with what ONNX Runtime was asked for. How fast anything is
//! is not asserted here.

use std::collections::BTreeMap;
use std::fs;

use atom_core::pack::Pack;
use atom_tests::shim::{sessions, watch};
use atom_tests::{atom, atom_bench, cached, json, output, pack, root, temporary, video};
use serde_json::Value;

/// Loads each mode needs for one video: an index, two searches, a caption, an answer.
fn expected() -> BTreeMap<&'static str, u64> {
    let pack = Pack::open(&pack()).unwrap();
    let tasks = &pack.manifest().tasks;
    let index = tasks.index.as_ref().unwrap().modules().count() as u64;
    let (search, decoder) = (1, 1);
    // A caption that shares nothing starts from the picture.
    let speak = decoder + index;
    let all = pack.manifest().modules.len() as u64;
    assert_eq!(all, index + search + decoder);
    BTreeMap::from([
        ("reload", index + 2 * search + 2 * speak),
        ("reload_prepacked", index + 2 * search + 2 * speak),
        ("unshared", index + search + 2 * speak),
        ("unshared_prepacked", index + search + 2 * speak),
        ("reload_features", index + 2 * search + 2 * decoder),
        ("shared", all),
    ])
}

fn number(value: &Value) -> f64 {
    let number = value
        .as_f64()
        .unwrap_or_else(|| panic!("no number: {value}"));
    assert!(number.is_finite(), "{value}");
    number
}

#[test]
fn reuse_counts_every_load_and_compares_equal_outputs() {
    cached("packs/reference-embedded/pack.toml");
    // So that no worker has to make a prepacked form first, with sessions of its own.
    assert!(output(atom().args(["doctor", "--json"])).status.success());
    let folder = temporary();
    let (log, svg) = (folder.path().join("log"), folder.path().join("reuse.svg"));
    let mut command = atom_bench();
    command.args(["reuse", "--videos", "1", "--rounds", "1", "--json", "--svg"]);
    watch(command.arg(&svg), &log);
    let report = json(&mut command);

    let modes = report["modes"].as_object().unwrap();
    let expected = expected();
    assert_eq!(
        modes.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    for (name, loads) in &expected {
        let mode = &modes[*name];
        assert_eq!(mode["loads"], *loads, "{name}");
        let wall = number(&mode["wall_s"]);
        let phases = mode["phases_s"].as_object().unwrap();
        let sum: f64 = phases.values().map(number).sum();
        assert!(
            sum > 0.0 && sum <= wall,
            "{name}: phases of {sum} s in {wall} s"
        );
        let anonymous = number(&mode["peak_anon_pss_bytes"]);
        assert!(
            anonymous > 0.0 && anonymous < number(&mode["peak_pss_bytes"]),
            "{name}"
        );
        let ratio = &report["ratios"][*name]["wall"]["median"];
        if *name != "shared" {
            let ratio = number(ratio) * wall / number(&modes["shared"]["wall_s"]);
            assert!((ratio - 1.0).abs() < 1e-6, "{name}");
        }
    }
    for (end, row) in report["end_to_end"]["modes"].as_object().unwrap() {
        assert_eq!(row["loads"], expected[end.as_str()], "{end}");
    }
    assert_eq!(report["outputs"]["equal"], true);
    let texts = report["outputs"]["texts"].as_array().unwrap();
    assert!(texts.len() == 2 && texts.iter().all(|text| !text.as_str().unwrap().is_empty()));
    let drawn = fs::read_to_string(&svg).unwrap();
    assert!(expected.keys().all(|name| drawn.contains(name)));

    // Counted outside: sessions of each process. Every mode runs twice (for time, for memory), the first and the last
    // two times more (warm-up, from the files).
    let mut made: BTreeMap<u64, u64> = BTreeMap::new();
    for session in sessions(&log) {
        assert!(session.ok && session.failed_runs == 0, "{session:?}");
        assert!(session.released, "{session:?}");
        *made.entry(session.pid).or_default() += 1;
    }
    let mut made: Vec<u64> = made.into_values().collect();
    made.sort_unstable();
    let mut counted: Vec<u64> = expected
        .iter()
        .flat_map(|(name, loads)| {
            let runs = if matches!(*name, "reload" | "shared") {
                4
            } else {
                2
            };
            std::iter::repeat_n(*loads, runs)
        })
        .collect();
    counted.sort_unstable();
    assert_eq!(made, counted);
}

#[test]
fn the_command_has_no_benchmarks() {
    let help = |command: &mut std::process::Command| {
        let done = output(command.arg("help"));
        assert!(done.status.success());
        String::from_utf8(done.stdout).unwrap().to_lowercase()
    };
    assert!(!help(&mut atom()).contains("bench"));
    assert_eq!(
        output(atom().args(["bench", "limits"])).status.code(),
        Some(2)
    );
    let bench = help(&mut atom_bench());
    assert!(
        bench.contains("limits") && bench.contains("pressure"),
        "{bench}"
    );
}

/// The peers as the README names them: with any Python of version 3.9 or newer, from the top of the source tree.
#[test]
fn peers_run_as_documented_and_are_compared() {
    let mut command = atom_bench();
    command.current_dir(root()).args([
        "decode",
        "--prefill",
        "16",
        "--context",
        "16",
        "--tokens",
        "4",
        "--rounds",
        "1",
        "--json",
        "--peer",
        "python3 models/peer_decode.py",
    ]);
    let report = json(&mut command);
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() >= 2, "{report}");
    for row in rows {
        let (own, peer) = (&row["tokens_per_s"], &row["peer_tokens_per_s"]);
        let ratio = number(&own["median"]) / number(&peer["median"]);
        assert!((number(&row["over_peer"]["median"]) / ratio - 1.0).abs() < 1e-6);
    }

    cached("peers");
    let folder = temporary();
    let mut command = atom_bench();
    command.current_dir(root()).args([
        "search",
        "--sizes",
        "2000",
        "--queries",
        "6",
        "--rounds",
        "1",
        "--json",
        "--peer",
        "python3 models/peer_search.py",
        "--dir",
    ]);
    let report = json(command.arg(folder.path()));
    let peer = &report["sizes"][0]["peer"];
    assert!(
        peer["name"].as_str().unwrap().starts_with("faiss"),
        "{peer}"
    );
    // Its index is an exact scan.
    assert_eq!(number(&peer["recall"]), 1.0);
    assert!(number(&peer["over_peer"]) > 0.0);
}

#[test]
fn reuse_names_what_to_run_when_the_plain_pack_is_missing() {
    let folder = temporary();
    let done = output(
        atom_bench()
            .args(["reuse", "--json", "--pack"])
            .arg(folder.path()),
    );
    assert!(!done.status.success());
    let error: Value = serde_json::from_slice(&done.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "not_found");
    assert_eq!(error["error"]["remedy"], "python3 models/setup.py bench");
    let done = output(atom_bench().args(["reuse", "--worker", "{}"]));
    assert_eq!(done.status.code(), Some(2));
}

/// Sums of the rows, by order.
fn summed(report: &Value, order: &str, what: &str) -> f64 {
    let mixes = report["mixes"].as_array().unwrap().iter();
    let rows = mixes.flat_map(|mix| mix["rows"].as_array().unwrap());
    rows.map(|row| number(&row[order][what])).sum()
}

#[test]
fn evict_adds_up_and_takes_other_recordings() {
    let folder = temporary();
    let (uses, svg) = (folder.path().join("uses.txt"), folder.path().join("e.svg"));
    fs::write(
        &uses,
        "module a 2000000 0 10\nmodule b 2000000 0 30\n0 a 0\n10 b 0\n20 a 0\n30 b 0\n",
    )
    .unwrap();
    let mut command = atom_bench();
    command.args(["evict", "--recorded", "--json", "--uses"]);
    let report = json(command.arg(&uses).arg("--svg").arg(&svg));

    let mixes = report["mixes"].as_array().unwrap();
    let names: Vec<_> = mixes
        .iter()
        .map(|mix| mix["name"].as_str().unwrap())
        .collect();
    assert_eq!(names[..3], ["camera", "questions", "night"]);
    // One of the two always goes: both are loaded again, whatever the order.
    let rows = mixes[3]["rows"].as_array().unwrap();
    let half = rows.iter().find(|row| row["budget_percent"] == 50).unwrap();
    assert_eq!(half["budget_bytes"], 2_000_000);
    for order in ["worth", "lru"] {
        let counts = &half[order];
        assert_eq!(
            (&counts["reloads"], &counts["thrashed"]),
            (&2.into(), &2.into())
        );
        assert_eq!(counts["reload_ms"], 40.0);
        let total = &report["total"][format!("{order}_reload_ms")];
        assert!((number(total) - summed(&report, order, "reload_ms")).abs() < 1e-3);
    }
    for row in mixes.iter().flat_map(|mix| mix["rows"].as_array().unwrap()) {
        let least = number(&row["hindsight_reload_ms"]);
        assert!(least <= number(&row["worth"]["reload_ms"]) + 1e-6, "{row}");
    }
    let ratio =
        number(&report["total"]["worth_reload_ms"]) / number(&report["total"]["lru_reload_ms"]);
    assert!((ratio - number(&report["total"]["ratio"])).abs() < 1e-9);
    let drawn = fs::read_to_string(&svg).unwrap();
    assert!(names[..3].iter().all(|name| drawn.contains(name)));

    // Measured here: the recorded mixes' modules are the pack's, and cost something.
    let report = json(atom_bench().args(["evict", "--json"]));
    for module in report["mixes"][0]["modules"].as_array().unwrap() {
        assert!(number(&module["load_ms"]) > 0.0 && number(&module["mapped_bytes"]) > 0.0);
    }

    fs::write(&uses, "module a 1 0 1\n5 nobody 0\n").unwrap();
    let done = output(
        atom_bench()
            .args(["evict", "--recorded", "--json", "--uses"])
            .arg(&uses),
    );
    assert_eq!(done.status.code(), Some(2));
    let error: Value = serde_json::from_slice(&done.stderr).unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("uses.txt") && message.contains("line 2"),
        "{message}"
    );
}

/// In a memory cgroup of its own, made by the command.
#[test]
fn pressure_kills_the_ungoverned_and_nobody_once_governed() {
    let done = output(atom_bench().args(["pressure", "--json", "--rate", "100"]));
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(said.contains("no memory cgroup can be made here"), "{said}");
        eprintln!("SKIPPED: {said}");
        return;
    }
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    let (limit, hog) = (number(&report["limit_bytes"]), number(&report["hog_bytes"]));
    assert!(number(&report["working_set_bytes"]) + hog > limit);
    assert!(report["ungoverned"]["killed"].is_string(), "{report}");
    assert_eq!(number(&report["ungoverned"]["returned_bytes"]), 0.0);
    let governed = &report["governed"];
    assert!(governed["killed"].is_null(), "{report}");
    assert_eq!(governed["hog_full"], true);
    assert_eq!(number(&governed["refused"]), 0.0, "{report}");
    let first = number(&governed["first_return_at"]);
    assert!(first < 1.0, "given back only at {first} of the limit");
    let samples = governed["samples"].as_array().unwrap();
    let last = samples.last().unwrap();
    assert!(number(&last["hog_bytes"]) >= hog && number(&last["rounds"]) > 0.0);
}

/// How far off the ledger is, memory's own tests judge.
#[test]
fn the_ledger_is_shown_beside_the_kernel_and_drawn() {
    let folder = temporary();
    let picture = folder.path().join("ledger.svg");
    let mut command = atom_bench();
    command.args(["ledger", "--json", "--svg"]);
    let report = json(command.arg(&picture).arg(video("carphone")));
    let rows = report["rows"].as_array().unwrap();
    let kernel = |step: &str| {
        let row = rows.iter().find(|row| row["step"] == step);
        number(&row.unwrap_or_else(|| panic!("{step}: {report}"))["kernel_bytes"])
    };
    assert_eq!(rows.len(), 11);
    assert!(
        kernel("critical again") < kernel("caption") / 4.0,
        "{report}"
    );
    let drawn = fs::read_to_string(picture).unwrap();
    assert!(drawn.contains("kernel (RssAnon)") && drawn.contains("ledger"));
}

/// What a refused command line says.
fn refused(args: &[&str]) -> String {
    let done = output(atom_bench().args(args));
    assert_eq!(done.status.code(), Some(2), "{args:?}");
    String::from_utf8(done.stderr).unwrap()
}

#[test]
fn pictures_are_not_promised_where_none_is_drawn() {
    for name in ["limits", "overlap"] {
        let said = refused(&[name, "--svg", "x.svg"]);
        assert!(said.contains(name) && said.contains("no picture"), "{said}");
    }
}

#[test]
fn preprocess_reports_time_limit_and_quality_of_every_size_and_format() {
    let folder = temporary();
    let svg = folder.path().join("preprocess.svg");
    let mut command = atom_bench();
    command.args([
        "preprocess",
        "--sizes",
        "640x360,1280x720",
        "--formats",
        "nv12,i420,rgb8",
        "--rounds",
        "1",
        "--json",
        "--svg",
    ]);
    let report = json(command.arg(&svg));
    let rows = report["rows"].as_array().unwrap();
    let bandwidth = number(&report["limits"]["dram_read_bytes_per_s"][0]);
    let mut seen = Vec::new();
    for row in rows {
        let (width, height) = (number(&row["width"]), number(&row["height"]));
        let format = row["format"].as_str().unwrap();
        seen.push((width as u32, format));
        let bytes = width * height * if format == "rgb8" { 3.0 } else { 1.5 };
        assert_eq!(number(&row["source_bytes"]), bytes, "{row}");
        let limit = number(&row["limit_ms"]);
        assert!((limit / (1e3 * bytes / bandwidth) - 1.0).abs() < 1e-6);
        let one = number(&row["one_view_ms"]["median"]);
        assert!((number(&row["of_limit"]) * one / limit - 1.0).abs() < 1e-6);
        assert!(number(&row["all_views_ms"]["median"]) > 0.0);
        let stages = row["stages"].as_array().unwrap();
        assert!(!stages.is_empty() && stages.iter().all(|stage| number(&stage["ms"]) > 0.0));
        // RGB is what it is compared with.
        let (ours, plain) = (&row["psnr_db"], number(&row["bilinear_psnr_db"]));
        if format == "rgb8" {
            assert!(ours.is_null(), "{row}");
        } else {
            assert!(number(ours) > plain + 10.0, "{row}");
        }
    }
    let formats = ["nv12", "i420", "rgb8"];
    let wanted: Vec<(u32, &str)> = [640, 1280]
        .iter()
        .flat_map(|width| formats.map(|format| (*width, format)))
        .collect();
    assert_eq!(seen, wanted);
    let drawn = fs::read_to_string(&svg).unwrap();
    assert!(drawn.contains("1280x720 nv12") && drawn.contains("one read of the planes"));

    assert!(refused(&["preprocess", "--sizes", "1920"]).contains("such as 1920x1080"));
    assert!(refused(&["preprocess", "--sizes", "8x8"]).contains("from 16 to 8192"));
    assert!(refused(&["preprocess", "--formats", "yuy2"]).contains("nv12, i420 and rgb8"));
    assert!(refused(&["preprocess", "--rounds", "0"]).contains("rounds"));
}

#[test]
fn load_reports_every_form_and_makes_the_sessions_it_times() {
    cached("packs/reference-embedded/pack.toml");
    assert!(output(atom().args(["doctor", "--json"])).status.success());
    let folder = temporary();
    let (log, svg) = (folder.path().join("log"), folder.path().join("load.svg"));
    let mut command = atom_bench();
    command.args([
        "load",
        "--modules",
        "visual-encoder",
        "--rounds",
        "1",
        "--reloads",
        "2",
        "--json",
        "--svg",
    ]);
    watch(command.arg(&svg), &log);
    let report = json(&mut command);
    let modules = report["modules"].as_object().unwrap();
    assert_eq!(modules.keys().collect::<Vec<_>>(), ["visual-encoder"]);
    let module = &modules["visual-encoder"];
    assert_eq!(module["prepacked"], true);
    let forms = module["forms"].as_object().unwrap();
    let names: Vec<&str> = forms.keys().map(String::as_str).collect();
    assert_eq!(names, ["embedded", "external", "ours"]);
    for (name, form) in forms {
        for key in [
            "reload_ms",
            "bare_reload_ms",
            "rerun_ms",
            "second_run_ms",
            "release_ms",
        ] {
            assert!(number(&form[key]["median"]) > 0.0, "{name} {key}");
        }
        for key in ["cold", "warm"] {
            assert!(number(&form[key]["load_ms"]["median"]) > 0.0);
            assert!(number(&form[key]["first_run_ms"]["median"]) > 0.0);
        }
        let parts = form["reload_parts_ms"].as_object().unwrap();
        assert!(number(&parts["create"]) > 0.0, "{name}");
        assert_eq!(parts.contains_key("measure"), name == "ours");
        // Measured where the heap has given back what the release freed; on its own a plain one keeps tens of megabytes.
        assert!(number(&form["bare_anon_bytes"]) < 10e6, "{name}");
        assert!(number(&form["files_bytes"]) > 1e6 && number(&form["cosine"]) > 0.99);
    }
    for (name, ratios) in module["ratios"].as_object().unwrap() {
        for key in [
            "load_cold",
            "load_warm",
            "reload",
            "bare_reload",
            "reload_and_run",
        ] {
            assert!(number(&ratios[key]["median"]) > 0.0, "{name} {key}");
        }
        let anonymous = number(&forms["ours"]["anon_bytes"]) / number(&forms[name]["anon_bytes"]);
        assert!((number(&ratios["anon"]) / anonymous - 1.0).abs() < 1e-6);
    }
    let parked = &module["parked"];
    assert!(number(&parked["weights_bytes"]) > 1e6);
    assert!(number(&parked["cached_bytes"]) >= number(&parked["weights_bytes"]));
    for key in [
        "uncached",
        "park_ms",
        "back_ms",
        "read_ms",
        "back_over_read",
        "more_over_read",
    ] {
        assert!(number(&parked[key]["median"]) > 0.0, "{key}");
    }
    assert!(number(&module["limit"]["memory_read_ms"]) > 0.0);
    assert!(
        fs::read_to_string(&svg)
            .unwrap()
            .contains("visual-encoder, ours")
    );

    // Counted outside: one load to see what is mapped and one reload of it, then cold and warm: a load, two reloads, and two
    // more: of plain forms with what was free given back, of ours to be parked.
    let mut made: BTreeMap<u64, u64> = BTreeMap::new();
    for session in sessions(&log) {
        assert!(session.ok && session.released, "{session:?}");
        *made.entry(session.pid).or_default() += 1;
    }
    let mut made: Vec<u64> = made.into_values().collect();
    made.sort_unstable();
    assert_eq!(made, [3, 3, 3, 5, 5, 5, 5, 5, 5]);

    let done = output(atom_bench().args(["load", "--modules", "nose", "--json"]));
    let error: Value = serde_json::from_slice(&done.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "not_found");
    let remedy = error["error"]["remedy"].as_str().unwrap();
    assert!(remedy.contains("visual-encoder"), "{remedy}");
    assert!(refused(&["load", "--reloads", "0"]).contains("1..=100"));
    assert!(refused(&["load", "--worker", "{}"]).contains("--worker"));
}
