//! Every kind of folder that can be imported, from the folder as a user has it to vectors, prompts and tokens, beside what
//! Hugging Face's classes make of the same pictures and texts. `ATOM_UPDATE=1` writes what is seen into models/README.md.

use atom_core::control::TextOptions;
use atom_core::features::Features;
use atom_core::pack::Source;
use atom_core::task::Statement;
use atom_import::Form;
use atom_tests::exports::{cosine, export, input};
use atom_tests::imported::{Imported, ids, limits, list, prompt_name, same_tokens, text};
use atom_tests::root;
use serde_json::Value;

/// What one folder is held to.
struct Bounds {
    /// Least cosine of vectors, and of the rows of pictures.
    cosine: f64,
    /// Largest difference of a first logit; none if not compared.
    logits: Option<f32>,
    /// Tokens are compared up to the first step whose two best are this near; none if not compared.
    margin: Option<f64>,
}

const WHOLE: Bounds = Bounds {
    cosine: 0.99999,
    logits: Some(2e-5),
    margin: Some(1e-4),
};
const HALF: Bounds = Bounds {
    cosine: 0.99999,
    logits: None,
    margin: Some(5e-3),
};
const BYTES: Bounds = Bounds {
    cosine: 0.999,
    logits: None,
    margin: None,
};
/// Four bits are too few for weights of noise: it runs, and what it makes is finite.
const NIBBLES: Bounds = Bounds {
    cosine: 0.5,
    logits: None,
    margin: None,
};

/// How many cases of a check hold, of how many, and the worst that was seen.
#[derive(Default)]
struct Tally {
    good: usize,
    all: usize,
    worst: Option<String>,
}

impl Tally {
    fn add(&mut self, good: bool, what: &str) {
        self.all += 1;
        self.good += usize::from(good);
        if !good {
            eprintln!("{what}");
        }
    }

    fn cell(&self) -> String {
        match (self.all, &self.worst) {
            (0, _) => "–".to_owned(),
            (all, None) => format!("{} of {all}", self.good),
            (all, Some(worst)) => format!("{} of {all} ({worst})", self.good),
        }
    }
}

/// The checks of one folder, in the table's order.
#[derive(Default)]
struct Row {
    pixels: Tally,
    vectors: Tally,
    rows: Tally,
    prompts: Tally,
    logits: Tally,
    tokens: Tally,
    several: Tally,
    words_first: Tally,
    videos: Tally,
}

const HEAD: &str = "| folder | form | pixels | vectors | rows | prompt ids | first logits | token ids | several pictures | words first | video |\n\
    |---|---|---|---|---|---|---|---|---|---|---|\n";

impl Row {
    fn tallies(&self) -> [&Tally; 9] {
        [
            &self.pixels,
            &self.vectors,
            &self.rows,
            &self.prompts,
            &self.logits,
            &self.tokens,
            &self.several,
            &self.words_first,
            &self.videos,
        ]
    }
}

/// Two towers: vectors of pictures and texts, and which pictures a text finds.
fn towers(model: &Imported, bounds: &Bounds, row: &mut Row) {
    let texts = std::fs::read_to_string(export("inputs").join("texts.json")).unwrap();
    let texts: Value = serde_json::from_str(&texts).unwrap();
    let mut least = 1.0f64;
    for (kind, items) in [("image", "images"), ("text", "texts")] {
        let (shape, want) = model.array(&model.want[format!("{kind}_embeds")]);
        for (item, want) in list(&model.want[items]).zip(want.chunks_exact(shape[1])) {
            let what = format!("{}: {}", model.name, item[kind]);
            let vector = if kind == "image" {
                let name = text(&item["image"]);
                let file = &item["pixel_values"]["file"];
                let same = model.same_pixels(&[name], Source::Still, file);
                row.pixels.add(same, &what);
                let picture = input(name);
                let frame = picture.as_frame().unwrap();
                model.runtime.embed_picture(&frame, &model.control)
            } else {
                let words = text(&texts[text(&item["text"])]);
                model.runtime.embed_text(words, &model.control)
            };
            let near = cosine(&vector.unwrap_or_else(|e| panic!("{what}: {e:?}")), want);
            least = least.min(near);
            row.vectors.add(near >= bounds.cosine, &what);
        }
    }
    row.vectors.worst = Some(format!("least cosine {least:.6}"));
}

