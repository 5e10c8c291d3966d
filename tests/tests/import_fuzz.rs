//! Configurations changed at random: an import reads or refuses them, quickly.

use std::fs;
use std::path::PathBuf;

use atom_core::ErrorKind;
use atom_import::describe;
use atom_tests::broken::Folder;
use serde_json::{Value, json};

/// A small generator of numbers, so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }
}

/// Changes the value at a place chosen at random, the parts of lists of more than a hundred left out.
fn somewhere(
    value: &mut Value,
    numbers: &mut Numbers,
    change: &mut dyn FnMut(&mut Value, &mut Numbers),
) {
    let deeper = numbers.below(4) > 0;
    match value {
        Value::Object(map) if deeper && !map.is_empty() && map.len() < 100 => {
            let at = numbers.below(map.len());
            somewhere(map.values_mut().nth(at).unwrap(), numbers, change);
        }
        Value::Array(list) if deeper && !list.is_empty() && list.len() < 100 => {
            let at = numbers.below(list.len());
            somewhere(&mut list[at], numbers, change);
        }
        other => change(other, numbers),
    }
}

fn mutated(content: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    match numbers.below(5) {
        0 => content[..numbers.below(content.len())].to_vec(),
        1 => {
            let mut bytes = content.to_vec();
            let at = numbers.below(bytes.len());
            bytes[at] = numbers.below(256) as u8;
            bytes
        }
        2 => {
            let mut value: Value = serde_json::from_slice(content).unwrap();
            somewhere(&mut value, numbers, &mut |value, numbers| {
                if let Value::Object(map) = value
                    && let Some(key) = map.keys().nth(numbers.below(map.len())).cloned()
                {
                    map.remove(&key);
                }
            });
            value.to_string().into_bytes()
        }
        _ => {
            let mut value: Value = serde_json::from_slice(content).unwrap();
            let others = [
                json!(null),
                json!(true),
                json!(false),
                json!(0),
                json!(-1),
                json!(3),
                json!(1e300),
                json!(-0.5),
                json!(u64::MAX),
                json!(4_294_967_296_u64),
                json!(""),
                json!("x"),
                json!("{}"),
                json!("<image>"),
                json!([]),
                json!([1, "a", null]),
                json!([0, 0, 0]),
                json!({}),
                json!({"content": 5}),
                json!([[[[[[]]]]]]),
            ];
            somewhere(&mut value, numbers, &mut |value, numbers| {
                *value = others[numbers.below(others.len())].clone()
            });
            value.to_string().into_bytes()
        }
    }
}

/// Any configuration is read or refused, quickly.
#[test]
fn mutated_configurations_are_read_or_refused() {
    let (mut read, mut refused) = (0, 0);
    for name in [
        "clip-tiny",
        "siglip-tiny",
        "smolvlm2-tiny",
        "llava-tiny",
        "vit-gpt2-tiny",
        "florence2-tiny",
    ] {
        let folder = Folder::copy(name);
        let options = folder.options();
        let files = fs::read_dir(folder.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.path());
        let mut files: Vec<PathBuf> = files
            .filter(|path| path.extension().is_some_and(|own| own == "json"))
            .collect();
        files.sort();
        for path in files {
            let content = fs::read(&path).unwrap();
            for seed in 0..24 {
                let mut numbers = Numbers(seed * 7919 + content.len() as u64);
                fs::write(&path, mutated(&content, &mut numbers)).unwrap();
                let began = std::time::Instant::now();
                match describe(&options) {
                    Ok(_) => read += 1,
                    Err(error) => {
                        refused += 1;
                        assert_ne!(
                            error.kind(),
                            ErrorKind::Internal,
                            "{name}, {}, seed {seed}: {error:?}",
                            path.display()
                        );
                        assert!(error.message().len() < 2000, "{name}, seed {seed}: {error}");
                    }
                }
                assert!(
                    began.elapsed().as_secs() < 10,
                    "{name}, {}, seed {seed}",
                    path.display()
                );
            }
            fs::write(&path, &content).unwrap();
        }
    }
    println!("{read} read, {refused} refused");
    assert!(
        read > 100 && refused > 100,
        "{read} read, {refused} refused"
    );
}

/// Values that are of the right type, and that no pack can have: refused before anything is run. Found by `tests/fuzz`.
#[test]
fn values_that_no_pack_can_have_are_named() {
    for (name, file, key, value, parts) in [
        (
            "siglip-tiny",
            "preprocessor_config.json",
            "image_std",
            json!([0.5, 0.5, 5e-324]),
            ["preprocessor_config.json", "image_std", "other than 0"],
        ),
        (
            "siglip-tiny",
            "preprocessor_config.json",
            "image_mean",
            json!([0.5, 1e300, 0.5]),
            ["model", "preprocess.mean", "preprocessor_config.json"],
        ),
        (
            "smolvlm-tiny",
            "generation_config.json",
            "num_beams",
            json!(100_000),
            [
                "model",
                "decoder.generation.beams",
                "generation_config.json",
            ],
        ),
        (
            "vit-gpt2-tiny",
            "generation_config.json",
            "temperature",
            json!(0),
            [
                "model",
                "decoder.generation.temperature",
                "generation_config.json",
            ],
        ),
    ] {
        let folder = Folder::copy(name);
        folder.edit(file, |config| config[key] = value);
        folder.refused(ErrorKind::BadModel, &parts);
    }
    // More tokens than the context has are as many as fit.
    let folder = Folder::copy("smolvlm-tiny");
    folder.edit("generation_config.json", |config| {
        config["max_new_tokens"] = json!(1 << 30);
    });
    let text = describe(&folder.options()).unwrap();
    assert!(!text.contains(&(1 << 30).to_string()), "{text}");
}
