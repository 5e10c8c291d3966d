//! Atom's numbers against references that share none of its code: ONNX Runtime from Python with Pillow and NumPy,
//! Hugging Face's tokenizers, and llama.cpp on the weights as published.

use std::collections::BTreeSet;
use std::path::PathBuf;

use atom_core::control::Control;
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::index::{Access, NewSegment, NewStream};
use atom_core::language::{GenerateOptions, LanguageModel, Tokenizer};
use atom_core::runtime::{Runtime, RuntimeOptions};
use atom_core::task::search::SearchQuery;
use atom_tests::texts::{prompts, strings};
use atom_tests::{
    cached, cosine, files_ending, floats, ort_library, pack, photos, python_json, root, temporary,
};
use serde_json::{Value, json};

fn runtime(folder: &std::path::Path) -> Runtime {
    let mut options = RuntimeOptions::new(pack());
    options.ort_library = Some(ort_library());
    options.artifacts = Some(folder.join("artifacts"));
    Runtime::open(&options).unwrap()
}

fn oracle(args: &[&str], stdin: Option<&Value>) -> Value {
    let text = stdin.map(Value::to_string);
    python_json(
        &root().join("models/reference/oracle.py"),
        args,
        text.as_deref(),
    )
}

fn photo_files() -> Vec<PathBuf> {
    files_ending(&cached("photos"), &[".png", ".jpg", ".jpeg"])
}

/// Index of the largest value.
fn top(values: &[f32]) -> usize {
    (0..values.len())
        .max_by(|a, b| values[*a].total_cmp(&values[*b]))
        .unwrap()
}

#[test]
fn visual_encoder_equals_python() {
    let folder = temporary();
    let runtime = runtime(folder.path());
    let files = photo_files();
    let names: Vec<String> = files
        .iter()
        .map(|file| file.to_string_lossy().into_owned())
        .collect();
    let mut args = vec!["visual"];
    args.extend(names.iter().map(String::as_str));
    let theirs = oracle(&args, None);
    let (mut least, mut same) = (1.0_f64, 0);
    let all = photos(&files);
    for (photo, reference) in all.iter().zip(theirs.as_array().unwrap()) {
        assert!(reference["file"].as_str().unwrap().ends_with(&photo.name));
        let format = FrameFormat::new(PixelFormat::Rgb8, photo.width, photo.height);
        let frame = Frame::packed(format, &photo.rgb, 0).unwrap();
        let ours = runtime.observe(&frame, &Control::default()).unwrap();
        let fit = cosine(&ours.embedding, &floats(&reference["embedding"]));
        let class = top(&ours.posteriors);
        println!(
            "{}: cosine {fit:.6}, class {class}, reference {} ({})",
            photo.name, reference["class"], reference["label"]
        );
        assert!(fit >= 0.999, "{}", photo.name);
        least = least.min(fit);
        same += usize::from(reference["class"] == class);
    }
    println!(
        "{} photos: smallest cosine {least:.6}, top-1 equal on {same}",
        all.len()
    );
    assert!(all.len() >= 10, "only {} photos", all.len());
    assert_eq!(same, all.len());
}

#[test]
fn search_ranks_photos_as_python_does() {
    let folder = temporary();
    let runtime = runtime(folder.path());
    let store = runtime
        .open_store(&folder.path().join("store"), Access::ReadWrite)
        .unwrap();
    let stream = store
        .open_stream(&NewStream {
            name: "photos".to_owned(),
            ..NewStream::default()
        })
        .unwrap();
    let reference = oracle(&["search"], None);
    let queries = reference["queries"].as_array().unwrap();
    // In the reference's own set and order: its ranking of the first query names them all.
    let mut names: Vec<String> = queries[0]["ranking"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_str().unwrap().to_owned())
        .collect();
    names.sort();
    let files: Vec<PathBuf> = names
        .iter()
        .map(|name| cached("photos").join(name))
        .collect();
    for (index, photo) in photos(&files).iter().enumerate() {
        let format = FrameFormat::new(PixelFormat::Rgb8, photo.width, photo.height);
        let frame = Frame::packed(format, &photo.rgb, 0).unwrap();
        let features = runtime.observe(&frame, &Control::default()).unwrap();
        let start_ns = index as i64 * 1_000_000_000;
        store
            .append(
                stream,
                &NewSegment {
                    start_ns,
                    end_ns: start_ns + 1_000_000_000,
                    keyframe_ns: start_ns,
                    features: &features,
                    thumbnail: &[],
                },
            )
            .unwrap();
    }
    let (mut first, mut close) = (0, 0);
    for entry in queries {
        let text = entry["query"].as_str().unwrap();
        let mut query = SearchQuery::new(text);
        query.k = names.len();
        query.min_score = Some(-1.0);
        let hits = runtime.search(&store, &query, &Control::default()).unwrap();
        let ours: Vec<&str> = hits
            .iter()
            .map(|hit| names[(hit.start_ns / 1_000_000_000) as usize].as_str())
            .collect();
        let theirs: Vec<&str> = entry["ranking"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        let scores = floats(&entry["scores"]);
        for (place, (our, their)) in ours.iter().zip(&theirs).enumerate() {
            if our != their {
                // Only photos whose scores the two sides cannot tell apart may change places.
                let own = theirs.iter().position(|name| name == our).unwrap();
                let gap = (scores[own] - scores[place]).abs();
                println!(
                    "{text:?}, place {}: {our} for {their}, scores {gap:.6} apart",
                    place + 1
                );
                assert!(gap < 1e-3, "{text:?}: {our} for {their}, {gap} apart");
                close += 1;
            }
        }
        let relevant: BTreeSet<&str> = entry["relevant"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        first += usize::from(relevant.contains(ours[0]));
        println!(
            "{text:?}: {} ({:.3}){}",
            ours[0],
            hits[0].score,
            if relevant.contains(ours[0]) {
                ""
            } else {
                " — wrong"
            }
        );
    }
    println!(
        "{} queries over {} photos: {close} places swapped between scores within 1e-3, Recall@1 {:.3}, reference {:.3}",
        queries.len(),
        names.len(),
        first as f64 / queries.len() as f64,
        reference["recall_at_1"].as_f64().unwrap()
    );
    assert!(
        (first as f64 / queries.len() as f64 - reference["recall_at_1"].as_f64().unwrap()).abs()
            < 1e-9
    );
}

fn language() -> (tempfile::TempDir, LanguageModel) {
    let folder = temporary();
    let runtime = runtime(folder.path());
    let task = runtime.pack().manifest().tasks.caption.clone().unwrap();
    let model = LanguageModel::new(runtime.registry(), &task.language_decoder, None).unwrap();
    (folder, model)
}

/// The decoder's end tokens.
fn ends() -> Vec<u32> {
    let pack = atom_core::pack::Pack::open(&pack()).unwrap();
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
    let theirs = oracle(&["decode", "-n", "32"], Some(&json!(prompts)));
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
    let theirs = oracle(&["llama-logits"], Some(&json!(prompts)));
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
    let pack = atom_core::pack::Pack::open(&pack()).unwrap();
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
            let theirs = oracle(&args, Some(&json!(strings)));
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
        // What the decoder's tokenizer spells it reads back.
        if module.kind == atom_core::pack::ModuleKind::LanguageDecoder {
            for (text, own) in strings
                .iter()
                .zip(&ours)
                .filter(|(text, _)| !text.contains("<|"))
            {
                assert_eq!(&tokenizer.decode(own).unwrap(), text);
            }
        }
    }
}
