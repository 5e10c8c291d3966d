//! The language parts on real weights: the reference pack's decoder (shared cache, `input_ids`) and text encoder, and
//! the foreign pack's decoder (concatenated cache, `inputs_embeds`, positions, logits of every token).

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use atom_core::budget::ledger::{Ledger, Owner};
use atom_core::control::Control;
use atom_core::language::{
    Constraint, GenerateOptions, Generated, Generation, Grammar, LanguageModel, Message, Sampling,
    StopReason, TextEncoder,
};
use atom_core::module::Registry;
use atom_core::ort::{Environment, EnvironmentOptions};
use atom_core::pack::{ArtifactCache, Pack};
use atom_core::{ErrorKind, cache};

const DECODER: &str = "language-decoder";

/// `relative` in the cache; a test never passes because its input is missing.
fn cached(relative: &str) -> PathBuf {
    let path = cache::dir().join(relative);
    assert!(
        path.exists(),
        "{} is missing: run `python3 models/setup.py test` first",
        path.display()
    );
    path
}

fn environment() -> &'static Environment {
    let library = std::env::var_os("ATOM_ORT_LIBRARY")
        .map_or_else(|| cached("ort/libonnxruntime.so"), PathBuf::from);
    Environment::open(&EnvironmentOptions {
        library: Some(library),
        ..EnvironmentOptions::default()
    })
    .expect("ONNX Runtime")
}

fn registry_of(pack: &Path) -> Registry {
    registry_with(pack, ArtifactCache::new(cache::dir().join("artifacts")))
}

fn registry_with(pack: &Path, artifacts: ArtifactCache) -> Registry {
    let pack = Pack::open(pack).expect("pack");
    Registry::new(Arc::new(pack), environment(), Ledger::new(), artifacts)
}

/// One registry for the tests of this process, as in the product.
fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| registry_of(&cached("packs/reference")))
}

fn model() -> LanguageModel {
    LanguageModel::new(registry(), DECODER, None).expect("model")
}

fn free() -> Control {
    Control::default()
}

fn begin(model: &LanguageModel, prompt: &str) -> Generation {
    let ids = model.tokenizer().encode(prompt, false).expect("ids");
    let mut generation = model.start(ids.len() + 32, &free()).expect("generation");
    generation.feed(&ids, &free()).expect("feed");
    generation
}

fn tokens(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        ..GenerateOptions::default()
    }
}

/// Generates, and checks that what was streamed is the text.
fn say(generation: &mut Generation, options: &GenerateOptions, control: &Control) -> Generated {
    let mut streamed = String::new();
    let generated = generation
        .generate(options, control, &mut |piece| {
            assert!(!piece.is_empty());
            streamed.push_str(piece);
            ControlFlow::Continue(())
        })
        .expect("generate");
    assert_eq!(streamed, generated.text);
    assert_eq!(generated.tokens, generated.token_ids.len());
    generated
}

const STORY: &str =
    "Once upon a time, in a small village near the sea, there lived an old fisherman who";

#[test]
fn the_decoder_knows_the_capital_of_france() {
    let mut generation = begin(&model(), "The capital of France is");
    let generated = say(&mut generation, &tokens(1), &free());
    assert_eq!(generated.text, " Paris");
    assert_eq!(generated.stop_reason, StopReason::MaxTokens);
}

#[test]
fn a_chat_prompt_is_answered_and_ended() {
    let model = model();
    let question = Message::user("What is the capital of France? Answer in one word.");
    let prompt = model.prompt(&[question]).expect("prompt");
    let mut generation = model.start(prompt.len(), &free()).expect("generation");
    generation.feed(&prompt, &free()).expect("feed");
    let generated = say(&mut generation, &tokens(40), &free());
    assert!(generated.text.contains("Paris"), "{generated:?}");
    assert_eq!(generated.stop_reason, StopReason::EndOfText);
    assert!(!generated.text.contains("<|"), "{generated:?}");
}

#[test]
fn truncating_and_feeding_again_gives_equal_logits() {
    let model = model();
    let ids = model.tokenizer().encode(STORY, false).expect("ids");
    let (first, second) = ids.split_at(9);
    let mut generation = model.start(64, &free()).expect("generation");
    generation.feed(first, &free()).expect("feed");
    generation.feed(second, &free()).expect("feed");
    let logits = generation.logits().to_vec();
    assert_eq!(logits.len(), 49152);
    say(&mut generation, &tokens(7), &free());
    generation.truncate(9).expect("truncate");
    assert!(generation.logits().is_empty());
    generation.feed(second, &free()).expect("feed");
    assert!(generation.logits() == logits, "logits differ");
    assert!(generation.truncate(ids.len() + 1).is_err());
}

