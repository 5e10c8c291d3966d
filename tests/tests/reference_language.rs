//! What the decoder and the tokenizers say, against references that share none of Atom's code: ONNX Runtime from Python,
//! Hugging Face's tokenizers, and llama.cpp on the weights as published.

use std::collections::BTreeSet;
use std::sync::Arc;

use atom_core::budget::Governor;
use atom_core::control::Control;
use atom_core::language::{GenerateOptions, LanguageModel, Tokenizer};
use atom_core::module::Registry;
use atom_core::ort::{Environment, EnvironmentOptions};
use atom_core::pack::{ArtifactCache, Pack};
use atom_tests::texts::{prompts, strings};
use atom_tests::{ort_library, pack, python_json, root, temporary};
use serde_json::Value;

fn oracle(args: &[&str], stdin: &impl serde::Serialize) -> Value {
    let text = serde_json::to_string(stdin).unwrap();
    python_json(
        &root().join("models/reference/oracle.py"),
        args,
        Some(&text),
    )
}

/// The pack's decoder, with artifacts in a folder of its own.
fn language() -> (tempfile::TempDir, LanguageModel) {
    let folder = temporary();
    let environment = Environment::open(&EnvironmentOptions {
        library: Some(ort_library()),
        ..EnvironmentOptions::default()
    })
    .unwrap();
    let pack = Arc::new(Pack::open(&pack()).unwrap());
    let captioner = pack.manifest().captioner.as_ref().unwrap();
    let decoder = captioner.language_decoder.clone().unwrap();
    let artifacts = ArtifactCache::new(folder.path().to_owned());
    let registry = Registry::new(pack, environment, &Governor::default(), artifacts);
    let model = LanguageModel::new(&registry, &decoder, None).unwrap();
    (folder, model)
}

/// The decoder's end tokens.
fn ends() -> Vec<u32> {
    let pack = Pack::open(&pack()).unwrap();
    let modules = &pack.manifest().modules;
    modules
        .iter()
        .filter_map(|module| module.decoder.as_ref())
        .flat_map(|decoder| decoder.eos.clone())
        .collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
}

