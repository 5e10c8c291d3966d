//! ONNX files as they are: those of the reference pack and an export of Hugging Face Optimum.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use atom_core::ErrorKind;
use atom_core::onnx::{Dimension, ElementType, Model};
use atom_tests::source::files;
use atom_tests::{cached, output, pack, python_json, root, temporary};
use serde_json::{Value, json};

/// Both towers of a CLIP model with random weights, in one graph.
fn clip() -> PathBuf {
    root().join("tests/fixtures/exports/clip-tiny-optimum/export/model.onnx")
}

fn read(path: &Path) -> Model {
    Model::read(path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn real_files_are_written_byte_for_byte_as_they_were_read() {
    let mut paths = files(&pack(), "onnx");
    paths.extend(files(&root().join("tests/fixtures"), "onnx"));
    assert!(paths.len() >= 14, "only {} files", paths.len());
    let folder = temporary();
    let copy = folder.path().join("copy.onnx");
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        let model = read(&path);
        assert!(model.to_vec().unwrap() == bytes, "{}", path.display());
        model.write(&copy).unwrap();
        assert!(std::fs::read(&copy).unwrap() == bytes, "{}", path.display());
    }
}

#[test]
fn a_real_file_is_described() {
    let clip = read(&clip()).inspect().unwrap();
    assert_eq!(clip.producer, "pytorch 2.6.0");
    assert_eq!(clip.ir_version, 8);
    assert_eq!(clip.opsets, BTreeMap::from([("ai.onnx".to_owned(), 17)]));
    let names: Vec<&str> = clip.inputs.iter().map(|port| &port.name[..]).collect();
    assert_eq!(names, ["input_ids", "pixel_values", "attention_mask"]);
    assert_eq!(clip.inputs[0].element, Some(ElementType::INT64));
    let shape = clip.inputs[0].shape.as_deref().unwrap();
    let text = |name: &str| Dimension::Named(name.to_owned());
    assert_eq!(shape, [text("text_batch_size"), text("sequence_length")]);
    assert_eq!(clip.operators.values().sum::<usize>(), 539);
    assert!(clip.external_files.is_empty() && clip.functions.is_empty());

    let decoder = pack().join("language_decoder.onnx");
    let model = read(&decoder);
    let decoder = model.inspect().unwrap();
    let operators: Vec<String> = decoder.operators.keys().map(|op| op.to_string()).collect();
    let contrib = "com.microsoft::MatMulNBits".to_owned();
    assert!(operators.contains(&contrib), "{operators:?}");
    assert!(operators.contains(&"Reshape".to_owned()), "{operators:?}");
    let (file, bytes) = decoder.external_files.first_key_value().unwrap();
    assert_eq!(file, "language_decoder.onnx.data");
    assert_eq!(decoder.external_files.len(), 1);
    let there = std::fs::metadata(pack().join(file)).unwrap().len();
    assert!(
        *bytes <= there && there < bytes + 65_536,
        "{bytes} of {there}"
    );
    let weights: u64 = decoder.initializers.iter().map(|w| w.bytes).sum();
    assert!(weights >= bytes * 9 / 10, "{weights} of {bytes}");
    model.check_external_files(&pack()).unwrap();
}

/// Cuts `whole` as asked and asks Python about the parts.
fn cut(whole: &Path, folder: &Path, parts: &[Value]) -> Vec<Value> {
    let model = read(whole);
    let texts = |value: &Value| -> Vec<String> {
        serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}"))
    };
    let mut asked = parts.to_vec();
    for (at, part) in asked.iter_mut().enumerate() {
        let (inputs, outputs) = (texts(&part["inputs"]), texts(&part["outputs"]));
        let [inputs, outputs] =
            [&inputs, &outputs].map(|names| names.iter().map(|n| &n[..]).collect::<Vec<_>>());
        let file = folder.join(format!("part{at}.onnx"));
        let part_of = model.extract(&inputs, &outputs).unwrap();
        part_of.write(&file).unwrap();
        part["file"] = json!(file);
    }
    let script = root().join("tests/fixtures/parts.py");
    let args = [whole, folder].map(|path| path.to_str().unwrap());
    let told = python_json(&script, &args, Some(&json!(asked).to_string()));
    let told = told.as_array().unwrap().clone();
    println!("{told:?}");
    assert_eq!(told.len(), parts.len());
    for part in &told {
        assert_eq!(part["equal"], true, "{part}");
        assert_eq!(part["as_onnx"], true, "{part}");
        // All zeros would equal each other, too.
        assert!(part["spread"].as_f64().unwrap() > 1e-3, "{part}");
    }
    told
}