#[test]
fn a_cut_generation_goes_on_without_being_fed() {
    let model = model();
    let mut generation = begin(&model, STORY);
    let at = generation.position();
    let first = say(&mut generation, &tokens(12), &free());
    assert_eq!(generation.position(), at + 12);
    generation.truncate(at).expect("truncate");
    let again = say(&mut generation, &tokens(12), &free());
    assert_eq!(first.token_ids, again.token_ids);
    // Elsewhere than at the end of a feed the last token is run again.
    generation.truncate(at + 6).expect("truncate");
    let rest = say(&mut generation, &tokens(6), &free());
    assert_eq!(first.token_ids[6..], rest.token_ids);
}

#[test]
fn prefill_in_pieces_equals_prefill_at_once() {
    let model = model();
    // 300 tokens: at once means chunks of 128, 128 and 44.
    let ids: Vec<u32> = model
        .tokenizer()
        .encode(&STORY.repeat(40), false)
        .expect("ids")[..300]
        .to_vec();
    let generate = |piece: usize, capacity: usize| {
        let mut generation = model.start(capacity, &free()).expect("generation");
        for piece in ids.chunks(piece) {
            generation.feed(piece, &free()).expect("feed");
        }
        assert_eq!(generation.committed(), 300);
        say(&mut generation, &tokens(24), &free()).token_ids
    };
    let whole = generate(300, 400);
    assert_eq!(whole, generate(37, 400));
    // A cache that must grow on the way gives the same.
    assert_eq!(whole, generate(37, 1));
}

#[test]
fn caches_are_in_the_ledger_until_dropped() {
    let registry = registry_of(&cached("packs/reference"));
    let kv = || -> Vec<u64> {
        let entries = registry.ledger().snapshot();
        entries
            .iter()
            .filter(|entry| matches!(entry.owner, Owner::Kv(_)))
            .map(|entry| entry.anon_bytes)
            .collect()
    };
    let model = LanguageModel::new(&registry, DECODER, None).expect("model");
    let mut generation = model.start(65, &free()).expect("generation");
    // 30 layers of keys and values, 3 heads of 64 floats, 128 positions.
    let per_position = 30 * 2 * 3 * 64 * 4;
    assert_eq!(kv(), [128 * per_position]);
    let fork = generation.fork().expect("fork");
    assert_eq!(kv().len(), 2);
    drop(fork);
    generation.feed(&[5; 129], &free()).expect("feed");
    assert_eq!(kv(), [192 * per_position]);
    assert_eq!(generation.kv_bytes(), 192 * per_position);
    drop(generation);
    assert!(kv().is_empty());
}

#[test]
fn two_generations_in_turns_say_what_they_say_alone() {
    let model = model();
    let prompts = [STORY, "The three primary colours are"];
    let alone = prompts.map(|prompt| say(&mut begin(&model, prompt), &tokens(16), &free()));
    let mut both = prompts.map(|prompt| begin(&model, prompt));
    let mut said: [Vec<u32>; 2] = Default::default();
    for _ in 0..16 {
        for (generation, said) in both.iter_mut().zip(&mut said) {
            said.extend(say(generation, &tokens(1), &free()).token_ids);
        }
    }
    for (said, alone) in said.iter().zip(&alone) {
        assert_eq!(said, &alone.token_ids);
    }
    // And from two threads at once.
    std::thread::scope(|scope| {
        for (prompt, alone) in prompts.iter().zip(&alone) {
            let model = &model;
            scope.spawn(move || {
                let said = say(&mut begin(model, prompt), &tokens(16), &free());
                assert_eq!(said.token_ids, alone.token_ids);
            });
        }
    });
}

#[test]
fn a_fork_goes_its_own_way() {
    let mut first = begin(&model(), STORY);
    let expected = say(&mut first.fork().expect("fork"), &tokens(10), &free());
    let mut second = first.fork().expect("fork");
    second.feed(&[100, 200, 300], &free()).expect("feed");
    say(&mut second, &tokens(5), &free());
    let said = say(&mut first, &tokens(10), &free());
    assert_eq!(said.token_ids, expected.token_ids);
}

