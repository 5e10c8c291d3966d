//! The graphs of an export: which there are, in which precisions, and which of them is taken.

use std::collections::BTreeMap;

use atom_core::pack::Precision;
use atom_core::{Error, ErrorKind, Result};

/// What the names of files end in, after the graph's own name and before `.onnx`. Longer endings first.
const SUFFIXES: &[(&str, Form)] = &[
    ("_quantized", Form::Int8),
    ("_q4f16", Form::Q4F16),
    ("_q2f16", Form::Fewer),
    ("_q1f16", Form::Fewer),
    ("_uint8", Form::Int8),
    ("_int8", Form::Int8),
    ("_fp16", Form::Fp16),
    ("_bnb4", Form::Q4),
    ("_q4", Form::Q4),
    ("_q2", Form::Fewer),
    ("_q1", Form::Fewer),
];

/// A precision that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// 32-bit floats.
    Fp32,
    /// 16-bit floats.
    Fp16,
    /// 8-bit integers.
    Int8,
    /// 4-bit integers beside 32-bit floats.
    Q4,
    /// 4-bit integers beside 16-bit floats.
    Q4F16,
    /// Two bits or one. Taken only if there is nothing else.
    Fewer,
}

impl Form {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
            Self::Q4 => "q4",
            Self::Q4F16 => "q4f16",
            Self::Fewer => "q2 or q1",
        }
    }

    /// The form called `name`.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Fp32, Self::Fp16, Self::Int8, Self::Q4, Self::Q4F16];
        all.into_iter().find(|form| form.name() == name)
    }

    /// Whether weights are integers.
    pub(crate) fn is_quantised(self) -> bool {
        !matches!(self, Self::Fp32 | Self::Fp16)
    }

    /// What pack.toml calls it.
    pub(crate) fn precision(self) -> Precision {
        match self {
            Self::Fp32 => Precision::Fp32,
            Self::Fp16 => Precision::Fp16,
            Self::Int8 => Precision::Int8,
            Self::Q4 | Self::Q4F16 | Self::Fewer => Precision::Int4,
        }
    }

    /// The forms that come nearest to this one, best first.
    fn nearest(self) -> [Self; 6] {
        use Form::{Fewer, Fp16, Fp32, Int8, Q4, Q4F16};
        match self {
            Fp32 => [Fp32, Fp16, Int8, Q4, Q4F16, Fewer],
            Fp16 => [Fp16, Fp32, Int8, Q4F16, Q4, Fewer],
            Int8 => [Int8, Fp16, Fp32, Q4, Q4F16, Fewer],
            Q4 => [Q4, Q4F16, Int8, Fp16, Fp32, Fewer],
            Q4F16 => [Q4F16, Q4, Fp16, Int8, Fp32, Fewer],
            Fewer => [Fewer, Q4, Q4F16, Int8, Fp16, Fp32],
        }
    }
}

/// The forms that a user asks for: one for all graphs, others for some.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// For every graph without a form of its own.
    pub all: Option<Form>,
    /// By the graph's name, such as `vision_encoder`.
    pub graphs: BTreeMap<String, Form>,
}

impl Wanted {
    /// Reads `q4`, or `q4,vision_encoder=fp16`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] naming the part that is none.
    pub fn parse(text: &str) -> Result<Self> {
        let mut wanted = Self::default();
        for part in text.split(',') {
            let (graph, form) = match part.split_once('=') {
                Some((graph, form)) => (Some(graph.trim()), form.trim()),
                None => (None, part.trim()),
            };
            let form = Form::named(form).ok_or_else(|| {
                Error::new(ErrorKind::InvalidArgument, format!("{form:?} is no precision"))
                    .remedy("give fp32, fp16, int8, q4 or q4f16, or one for a graph: q4,vision_encoder=fp16")
            })?;
            match graph {
                Some(graph) => {
                    wanted.graphs.insert(graph.to_owned(), form);
                }
                None => wanted.all = Some(form),
            }
        }
        Ok(wanted)
    }

