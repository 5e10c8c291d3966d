//! A decoder as unlike the reference as the format allows.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use atom_core::ErrorKind;
use atom_core::language::LanguageModel;
use atom_core::pack::ArtifactCache;

use super::common::*;

fn python(script: &str, arguments: &[&std::ffi::OsStr]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let made = Command::new(cached("venv/bin/python"))
        .arg(script)
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
}

/// The tests' own foreign pack in `dir`: a decoder of `inputs_embeds` with a concatenated cache.
pub fn foreign(dir: &Path) {
    python(
        "../tests/fixtures/foreign_pack.py",
        &["build".as_ref(), dir.as_os_str()],
    );
}

fn foreign_model(dir: &Path) -> LanguageModel {
    // Loaded as they lie in the pack: what the artifact cache makes of them is its own tests' concern.
    let registry = registry_with(dir, ArtifactCache::disabled());
    LanguageModel::new(&registry, "mouth", Some("words")).expect("model")
}

#[test]
fn a_concatenating_decoder_of_embeddings_does_all_the_same() {
    let dir = tempfile::tempdir().expect("folder");
    let dir = dir.path().join("pack");
    foreign(&dir);
    let bare = LanguageModel::new(
        &registry_with(&dir, ArtifactCache::disabled()),
        "mouth",
        None,
    );
    let error = bare
        .and_then(|model| model.check(&free()))
        .expect_err("no token embedding");
    assert_eq!(error.kind(), ErrorKind::BadModel);
    assert!(error.message().contains("token_embedding"), "{error}");
    let model = foreign_model(&dir);
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

#[test]
fn half_precision_and_32_bit_ports_do_all_the_same() {
    let dir = tempfile::tempdir().expect("folder");
    let dir = dir.path().join("pack");
    foreign(&dir);
    let picture: Vec<f32> = (0..6 * 56).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
    let logits = |model: &LanguageModel| {
        let ids = model
            .tokenizer()
            .encode("What is the picture", false)
            .expect("ids");
        let mut generation = model.start(16, &free()).expect("generation");
        generation.feed(&ids, &free()).expect("feed");
        generation.feed_embeds(&picture, 6, &free()).expect("rows");
        generation.feed(&ids, &free()).expect("feed");
        let logits = generation.logits().to_vec();
        // What is cut off and fed again goes through the same halves.
        generation.truncate(ids.len() + 6).expect("truncate");
        let mut fork = generation.fork().expect("fork");
        fork.feed(&ids, &free()).expect("feed");
        assert!(fork.logits() == logits, "logits differ");
        (logits, generation.kv_bytes())
    };
    let (single, single_bytes) = logits(&foreign_model(&dir));
    python("tests/language/fixtures/half_pack.py", &[dir.as_os_str()]);
    let (half, half_bytes) = logits(&foreign_model(&dir));
    assert_eq!(single_bytes, 2 * half_bytes);
    let largest = single
        .iter()
        .fold(0.0f32, |top, logit| top.max(logit.abs()));
    for (single, half) in single.iter().zip(&half) {
        assert!(
            (single - half).abs() < 0.01 * largest,
            "{single} and {half}"
        );
    }
}