#[test]
fn a_seed_repeats_a_text() {
    let model = model();
    let sampled = |seed| {
        let options = GenerateOptions {
            sampling: Sampling::random(seed),
            ..tokens(20)
        };
        say(&mut begin(&model, STORY), &options, &free()).token_ids
    };
    assert_eq!(sampled(1), sampled(1));
    assert_ne!(sampled(1), sampled(2));
}

#[test]
fn a_stop_string_ends_the_text_and_never_shows() {
    let model = model();
    let whole = say(&mut begin(&model, STORY), &tokens(24), &free()).text;
    // Across a token's edge: from the middle of one word to the middle of the next.
    let space = whole[4..].find(' ').expect("a space") + 4;
    let stop = whole[space - 1..space + 2].to_owned();
    let before = &whole[..whole.find(&stop).expect("the stop string")];
    let options = GenerateOptions {
        stop: vec!["never said".to_owned(), stop],
        ..tokens(24)
    };
    let cut = say(&mut begin(&model, STORY), &options, &free());
    assert_eq!(cut.text, before);
    assert_eq!(cut.stop_reason, StopReason::StopString);
}

#[test]
fn a_cancelled_feed_keeps_what_was_committed() {
    let model = model();
    let ids = model
        .tokenizer()
        .encode(&STORY.repeat(100), false)
        .expect("ids")[..1900]
        .to_vec();
    let mut generation = model.start(1900, &free()).expect("generation");
    let control = Control::default();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            control.cancel.cancel();
        });
        generation.feed(&ids, &control).expect_err("cancelled")
    });
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let committed = generation.committed();
    assert!(
        committed < 1900 && committed.is_multiple_of(128),
        "{committed}"
    );
    // It can go on, and gives what an undisturbed prefill gives.
    generation.truncate(committed.min(100)).expect("truncate");
    let from = generation.committed();
    generation.feed(&ids[from..256], &free()).expect("feed");
    let mut other = model.start(256, &free()).expect("generation");
    other.feed(&ids[..256], &free()).expect("feed");
    assert!(generation.logits() == other.logits(), "logits differ");
}

#[test]
fn cancel_ends_a_step_that_runs() {
    let model = model();
    let ids = model
        .tokenizer()
        .encode(&STORY.repeat(10), false)
        .expect("ids")[..128]
        .to_vec();
    let mut generation = model.start(128, &free()).expect("generation");
    let control = Control::default();
    // One step, cancelled while it runs: it must come to nothing.
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            control.cancel.cancel();
        });
        generation.feed(&ids, &control)
    });
    let error = outcome.expect_err("cancelled within its only step");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(generation.committed(), 0);
}

#[test]
fn a_deadline_returns_what_there_is_and_the_text_can_go_on() {
    let model = model();
    let whole = say(&mut begin(&model, STORY), &tokens(40), &free());
    let mut generation = begin(&model, STORY);
    let control = Control {
        deadline: Some(Instant::now() + Duration::from_millis(60)),
        ..Control::default()
    };
    let first = say(&mut generation, &tokens(40), &control);
    assert_eq!(first.stop_reason, StopReason::Deadline);
    assert!(first.tokens < 40);
    let rest = say(&mut generation, &tokens(40 - first.tokens), &free());
    assert_eq!(first.text + &rest.text, whole.text);
    let mut again = begin(&model, STORY);
    let generated = again
        .generate(&tokens(40), &free(), &mut |_| ControlFlow::Break(()))
        .expect("generate");
    assert_eq!(generated.stop_reason, StopReason::Cancelled);
    assert!(whole.text.starts_with(&generated.text) && !generated.text.is_empty());
}

