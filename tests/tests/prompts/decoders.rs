//! Decoders that read pictures in their prompt.

use std::ops::ControlFlow;

use atom_core::ErrorKind;
use atom_core::control::{Control, TextOptions};
use atom_core::features::{Features, Grid};
use atom_core::language::{ContentPart, GenerateOptions, LanguageModel, Markers, Message, Part};
use atom_core::pack::ContentForm;
use atom_core::runtime::Runtime;
use atom_tests::exports::expected;
use atom_tests::hand_packs::{self, features};
use atom_tests::temporary;
use serde_json::Value;

use crate::common::*;

pub fn grids(case: &Value) -> Vec<Grid> {
    let grids: Vec<[u32; 2]> =
        serde_json::from_value(case["rows_cols"].clone()).unwrap_or_default();
    grids
        .into_iter()
        .map(|[rows, cols]| Grid { rows, cols })
        .collect()
}

/// The pictures of a case, each with its tiles.
pub fn pictures(case: &Value) -> Vec<Features> {
    let Some(file) = case["image_features"].as_str() else {
        return Vec::new();
    };
    let all = features("smolvlm-tiny", file, Grid::default()).map;
    let (per, mut from) = (all.data.len() / all.pictures, 0);
    let mut made = Vec::new();
    for grid in grids(case) {
        let count = (grid.rows * grid.cols + 1) as usize;
        let mut one = Features::default();
        one.map.data = all.data[from * per..(from + count) * per].to_vec();
        one.map.rows = all.rows / all.pictures * count;
        (one.map.dim, one.map.grid, one.map.pictures) = (all.dim, grid, count);
        from += count;
        made.push(one);
    }
    assert_eq!(from, all.pictures, "{}", case["id"]);
    made
}

/// What a pack would write as the prompt of a case.
fn prompt(case: &Value) -> String {
    let parts = case["content"].as_array().unwrap();
    let part = |part: &Value| part["text"].as_str().unwrap_or("<image>").to_owned();
    parts.iter().map(part).collect()
}

#[test]
fn a_smolvlm_reads_pictures_as_its_reference_does() {
    let folder = temporary();
    let runtime = open(&hand_packs::smolvlm(folder.path(), |_, toml| toml));
    let want = expected("smolvlm-tiny");
    let mut seen = 0;
    for case in want["cases"].as_array().unwrap() {
        let frames = pictures(case);
        let frames: Vec<&Features> = frames.iter().collect();
        if frames.is_empty() {
            continue;
        }
        let options = limits(24);
        let prompt = prompt(case);
        let said = match prompt.strip_prefix("<image>") {
            Some(question) => ask(&runtime, &frames, question, &options).unwrap(),
            None => {
                let name = case["id"].as_str().unwrap().split('.').next().unwrap();
                let prompt = Some(name.replace('_', "-"));
                caption(&runtime, &frames, &TextOptions { prompt, ..options }).unwrap()
            }
        };
        assert_eq!(said.prompt_ids, ids(&case["input_ids"]), "{}", case["id"]);
        assert!(
            same(&said.token_ids, &case["greedy"], "margin", 359),
            "{}: {:?}",
            case["id"],
            said.token_ids
        );
        seen += 1;
    }
    assert_eq!(seen, 23);
}

const PARTS: Markers = Markers {
    image: String::new(),
    video: String::new(),
    form: ContentForm::Parts,
};

#[test]
fn first_logits_of_a_smolvlm_are_those_of_its_reference() {
    let folder = temporary();
    let runtime = open(&hand_packs::smolvlm(folder.path(), |_, toml| toml));
    let model = LanguageModel::new(runtime.registry(), "decoder", Some("words")).unwrap();
    let control = Control::default();
    let want = expected("smolvlm-tiny");
    let mut texts = 0;
    for case in want["cases"].as_array().unwrap() {
        let input = ids(&case["input_ids"]);
        let mut generation = match case["image_features"].as_str() {
            Some(file) => {
                let map = features("smolvlm-tiny", file, Grid::default()).map;
                let make = || Ok(map.clone());
                let marked = Part::Marked {
                    ids: &input,
                    marker: 358,
                    identity: [0; 32],
                    make: &make,
                };
                model.begin(&[marked], 24, &control).unwrap()
            }
            None => {
                texts += 1;
                let words = case["content"][0]["text"].as_str().unwrap();
                let text = model.render(&[Message::user(words)], &PARTS).unwrap();
                assert_eq!(text, case["prompt"].as_str().unwrap());
                assert_eq!(model.tokens(&text, None).unwrap(), input);
                model.begin(&[Part::Ids(&input)], 24, &control).unwrap()
            }
        };
        let apart = apart("smolvlm-tiny", &case["first_logits"], generation.logits());
        assert!(apart < 2e-5, "{}: {apart}", case["id"]);
        if case["image_features"].is_null() {
            let options = GenerateOptions {
                max_tokens: 24,
                ..GenerateOptions::default()
            };
            let mut on_text = |_: &str| ControlFlow::Continue(());
            let made = generation
                .generate(&options, &control, &mut on_text)
                .unwrap();
            assert!(
                same(&made.token_ids, &case["greedy"], "margin", 359),
                "{}",
                case["id"]
            );
        }
    }
    assert_eq!(texts, 6);
}

