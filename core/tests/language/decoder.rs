//! Feeding, generating, cutting back, forking, interrupting.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use atom_core::ErrorKind;
use atom_core::budget::Owner;
use atom_core::control::Control;
use atom_core::language::{
    GenerateOptions, Generation, LanguageModel, Message, Sampling, StopReason,
};

use super::common::*;

/// A decoder nobody else takes turns on.
fn own_model() -> LanguageModel {
    LanguageModel::new(&registry_of(&cached("packs/reference")), DECODER, None).expect("model")
}

/// What `call` returns, and how long it took: an interruption is aimed into the middle of the same work done again.
fn timed<T>(call: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = call();
    (value, start.elapsed())
}

#[test]
fn a_generation_may_move_to_another_thread() {
    fn moves<T: Send>() {}
    fn shared<T: Send + Sync + Clone>() {}
    moves::<Generation>();
    shared::<LanguageModel>();
}

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
    let model = own_model();
    let ids = model
        .tokenizer()
        .encode(&STORY.repeat(100), false)
        .expect("ids")[..1900]
        .to_vec();
    let mut generation = model.start(1900, &free()).expect("generation");
    let (_, step) = timed(|| generation.feed(&ids[..127], &free()).expect("feed"));
    generation.truncate(0).expect("truncate");
    let control = Control::default();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(step * 2);
            control.cancel.cancel();
        });
        generation.feed(&ids, &control).expect_err("cancelled")
    });
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let committed = generation.committed();
    assert!(
        committed < 1900 && committed.is_multiple_of(127),
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
    let model = own_model();
    let ids = model
        .tokenizer()
        .encode(&STORY.repeat(10), false)
        .expect("ids")[..128]
        .to_vec();
    let mut generation = model.start(128, &free()).expect("generation");
    let (_, step) = timed(|| generation.feed(&ids, &free()).expect("feed"));
    generation.truncate(0).expect("truncate");
    let control = Control::default();
    // One step, cancelled while it runs: it must come to nothing.
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(step / 8);
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
    let model = own_model();
    let mut generation = begin(&model, STORY);
    let (whole, time) = timed(|| say(&mut generation, &tokens(40), &free()));
    let mut generation = begin(&model, STORY);
    let control = Control {
        deadline: Some(Instant::now() + time / 8),
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
