//! Text encoders.

use atom_core::control::Control;
use atom_core::language::TextEncoder;
use atom_tests::exports::{cosine, expected, export, npy};
use atom_tests::hand_packs;
use atom_tests::temporary;
use serde_json::Value;

use crate::common::*;

#[test]
fn texts_are_padded_as_the_towers_were_trained() {
    let folder = temporary();
    let texts = std::fs::read_to_string(export("inputs").join("texts.json")).unwrap();
    let texts: Value = serde_json::from_str(&texts).unwrap();
    let cosines = |name: &str, output: &str, width: usize, words: &str| {
        let pack = folder.path().join(format!("{name}-{}", words.len()));
        let runtime = open(&hand_packs::text_tower(&pack, name, output, width, words));
        let encoder = TextEncoder::new(runtime.registry(), "words").unwrap();
        let want = expected(name);
        let (_, all) = npy(&export(name)
            .join("expected")
            .join(want["text_embeds"].as_str().unwrap()));
        let rows = want["texts"]
            .as_array()
            .unwrap()
            .iter()
            .zip(all.chunks_exact(width));
        let cosines = rows.map(|(text, row)| {
            let words = texts[text["text"].as_str().unwrap()].as_str().unwrap();
            let words = encoder.encode(words, &Control::default()).unwrap();
            cosine(&words, row)
        });
        cosines.fold(1.0, f64::min)
    };
    let padded = "max_tokens = 64\npad_to = 64\npad_id = 1";
    assert!(cosines("siglip-tiny", "pooler_output", 32, padded) > 0.99999);
    // What a tower must not see: another token in place of the padding, or none.
    assert!(
        cosines(
            "siglip-tiny",
            "pooler_output",
            32,
            "max_tokens = 64\npad_to = 64\npad_id = 0"
        ) < 0.9999
    );
    assert!(
        cosines(
            "siglip-tiny",
            "pooler_output",
            32,
            "max_tokens = 64\npad_id = 1"
        ) < 0.99999
    );
    assert!(cosines("clip-tiny", "text_embeds", 24, "max_tokens = 77") > 0.99999);
    // The text is pooled at its first end: what fills the rest changes nothing.
    assert!(
        cosines(
            "clip-tiny",
            "text_embeds",
            24,
            "max_tokens = 77\npad_to = 77\npad_id = 0\nend_id = 567"
        ) > 0.99999
    );
}

#[test]
fn capital_letters_are_lowered_where_the_manifest_says_so() {
    let folder = temporary();
    let vector = |words: &str, text: &str| {
        let pack = folder.path().join(words.len().to_string());
        let runtime = open(&hand_packs::text_tower(
            &pack,
            "clip-tiny",
            "text_embeds",
            24,
            words,
        ));
        let encoder = TextEncoder::new(runtime.registry(), "words").unwrap();
        encoder.encode(text, &Control::default()).unwrap()
    };
    let lower = "max_tokens = 77\nlowercase = true";
    assert_eq!(vector(lower, "A RED TRUCK"), vector(lower, "a red truck"));
    let (first, last) = ("max_tokens = 8", "max_tokens = 8\nend_id = 3");
    let long = "what is in the image ? the image shows a garden";
    assert_ne!(
        vector(first, long),
        vector(last, long),
        "the last token of a cut text"
    );
    assert_eq!(vector(first, "a"), vector(last, "a"));
}