#[test]
fn greedy_tokens_equal_python() {
    let (_folder, model) = language();
    let prompts = prompts();
    let theirs = oracle(&["decode", "-n", "32"], &prompts);
    let control = Control::default();
    let eos: Vec<u32> = ends();
    for (prompt, reference) in prompts.iter().zip(theirs.as_array().unwrap()) {
        let own = model.tokenizer().encode(prompt, false).unwrap();
        assert_eq!(own, ids(&reference["prompt_ids"]), "{prompt:?}");
        let mut generation = model.start(own.len() + 40, &control).unwrap();
        generation.feed(&own, &control).unwrap();
        let options = GenerateOptions {
            max_tokens: 32,
            ..GenerateOptions::default()
        };
        let made = generation
            .generate(&options, &control, &mut |_| {
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        let mut expected = ids(&reference["tokens"]);
        // The reference keeps the end token.
        expected.retain(|id| !eos.contains(id));
        println!(
            "{prompt:?}: {} tokens: {:?}",
            made.token_ids.len(),
            made.text
        );
        assert_eq!(made.token_ids, expected, "{prompt:?}");
    }
    println!(
        "{} prompts: greedy tokens identical for up to 32 steps",
        prompts.len()
    );
}

#[test]
fn first_logits_order_as_llama_cpp() {
    let (_folder, model) = language();
    let prompts = prompts();
    let theirs = oracle(&["llama-logits"], &prompts);
    let control = Control::default();
    let (mut first, mut order, mut members) = (0, 0, 0);
    for (prompt, reference) in prompts.iter().zip(theirs.as_array().unwrap()) {
        let own = model.tokenizer().encode(prompt, false).unwrap();
        assert_eq!(own, ids(&reference["prompt_ids"]), "{prompt:?}");
        let mut generation = model.start(own.len(), &control).unwrap();
        generation.feed(&own, &control).unwrap();
        let logits = generation.logits();
        let mut sorted: Vec<usize> = (0..logits.len()).collect();
        sorted.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let ours = &sorted[..5];
        let pairs = reference["top"].as_array().unwrap();
        let expected: Vec<usize> = pairs
            .iter()
            .take(5)
            .map(|pair| pair[0].as_u64().unwrap() as usize)
            .collect();
        let value = |id: usize| {
            pairs
                .iter()
                .find(|pair| pair[0] == id)
                .and_then(|pair| pair[1].as_f64())
        };
        first += usize::from(ours[0] == expected[0]);
        order += usize::from(ours == expected);
        members += ours.iter().filter(|id| expected.contains(id)).count();
        if ours != expected {
            let gap = |a: usize, b: usize| Some((value(a)? - value(b)?).abs());
            for (own, their) in ours
                .iter()
                .zip(&expected)
                .filter(|(own, their)| own != their)
            {
                println!(
                    "{prompt:?}: {:?} where llama.cpp has {:?}; its logits differ by {}",
                    model
                        .tokenizer()
                        .id_to_token(*own as u32)
                        .unwrap_or_default(),
                    model
                        .tokenizer()
                        .id_to_token(*their as u32)
                        .unwrap_or_default(),
                    gap(*own, *their)
                        .map_or("(outside its ten)".to_owned(), |gap| format!("{gap:.3}"))
                );
            }
        }
    }
    let count = prompts.len();
    println!(
        "{count} prompts: first token equal on {first}, order of the top five on {order}, {members} of {} members equal",
        count * 5
    );
    // Both sides round activations to 8 bits in their own blocks, so near ties change places; nothing else may.
    assert!(
        first * 10 >= count * 9,
        "first token equal on {first} of {count}"
    );
    assert!(members * 10 >= count * 5 * 9, "{members} of {}", count * 5);
}

#[test]
fn tokenizers_equal_python_and_llama_cpp() {
    let pack = Pack::open(&pack()).unwrap();
    let strings = strings();
    let distinct: BTreeSet<&String> = strings.iter().collect();
    println!(
        "{} strings, {} distinct, longest {} bytes",
        strings.len(),
        distinct.len(),
        strings.iter().map(String::len).max().unwrap()
    );
    for module in pack
        .manifest()
        .modules
        .iter()
        .filter(|module| module.tokenizer.is_some())
    {
        let spec = module.tokenizer.as_ref().unwrap();
        let tokenizer =
            Tokenizer::from_bytes(&pack.read(&spec.file).unwrap(), spec.max_tokens).unwrap();
        let ours: Vec<Vec<u32>> = strings
            .iter()
            .map(|text| tokenizer.encode(text, false).unwrap())
            .collect();
        let mut sides = vec![(
            "Hugging Face",
            vec!["tokenize", "--module", module.id.as_str()],
        )];
        if module.kind == atom_core::pack::ModuleKind::LanguageDecoder {
            sides.push(("llama.cpp", vec!["tokenize", "--llama"]));
        }
        for (side, args) in sides {
            let theirs = oracle(&args, &strings);
            let mut different = 0;
            for ((text, own), their) in strings.iter().zip(&ours).zip(theirs.as_array().unwrap()) {
                if *own != ids(their) {
                    different += 1;
                    if different <= 5 {
                        println!(
                            "{}: {side} differs on {:?}",
                            module.id,
                            text.chars().take(60).collect::<String>()
                        );
                    }
                }
            }
            println!(
                "{}: {} of {} strings as {side}",
                module.id,
                strings.len() - different,
                strings.len()
            );
            assert_eq!(different, 0, "{} against {side}", module.id);
        }
        // What the decoder's tokenizer spells it reads back; its vocabulary lacks the bytes of unassigned planes.
        if module.kind == atom_core::pack::ModuleKind::LanguageDecoder {
            let mut back = 0;
            for (text, own) in strings.iter().zip(&ours) {
                if !text.contains("<|") && text.chars().all(|c| c < '\u{40000}') {
                    assert_eq!(&tokenizer.decode(own).unwrap(), text);
                    back += 1;
                }
            }
            println!("{}: {back} strings read back as they were", module.id);
            assert!(back > 800);
        }
    }
}
