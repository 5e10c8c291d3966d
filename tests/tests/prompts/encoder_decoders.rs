//! Decoders that attend to an encoder's output.

use atom_core::control::{Control, TextOptions};
use atom_core::features::Grid;
use atom_core::language::LanguageModel;
use atom_core::runtime::Runtime;
use atom_tests::exports::expected;
use atom_tests::hand_packs::{self, features};
use atom_tests::temporary;

use crate::common::*;

#[test]
fn a_florence_reads_its_task_and_follows_its_generation_config() {
    let folder = temporary();
    let (own, bare) = (folder.path().join("own"), folder.path().join("bare"));
    let own = open(&hand_packs::florence(&own, |_, toml| toml));
    let bare = open(&hand_packs::florence(&bare, |_, toml| {
        let at = toml.find("[module.decoder.generation]").unwrap();
        toml[..at].to_owned()
    }));
    let want = expected("florence2-tiny");
    for case in want["cases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let file = case["image_features"].as_str().unwrap();
        let frame = features("florence2-tiny", file, Grid::default());
        let say = |runtime: &Runtime, beams: Option<usize>| {
            let prompt = match case["task"].as_str() {
                Some("<CAPTION>") => Some("caption".to_owned()),
                Some("<DETAILED_CAPTION>") => Some("detailed-caption".to_owned()),
                _ => None,
            };
            let options = TextOptions {
                beams,
                ..limits(24)
            };
            match prompt {
                Some(_) => caption(runtime, &[&frame], &TextOptions { prompt, ..options }).unwrap(),
                None => ask(
                    runtime,
                    &[&frame],
                    case["prompt"].as_str().unwrap(),
                    &options,
                )
                .unwrap(),
            }
        };
        let said = say(&bare, None);
        assert_eq!(said.prompt_ids, ids(&case["prompt_ids"]), "{id}");
        assert!(
            same(&said.token_ids, &case["greedy"], "margin", 2),
            "{id}: {:?}",
            said.token_ids
        );
        let said = say(&own, Some(1));
        let margins = "margin_after_processors";
        assert!(
            same(&said.token_ids, &case["greedy_config"], margins, 2),
            "{id}: {:?}",
            said.token_ids
        );
        let said = say(&own, None);
        assert!(
            same(&said.token_ids, &case["beam_config"], "margin", 2),
            "{id}: {:?}",
            said.token_ids
        );
        assert!(said.token_ids.starts_with(&[0]) && said.token_ids.len() == 23);
    }
}

#[test]
fn a_vit_gpt2_says_what_it_attends_to() {
    let folder = temporary();
    let runtime = open(&hand_packs::vit_gpt2(folder.path(), |_, toml| toml));
    let model = LanguageModel::new(runtime.registry(), "decoder", None).unwrap();
    let control = Control::default();
    let want = expected("vit-gpt2-tiny");
    for case in want["cases"].as_array().unwrap() {
        let file = case["encoder_hidden_states"].as_str().unwrap();
        let frame = features("vit-gpt2-tiny", file, Grid::default());
        let mut generation = model.start(24, &control).unwrap();
        generation.attend(&frame.map, &control).unwrap();
        generation.feed(&[300], &control).unwrap();
        let apart = apart("vit-gpt2-tiny", &case["first_logits"], generation.logits());
        assert!(apart < 2e-5, "{}: {apart}", case["id"]);
        let said = caption(&runtime, &[&frame], &limits(24)).unwrap();
        assert!(said.prompt_ids.is_empty());
        assert!(
            same(&said.token_ids, &case["greedy"], "margin", 300),
            "{}",
            case["id"]
        );
    }
}