#[test]
fn towers_cut_from_a_model_compute_the_same() {
    let folder = temporary();
    let shapes = json!({
        "input_ids": ["ids", [2, 9]],
        "attention_mask": ["ones", [2, 9]],
        "pixel_values": ["noise", [2, 3, 32, 32]],
    });
    let text = ["input_ids", "attention_mask"];
    let told = cut(
        &clip(),
        folder.path(),
        &[
            json!({"inputs": text, "outputs": ["text_embeds"], "shapes": shapes}),
            json!({"inputs": ["pixel_values"], "outputs": ["image_embeds"], "shapes": shapes}),
        ],
    );
    let nodes: u64 = told
        .iter()
        .map(|part| part["nodes"].as_u64().unwrap())
        .sum();
    assert!(
        nodes < 539,
        "{nodes} nodes, and those of the head are in neither"
    );
}

#[test]
fn a_part_reads_external_weights_where_they_are() {
    // ONNX Runtime refuses linked files of weights.
    let folder = temporary();
    let name = "visual_encoder.onnx";
    for file in [name, "visual_encoder.onnx.data"] {
        std::fs::copy(pack().join(file), folder.path().join(file)).unwrap();
    }
    let shapes = json!({"pixel_values": ["noise", [1, 3, 224, 224]]});
    let parts = ["pooler_output", "posteriors"]
        .map(|output| json!({"inputs": ["pixel_values"], "outputs": [output], "shapes": shapes}));
    let whole = folder.path().join(name);
    cut(&whole, folder.path(), &parts);
    let part = folder.path().join("part0.onnx");
    assert!(std::fs::metadata(&part).unwrap().len() < 100_000);
    read(&part).check_external_files(folder.path()).unwrap();
    let summary = read(&part).inspect().unwrap();
    let (file, bytes) = summary.external_files.first_key_value().unwrap();
    assert_eq!(file, "visual_encoder.onnx.data");
    // Some weights are the head's, which this part does not have.
    let all = read(&whole).inspect().unwrap();
    let weights = |summary: &atom_core::onnx::Summary| -> u64 {
        summary.initializers.iter().map(|w| w.bytes).sum()
    };
    assert!(weights(&summary) < weights(&all), "{bytes}");
}

/// Set for the process that [`weights_in_a_model_are_in_memory_once`] measures.
const MEASURED: &str = "ATOM_TEST_ONNX_MEASURED";

#[test]
fn weights_in_a_model_are_in_memory_once() {
    let path = cached("packs/reference-embedded/language_decoder.onnx");
    let size = std::fs::metadata(&path).unwrap().len() / 1024;
    if std::env::var_os(MEASURED).is_some() {
        let before = peak();
        let model = read(&path);
        model.inspect().unwrap();
        let folder = temporary();
        let write = |model: &Model| model.write(&folder.path().join("m.onnx")).unwrap();
        write(&model);
        let past = model.inspect().unwrap().inputs;
        let inputs: Vec<&str> = past.iter().map(|port| &port.name[..]).collect();
        write(&model.extract(&inputs, &["logits"]).unwrap());
        println!("grown by {}", peak() - before);
        return;
    }
    // A process of its own: nothing else adds to its peak.
    let name = "weights_in_a_model_are_in_memory_once";
    let done = output(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(MEASURED, "1"),
    );
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let grown = text.split("grown by ").nth(1);
    let grown = grown.and_then(|rest| rest.split_whitespace().next());
    let grown: u64 = grown.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    println!("read, described, written, cut and written: {grown} kB for a file of {size} kB");
    assert!((size..size + 32_768).contains(&grown));
}

