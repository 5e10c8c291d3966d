//! A folder of `fixtures/exports`, imported and opened, beside what Hugging Face's classes make of the same pictures and texts.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use atom_core::control::{Control, TextOptions};
use atom_core::features::Features;
use atom_core::language::{LanguageModel, Part};
use atom_core::pack::{ModuleKind, PreprocessSpec, Source};
use atom_core::runtime::Runtime;
use atom_core::task::Statement;
use atom_core::vision::prepare;
use atom_import::{Form, ImportOptions, Wanted, import};
use serde_json::Value;

use crate::exports::{expected, export, input, npy};
use crate::{ort_library, runtime_options, temporary};

/// Token ids.
///
/// # Panics
/// When it is no list of them.
pub fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A text.
///
/// # Panics
/// When it is none.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The elements of a list; none of anything else.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// An imported folder, opened.
pub struct Imported {
    /// Its name.
    pub name: &'static str,
    /// What Hugging Face's classes make.
    pub want: Value,
    /// The pack.
    pub runtime: Runtime,
    /// Bounds nothing.
    pub control: Control,
    _folder: tempfile::TempDir,
}

impl std::fmt::Debug for Imported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imported")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Imported {
    /// Imports folder `name`, and adds `prompts` by name to the captioner's.
    pub fn new(name: &'static str, form: Option<Form>, tiles: Option<bool>) -> Self {
        let folder = temporary();
        let pack = folder.path().join("pack");
        let options = ImportOptions {
            folders: vec![export(name).join("export")],
            pack: pack.clone(),
            precision: Wanted {
                all: form,
                ..Wanted::default()
            },
            tiles,
            ort_library: Some(ort_library()),
            ..ImportOptions::default()
        };
        import(&options, &Control::default()).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let want = expected(name);
        add_prompts(&pack, &want);
        let mut options = runtime_options(&pack);
        options.artifacts = Some(folder.path().join("artifacts"));
        Self {
            name,
            want,
            runtime: Runtime::open(&options).unwrap_or_else(|e| panic!("{name}: {e:?}")),
            control: Control::default(),
            _folder: folder,
        }
    }

    /// Shape and numbers of a file of the reference.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn array(&self, file: &Value) -> (Vec<usize>, Vec<f32>) {
        npy(&export(self.name).join("expected").join(text(file)))
    }

    /// `[module.preprocess]` of the module that reads pictures.
    pub fn preprocess(&self) -> &PreprocessSpec {
        let modules = &self.runtime.pack().manifest().modules;
        let tower = modules
            .iter()
            .find(|module| module.kind == ModuleKind::VisualEncoder);
        tower.unwrap().preprocess.as_ref().unwrap()
    }

    /// Whether the encoder reads of `names` what it read when the values were made.
    pub fn same_pixels(&self, names: &[&str], source: Source, file: &Value) -> bool {
        let mut made = Vec::new();
        for name in names {
            let picture = input(name);
            made.extend(
                prepare(self.preprocess(), source, &picture.as_frame().unwrap())
                    .unwrap()
                    .values,
            );
        }
        let (_, want) = self.array(file);
        // A video goes through another library's resize: README.md of the exports gives one grey step.
        let step = match source {
            Source::Still => 0.0,
            Source::Video => 1.01 * 2.0 / 255.0,
        };
        made.len() == want.len() && made.iter().zip(&want).all(|(a, b)| (a - b).abs() <= step)
    }

    /// What the captioner's encoder makes of picture `name`, `ns` into a video.
    ///
    /// # Panics
    /// When it fails.
    pub fn features(&self, name: &str, source: Source, ns: i64) -> Features {
        let picture = input(name);
        let frame = picture.as_frame().unwrap();
        let features = self
            .runtime
            .observe_for_text(&frame, source, &self.control)
            .unwrap_or_else(|e| panic!("{}: {name}: {e:?}", self.name));
        Features {
            time_ns: features.time_ns.map(|_| ns),
            ..features
        }
    }

    /// The pack's caption.
    ///
    /// # Panics
    /// When it fails.
    pub fn caption(&self, frames: &[Features], options: TextOptions) -> Statement {
        let frames: Vec<&Features> = frames.iter().collect();
        self.runtime
            .caption(&frames, &options, &self.control, &mut go_on)
            .unwrap_or_else(|e| panic!("{}: {e:?}", self.name))
    }

    /// The pack's answer.
    ///
    /// # Panics
    /// When it fails.
    pub fn ask(&self, frames: &[Features], question: &str, options: &TextOptions) -> Statement {
        let frames: Vec<&Features> = frames.iter().collect();
        self.runtime
            .ask(&frames, question, options, &self.control, &mut go_on)
            .unwrap_or_else(|e| panic!("{}: {e:?}", self.name))
    }

    /// The first logits of a prompt with these pictures, where the decoder reads rows in its prompt or attends to them.
    pub fn first_logits(&self, frames: &[Features], said: &Statement) -> Option<Vec<f32>> {
        let captioner = self.runtime.pack().manifest().captioner.as_ref()?;
        if captioner.encoder.is_some() {
            return None;
        }
        let decoder = captioner.language_decoder.as_deref()?;
        let words = captioner.token_embedding.as_deref();
        let model = LanguageModel::new(self.runtime.registry(), decoder, words).unwrap();
        let mut map = frames.first()?.map.clone();
        for frame in &frames[1..] {
            map.data.extend(&frame.map.data);
            map.rows += frame.map.rows;
        }
        let start = self.runtime.pack().module(decoder).ok()?;
        let start = &start.decoder.as_ref()?.start;
        let generation = match &captioner.image_token {
            None => {
                let mut generation = model.start(24, &self.control).unwrap();
                generation.attend(&map, &self.control).unwrap();
                generation.feed(start, &self.control).unwrap();
                generation
            }
            Some(token) => {
                let make = || Ok(map.clone());
                let part = Part::Marked {
                    ids: &said.prompt_ids,
                    marker: model.tokenizer().token_to_id(token)?,
                    identity: [0; 32],
                    make: &make,
                };
                model.begin(&[part], 24, &self.control).unwrap()
            }
        };
        Some(generation.logits().to_vec())
    }
}

