//! The QNN provider on Qualcomm's emulator, which runs graphs for real: what it serves, what it refuses and how that is
//! told.

use std::fs;

use atom_tests::npu::{NpuPack, compiled, emulator};
use atom_tests::{output, python, root, shim, video};
use serde_json::Value;

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

/// Nodes per provider, conversions left out.
fn nodes(module: &Value, provider: &str) -> u64 {
    let shares = module["nodes"].as_array().unwrap();
    let own = shares.iter().filter(|share| share["provider"] == provider);
    own.map(|share| share["nodes"].as_u64().unwrap()).sum()
}

#[test]
fn quantised_encoder_is_wholly_on_qnn_and_comes_back_from_the_cache() {
    if emulator().is_none() {
        return;
    }
    let pack = NpuPack::new();
    pack.policy("require");
    let first = pack.doctor();
    assert_eq!(first.code(), Some(0), "{}", first.why());
    let module = &first.module;
    assert_eq!(module["provider"], "qnn");
    assert_eq!(module["fallbacks"].as_array().map(Vec::len), Some(0));
    assert!(nodes(module, "qnn") > 70, "{}", module["nodes"]);
    assert_eq!(nodes(module, "cpu"), 0, "{}", module["nodes"]);
    assert_eq!(module["nodes"][0]["compute"], 1.0, "{}", module["nodes"]);
    let cosine = number(&module["golden_cosine"]);
    assert!(cosine > 0.999, "{cosine}");
    let qnn = &first.said["providers"][1];
    assert_eq!(qnn["devices"][0]["emulated"], true, "{qnn}");
    assert_eq!(qnn["missing"], Value::Null, "{qnn}");

    // Another process: from the cache, the same numbers, and the placement as it was found when it was compiled.
    let entry = pack.entry();
    let second = pack.doctor();
    assert_eq!(second.code(), Some(0), "{}", second.why());
    assert_eq!(second.module["golden_cosine"], module["golden_cosine"]);
    assert_eq!(second.module["nodes"], module["nodes"]);
    assert_eq!(pack.entry(), entry);
    let took = |doctor: &Value| number(&doctor["load_ms"]) - number(&doctor["golden_ms"]);
    println!(
        "golden cosine {cosine:.6}; compile and load {:.0} ms, load from the cache {:.0} ms, {:.1} times quicker; floor {:.1} MB",
        took(module),
        took(&second.module),
        took(module) / took(&second.module),
        number(&qnn["floor_bytes"]) / 1e6,
    );
}

#[test]
fn a_flipped_byte_of_a_compiled_form_is_always_caught() {
    if emulator().is_none() {
        return;
    }
    let pack = NpuPack::new();
    pack.policy("require");
    let whole = pack.doctor();
    assert_eq!(whole.code(), Some(0), "{}", whole.why());
    let entry = pack.entry();
    let binary = fs::read_dir(&entry)
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "bin"))
        .unwrap_or_else(|| panic!("{} holds no binary", entry.display()));
    let size = fs::metadata(&binary).unwrap().len() as usize;
    let quarantined = pack.folder.path().join("artifacts/quarantine");
    // Header, tables, weights, code, end; then the small graph and the record of the placement.
    let within = [0, 4096, size / 3, size / 2, size * 5 / 6, size - 1];
    let places = within.into_iter().map(|at| (binary.clone(), at));
    let others = ["model.onnx", "placement.json"].map(|name| (entry.join(name), 100));
    for (file, at) in places.chain(others) {
        let _ = fs::remove_dir_all(&quarantined);
        let mut bytes = fs::read(&file).unwrap();
        bytes[at] ^= 0x20;
        fs::write(&file, bytes).unwrap();
        let mended = pack.doctor();
        let shown = format!("{} at {at}", file.display());
        assert_eq!(mended.code(), Some(0), "{shown}: {}", mended.why());
        assert_eq!(
            mended.module["golden_cosine"], whole.module["golden_cosine"],
            "{shown}"
        );
        // Taken out of use for its hash, before anything ran on it, and made anew.
        let said = String::from_utf8_lossy(&mended.output.stderr).into_owned();
        assert!(said.contains("sha256 differs"), "{shown}: {said}");
        assert!(
            quarantined.join(entry.file_name().unwrap()).is_dir(),
            "{shown}"
        );
    }
}

