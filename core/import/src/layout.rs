//! Which kind of export a folder holds.

use std::collections::BTreeSet;

use atom_core::{Error, ErrorKind, Result};

use crate::config::Document;
use crate::folder::Folder;
use crate::graphs::Graphs;

/// A way in which exporters lay out a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layout {
    /// onnxruntime-genai: `genai_config.json` names the graphs.
    Genai,
    /// The exporter of transformers 5: `export.json` names the graphs.
    Native,
    /// transformers.js and onnx-community: graphs in `onnx/`, one file for each precision.
    TransformersJs,
    /// Hugging Face Optimum: graphs beside `config.json`.
    Optimum,
}

impl Layout {
    const ALL: [Self; 4] = [
        Self::Genai,
        Self::Native,
        Self::TransformersJs,
        Self::Optimum,
    ];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Genai => "genai",
            Self::Native => "transformers",
            Self::TransformersJs => "transformers.js",
            Self::Optimum => "optimum",
        }
    }

    /// The layout called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.name() == name)
    }
}

/// What a folder holds.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) layout: Layout,
    pub(crate) graphs: Graphs,
    /// `genai_config.json` or `export.json`.
    pub(crate) index: Option<Document>,
}

/// One layout of a folder, and its files.
struct Candidate {
    layout: Layout,
    files: Vec<String>,
    index: Option<Document>,
    /// The graphs that the index names.
    named: Vec<(String, String)>,
}

/// Finds the layout of `folder`; `asked` chooses among several.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a folder without graphs, [`ErrorKind::Unsupported`] for one of another format,
/// [`ErrorKind::InvalidArgument`] listing the layouts if there are two and none is asked for.
pub(crate) fn find(folder: &Folder, asked: Option<Layout>) -> Result<Found> {
    let mut candidates = candidates(folder)?;
    if let Some(asked) = asked {
        candidates.retain(|candidate| candidate.layout == asked);
    }
    if candidates.len() > 1 {
        return Err(several(folder, &candidates));
    }
    let Some(found) = candidates.pop() else {
        return Err(nothing(folder, asked));
    };
    let mut graphs = Graphs::of(&found.files);
    if !found.named.is_empty() {
        graphs = Graphs::default();
        for (name, file) in &found.named {
            graphs.insert(name, file);
        }
    }
    Ok(Found {
        layout: found.layout,
        graphs,
        index: found.index,
    })
}

fn candidates(folder: &Folder) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    let mut claimed = BTreeSet::new();
    for (layout, file) in [
        (Layout::Genai, "genai_config.json"),
        (Layout::Native, "export.json"),
    ] {
        let Some(index) = folder.document(file)? else {
            continue;
        };
        let named = match layout {
            Layout::Genai => genai_graphs(&index)?,
            _ => native_graphs(&index)?,
        };
        // An export.json of another format is none of ours.
        if named.is_empty() {
            continue;
        }
        claimed.extend(named.iter().map(|(_, file)| file.clone()));
        found.push(Candidate {
            layout,
            files: named.iter().map(|(_, file)| file.clone()).collect(),
            index: Some(index),
            named,
        });
    }
    // A further export inside of the folder.
    for file in folder.files() {
        if let Some(inner) = file.strip_suffix("/genai_config.json") {
            let inside =
                |file: &&String| file.starts_with(&format!("{inner}/")) && file.ends_with(".onnx");
            let files: Vec<String> = folder.files().iter().filter(inside).cloned().collect();
            claimed.extend(files.iter().cloned());
            found.push(Candidate {
                layout: Layout::Genai,
                files,
                index: None,
                named: Vec::new(),
            });
        }
    }
    let graphs = folder.files().iter().filter(|file| file.ends_with(".onnx"));
    let graphs: Vec<&String> = graphs.filter(|file| !claimed.contains(*file)).collect();
    let flat: Vec<String> = graphs
        .iter()
        .filter(|file| !file.contains('/'))
        .map(|&file| file.clone())
        .collect();
    let in_onnx = |file: &&&String| file.starts_with("onnx/");
    let nested: Vec<String> = graphs
        .iter()
        .filter(in_onnx)
        .map(|&file| file.clone())
        .collect();
    let part = folder.above().is_some();
    for (layout, files) in [(Layout::TransformersJs, nested), (Layout::Optimum, flat)] {
        if files.is_empty() {
            continue;
        }
        let layout = if part { Layout::TransformersJs } else { layout };
        found.push(Candidate {
            layout,
            files: one_place(folder, files)?,
            index: None,
            named: Vec::new(),
        });
    }
    // Only an export inside of the folder, and nothing else: that folder is meant.
    if let [only] = &found[..]
        && only.layout == Layout::Genai
        && only.index.is_none()
    {
        let inner = only
            .files
            .first()
            .and_then(|file| file.rsplit_once('/'))
            .map_or("", |(inner, _)| inner);
        let what = format!("{} holds an export in {inner}", folder.shown().display());
        return Err(Error::new(ErrorKind::InvalidArgument, what)
            .remedy(format!("give {}", folder.show(inner))));
    }
    Ok(found)
}

