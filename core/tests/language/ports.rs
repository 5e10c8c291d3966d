//! Decoders of every kind of port there is, on tiny graphs: what Atom makes of each equals what numpy made of the same network
//! without a cache (tests/fixtures/make_decoders.py).

use atom_core::budget::Owner;
use atom_core::features::FeatureMap;
use atom_core::language::Generation;
use atom_core::module::Registry;
use atom_core::{Error, ErrorKind};

use super::common::*;
use super::tiny::*;

/// Why decoder `name` with these keys cannot be used.
fn refusal(name: &str, keys: &str) -> Error {
    let (_dir, model) = model_of(name, keys);
    model.check(&free()).expect_err("a misfit")
}

fn twelve(generation: &mut Generation) -> Vec<u32> {
    say(generation, &tokens(12), &free()).token_ids
}

fn near(found: &[f32], expected: &[f32], most: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < most, "{found} for {expected}");
    }
}

/// The ledger's entries for caches.
fn caches(registry: &Registry) -> Vec<u64> {
    let entries = registry.ledger().snapshot();
    let caches = entries
        .iter()
        .filter(|entry| matches!(entry.owner, Owner::Kv(_)));
    let mut bytes: Vec<u64> = caches.map(|entry| entry.anon_bytes).collect();
    bytes.sort_unstable();
    bytes
}

#[test]
fn a_merged_decoder_is_told_when_to_read_its_cache_and_how_many_logits_to_make() {
    let (expected, (_dir, model)) = (Expected::of("merged"), model_of("merged", ""));
    let prompt = expected.ids("prompt");
    let fed = |pieces: usize| {
        let mut generation = model.start(20, &free()).expect("generation");
        for piece in prompt.chunks(pieces) {
            generation.feed(piece, &free()).expect("feed");
        }
        generation
    };
    let mut whole = fed(100);
    near(whole.logits(), &expected.floats("logits"), 1e-3);
    assert_eq!(
        twelve(&mut whole.fork().expect("fork")),
        expected.ids("tokens")
    );
    assert_eq!(twelve(&mut fed(2)), expected.ids("tokens"));
    assert_eq!(twelve(&mut fed(1)), expected.ids("tokens"));
    twelve(&mut whole);
    // From the start again: the first step must not read what is left in the cache.
    whole.truncate(0).expect("truncate");
    whole.feed(&prompt, &free()).expect("feed");
    assert_eq!(twelve(&mut whole), expected.ids("tokens"));
    // Scoring needs the logits of several rows of one step, which the graph gives only when asked.
    let mut generation = fed(100);
    let choices = ["w3 w4 w5 w6", "w3 w4 w9", "w7 w8 w9 w10 w11"];
    let choice = generation.choose(&choices, &free()).expect("choice");
    for (text, score) in choices.iter().zip(&choice.log_probs) {
        let one_by_one = likelihood(&generation, text);
        assert!(
            (score - one_by_one).abs() < 1e-4,
            "{text}: {score} for {one_by_one}"
        );
    }
}

const RENAMED: &str = r#"
first_position = 1
[module.decoder.ports]
input_ids = "tokens"
attention_mask = "seen"
position_ids = "places"
logits = "scores"
past_key = "input.cache.%d.keys"
past_value = "input.cache.%d.values"
present_key = "output.cache.%d.keys"
present_value = "output.cache.%d.values"
[module.decoder.constants]
loudness = 0.75
domain = 2
"#;

#[test]
fn ports_may_have_any_names_and_inputs_a_fixed_value() {
    let (expected, (_dir, model)) = (Expected::of("renamed"), model_of("renamed", RENAMED));
    let mut generation = model.start(20, &free()).expect("generation");
    generation
        .feed(&expected.ids("prompt"), &free())
        .expect("feed");
    near(generation.logits(), &expected.floats("logits"), 1e-3);
    assert_eq!(twelve(&mut generation), expected.ids("tokens"));
    // Other values, other numbers: they reach the graph.
    for (from, to) in [
        ("loudness = 0.75", "loudness = 1.5"),
        ("domain = 2", "domain = [1]"),
        ("first_position = 1", "first_position = 0"),
    ] {
        let (_dir, model) = model_of("renamed", &RENAMED.replace(from, to));
        let mut other = model.start(20, &free()).expect("generation");
        other.feed(&expected.ids("prompt"), &free()).expect("feed");
        let logits = expected.floats("logits");
        let differs = |(a, b): (&f32, &f32)| (a - b).abs() > 0.01;
        assert!(other.logits().iter().zip(&logits).any(differs), "{to}");
    }
}

