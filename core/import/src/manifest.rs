//! The text of a `pack.toml`.

use std::collections::BTreeMap;
use std::fmt::Write;

use atom_core::Result;
use atom_core::ort::{Dim, Port};
use atom_core::pack::{FileRef, Manifest};

use crate::decoder::float;
use crate::place::{Files, Site};
use crate::plan::{Captioner, Decoder, Extra, Module, Plan, Preprocess, Step, Tasks, Words};

/// A tensor of a golden run.
#[derive(Debug, Clone)]
pub(crate) struct GoldenTensor {
    pub(crate) port: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) file: FileRef,
}

/// A module's golden run.
#[derive(Debug, Clone)]
pub(crate) struct Golden {
    pub(crate) cosine: f64,
    pub(crate) inputs: Vec<GoldenTensor>,
    pub(crate) outputs: Vec<GoldenTensor>,
}

/// Writes the manifest of `plan`, whose other files are written.
///
/// # Errors
/// What Atom finds wrong with it; what writing gives.
pub(crate) fn write(
    site: &mut Site,
    plan: &Plan,
    goldens: &BTreeMap<&'static str, Golden>,
) -> Result<()> {
    let text = text(plan, &site.files, goldens);
    Manifest::parse(&text).map_err(|e| e.context("pack.toml as it was made"))?;
    site.bytes("pack.toml", text.as_bytes())
}

/// The text of `plan`'s manifest, whose files are `files`.
pub(crate) fn text(plan: &Plan, files: &Files, goldens: &BTreeMap<&'static str, Golden>) -> String {
    let mut out = Text {
        text: String::new(),
        files,
    };
    out.line("# Written by `atom pack import`.");
    out.line("schema = 1");
    out.pair("id", &quoted(&plan.id));
    out.pair("version", &quoted("1.0.0"));
    out.pair("licence", &quoted(&plan.licence));
    out.pair("description", &quoted(&plan.description));
    out.tasks(&plan.tasks);
    if let Some(captioner) = &plan.captioner {
        out.captioner(captioner);
    }
    for module in &plan.modules {
        out.module(module);
        if let Some(golden) = goldens.get(module.id) {
            out.golden(golden);
        }
    }
    out.text
}

/// A basic string of TOML.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn list<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    let items: Vec<String> = items.iter().map(text).collect();
    format!("[{}]", items.join(", "))
}

fn port(port: &Port, role: Option<&str>) -> String {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => size.to_string(),
        Dim::Symbolic(name) => quoted(name),
    };
    let role = role.map_or_else(String::new, |role| format!(", role = {}", quoted(role)));
    format!(
        "{{ name = {}, dtype = \"{}\", shape = {}{role} }}",
        quoted(&port.name),
        port.dtype,
        list(&port.shape, dim)
    )
}

fn step(step: &Step) -> String {
    match step {
        Step::Squash { width, height } => {
            format!("{{ do = \"squash\", width = {width}, height = {height} }}")
        }
        Step::ShortestEdge {
            size,
            longest: None,
        } => format!("{{ do = \"shortest-edge\", size = {size} }}"),
        Step::ShortestEdge {
            size,
            longest: Some(longest),
        } => {
            format!("{{ do = \"shortest-edge\", size = {size}, longest = {longest} }}")
        }
        Step::CenterCrop { width, height } => {
            format!("{{ do = \"center-crop\", width = {width}, height = {height} }}")
        }
        Step::LongestEdge { size, even, most } => {
            format!("{{ do = \"longest-edge\", size = {size}, even = {even}, most = {most} }}")
        }
        Step::Tiles { size } => format!("{{ do = \"tiles\", size = {size}, whole = \"last\" }}"),
    }
}

struct Text<'a> {
    text: String,
    files: &'a Files,
}