/// One thing wrong with a pack or a machine, and what is said of it.
struct Wrong {
    what: &'static str,
    make: fn(&mut NpuPack),
    said: &'static str,
}

#[test]
fn what_cannot_serve_is_refused_or_replaced_by_policy() {
    if emulator().is_none() {
        return;
    }
    let cases = [
        Wrong {
            what: "no library where the variable says",
            make: |pack| {
                pack.with(
                    "ATOM_QNN_LIBRARY",
                    "/nowhere/libonnxruntime_providers_qnn.so",
                );
            },
            said: "ATOM_QNN_LIBRARY names /nowhere/libonnxruntime_providers_qnn.so, which is not there",
        },
        Wrong {
            what: "no library at all",
            make: |pack| {
                pack.with("ATOM_QNN_LIBRARY", "");
            },
            said: "there is no libonnxruntime_providers_qnn.so",
        },
        Wrong {
            what: "a text for a library",
            make: |pack| {
                let path = pack.folder.path().join("broken.so");
                fs::write(&path, "no library").unwrap();
                pack.with("ATOM_QNN_LIBRARY", path.to_string_lossy());
            },
            said: "broken.so",
        },
        Wrong {
            what: "a backend that is not there",
            make: |pack| {
                pack.edit(
                    "soc_model = 69",
                    "soc_model = 69\nbackend_path = \"libQnnNone.so\"",
                );
            },
            said: "libQnnNone.so: cannot open shared object file",
        },
        Wrong {
            what: "a backend that is something else",
            make: |pack| {
                pack.edit(
                    "soc_model = 69",
                    "soc_model = 69\nbackend_path = \"libQnnSystem.so\"",
                );
            },
            said: "does not export QnnInterface_getProviders",
        },
        Wrong {
            what: "a SoC that is none, from the environment",
            make: |pack| {
                pack.with("ATOM_QNN_SOC", "12");
            },
            said: "ATOM_QNN_SOC = 12 is no SoC that is known",
        },
        Wrong {
            what: "a graph it takes nothing of",
            make: |pack| {
                pack.without_variant();
            },
            said: "qnn took none of its",
        },
        Wrong {
            what: "outputs that are not the golden ones",
            make: |pack| {
                pack.rewrite("golden/visual_a16w8.image_embeds.bin", |mut bytes| {
                    // The first picture's vector twice: what an encoder that sees nothing would give.
                    let half = bytes.len() / 2;
                    let (first, second) = bytes.split_at_mut(half);
                    second.copy_from_slice(first);
                    bytes
                });
            },
            said: "with the golden outputs, 0.99 is needed",
        },
    ];
    for case in cases {
        for policy in ["require", "prefer", "allow"] {
            let mut pack = NpuPack::new();
            pack.policy(policy);
            (case.make)(&mut pack);
            let doctor = pack.doctor();
            let shown = format!("{}, {policy}: {}", case.what, doctor.why());
            assert!(doctor.why().contains(case.said), "{shown}");
            if policy == "require" {
                assert_eq!(doctor.code(), Some(4), "{shown}");
                assert_eq!(doctor.module["state"], "failed", "{shown}");
            } else {
                assert_eq!(doctor.code(), Some(9), "{shown}");
                assert_eq!(doctor.module["provider"], "cpu", "{shown}");
                assert_eq!(nodes(&doctor.module, "qnn"), 0, "{shown}");
            }
        }
    }
}