/// The graphs in one folder, which must be the only one below `onnx/` if there are none in `onnx/` itself.
fn one_place(folder: &Folder, files: Vec<String>) -> Result<Vec<String>> {
    let place = |file: &String| {
        file.rsplit_once('/')
            .map_or(String::new(), |(place, _)| place.to_owned())
    };
    let places: BTreeSet<String> = files.iter().map(place).collect();
    let top = places
        .iter()
        .min_by_key(|place| place.matches('/').count())
        .cloned()
        .unwrap_or_default();
    let level = top.matches('/').count();
    let same: Vec<&String> = places
        .iter()
        .filter(|place| place.matches('/').count() == level)
        .collect();
    if same.len() > 1 {
        let names: Vec<&str> = same.iter().map(|place| place.as_str()).collect();
        let what = format!(
            "{} holds several exports: {}",
            folder.shown().display(),
            names.join(", ")
        );
        return Err(Error::new(ErrorKind::InvalidArgument, what).remedy(format!(
            "give one of them, such as {}",
            folder.show(names[0])
        )));
    }
    Ok(files
        .into_iter()
        .filter(|file| place(file) == top)
        .collect())
}

/// The graphs that `genai_config.json` names, by their part of the model.
fn genai_graphs(index: &Document) -> Result<Vec<(String, String)>> {
    let model = index.root().need("model", "it names the graphs")?;
    let mut named = Vec::new();
    for part in ["decoder", "vision", "embedding", "speech", "encoder"] {
        if let Some(node) = model.get(part)?
            && let Some(file) = node.get("filename")?
        {
            named.push((part.to_owned(), file.text()?.to_owned()));
        }
    }
    if named.is_empty() {
        return Err(model.missing("decoder.filename", "it names the decoder's graph"));
    }
    Ok(named)
}

/// The graphs that `export.json` names, if it is one of ONNX.
fn native_graphs(index: &Document) -> Result<Vec<(String, String)>> {
    let root = index.root();
    match root.get("export_format")? {
        Some(format) if format.text()? == "onnx" => {}
        _ => return Ok(Vec::new()),
    }
    let components = root.need("components", "it names the graphs")?;
    let named = components.entries()?.into_iter().map(|(name, component)| {
        let file = component.need("file", "it names the component's graph")?;
        Ok((name.to_owned(), file.text()?.to_owned()))
    });
    named.collect()
}

fn several(folder: &Folder, candidates: &[Candidate]) -> Error {
    let lines: Vec<String> = candidates
        .iter()
        .map(|candidate| {
            let first = candidate.files.first().map_or("", String::as_str);
            let more = candidate.files.len().saturating_sub(1);
            format!("{} ({first} and {more} more)", candidate.layout.name())
        })
        .collect();
    let inner = candidates
        .iter()
        .find(|candidate| candidate.layout == Layout::Genai && candidate.index.is_none());
    let inner = inner.and_then(|candidate| candidate.files.first()?.rsplit_once('/'));
    let inner = inner.map_or_else(String::new, |(inner, _)| {
        format!(", or give {}", folder.show(inner))
    });
    Error::new(
        ErrorKind::InvalidArgument,
        format!(
            "{} holds {} exports: {}",
            folder.shown().display(),
            candidates.len(),
            lines.join("; ")
        ),
    )
    .remedy(format!(
        "choose one with --layout {}{inner}",
        candidates[candidates.len() - 1].layout.name()
    ))
}

fn nothing(folder: &Folder, asked: Option<Layout>) -> Error {
    let shown = folder.shown().display();
    let ends = |ends: &str| {
        folder
            .files()
            .iter()
            .find(|file| file.to_ascii_lowercase().ends_with(ends))
    };
    if let Some(asked) = asked {
        let what = format!("{shown} holds no export of the layout {}", asked.name());
        return Error::new(ErrorKind::NotFound, what)
            .remedy("leave out --layout, or give another folder");
    }
    if let Some(file) = ends(".gguf") {
        let projector = folder.files().iter().any(|file| file.contains("mmproj"));
        let with = if projector { " with an mmproj" } else { "" };
        return Error::new(
            ErrorKind::Unsupported,
            format!("{} is a GGUF model{with}: llama.cpp's format, which ONNX Runtime cannot run", folder.show(file)),
        )
        .remedy(
            "use the ONNX export of the same model: on the Hugging Face Hub the repository's own onnx/ folder, or the one of \
             the same name in onnx-community",
        );
    }
    if let Some(file) = ends(".safetensors")
        .or_else(|| ends(".bin"))
        .or_else(|| ends(".pt"))
    {
        let what = format!("{shown} holds PyTorch weights ({file}) and no ONNX graph");
        return Error::new(ErrorKind::NotFound, what)
            .remedy("export the model first: optimum-cli export onnx --model FOLDER OUT");
    }
    Error::new(ErrorKind::NotFound, format!("{shown} holds no ONNX graph"))
        .remedy("give the folder that holds config.json and onnx/, or config.json and the graphs")
}