#[test]
fn the_picture_is_read_once_for_a_caption_and_three_questions() {
    let folder = temporary();
    let runtime = open(&hand_packs::smolvlm(folder.path(), |_, toml| toml));
    let want = expected("smolvlm-tiny");
    let case = &want["cases"][0];
    let frames = pictures(case);
    let frames: Vec<&Features> = frames.iter().collect();
    let options = limits(4);
    let stats = || runtime.status().unwrap().prefixes;
    let said = caption(&runtime, &frames, &options).unwrap();
    let (length, first) = (said.prompt_ids.len() as u64, stats());
    assert_eq!(first.fed_tokens, length);
    // The picture's last row is before "describe this image" and what follows.
    let shared = said.prompt_ids.iter().rposition(|id| *id == 358).unwrap() as u64 + 1;
    for (at, question) in ["how many ?", "which colour ?", "what is in the image ?"]
        .iter()
        .enumerate()
    {
        let before = stats();
        let said = ask(&runtime, &frames, question, &options).unwrap();
        let (now, asked) = (stats(), said.prompt_ids.len() as u64);
        assert_eq!(now.hits - before.hits, 1, "question {at}");
        assert_eq!(now.reused_tokens - before.reused_tokens, shared);
        assert_eq!(now.fed_tokens - before.fed_tokens, asked - shared);
        let fresh = open(folder.path());
        let alone = ask(&fresh, &frames, question, &options).unwrap();
        assert_eq!(said, alone, "reuse changes nothing");
    }
    // Other features are another picture.
    let mut other = frames[0].clone();
    other.map.data[0] += 1.0;
    let before = stats();
    ask(&runtime, &[&other], "how many ?", &options).unwrap();
    assert_eq!(stats().reused_tokens - before.reused_tokens, 8);
}

#[test]
fn a_decoder_that_is_not_exact_shares_no_prefix_and_reads_its_prompt_at_once() {
    let folder = temporary();
    let exact = folder.path().join("exact");
    let other = folder.path().join("other");
    let exact = open(&hand_packs::smolvlm(&exact, |_, toml| toml));
    let other = open(&hand_packs::smolvlm(&other, |_, toml| {
        toml.replace("eos = [359]", "eos = [359]\nexact_prefix = false")
    }));
    let want = expected("smolvlm-tiny");
    let case = &want["cases"][0];
    let frames = pictures(case);
    let frames: Vec<&Features> = frames.iter().collect();
    let steps = |runtime: &Runtime| {
        let modules = runtime.modules();
        let decoder = modules
            .iter()
            .find(|module| module.id == "decoder")
            .unwrap();
        (decoder.runs, runtime.status().unwrap().prefixes.entries)
    };
    for (runtime, kept) in [(&exact, 2), (&other, 0)] {
        let said = ask(runtime, &frames, "describe this image", &limits(24)).unwrap();
        assert!(same(&said.token_ids, &case["greedy"], "margin", 359));
        assert_eq!(steps(runtime).1, kept);
    }
    // Three parts for the exact one, and a step for each further token.
    assert_eq!(steps(&exact).0 - steps(&other).0, 2);
}

const VIDEO_PROMPT: &str = "You are provided the following series of {{ count_words }} frames from a {{ duration }} \
    [H:MM:SS] video.\n{% for frame in frames %}{{ '\n' }}Frame from {{ frame.time }}:<fake_token_around_image><global-img>\
    {{ image_token * tokens }}<fake_token_around_image>{% endfor %}{{ '\n\n' }}";