#[test]
fn positions_of_three_numbers_go_on_behind_a_picture() {
    let (expected, (_dir, model)) = (Expected::of("mrope"), model_of("mrope", ""));
    let (prompt, picture) = (expected.ids("prompt"), expected.floats("picture"));
    let positions: Vec<[i64; 3]> =
        serde_json::from_value(expected.0["positions"].clone()).expect("positions");
    let fed = |pieces: usize| {
        let mut generation = model.start(30, &free()).expect("generation");
        generation.feed(&prompt[..3], &free()).expect("feed");
        for (rows, at) in picture
            .chunks(pieces * HIDDEN)
            .zip(positions.chunks(pieces))
        {
            generation
                .feed_embeds_at(rows, at, &free())
                .expect("picture");
        }
        generation.feed(&prompt[3..], &free()).expect("feed");
        generation
    };
    let mut generation = fed(6);
    near(generation.logits(), &expected.floats("logits"), 1e-3);
    assert_eq!(
        twelve(&mut generation.fork().expect("fork")),
        expected.ids("tokens")
    );
    assert_eq!(twelve(&mut fed(4)), expected.ids("tokens"));
    // Cut back behind the picture, the text goes on at the same places.
    twelve(&mut generation);
    generation.truncate(9).expect("truncate");
    generation.feed(&prompt[3..], &free()).expect("feed");
    assert_eq!(twelve(&mut generation), expected.ids("tokens"));
    // A picture whose rows count up is another picture.
    let mut counted = model.start(30, &free()).expect("generation");
    counted.feed(&prompt[..3], &free()).expect("feed");
    counted.feed_embeds(&picture, 6, &free()).expect("picture");
    counted.feed(&prompt[3..], &free()).expect("feed");
    let logits = expected.floats("logits");
    let differs = |(a, b): (&f32, &f32)| (a - b).abs() > 0.01;
    assert!(counted.logits().iter().zip(&logits).any(differs));

    for (rows, at) in [
        (&picture[..], &positions[..5]),
        (&picture[..HIDDEN], &[[-1; 3]]),
    ] {
        let error = generation
            .feed_embeds_at(rows, at, &free())
            .expect_err("misfit");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    let (_dir, model) = model_of("merged", "");
    let mut other = model.start(30, &free()).expect("generation");
    let error = other
        .feed_embeds_at(&picture, &positions, &free())
        .expect_err("one number");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn an_encoders_keys_and_values_are_made_once_and_charged() {
    let expected = Expected::of("crossed");
    let dir = pack("crossed", "cached_rows = 1");
    let registry = registry_in(&dir);
    let model = model_in(&registry);
    let (prompt, encoder) = (expected.ids("prompt"), expected.encoder());
    let mut generation = model.start(20, &free()).expect("generation");
    assert!(generation.reads_encoder());
    let error = generation
        .feed(&prompt, &free())
        .expect_err("no encoder's output");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().contains("encoder"), "{error}");
    assert_eq!(generation.committed(), 0);

    let own = generation.kv_bytes();
    generation.attend(&encoder, &free()).expect("attend");
    // Rows, mask, and keys and values of five positions.
    let attended = (5 * WIDE * 4 + 5 * 8) as u64 + 5 * POSITION;
    assert_eq!(generation.kv_bytes(), own + attended);
    let mut entries = vec![own, attended];
    entries.sort_unstable();
    assert_eq!(caches(&registry), entries);
    generation.feed(&prompt, &free()).expect("feed");
    near(generation.logits(), &expected.floats("logits"), 1e-3);
    let mut fork = generation.fork().expect("fork");
    assert_eq!(twelve(&mut generation), expected.ids("tokens"));
    drop(generation);
    // A fork shares them, and they stay as long as it does.
    assert_eq!(caches(&registry), entries);
    assert_eq!(twelve(&mut fork), expected.ids("tokens"));

    // Only the first step may take several rows: behind it they go one by one, by itself.
    for split in [1, 3, 5] {
        let mut pieces = model.start(20, &free()).expect("generation");
        pieces.attend(&encoder, &free()).expect("attend");
        pieces.feed(&prompt[..split], &free()).expect("feed");
        pieces.feed(&prompt[split..], &free()).expect("feed");
        assert_eq!(twelve(&mut pieces), expected.ids("tokens"));
    }
    // Without that key they go through together, and this graph makes something else of them.
    let (_other, together) = model_of("crossed", "");
    let mut pieces = together.start(20, &free()).expect("generation");
    pieces.attend(&encoder, &free()).expect("attend");
    pieces.feed(&prompt[..3], &free()).expect("feed");
    pieces.feed(&prompt[3..], &free()).expect("feed");
    let logits = expected.floats("logits");
    let differs = |(a, b): (&f32, &f32)| (a - b).abs() > 0.01;
    assert!(pieces.logits().iter().zip(&logits).any(differs));

    let scores = ["w3 w4 w5 w6", "w7 w8"];
    fork.truncate(6).expect("truncate");
    let choice = fork.choose(&scores, &free()).expect("choice");
    for (text, score) in scores.iter().zip(&choice.log_probs) {
        assert!((score - likelihood(&fork, text)).abs() < 1e-4, "{text}");
    }
    fork.truncate(0).expect("truncate");
    fork.feed(&prompt, &free()).expect("feed");
    assert_eq!(twelve(&mut fork), expected.ids("tokens"));

    let late = fork.attend(&encoder, &free()).expect_err("begun");
    assert_eq!(late.kind(), ErrorKind::InvalidArgument);
    drop(fork);
    assert!(caches(&registry).is_empty());
}

#[test]
fn what_an_encoder_made_must_fit() {
    let (_dir, model) = model_of("crossed", "cached_rows = 1");
    let mut generation = model.start(20, &free()).expect("generation");
    let map = FeatureMap::of_one;
    for bad in [
        map(0, WIDE, Vec::new()),
        map(2, WIDE, vec![0.0; 19]),
        map(2, WIDE + 1, vec![0.0; 22]),
        map(usize::MAX, WIDE, vec![0.0; 20]),
        map(1, WIDE, vec![f32::NAN; 10]),
    ] {
        let error = generation.attend(&bad, &free()).expect_err("a misfit");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    let (_other, other) = model_of("merged", "");
    let mut other = other.start(20, &free()).expect("generation");
    let error = other
        .attend(&map(1, WIDE, vec![0.0; 10]), &free())
        .expect_err("no encoder");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn an_encoders_output_may_be_read_in_every_step() {
    let (expected, (_dir, model)) = (Expected::of("captioner"), model_of("captioner", ""));
    let prompt = expected.ids("prompt");
    for pieces in [6, 2] {
        let mut generation = model.start(20, &free()).expect("generation");
        generation
            .attend(&expected.encoder(), &free())
            .expect("attend");
        for piece in prompt.chunks(pieces) {
            generation.feed(piece, &free()).expect("feed");
        }
        near(generation.logits(), &expected.floats("logits"), 0.05);
        assert_eq!(twelve(&mut generation), expected.ids("tokens"));
    }
    // Another picture, another text.
    let mut other = model.start(20, &free()).expect("generation");
    let mut encoder = expected.encoder();
    encoder.data.reverse();
    other.attend(&encoder, &free()).expect("attend");
    other.feed(&prompt, &free()).expect("feed");
    assert_ne!(twelve(&mut other), expected.ids("tokens"));
}

#[test]
fn what_cannot_be_fed_is_refused_by_name_when_it_is_loaded() {
    let wrong = |name: &str, keys: &str, words: &[&str]| {
        let error = refusal(name, keys);
        assert_eq!(error.kind(), ErrorKind::BadModel, "{error}");
        let text = error.to_string();
        for word in words.iter().chain(&["mouth", ".onnx"]) {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
    };
    let without = |line: &str| RENAMED.replace(line, "");
    wrong(
        "renamed",
        &without("domain = 2"),
        &["\"domain\"", "i64 [batch]", "[module.decoder.constants]"],
    );
    wrong(
        "renamed",
        &without("attention_mask = \"seen\""),
        &["\"seen\"", "[module.decoder.ports]"],
    );
    wrong("renamed", "", &["input_ids", "inputs_embeds"]);
    wrong(
        "renamed",
        &RENAMED.replace("cache.%d.values", "cash.%d.values"),
        &["\"input.cash.0.values\"", "past_value"],
    );
    wrong(
        "renamed",
        &RENAMED.replace("domain = 2", "domain = 2.5"),
        &["domain", "2.5 is no i64"],
    );
    wrong(
        "renamed",
        &RENAMED.replace("loudness = 0.75", "loudness = [0.5, 0.5]"),
        &["loudness", "2 numbers for 1"],
    );
    wrong(
        "merged",
        "[module.decoder.constants]\nimage_sizes = 3",
        &["image_sizes", "no such input"],
    );
    wrong(
        "merged",
        "[module.decoder.ports]\nposition_ids = \"where\"",
        &["\"where\"", "decoder.ports.position_ids"],
    );
}

#[test]
fn a_golden_run_feeds_what_follows_from_what_its_files_hold() {
    let expected = Expected::of("merged");
    let (prompt, logits) = (expected.ids("prompt"), expected.floats("logits"));
    // A first step of all rows: mask, positions, branch and the number of logits follow.
    let dir = pack("merged", "");
    golden(&dir, &[("input_ids", &[1, 6], ids(&prompt))], &logits);
    let found = cosine(&dir).expect("golden");
    assert!(found > 0.999_999, "{found}");

    // The last row behind given caches.
    let caches: Vec<[Vec<f32>; 2]> =
        serde_json::from_value(expected.0["caches"].clone()).expect("caches");
    let names: Vec<[String; 2]> = (0..LAYERS)
        .map(|layer| ["key", "value"].map(|part| format!("past_key_values.{layer}.{part}")))
        .collect();
    let mut inputs: Vec<(&str, &[usize], Vec<u8>)> = names
        .iter()
        .zip(&caches)
        .flat_map(|(names, parts)| names.iter().zip(parts))
        .map(|(name, part)| (name.as_str(), &[1, 1, 5, 8][..], raw(part)))
        .collect();
    inputs.push(("input_ids", &[1, 1], ids(&prompt[5..])));
    let dir = pack("merged", "");
    golden(&dir, &inputs, &logits);
    let found = cosine(&dir).expect("golden");
    assert!(found > 0.999_999, "{found}");

    // What does not follow must be given; what the graph does not read must not be.
    let wrong = |inputs: &[(&str, &[usize], Vec<u8>)], word: &str| {
        let dir = pack("merged", "");
        golden(&dir, inputs, &logits);
        let error = cosine(&dir).expect_err("not complete");
        assert_eq!(error.kind(), ErrorKind::BadModel, "{error}");
        assert!(
            error.to_string().contains(word),
            "{word:?} is not in: {error}"
        );
    };
    wrong(&inputs[1..], "past_key_values.0.key");
    wrong(&inputs[..4], "input_ids");
    let stray = [
        ("input_ids", &[1, 6][..], ids(&prompt)),
        ("mask", &[1], vec![1]),
    ];
    wrong(&stray, "\"mask\"");
    inputs[2] = (
        "past_key_values.1.key",
        &[1, 1, 4, 8],
        raw(&caches[1][0][..32]),
    );
    wrong(&inputs, "past_key_values.1.key");
}