#[test]
fn what_does_not_fit_is_refused_before_it_runs() {
    let registry = registry_of(&cached("packs/reference"));
    let model = LanguageModel::new(&registry, DECODER, None).expect("model");
    let refused = |error: atom_core::Error| {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    };
    refused(model.start(2049, &free()).expect_err("capacity"));
    let mut generation = model.start(8, &free()).expect("generation");
    refused(generation.feed(&[1; 2049], &free()).expect_err("too many"));
    refused(
        generation
            .feed(&[49152], &free())
            .expect_err("no such token"),
    );
    refused(
        generation
            .feed(&[1, 2, u32::MAX], &free())
            .expect_err("no such token"),
    );
    let mut deaf = |options: &GenerateOptions| {
        generation.generate(options, &free(), &mut |_| ControlFlow::Continue(()))
    };
    refused(deaf(&tokens(5)).expect_err("nothing fed"));
    assert_eq!(
        registry
            .status()
            .iter()
            .map(|module| module.runs)
            .sum::<u64>(),
        0
    );
    generation.feed(&[1], &free()).expect("feed");
    let mut deaf = |options: &GenerateOptions| {
        generation.generate(options, &free(), &mut |_| ControlFlow::Continue(()))
    };
    refused(deaf(&tokens(2049)).expect_err("no room"));
    refused(
        deaf(&GenerateOptions {
            stop: vec![String::new()],
            ..tokens(5)
        })
        .expect_err("empty stop string"),
    );
    refused(
        deaf(&GenerateOptions {
            sampling: Sampling {
                top_p: 0.0,
                ..Sampling::default()
            },
            ..tokens(5)
        })
        .expect_err("top_p"),
    );
    let none = deaf(&tokens(0)).expect("nothing");
    assert_eq!((none.tokens, none.stop_reason), (0, StopReason::MaxTokens));
    let error = generation
        .feed_embeds(&[0.0; 576], 1, &free())
        .expect_err("reads ids");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(generation.committed(), 1);
}

#[test]
fn a_constrained_text_is_always_one_of_the_choices() {
    let model = model();
    let choices = [
        " A dog runs on the beach.",
        " A dog runs on the beach at sunset.",
        " A dog",
        " Two cats sleep.",
        " Ein Hund läuft über die Straße 🐕.",
        " Two cats sleep.",
    ];
    let constraint = Constraint::choices(model.tokenizer(), &choices).expect("constraint");
    let mut generation = begin(&model, "The picture shows this:");
    let at = generation.position();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..30 {
        generation.truncate(at).expect("truncate");
        let options = GenerateOptions {
            sampling: Sampling {
                temperature: 4.0,
                top_k: 0,
                ..Sampling::random(seed)
            },
            constraint: Some(constraint.clone()),
            ..tokens(64)
        };
        let said = say(&mut generation, &options, &free());
        assert!(choices.contains(&said.text.as_str()), "{said:?}");
        let begins_another = said.text == choices[2];
        assert_eq!(
            said.stop_reason,
            if begins_another {
                StopReason::EndOfText
            } else {
                StopReason::Constraint
            },
            "{said:?}"
        );
        seen.insert(said.text);
    }
    assert!(seen.len() > 2, "{seen:?}");
    // A length limit cuts it short, and never through a character, whose bytes are several tokens.
    let only = Constraint::choices(model.tokenizer(), &choices[4..5]).expect("constraint");
    let length = model
        .tokenizer()
        .encode(choices[4], false)
        .expect("ids")
        .len();
    for limit in 1..length {
        generation.truncate(at).expect("truncate");
        let options = GenerateOptions {
            constraint: Some(only.clone()),
            ..tokens(limit)
        };
        let cut = say(&mut generation, &options, &free());
        assert_eq!(
            (cut.tokens, cut.stop_reason),
            (limit, StopReason::MaxTokens)
        );
        assert!(choices[4].starts_with(&cut.text), "{cut:?}");
    }
}

#[test]
fn forced_tokens_cost_no_step() {
    let registry = registry_of(&cached("packs/reference"));
    let model = LanguageModel::new(&registry, DECODER, None).expect("model");
    let runs = || {
        registry
            .status()
            .iter()
            .map(|module| module.runs)
            .sum::<u64>()
    };
    let mut generation = begin(&model, "The picture shows");
    let before = runs();
    let choices = [
        " a dog that runs along the beach while the sun goes down.",
        " two cats that sleep on a sofa in the living room.",
    ];
    let options = GenerateOptions {
        constraint: Some(Constraint::choices(model.tokenizer(), &choices).expect("constraint")),
        ..tokens(64)
    };
    let said = say(&mut generation, &options, &free());
    assert!(choices.contains(&said.text.as_str()));
    assert!(said.tokens > 8);
    // The first token is drawn from the prompt's logits; all others are forced.
    assert_eq!(runs(), before);
    // They are part of the text all the same: what follows sees them.
    let next = say(&mut generation, &tokens(1), &free());
    assert_eq!(runs(), before + 1);
    let all = format!("The picture shows{}", said.text);
    assert_eq!(
        next.token_ids,
        say(&mut begin(&model, &all), &tokens(1), &free()).token_ids
    );
}

