//! Prompts that begin alike: fed once, the same to the last bit, within bounds.

use std::cell::Cell;

use atom_core::ErrorKind;
use atom_core::budget::Owner;
use atom_core::control::{CancelToken, Control};
use atom_core::features::FeatureMap;
use atom_core::language::{Generation, LanguageModel, Part, PrefixCache};
use atom_core::module::Registry;
use atom_core::pack::ArtifactCache;

use super::common::*;
use super::foreign::foreign;

const SYSTEM: &str = "You answer questions about pictures, briefly and truthfully.\n";
const SEEN: &str = "The picture shows a person, two bicycles and a car in a street.";
/// Bytes of a position: 30 layers of keys and values, 3 heads of 64 floats.
const POSITION: u64 = 30 * 2 * 3 * 64 * 4;

fn ids(model: &LanguageModel, text: &str) -> Vec<u32> {
    model.tokenizer().encode(text, false).expect("ids")
}

fn begin(model: &LanguageModel, texts: &[&str]) -> Generation {
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| ids(model, text)).collect();
    let parts: Vec<Part<'_>> = ids.iter().map(|ids| Part::Ids(ids)).collect();
    model.begin(&parts, 32, &free()).expect("generation")
}

fn prefixes(registry: &Registry) -> Vec<u64> {
    let entries = registry.ledger().snapshot();
    entries
        .iter()
        .filter(|entry| entry.owner == Owner::Prefixes)
        .map(|entry| entry.anon_bytes)
        .collect()
}

fn sharing(registry: &Registry, cache: &PrefixCache) -> LanguageModel {
    LanguageModel::sharing(registry, DECODER, None, cache).expect("model")
}

#[test]
fn logits_and_texts_are_the_same_with_and_without_the_cache() {
    let registry = registry_of(&cached("packs/reference"));
    let cache = PrefixCache::new(64 << 20, registry.governor());
    let (plain, shared) = (model(), sharing(&registry, &cache));
    let long = SEEN.repeat(20);
    let prompts: &[&[&str]] = &[
        &[SYSTEM, SEEN, " Describe it."],
        &[SYSTEM, SEEN, " How many bicycles are there?"],
        &[SYSTEM, SEEN, " Is there a dog?"],
        &[SYSTEM, &long, " Is there a dog?"],
        &[SYSTEM, &long, " Describe it."],
        &["Another system.", SEEN, " Describe it."],
        &[SYSTEM, "", " Describe it."],
        &[STORY],
    ];
    let mut texts = Vec::new();
    // The second time everything but the ends is kept.
    for round in 0..2 {
        for prompt in prompts {
            let mut ours = begin(&shared, prompt);
            let mut theirs = begin(&plain, prompt);
            assert_eq!(ours.committed(), theirs.committed());
            assert!(
                ours.logits() == theirs.logits(),
                "round {round}, {prompt:?}"
            );
            let ours = say(&mut ours, &tokens(16), &free());
            assert_eq!(ours, say(&mut theirs, &tokens(16), &free()));
            texts.push(ours.text);
        }
    }
    assert_eq!(texts[..prompts.len()], texts[prompts.len()..]);
    let stats = cache.stats();
    println!("{stats:?}");
    // Of the first round the first, and those of another system; the story has nothing that is kept.
    assert_eq!((stats.misses, stats.hits), (2, 12));
    // SYSTEM, SYSTEM + SEEN, SYSTEM + long, the other, the other + SEEN.
    assert_eq!((stats.entries, stats.evicted), (5, 0));
    let whole: usize = prompts
        .iter()
        .map(|prompt| {
            prompt
                .iter()
                .map(|text| ids(&plain, text).len())
                .sum::<usize>()
        })
        .sum();
    assert_eq!(stats.reused_tokens + stats.fed_tokens, 2 * whole as u64);
    assert_eq!(prefixes(&registry), [stats.bytes]);
}