impl Text<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn table(&mut self, name: &str) {
        self.line(&format!("\n{name}"));
    }

    fn pair(&mut self, key: &str, value: &str) {
        self.line(&format!("{key} = {value}"));
    }

    fn lines<T>(&mut self, key: &str, items: &[T], text: impl Fn(&T) -> String) {
        self.line(&format!("{key} = ["));
        for item in items {
            self.line(&format!("  {},", text(item)));
        }
        self.line("]");
    }

    fn file(&self, target: &str) -> String {
        let known = self.files.get(target);
        let (sha256, bytes) = known.map_or(("", 0), |file| (file.sha256.as_str(), file.bytes));
        format!(
            "{{ file = {}, sha256 = \"{sha256}\", bytes = {bytes} }}",
            quoted(target)
        )
    }

    fn tasks(&mut self, tasks: &Tasks) {
        if let Some(encoder) = tasks.index {
            self.table("[tasks.index]");
            self.pair("visual_encoder", &quoted(encoder));
        }
        if let Some(search) = &tasks.search {
            self.table("[tasks.search]");
            self.pair("text_encoder", &quoted(search.text_encoder));
            self.pair("query_template", &quoted(&search.query_template));
            self.pair("min_score", &float(search.min_score));
        }
        if let Some(caption) = &tasks.caption {
            self.table("[tasks.caption]");
            self.pair("prompt", &quoted(&caption.prompt));
            if !caption.named.is_empty() {
                self.table("[tasks.caption.prompts]");
                for (name, prompt) in &caption.named {
                    let key = if name.is_empty() { "\"\"" } else { name };
                    self.pair(key, &quoted(prompt));
                }
            }
        }
        if let Some(ask) = &tasks.ask {
            self.table("[tasks.ask]");
            self.pair("prompt", &quoted(ask));
        }
    }

    fn captioner(&mut self, captioner: &Captioner) {
        self.table("[captioner]");
        self.pair("kind", "\"vlm\"");
        self.pair("visual_encoder", &quoted(captioner.visual_encoder));
        for (key, id) in [
            ("connector", captioner.connector),
            ("token_embedding", captioner.token_embedding),
            ("encoder", captioner.encoder),
            ("language_decoder", Some(captioner.language_decoder)),
            ("image_token", captioner.image_token.as_deref()),
            ("video_token", captioner.video_token.as_deref()),
            ("content", captioner.content),
        ] {
            if let Some(id) = id {
                self.pair(key, &quoted(id));
            }
        }
        if let Some(add) = captioner.add_special_tokens {
            self.pair("add_special_tokens", &add.to_string());
        }
        let files = [
            ("image_prompt", &captioner.image_prompt),
            ("video_prompt", &captioner.video_prompt),
        ];
        if files.iter().any(|(_, file)| file.is_some()) {
            self.table("[captioner.files]");
            for (key, file) in files {
                if let Some(Extra { target, .. }) = file {
                    let file = self.file(target);
                    self.pair(key, &file);
                }
            }
        }
        if let Some((fps, most)) = captioner.video {
            self.table("[captioner.video]");
            self.pair("fps", &float(fps));
            self.pair("max_frames", &most.to_string());
        }
    }

    fn module(&mut self, module: &Module) {
        self.table("[[module]]");
        self.pair("id", &quoted(module.id));
        self.pair("kind", &quoted(module.kind));
        let model = self.file(&module.source.target);
        self.pair("model", &model);
        let data = module.source.data_targets();
        if !data.is_empty() {
            let files: Vec<String> = data.iter().map(|target| self.file(target)).collect();
            self.lines("data", &files, String::clone);
        }
        self.pair("precision", &quoted(module.precision.name()));
        self.pair("load", "\"prepacked\"");
        if !module.inputs.is_empty() {
            self.lines("inputs", &module.inputs, |own| port(own, None));
        }
        if !module.outputs.is_empty() {
            self.lines("outputs", &module.outputs, |(own, role)| port(own, *role));
        }
        if let Some(preprocess) = &module.preprocess {
            self.preprocess(preprocess);
        }
        if let Some(words) = &module.words {
            self.words(words);
        }
        if let Some(decoder) = &module.decoder {
            self.decoder(decoder);
        }
    }

    fn preprocess(&mut self, preprocess: &Preprocess) {
        self.table("[module.preprocess]");
        self.pair("width", &preprocess.width.to_string());
        self.pair("height", &preprocess.height.to_string());
        self.pair("rescale", &float(preprocess.rescale));
        self.pair("mean", &list(&preprocess.mean, |x| float(*x)));
        self.pair("std", &list(&preprocess.std, |x| float(*x)));
        self.pair("resample", &quoted(preprocess.resample));
        self.lines("steps", &preprocess.steps, step);
        if let Some(mask) = &preprocess.pixel_mask {
            self.pair("pixel_mask", &quoted(mask));
        }
        if let Some(video) = &preprocess.video {
            self.table("[module.preprocess.video]");
            self.lines("steps", &video.steps, step);
            self.pair("resample", &quoted(video.resample));
        }
    }

    fn words(&mut self, words: &Words) {
        self.table("[module.tokenizer]");
        let file = self.file(&words.file.target);
        self.pair("file", &file);
        self.pair("max_tokens", &words.max_tokens.to_string());
        if let Some(length) = words.pad_to {
            self.pair("pad_to", &length.to_string());
        }
        if let Some(id) = words.pad_id {
            self.pair("pad_id", &id.to_string());
        }
        if words.lowercase {
            self.pair("lowercase", "true");
        }
        if let Some(id) = words.end_id {
            self.pair("end_id", &id.to_string());
        }
    }

    fn decoder(&mut self, decoder: &Decoder) {
        self.table("[module.decoder]");
        for (key, number) in [
            ("layers", decoder.layers),
            ("kv_heads", decoder.kv_heads),
            ("head_dim", decoder.head_dim),
            ("vocab", decoder.vocab),
            ("context", decoder.context),
        ] {
            self.pair(key, &number.to_string());
        }
        self.pair(
            "kv",
            if decoder.shared {
                "\"shared\""
            } else {
                "\"concat\""
            },
        );
        self.pair("kv_dtype", &quoted(decoder.kv_dtype));
        if let Some(bos) = decoder.bos {
            self.pair("bos", &bos.to_string());
        }
        self.pair("eos", &list(&decoder.eos, u32::to_string));
        if !decoder.start.is_empty() {
            self.pair("start", &list(&decoder.start, u32::to_string));
        }
        if let Some(template) = &decoder.chat_template {
            let file = self.file(&template.target);
            self.pair("chat_template", &file);
        }
        if let Some(rows) = decoder.cached_rows {
            self.pair("cached_rows", &rows.to_string());
        }
        if decoder.first_position > 0 {
            self.pair("first_position", &decoder.first_position.to_string());
        }
        if !decoder.exact_prefix {
            self.pair("exact_prefix", "false");
        }
        if !decoder.ports.is_empty() {
            self.table("[module.decoder.ports]");
            for (key, name) in &decoder.ports {
                self.pair(key, &quoted(name));
            }
        }
        if !decoder.generation.is_empty() {
            self.table("[module.decoder.generation]");
            for (key, value) in &decoder.generation {
                self.pair(key, value);
            }
        }
    }

    fn golden(&mut self, golden: &Golden) {
        self.table("[module.golden]");
        self.pair("cosine", &float(golden.cosine));
        for (key, tensors) in [("inputs", &golden.inputs), ("outputs", &golden.outputs)] {
            self.lines(key, tensors, |tensor| {
                format!(
                    "{{ port = {}, shape = {}, file = {{ file = {}, sha256 = \"{}\", bytes = {} }} }}",
                    quoted(&tensor.port),
                    list(&tensor.shape, usize::to_string),
                    quoted(&tensor.file.file),
                    tensor.file.sha256,
                    tensor.file.bytes
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_survives_its_quotes() {
        for text in [
            "",
            "plain",
            "a \"b\" \\ c",
            "two\nlines\t\r",
            "\u{1}\u{7f}",
            "日本 🚲",
        ] {
            let parsed: toml::Table =
                toml::from_str(&format!("x = {}", quoted(text))).unwrap_or_default();
            assert_eq!(parsed.get("x").and_then(|x| x.as_str()), Some(text));
        }
    }
}