#[test]
fn a_grammar_allows_every_sentence_by_its_canonical_tokens() {
    let model = model();
    let parts: [&[&str]; 4] = [
        &["A photo of", "This is", "I can see"],
        &[
            " a dog",
            " two bicycles",
            " possibly a rabbit",
            " three traffic lights",
        ],
        &["", " in the street", " at 10:30"],
        &[".", ", and a person.", ""],
    ];
    let one_of = |part: &[&str]| Grammar::one_of(part.iter().copied());
    let grammar = Grammar::sequence(parts.map(one_of));
    let constraint = Constraint::grammar(model.tokenizer(), &grammar).expect("constraint");
    let mut sentences = vec![String::new()];
    for part in parts {
        sentences = sentences
            .iter()
            .flat_map(|start| part.iter().map(move |end| format!("{start}{end}")))
            .collect();
    }
    assert_eq!(sentences.len(), 108);
    // The same tokens as choices of whole sentences allow: held to one sentence by a bias no sampling can undo,
    // the grammar must be able to say it. A grammar that allows other tokens than the canonical ones would differ
    // from the trie of all sentences on some of these draws.
    let choices = Constraint::choices(model.tokenizer(), &sentences).expect("constraint");
    let mut generation = begin(&model, "Describe the picture.\n");
    let at = generation.position();
    for seed in 0..25 {
        let mut say_with = |constraint: &Constraint| {
            generation.truncate(at).expect("truncate");
            let options = GenerateOptions {
                sampling: Sampling {
                    temperature: 3.0,
                    top_k: 0,
                    ..Sampling::random(seed)
                },
                constraint: Some(constraint.clone()),
                ..tokens(64)
            };
            say(&mut generation, &options, &free())
        };
        let by_grammar = say_with(&constraint);
        assert!(sentences.contains(&by_grammar.text), "{by_grammar:?}");
        let canonical = model
            .tokenizer()
            .encode(&by_grammar.text, false)
            .expect("ids");
        assert_eq!(by_grammar.token_ids, canonical);
        assert_eq!(by_grammar, say_with(&choices));
    }
}

/// Mean log-probability of `text` after the generation, token by token.
fn likelihood(generation: &Generation, text: &str) -> f64 {
    let mut generation = generation.fork().expect("fork");
    let ids = generation
        .model()
        .tokenizer()
        .encode(text, false)
        .expect("ids");
    let mut sum = 0.0;
    for id in &ids {
        let logits = generation.logits();
        let norm = logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
        sum += f64::from(logits[*id as usize]) - norm;
        generation.feed(&[*id], &free()).expect("feed");
    }
    sum / ids.len() as f64
}

#[test]
fn choose_is_the_likelihood_of_each_choice() {
    let mut generation = begin(&model(), "The capital of France is");
    let (at, logits) = (generation.position(), generation.logits().to_vec());
    let choices = [
        " Berlin",
        " Paris",
        " Paris, and it is a large city",
        " Paris",
        " purple elephants dancing",
    ];
    let choice = generation.choose(&choices, &free()).expect("choice");
    assert_eq!(choice.index, 1);
    assert_eq!(choice.log_probs[1], choice.log_probs[3]);
    for (text, score) in choices.iter().zip(&choice.log_probs) {
        let expected = likelihood(&generation, text);
        assert!(
            (score - expected).abs() < 1e-4,
            "{text}: {score} for {expected}"
        );
    }
    assert_eq!((generation.position(), generation.committed()), (at, at));
    assert!(generation.logits() == logits, "logits differ");
    assert_eq!(
        generation.choose(&choices, &free()).expect("choice"),
        choice
    );
    let none: [&str; 0] = [];
    for bad in [&none[..], &["x", ""], &["<|im_end|>"]] {
        let error = generation.choose(bad, &free()).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    // Cancelled on the way, the text is as it was.
    let control = Control::default();
    let many: Vec<String> = (0..300).map(|i| format!(" number {i} of many")).collect();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            control.cancel.cancel();
        });
        generation.choose(&many, &control).expect_err("cancelled")
    });
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(generation.position(), at);
    assert_eq!(say(&mut generation, &tokens(1), &free()).text, " Paris");
}