#[test]
fn the_cache_stays_within_its_bytes_and_forgets_the_oldest() {
    let registry = registry_of(&cached("packs/reference"));
    let cache = PrefixCache::new(40 * POSITION, registry.governor());
    let model = sharing(&registry, &cache);
    let begin = |first: u32, length: usize| {
        let parts = [Part::Ids(&[first; 40][..length]), Part::Ids(&[9, 9])];
        drop(model.begin(&parts, 0, &free()).expect("generation"));
        let stats = cache.stats();
        assert!(stats.bytes <= stats.limit_bytes, "{stats:?}");
        assert_eq!(prefixes(&registry).iter().sum::<u64>(), stats.bytes);
        stats
    };
    assert_eq!(begin(1, 20).bytes, 20 * POSITION);
    assert_eq!(begin(2, 20).bytes, 40 * POSITION);
    // The first is used, so the second goes.
    assert_eq!(begin(1, 20).hits, 1);
    let stats = begin(3, 15);
    assert_eq!((stats.bytes, stats.evicted), (35 * POSITION, 1));
    assert_eq!(begin(1, 20).hits, 2);
    assert_eq!(begin(2, 20).hits, 2);
    // One that is larger than the cache is not kept, and costs nobody's place.
    let before = cache.stats();
    let parts = [Part::Ids(&[5; 41]), Part::Ids(&[9])];
    drop(model.begin(&parts, 0, &free()).expect("generation"));
    assert_eq!(cache.stats().entries, before.entries);

    assert_eq!(cache.shrink_to(30 * POSITION), 20 * POSITION);
    assert_eq!(cache.stats().entries, 1);
    assert_eq!(cache.clear(), 20 * POSITION);
    assert_eq!(cache.clear(), 0);
    assert!(prefixes(&registry).is_empty());

    let none = PrefixCache::new(0, registry.governor());
    let model = sharing(&registry, &none);
    for _ in 0..2 {
        let parts = [Part::Ids(&[1; 20]), Part::Ids(&[9])];
        drop(model.begin(&parts, 0, &free()).expect("generation"));
    }
    assert_eq!((none.stats().hits, none.stats().entries), (0, 0));
}

#[test]
fn what_does_not_fit_or_is_cancelled_is_an_error_and_keeps_nothing_wrong() {
    let registry = registry_of(&cached("packs/reference"));
    let cache = PrefixCache::new(64 << 20, registry.governor());
    let model = sharing(&registry, &cache);
    let begin = |parts: &[Part<'_>], control: &Control| {
        let begun = model.begin(parts, 0, control);
        begun.map(|generation| generation.logits().to_vec())
    };
    let [a, b] = [[1u32; 1500], [2u32; 1500]];
    let error = begin(&[Part::Ids(&a), Part::Ids(&b)], &free()).expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let error = begin(&[Part::Ids(&[u32::MAX]), Part::Ids(&[1])], &free()).expect_err("no token");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let error = begin(
        &[
            Part::Rows {
                stands_for: None,
                identity: [0; 32],
                make: &|| Ok(FeatureMap::default()),
            },
            Part::Ids(&[1]),
        ],
        &free(),
    );
    assert_eq!(error.expect_err("reads ids").kind(), ErrorKind::Unsupported);
    let cancelled = Control {
        cancel: CancelToken::new(),
        ..Control::default()
    };
    cancelled.cancel.cancel();
    let parts = [Part::Ids(&a[..50]), Part::Ids(&b[..5])];
    let error = begin(&parts, &cancelled).expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!((cache.stats().entries, prefixes(&registry).len()), (0, 0));
    let first = begin(&parts, &free()).expect("logits");
    assert!(first == begin(&parts, &free()).expect("logits"));
}

#[test]
fn a_decoder_of_embeddings_shares_pictures_and_makes_their_rows_once() {
    let dir = tempfile::tempdir().expect("folder");
    let dir = dir.path().join("pack");
    foreign(&dir);
    let registry = registry_with(&dir, ArtifactCache::disabled());
    let cache = PrefixCache::new(64 << 20, registry.governor());
    let plain = LanguageModel::new(&registry, "mouth", Some("words")).expect("model");
    let shared = LanguageModel::sharing(&registry, "mouth", Some("words"), &cache).expect("model");
    let picture = |seed: usize| {
        let wave = |i: usize| ((i + seed * 99) as f32 * 0.37).sin() * 3.0;
        FeatureMap::of_one(6, 56, (0..6 * 56).map(wave).collect())
    };
    let made = Cell::new(0);
    let words = ids(&plain, "the picture of the thing");
    let go = |model: &LanguageModel, seed: usize, rest: usize| {
        let make = || {
            made.set(made.get() + 1);
            Ok(picture(seed))
        };
        let parts = [
            Part::Ids(&words),
            Part::Rows {
                stands_for: None,
                identity: [seed as u8; 32],
                make: &make,
            },
            Part::Ids(&words[..rest]),
        ];
        let mut generation = model.begin(&parts, 20, &free()).expect("generation");
        let logits = generation.logits().to_vec();
        (logits, say(&mut generation, &tokens(20), &free()).token_ids)
    };
    for (seed, rest) in [(1, 3), (1, 4), (2, 3), (1, 3), (2, 2)] {
        assert!(
            go(&plain, seed, rest) == go(&shared, seed, rest),
            "{seed} {rest}"
        );
    }
    // Five times without the cache, twice with it.
    assert_eq!(made.get(), 7);
    let stats = cache.stats();
    assert_eq!((stats.misses, stats.hits, stats.entries), (1, 4, 3));
    assert!(
        go(&shared, 1, 3).1 != go(&shared, 2, 3).1,
        "pictures make no difference"
    );
}
