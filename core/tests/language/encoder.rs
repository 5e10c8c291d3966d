//! The text encoder.

use atom_core::ErrorKind;
use atom_core::language::{LanguageModel, TextEncoder};

use super::common::*;

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