#[test]
fn words_alike_in_meaning_are_near() {
    let encoder = TextEncoder::new(registry(), "text-encoder").expect("encoder");
    let encode = |text: &str| encoder.encode(text, &free()).expect("vector");
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let bicycle = encode("a photo of a bicycle");
    assert_eq!(bicycle.len(), 384);
    assert!((cosine(&bicycle, &bicycle) - 1.0).abs() < 1e-5);
    let (bike, soup) = (
        encode("a photo of a bike"),
        encode("a photo of tomato soup"),
    );
    assert!(cosine(&bicycle, &bike) > cosine(&bicycle, &soup) + 0.2);
    // Past max_tokens nothing counts; unusual text is text.
    let long = "a dog ".repeat(2000);
    assert_eq!(encode(&long), encode(&format!("{long} and a cat")));
    for text in ["", " ", "🚲", "自転車", "\0"] {
        encode(text);
    }
    let error = encoder
        .encode(&"x".repeat(1 << 20), &free())
        .expect_err("1 MB");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let error = TextEncoder::new(registry(), DECODER).expect_err("a decoder");
    assert_eq!(error.kind(), ErrorKind::BadPack);
    assert!(LanguageModel::new(registry(), "text-encoder", None).is_err());
    assert!(LanguageModel::new(registry(), DECODER, Some("text-encoder")).is_err());
    assert!(LanguageModel::new(registry(), "nothing", None).is_err());
}

/// A decoder of `inputs_embeds` with a concatenated cache, as the tests' own foreign pack has it.
fn foreign(dir: &Path) -> LanguageModel {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/foreign_pack.py");
    let made = Command::new(cached("venv/bin/python"))
        .arg(script)
        .arg("build")
        .arg(dir)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let registry = registry_with(dir, ArtifactCache::disabled());
    let error = LanguageModel::new(&registry, "mouth", None)
        .and_then(|model| model.check(&free()))
        .expect_err("no token embedding");
    assert!(error.message().contains("token_embedding"), "{error}");
    LanguageModel::new(&registry, "mouth", Some("words")).expect("model")
}

#[test]
fn a_concatenating_decoder_of_embeddings_does_all_the_same() {
    let dir = tempfile::tempdir().expect("folder");
    let model = foreign(&dir.path().join("pack"));
    let ids = model
        .tokenizer()
        .encode("the picture of the thing", false)
        .expect("ids");
    let picture: Vec<f32> = (0..6 * 56).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
    let prefill = |pieces: usize| {
        let mut generation = model.start(16, &free()).expect("generation");
        for piece in ids.chunks(pieces) {
            generation.feed(piece, &free()).expect("feed");
        }
        generation.feed_embeds(&picture, 6, &free()).expect("rows");
        generation.feed(&ids[..3], &free()).expect("feed");
        generation
    };
    let whole = say(&mut prefill(100), &tokens(20), &free()).token_ids;
    assert_eq!(whole.len(), 20);
    assert_eq!(whole, say(&mut prefill(2), &tokens(20), &free()).token_ids);

    let mut generation = prefill(100);
    let at = generation.position();
    assert_eq!(at, ids.len() + 6 + 3);
    assert_eq!(
        say(&mut generation.fork().expect("fork"), &tokens(20), &free()).token_ids,
        whole
    );
    say(&mut generation, &tokens(5), &free());
    generation.truncate(at - 3).expect("truncate");
    generation.feed(&ids[..3], &free()).expect("feed");
    assert_eq!(say(&mut generation, &tokens(20), &free()).token_ids, whole);

    // This graph gives the logits of every position: forced tokens are scored in one step.
    generation.truncate(at).expect("truncate");
    generation.feed(&ids[..1], &free()).expect("feed");
    let choices = [
        "the thing",
        "the thing and the other",
        "What is the picture of",
        "no",
    ];
    let choice = generation.choose(&choices, &free()).expect("choice");
    for (text, score) in choices.iter().zip(&choice.log_probs) {
        let expected = likelihood(&generation, text);
        assert!(
            (score - expected).abs() < 1e-4,
            "{text}: {score} for {expected}"
        );
    }
    for (embeds, rows) in [
        (&picture[..55], 1),
        (&picture[..56], 2),
        (&picture[..56], 0),
    ] {
        let error = generation
            .feed_embeds(embeds, rows, &free())
            .expect_err("does not fit");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    assert!(generation.feed_embeds(&[f32::NAN; 56], 1, &free()).is_err());
    // Cut back to the picture, the last row cannot be run again.
    generation.truncate(ids.len() + 6).expect("truncate");
    let error = generation
        .generate(&tokens(1), &free(), &mut |_| ControlFlow::Continue(()))
        .expect_err("needs a token");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}