    fn of(&self, graph: &str) -> Option<Form> {
        self.graphs.get(graph).copied().or(self.all)
    }
}

/// A graph's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GraphFile {
    /// Relative to the folder.
    pub(crate) file: String,
    /// What its name says of its precision.
    pub(crate) form: Form,
}

/// A graph, by its own name, in the file that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) graph: String,
    pub(crate) file: GraphFile,
    /// The best one there is, if that is another.
    pub(crate) best: Option<GraphFile>,
    /// Why this one, for the report.
    pub(crate) why: String,
}

/// The graphs of an export, by name, each in the precisions there are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Graphs(BTreeMap<String, Vec<GraphFile>>);

/// A file's graph name and form.
pub(crate) fn split(file: &str) -> Option<(&str, Form)> {
    let name = file.rsplit('/').next()?.strip_suffix(".onnx")?;
    let found = SUFFIXES.iter().find_map(|(suffix, form)| {
        let graph = name.strip_suffix(suffix)?;
        (!graph.is_empty()).then_some((graph, *form))
    });
    Some(found.unwrap_or((name, Form::Fp32)))
}

impl Graphs {
    pub(crate) fn of<'a>(files: impl IntoIterator<Item = &'a String>) -> Self {
        let mut graphs: BTreeMap<String, Vec<GraphFile>> = BTreeMap::new();
        for file in files {
            if let Some((graph, form)) = split(file) {
                let file = file.clone();
                graphs
                    .entry(graph.to_owned())
                    .or_default()
                    .push(GraphFile { file, form });
            }
        }
        for files in graphs.values_mut() {
            // `_int8` before `_quantized` and `_uint8`.
            files.sort_by(|a, b| (a.form, &a.file).cmp(&(b.form, &b.file)));
        }
        Self(graphs)
    }

    /// One graph of a name and file that the export itself gives.
    pub(crate) fn insert(&mut self, graph: &str, file: &str) {
        let form = split(file).map_or(Form::Fp32, |(_, form)| form);
        let file = GraphFile {
            file: file.to_owned(),
            form,
        };
        self.0.entry(graph.to_owned()).or_default().push(file);
    }

    pub(crate) fn has(&self, graph: &str) -> bool {
        self.0.contains_key(graph)
    }

    pub(crate) fn names(&self) -> String {
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        names.join(", ")
    }

    /// The file of `graph` to take.
    pub(crate) fn choose(&self, graph: &str, wanted: &Wanted) -> Option<Chosen> {
        let files = self.0.get(graph)?;
        let asked = wanted.of(graph);
        let order = asked.unwrap_or(Form::Fp32).nearest();
        let place = |file: &&GraphFile| order.iter().position(|form| *form == file.form);
        let file = files.iter().min_by_key(place)?;
        let best = files.iter().min_by_key(|file| {
            Form::Fp32
                .nearest()
                .iter()
                .position(|form| *form == file.form)
        })?;
        let why = match asked {
            Some(asked) if asked == file.form => "asked for".to_owned(),
            Some(asked) => format!("there is no {}; the nearest there is", asked.name()),
            None if files.len() == 1 => "the only one".to_owned(),
            None => "the best there is".to_owned(),
        };
        Some(Chosen {
            graph: graph.to_owned(),
            best: (best != file).then(|| best.clone()),
            file: file.clone(),
            why,
        })
    }

    /// As [`choose`](Self::choose), for a graph that `what` needs.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming the graph and those there are.
    pub(crate) fn need(
        &self,
        graph: &str,
        wanted: &Wanted,
        folder: &str,
        what: &str,
    ) -> Result<Chosen> {
        self.choose(graph, wanted).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "{folder} has no graph {graph}.onnx, which {what} needs; it has {}",
                    self.names()
                ),
            )
            .remedy("copy or export that graph, too")
        })
    }
}
