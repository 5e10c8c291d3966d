//! Texts held to choices and grammars, and the likeliest of several.

use std::time::Duration;

use atom_core::ErrorKind;
use atom_core::control::Control;
use atom_core::language::{
    Constraint, GenerateOptions, Grammar, LanguageModel, Sampling, StopReason,
};

use super::common::*;

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