/// A captioner: pixels, rows, prompts, first logits and tokens of every case with pictures.
fn captioner(model: &Imported, tiles: Option<bool>, bounds: &Bounds, row: &mut Row) {
    let (mut least, mut most) = (1.0f64, 0.0f32);
    for case in list(&model.want["cases"]) {
        let names: Vec<&str> = list(&case["images"]).map(text).collect();
        let other = case["do_image_splitting"]
            .as_bool()
            .is_some_and(|cut| tiles.is_some_and(|tiles| cut != tiles));
        if names.is_empty() || other {
            continue;
        }
        let what = format!("{}: {}", model.name, case["id"]);
        let times = case["video"]["times_s"].as_array();
        let source = match times {
            Some(_) => Source::Video,
            None => Source::Still,
        };
        let same = model.same_pixels(&names, source, &case["pixel_values"]["file"]);
        row.pixels.add(same, &format!("{what}: pixels"));
        let frames: Vec<Features> = names
            .iter()
            .enumerate()
            .map(|(at, name)| {
                let seconds = times.map_or(0.0, |times| times[at].as_f64().unwrap());
                model.features(name, source, (seconds * 1e9) as i64)
            })
            .collect();
        let made: Vec<f32> = frames.iter().flat_map(|f| f.map.data.clone()).collect();
        let dim = frames[0].map.dim;
        let file = case
            .get("image_features")
            .unwrap_or(&case["encoder_hidden_states"]);
        let (_, want) = model.array(file);
        assert_eq!(made.len(), want.len(), "{what}");
        let pairs = made.chunks_exact(dim).zip(want.chunks_exact(dim));
        let near = pairs.map(|(a, b)| cosine(a, b)).fold(1.0, f64::min);
        // Pixels of a video are a step apart.
        let floor = match times {
            Some(_) => bounds.cosine.min(0.9998),
            None => {
                least = least.min(near);
                bounds.cosine
            }
        };
        row.rows.add(near >= floor, &format!("{what}: rows {near}"));
        let answer = match case.get("greedy_config") {
            Some(answer) => answer,
            None => &case["greedy"],
        };
        let said = said(model, case, &frames);
        let prompt = case.get("prompt_ids").or(case.get("input_ids"));
        let same_prompt = prompt.is_none_or(|prompt| said.prompt_ids == ids(prompt));
        let tokens = bounds
            .margin
            .is_none_or(|margin| same_tokens(&said, answer, margin));
        let good = same_prompt && tokens;
        let told = format!("{what}: {:?}", said.token_ids);
        match (times, names.len(), case["content"][0]["type"].as_str()) {
            (Some(_), ..) => row.videos.add(good, &told),
            (None, 2.., _) => row.several.add(good, &told),
            (None, _, Some("text")) => row.words_first.add(good, &told),
            _ => {
                if prompt.is_some() {
                    row.prompts.add(same_prompt, &told);
                }
                if bounds.margin.is_some() {
                    row.tokens.add(tokens, &told);
                    if let Some(answer) = case.get("beam_config") {
                        let said = task(model, case, &frames, None);
                        row.tokens.add(same_tokens(&said, answer, 0.0), &told);
                    }
                }
            }
        }
        if let (Some(bound), None) = (bounds.logits, times)
            && let Some(made) = model.first_logits(&frames, &said)
        {
            let (_, want) = model.array(&case["first_logits"]);
            assert_eq!(made.len(), want.len(), "{what}");
            let apart = made.iter().zip(&want).map(|(a, b)| (a - b).abs());
            let apart = apart.fold(0.0, f32::max);
            most = most.max(apart);
            row.logits.add(apart <= bound, &format!("{what}: {apart}"));
        }
    }
    row.rows.worst = Some(format!("least cosine {least:.6}"));
    row.logits.worst = (most > 0.0).then(|| format!("largest difference {most:.0e}"));
}

/// What the pack says to a case, one beam wide.
fn said(model: &Imported, case: &Value, frames: &[Features]) -> Statement {
    let Some(content) = case["content"].as_array() else {
        return task(model, case, frames, Some(1));
    };
    if content[0]["type"] == "text" {
        let prompt = Some(prompt_name(case));
        return model.caption(frames, TextOptions { prompt, ..limits() });
    }
    let question: String = content[1..]
        .iter()
        .map(|part| text(&part["text"]))
        .collect();
    model.ask(frames, &question, &limits())
}