fn go_on(_: &str) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// 24 tokens, as the references have.
pub fn limits() -> TextOptions {
    TextOptions {
        max_tokens: Some(24),
        ..TextOptions::default()
    }
}

/// The name of the prompt of a case that no task's own prompt makes.
pub fn prompt_name(case: &Value) -> String {
    text(&case["id"]).replace(['_', '.'], "-")
}

/// Cases whose words stand before or between pictures are prompts of the pack.
fn add_prompts(pack: &Path, want: &Value) {
    let path = pack.join("pack.toml");
    let mut manifest = std::fs::read_to_string(&path).unwrap();
    let mut prompts = String::new();
    for case in list(&want["cases"]).filter(|case| case["content"].is_array()) {
        let words: String = list(&case["content"])
            .map(|part| part["text"].as_str().unwrap_or("<image>"))
            .collect();
        if words.contains("<image>") && !words.starts_with("<image>") {
            let _ = writeln!(prompts, "{} = {words:?}", prompt_name(case));
        }
    }
    if !prompts.is_empty() {
        manifest += &format!("\n[tasks.caption.prompts]\n{prompts}");
        std::fs::write(&path, manifest).unwrap();
    }
}

/// Whether `said` has the tokens of `answer` up to its first close call; the token that ended it may be missing.
pub fn same_tokens(said: &Statement, answer: &Value, margin: f64) -> bool {
    let want = ids(&answer["ids"]);
    let margins = answer.get("margin_after_processors");
    let margins = margins.or(answer.get("margin"));
    for (at, token) in want.iter().enumerate() {
        let near = margins.and_then(|margins| margins[at].as_f64());
        if near.is_some_and(|near| near < margin) {
            return true;
        }
        match said.token_ids.get(at) {
            Some(made) if made == token => {}
            None => return at + 1 == want.len(),
            Some(_) => return false,
        }
    }
    true
}