/// Numbers that look random and are the same every time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    /// `whole` with a few bytes changed, as bits and files go wrong. Three of four times all lengths stay what they were, so
    /// that the damage is in what the messages say.
    fn damage(&mut self, whole: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        let in_place = self.below(4) > 0;
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            let end = (at + self.below(64)).min(bytes.len());
            match self.below(if in_place { 3 } else { 6 }) {
                0 => bytes[at] ^= 1 << self.below(8),
                // A digit, where there is one: of an offset, a length, a name.
                1 => match bytes[at..].iter().position(u8::is_ascii_digit) {
                    Some(digit) => bytes[at + digit] = b"0123456789-x"[self.below(12)],
                    None => bytes[at] = 0xff,
                },
                // One after the other, as long as each other.
                2 => {
                    let from = self.below(bytes.len() - (end - at));
                    bytes.copy_within(from..from + (end - at).min(3), at);
                }
                3 => bytes.truncate(at.max(1)),
                4 => {
                    bytes.drain(at..end.min(bytes.len() - 1).max(at));
                }
                _ => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    }
}

/// The most memory that this process ever had, in kilobytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = peak.and_then(|peak| peak.split_whitespace().next());
    number.unwrap().parse().unwrap()
}

/// Does with a model what Atom does with one. Whatever the file, only errors may come of it.
fn use_up(model: &mut Model) -> bool {
    let described = model.inspect().is_ok();
    let _ = model.compute_cost(&BTreeMap::from([("batch".to_owned(), 2)]));
    let _ = model.extract(&["pixel_values"], &["image_embeds"]);
    let _ = model.extract(&["input_ids", "attention_mask"], &["logits"]);
    model.split_matmul();
    // What was read can be written, and is the same when it is read again.
    let written = model.to_vec().unwrap();
    let again = Model::parse(written.clone()).unwrap_or_else(|error| panic!("{error}"));
    assert!(
        again.to_vec().unwrap() == written,
        "it is written otherwise"
    );
    described
}

#[test]
fn damaged_files_are_errors_and_never_crash_hang_or_grow() {
    let decoder = std::fs::read(pack().join("language_decoder.onnx")).unwrap();
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let folder = temporary();
    let path = folder.path().join("saved.onnx");
    let data = folder.path().join("saved.onnx.data");
    std::fs::File::create(&data)
        .and_then(|file| file.set_len(1 << 20))
        .unwrap();
    let before = peak();
    let (mut refused, mut odd, mut fine) = (0, 0, 0);
    let mut slowest = Duration::ZERO;
    for (name, whole, rounds) in [
        ("clip", std::fs::read(clip()).unwrap(), 1_500),
        ("decoder", decoder, 1_000),
    ] {
        for round in 0..rounds {
            let bytes = numbers.damage(&whole);
            let began = Instant::now();
            match Model::parse(bytes.clone()) {
                Ok(mut model) => match use_up(&mut model) {
                    true => fine += 1,
                    false => odd += 1,
                },
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::BadModel, "{error}");
                    refused += 1;
                }
            }
            if round % 10 == 0 {
                std::fs::write(&path, &bytes).unwrap();
                if let Err(error) = atom_core::onnx::align_external_data(&path, &[]) {
                    assert_eq!(error.kind(), ErrorKind::BadModel, "{error}");
                    assert!(error.message().contains("saved.onnx"), "{error}");
                }
                std::fs::File::create(&data)
                    .and_then(|file| file.set_len(1 << 20))
                    .unwrap();
            }
            let took = began.elapsed();
            slowest = slowest.max(took);
            assert!(took < Duration::from_secs(5), "{name} {round}: {took:?}");
        }
    }
    let grown = peak() - before;
    println!("{refused} refused, {odd} odd, {fine} fine; slowest {slowest:?}, {grown} kB more");
    assert!(
        refused > 300 && odd > 30 && fine > 300,
        "damage of one kind only"
    );
    // Other tests run beside in this process.
    assert!(grown < 400_000, "{grown} kB");
}