/// What the pack says to the task of a case, `<CAPTION>` or a question.
fn task(model: &Imported, case: &Value, frames: &[Features], beams: Option<usize>) -> Statement {
    let options = TextOptions { beams, ..limits() };
    let Some(task) = case["task"].as_str() else {
        return model.caption(frames, options);
    };
    match task
        .strip_prefix('<')
        .and_then(|task| task.strip_suffix('>'))
    {
        Some(name) => {
            let prompt = Some(name.to_lowercase().replace('_', "-"));
            model.caption(frames, TextOptions { prompt, ..options })
        }
        None => model.ask(frames, task, &options),
    }
}

const FOLDERS: &[(&str, Option<Form>, Option<bool>, Bounds)] = &[
    ("clip-tiny", None, None, WHOLE),
    ("clip-tiny", Some(Form::Fp16), None, HALF),
    ("clip-tiny", Some(Form::Int8), None, BYTES),
    ("clip-tiny-optimum", None, None, WHOLE),
    ("siglip-tiny", None, None, WHOLE),
    ("siglip-tiny", Some(Form::Int8), None, BYTES),
    ("smolvlm-tiny", None, Some(true), WHOLE),
    ("smolvlm-tiny", None, Some(false), WHOLE),
    ("smolvlm-tiny", Some(Form::Fp16), Some(true), HALF),
    ("smolvlm-tiny", Some(Form::Int8), Some(true), BYTES),
    ("smolvlm-tiny", Some(Form::Q4), Some(true), NIBBLES),
    ("smolvlm2-tiny", None, Some(true), WHOLE),
    ("smolvlm2-tiny", None, Some(false), WHOLE),
    ("llava-tiny", None, None, WHOLE),
    ("llava-tiny", Some(Form::Fp16), None, HALF),
    ("florence2-tiny", None, None, WHOLE),
    ("vit-gpt2-tiny", None, None, WHOLE),
];

#[test]
fn every_family_says_what_its_reference_says() {
    let mut table = HEAD.to_owned();
    let mut wrong = Vec::new();
    for (name, form, tiles, bounds) in FOLDERS {
        let model = Imported::new(name, *form, *tiles);
        let mut row = Row::default();
        match model.want["cases"].is_array() {
            true => captioner(&model, *tiles, bounds, &mut row),
            false => towers(&model, bounds, &mut row),
        }
        let shown = match tiles {
            Some(true) => format!("{name}, tiles"),
            _ => (*name).to_owned(),
        };
        let form = form.map_or("fp32", Form::name);
        let cells: Vec<String> = row.tallies().iter().map(|tally| tally.cell()).collect();
        let line = format!("| {shown} | {form} | {} |\n", cells.join(" | "));
        let checks: usize = row.tallies().iter().map(|tally| tally.all).sum();
        assert!(checks >= 10, "{shown}: only {checks} cases");
        if row.tallies().iter().any(|tally| tally.good < tally.all) {
            wrong.push(line.clone());
        }
        table += &line;
    }
    println!("{table}");
    assert!(wrong.is_empty(), "\n{HEAD}{}", wrong.concat());
    kept(&table);
}

/// Between these lines models/README.md has the table.
const MARKS: [&str; 2] = ["<!-- families -->\n", "<!-- end of families -->\n"];

/// Holds that models/README.md has `table`. The worst figures differ in their last digits from machine to machine, so only what
/// holds is compared.
fn kept(table: &str) {
    let path = root().join("models/README.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(MARKS[0]).expect("the table's first mark");
    let (there, after) = rest.split_once(MARKS[1]).expect("the table's last mark");
    if std::env::var_os("ATOM_UPDATE").is_some() {
        let page = [before, MARKS[0], table, MARKS[1], after].concat();
        std::fs::write(&path, page).unwrap();
        return;
    }
    let plain = |table: &str| -> String {
        let cells = table.split(" (").map(|part| match part.split_once(')') {
            Some((_, rest)) => rest,
            None => part,
        });
        cells.collect()
    };
    assert_eq!(
        plain(there),
        plain(table),
        "ATOM_UPDATE=1 cargo test --release --workspace --locked --test families"
    );
}