#[test]
fn illegal_options_never_reach_onnx_runtime() {
    for (option, said) in [
        ("soc_model = 12", "option soc_model = 12"),
        ("soc_modell = 69", "has no option \"soc_modell\""),
        ("soc_model = \"69\"", "option soc_model = \"69\""),
        (
            "soc_model = 69\nhtp_arch = 73",
            "soc_model = 69 with htp_arch = 73",
        ),
        ("htp_arch = 73", "htp_arch without soc_model"),
        ("enable_htp_fp16_precision = true", "without soc_model"),
        ("soc_model = 69\nvtcm_mb = 0", "option vtcm_mb = 0"),
        (
            "soc_model = 69\nhtp_performance_mode = \"fast\"",
            "\"burst\"",
        ),
        (
            "backend_type = \"htp\"\nbackend_path = \"libQnnHtp.so\"",
            "both backend_type and backend_path",
        ),
        ("backend_path = \"/tmp/libQnnHtp.so\"", "without a folder"),
    ] {
        let pack = NpuPack::new();
        pack.edit("soc_model = 69", option);
        let done = output(&mut pack.command(&["doctor"]));
        let text = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(4), "{option}: {text}");
        assert!(
            text.contains("\"kind\":\"bad_pack\"") && text.contains(&said.replace('"', "\\\"")),
            "{option}: {text}"
        );
    }
}

#[test]
fn an_operator_it_lacks_is_named() {
    if emulator().is_none() {
        return;
    }
    for policy in ["require", "prefer"] {
        let pack = NpuPack::new();
        pack.policy(policy)
            .rewrite("visual_encoder_a16w8.onnx", |bytes| {
                let folder = atom_tests::temporary();
                let [source, target] = ["in.onnx", "out.onnx"].map(|name| folder.path().join(name));
                fs::write(&source, bytes).unwrap();
                let script = root().join("tests/fixtures/add_trilu.py");
                let names = [&source, &target].map(|path| path.to_string_lossy().into_owned());
                python(&script, &[&names[0], &names[1], "image_embeds"], None);
                fs::read(target).unwrap()
            });
        let doctor = pack.doctor();
        let shown = format!("{policy}: {}", doctor.why());
        assert!(
            doctor.why().contains("nodes to the processor: Trilu 1"),
            "{shown}"
        );
        if policy == "require" {
            assert_eq!(doctor.code(), Some(4), "{shown}");
        } else {
            assert_eq!(doctor.code(), Some(9), "{shown}");
            assert_eq!(doctor.module["provider"], "qnn", "{shown}");
            assert_eq!(nodes(&doctor.module, "cpu"), 1, "{shown}");
        }
    }
}

#[test]
fn the_share_of_compute_is_what_the_graph_says() {
    if emulator().is_none() {
        return;
    }
    let pack = NpuPack::new();
    let mut counted = Value::Null;
    pack.rewrite("visual_encoder_a16w8.onnx", |bytes| {
        let folder = atom_tests::temporary();
        let [source, target] = ["in.onnx", "out.onnx"].map(|name| folder.path().join(name));
        fs::write(&source, bytes).unwrap();
        let script = root().join("tests/fixtures/add_integers.py");
        let plain = pack.path().join("visual_encoder.onnx");
        let names = [&source, &target, &plain];
        let names = names.map(|path| path.to_string_lossy().into_owned());
        let args = [&names[0], &names[1], "image_embeds", &names[2]];
        counted = atom_tests::python_json(&script, &args, None);
        fs::read(target).unwrap()
    });
    let (before, added) = (number(&counted["before"]), number(&counted["added"]));
    let first = pack.doctor();
    // The second is from the cache, whose graph is one node.
    for doctor in [&first, &pack.doctor()] {
        assert_eq!(doctor.code(), Some(9), "{}", doctor.why());
        let share = |provider: &str| -> f64 {
            let shares = doctor.module["nodes"].as_array().unwrap();
            let own = shares.iter().filter(|share| share["provider"] == provider);
            own.map(|share| number(&share["compute"])).sum()
        };
        let (qnn, cpu) = (share("qnn"), share("cpu"));
        assert!(
            (qnn - before / (before + added)).abs() < 1e-9,
            "{counted}: {qnn}"
        );
        assert!(
            (cpu - added / (before + added)).abs() < 1e-9,
            "{counted}: {cpu}"
        );
        assert!(doctor.why().contains("MatMul 1"), "{}", doctor.why());
    }
    println!("{}", first.module["placement"]);
}