#[test]
fn frames_of_a_video_are_shown_with_their_times() {
    let folder = temporary();
    // The weights of smolvlm2-tiny are the same.
    let pack = hand_packs::smolvlm(folder.path(), |pack, toml| {
        let template = std::fs::read_to_string(folder.path().join("chat_template.jinja")).unwrap();
        let image = "{% elif line['type'] == 'image' %}{{ '<image>' }}";
        assert!(template.contains(image));
        let video = format!("{image}{{% elif line['type'] == 'video' %}}{{{{ '<video>' }}}}");
        let template = pack.write("video.jinja", template.replace(image, &video).as_bytes());
        let video = pack.write("video_prompt.jinja", VIDEO_PROMPT.as_bytes());
        let at = toml.find("chat_template = ").unwrap();
        let toml = format!("{}chat_template = {template}\n", &toml[..at]);
        toml.replace(
            "[captioner.files]",
            &format!("video_token = \"<video>\"\n[captioner.files]\nvideo_prompt = {video}"),
        )
    });
    let runtime = open(&pack);
    let want = expected("smolvlm2-tiny");
    let mut seen = 0;
    for case in want["cases"].as_array().unwrap() {
        let Some(times) = case["video"]["times_s"].as_array() else {
            continue;
        };
        let file = case["image_features"].as_str().unwrap();
        let all = features("smolvlm2-tiny", file, Grid::default()).map;
        let per = all.data.len() / all.pictures;
        let frames: Vec<Features> = (0..all.pictures)
            .map(|at| {
                let mut frame = Features::default();
                frame.map.data = all.data[at * per..(at + 1) * per].to_vec();
                (frame.map.rows, frame.map.dim, frame.map.pictures) = (4, all.dim, 1);
                frame.time_ns = Some((times[at].as_f64().unwrap() * 1e9) as i64);
                frame
            })
            .collect();
        let frames: Vec<&Features> = frames.iter().collect();
        let question = case["content"][1]["text"].as_str().unwrap();
        let said = ask(&runtime, &frames, question, &limits(24)).unwrap();
        assert_eq!(said.prompt_ids, ids(&case["input_ids"]), "{}", case["id"]);
        assert!(
            same(&said.token_ids, &case["greedy"], "margin", 359),
            "{}",
            case["id"]
        );
        // Pictures without times are so many pictures.
        let stills: Vec<Features> = frames
            .iter()
            .map(|frame| Features {
                time_ns: None,
                ..(*frame).clone()
            })
            .collect();
        let stills: Vec<&Features> = stills.iter().collect();
        let said = ask(&runtime, &stills, question, &limits(1)).unwrap();
        assert!(said.prompt_ids.len() < case["input_ids"].as_array().unwrap().len());
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[test]
fn a_llava_reads_one_marker_as_all_rows_of_a_picture() {
    let folder = temporary();
    let runtime = open(&hand_packs::llava(folder.path(), |_, toml| toml));
    let want = expected("llava-tiny");
    for case in want["cases"].as_array().unwrap() {
        let file = case["image_features"].as_str().unwrap();
        let frame = features("llava-tiny", file, Grid::default());
        let question = case["content"][1]["text"].as_str().unwrap();
        let said = ask(&runtime, &[&frame], question, &limits(24)).unwrap();
        assert_eq!(said.prompt_ids, ids(&case["input_ids"]), "{}", case["id"]);
        assert!(
            same(&said.token_ids, &case["greedy"], "margin", 2),
            "{}",
            case["id"]
        );
    }
}

#[test]
fn the_words_of_a_pack_stand_where_its_markers_are() {
    let folder = temporary();
    let runtime = open(&hand_packs::smolvlm(folder.path(), |_, toml| {
        toml.replace("<image>describe this image", "describe this image")
    }));
    let want = expected("smolvlm-tiny");
    let case = &want["cases"][0];
    let frames = pictures(case);
    let frames: Vec<&Features> = frames.iter().collect();
    // First if the prompt does not say where.
    let said = caption(&runtime, &frames, &limits(24)).unwrap();
    assert_eq!(said.prompt_ids, ids(&case["input_ids"]));
    let named = |name: &str, frames: &[&Features]| {
        let prompt = Some(name.to_owned());
        caption(
            &runtime,
            frames,
            &TextOptions {
                prompt,
                ..limits(1)
            },
        )
    };
    refused(
        named("two-images", &frames),
        ErrorKind::InvalidArgument,
        &["2 pictures", "1"],
    );
    let three = [frames[0], frames[0], frames[0]];
    refused(
        named("two-images", &three),
        ErrorKind::InvalidArgument,
        &["2 pictures", "3"],
    );
    named("text-first", &three).unwrap();
    let parts = [ContentPart::Image, ContentPart::text("x")];
    let model = LanguageModel::new(runtime.registry(), "decoder", Some("words")).unwrap();
    let text = model
        .render(&[Message::of("user", parts.to_vec())], &PARTS)
        .unwrap();
    assert_eq!(
        text,
        "<|im_start|>User:<image>x<end_of_utterance>\nAssistant:"
    );
}