#[test]
fn one_process_has_one_soc() {
    if emulator().is_none() {
        return;
    }
    let pack = NpuPack::new();
    let path = pack.path().join("pack.toml");
    let text = fs::read_to_string(&path).unwrap();
    let (_, module) = text.split_once("\n[[module]]\n").unwrap();
    let other = module
        .replace("id = \"visual-encoder\"", "id = \"other\"")
        .replace("soc_model = 69", "soc_model = 43");
    fs::write(&path, format!("{text}\n[[module]]\n{other}")).unwrap();
    let doctor = pack.doctor();
    assert_eq!(doctor.code(), Some(9), "{}", doctor.why());
    assert_eq!(doctor.module["provider"], "qnn");
    let other = &doctor.said["modules"][1];
    assert_eq!(other["provider"], "cpu");
    let why = other["fallbacks"][0].as_str().unwrap();
    assert!(why.contains("one process has one SoC"), "{why}");
}

#[test]
fn compiled_ahead_of_time_for_two_generations() {
    if emulator().is_none() {
        return;
    }
    let mut pack = NpuPack::new();
    pack.policy("require");
    let artifacts = pack.folder.path().join("artifacts");
    let done = output(
        pack.command(&["compile", "--soc", "43,69", "--output"])
            .arg(&artifacts),
    );
    let text = String::from_utf8_lossy(&done.stdout);
    let told: Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&done.stderr)));
    let made = told["compiled"].as_array().unwrap();
    assert_eq!(made.len(), 2, "{told}");
    for one in made {
        println!(
            "SoC {}: {:.1} MB, compiled in {:.0} ms, loads in {:.0} ms, golden cosine {}",
            one["soc"],
            number(&one["bytes"]) / 1e6,
            number(&one["compile_ms"]),
            number(&one["load_ms"]),
            one["golden_cosine"]
        );
    }
    // Each "board" finds its own, and compiles nothing.
    let shipped = compiled(&artifacts);
    assert_eq!(shipped.len(), 2, "{shipped:?}");
    for soc in ["43", "69"] {
        let doctor = pack.with("ATOM_QNN_SOC", soc).doctor();
        assert_eq!(doctor.code(), Some(0), "{soc}: {}", doctor.why());
        assert_eq!(doctor.module["provider"], "qnn", "{soc}");
        assert_eq!(compiled(&artifacts), shipped, "{soc}");
    }
}

#[test]
fn a_provider_lost_while_running_is_replaced_unseen() {
    if emulator().is_none() {
        return;
    }
    let pack = NpuPack::new();
    let before = pack.doctor();
    assert_eq!(before.code(), Some(0), "{}", before.why());
    let key = pack.entry();
    let key = key.file_name().unwrap().to_string_lossy();
    let store = pack.folder.path().join("store");
    let log = pack.folder.path().join("log");
    let mut command = pack.command(&["index", "--store"]);
    command.arg(&store).arg(video("carphone"));
    shim::watch(&mut command, &log);
    // The first run of a session is its golden check; the device is lost at the second, and again after the rebuild.
    let done = output(command.env("ATOM_SHIM_FAIL", format!("{key}:2")));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(
        said.contains("device lost (injected by the test)"),
        "{said}"
    );
    assert!(said.contains("qnn serves it again"), "{said}");
    assert!(said.contains("cpu serves it again"), "{said}");
    let sessions = shim::sessions(&log);
    let on_npu: Vec<_> = sessions
        .iter()
        .filter(|s| s.model.contains(&*key))
        .collect();
    assert_eq!(on_npu.len(), 2, "{on_npu:?}");
    for session in on_npu {
        assert_eq!((session.runs, session.failed_runs), (1, 1), "{session:?}");
        assert!(session.released, "{session:?}");
    }
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    let segments = told["streams"][0]["segments"].as_u64().unwrap();
    let frames: u64 = sessions
        .iter()
        .filter(|s| !s.model.contains(&*key) && s.ports.iter().any(|port| port == "image_embeds"))
        .map(|s| s.runs)
        .sum();
    assert!(segments > 0 && frames >= segments, "{told}: {frames} runs");
}
