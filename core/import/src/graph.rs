//! A graph's file: its ports, its operators, and where its weights are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use atom_core::onnx::{Dimension, ElementType, Model, Port as RawPort, Summary};
use atom_core::ort::{DType, Dim, Port};
use atom_core::{Error, ErrorKind, Result};

use crate::folder::Folder;
use crate::graphs::{Chosen, Form};
use crate::plan::{Cut, Source};

/// Operators of ONNX itself, and of ONNX for machine learning.
const OWN: [&str; 2] = ["ai.onnx", "ai.onnx.ml"];

/// A graph that was read. Its weights stay in the file.
#[derive(Debug)]
pub(crate) struct Graph {
    /// The file as the user knows it.
    pub(crate) shown: String,
    pub(crate) chosen: Chosen,
    pub(crate) summary: Summary,
    pub(crate) model: Model,
    file: PathBuf,
    data: Vec<(String, PathBuf)>,
    /// The same graph in the best precision there is, where that is another and the two are to be compared.
    best: Option<Box<Self>>,
}

impl Graph {
    /// Reads the chosen file of a graph, and sees that its weights are there.
    ///
    /// # Errors
    /// What [`Folder::locate`] and [`Model::read`] give; [`ErrorKind::BadModel`] naming weights that are missing, cut short or
    /// outside of the folder.
    pub(crate) fn read(folder: &Folder, chosen: Chosen) -> Result<Self> {
        let name = &chosen.file.file;
        let file = folder.locate(name)?;
        let shown = folder.show(name);
        let model = Model::read(&file).map_err(|e| renamed(e, &file, &shown))?;
        let place = |name: &str| {
            name.rsplit_once('/')
                .map_or(String::new(), |(place, _)| format!("{place}/"))
        };
        let context = |e: Error| e.context(&shown);
        let mut data = Vec::new();
        for (location, bytes) in model.external_files().map_err(context)? {
            let side = format!("{}{}", place(name), location.trim_start_matches("./"));
            let path = folder
                .locate(&side)
                .map_err(|e| e.context(format_args!("{shown} needs its weights")))?;
            let size = std::fs::metadata(&path)
                .map_err(|e| Error::io(&side, &e))?
                .len();
            if size < bytes {
                let what = format!(
                    "{} has {size} bytes, and {shown} needs {bytes}",
                    folder.show(&side)
                );
                return Err(Error::new(ErrorKind::BadModel, what)
                    .remedy("the file may be cut short: copy or download it again"));
            }
            data.push((location, path));
        }
        let summary = model.inspect().map_err(context)?;
        Ok(Self {
            best: None,
            shown,
            chosen,
            summary,
            model,
            file,
            data,
        })
    }

    /// As [`read`](Self::read), and if the file is quantised, the best one there is as well, to compare with.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn read_tower(folder: &Folder, chosen: Chosen) -> Result<Self> {
        let best = chosen
            .best
            .clone()
            .filter(|_| chosen.file.form.is_quantised());
        let mut graph = Self::read(folder, chosen.clone())?;
        if let Some(file) = best {
            let best = Chosen {
                file,
                best: None,
                ..chosen
            };
            graph.best = Some(Box::new(Self::read(folder, best)?));
        }
        Ok(graph)
    }

    /// What its file's name says of its precision.
    pub(crate) fn form(&self) -> Form {
        self.chosen.file.form
    }

    pub(crate) fn has_input(&self, name: &str) -> bool {
        self.summary.inputs.iter().any(|port| port.name == name)
    }

    pub(crate) fn has_output(&self, name: &str) -> bool {
        self.summary.outputs.iter().any(|port| port.name == name)
    }

    pub(crate) fn input_names(&self) -> Vec<&str> {
        self.summary
            .inputs
            .iter()
            .map(|port| port.name.as_str())
            .collect()
    }

    /// The input called `name`.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] naming the inputs there are, or a type that Atom has none for.
    pub(crate) fn input(&self, name: &str) -> Result<Port> {
        self.port("input", &self.summary.inputs, name)
    }

    /// The output called `name`.
    ///
    /// # Errors
    /// As [`input`](Self::input).
    pub(crate) fn output(&self, name: &str) -> Result<Port> {
        self.port("output", &self.summary.outputs, name)
    }

    fn port(&self, side: &str, ports: &[RawPort], name: &str) -> Result<Port> {
        let Some(port) = ports.iter().find(|port| port.name == name) else {
            let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            return Err(self.bad(
                format!("it has no {side} {name:?}; it has {}", names.join(", ")),
                "export the model with Optimum's names of ports",
            ));
        };
        self.typed(side, port)
    }

    /// All inputs.
    ///
    /// # Errors
    /// As [`input`](Self::input).
    pub(crate) fn inputs(&self) -> Result<Vec<Port>> {
        self.summary
            .inputs
            .iter()
            .map(|port| self.typed("input", port))
            .collect()
    }

    fn typed(&self, side: &str, port: &RawPort) -> Result<Port> {
        let dtype = port.element.and_then(dtype).ok_or_else(|| {
            let is = port.element.map_or_else(
                || "of no known type".to_owned(),
                |element| format!("{element:?}"),
            );
            self.bad(
                format!(
                    "{side} {:?} is {is}, and Atom's ports are f32, f16, i64, i32, u8, i8 or bool",
                    port.name
                ),
                "export the graph with such a port",
            )
        })?;
        let dims = port.shape.as_deref().unwrap_or_default().iter().enumerate();
        let dim = |(axis, dim): (usize, &Dimension)| match dim {
            Dimension::Fixed(size) if *size > 0 => Dim::Fixed(*size as usize),
            Dimension::Named(name) => Dim::Symbolic(name.clone()),
            _ if axis == 0 => Dim::Symbolic("batch_size".to_owned()),
            _ => Dim::Symbolic(format!("{}_dim_{axis}", port.name)),
        };
        Ok(Port {
            name: port.name.clone(),
            dtype,
            shape: dims.map(dim).collect(),
        })
    }

    /// An error about this graph.
    pub(crate) fn bad(&self, what: impl std::fmt::Display, remedy: &str) -> Error {
        Error::new(ErrorKind::BadModel, format!("{}: {what}", self.shown)).remedy(remedy)
    }

    /// An error about something that this graph needs and Atom does not have.
    pub(crate) fn unsupported(&self, what: impl std::fmt::Display, remedy: &str) -> Error {
        Error::new(ErrorKind::Unsupported, format!("{}: {what}", self.shown)).remedy(remedy)
    }

    /// Whether it multiplies in a way that depends on the whole input: dynamically quantised, so that the rows of a step change
    /// each other's results.
    pub(crate) fn quantised_by_input(&self) -> bool {
        let operators = self.summary.operators.keys();
        operators.into_iter().any(|operator| {
            operator.name == "DynamicQuantizeLinear" || operator.name == "DynamicQuantizeMatMul"
        })
    }

    /// Where the module's graph is from. It will lie in `group` of the pack, under the name of its own file.
    pub(crate) fn source(&self, group: &str, module: &str, cut: Option<Cut>) -> Source {
        let name = &self.chosen.file.file;
        let name = name.strip_prefix("onnx/").unwrap_or(name);
        let target = match &cut {
            Some(_) => format!("{group}/{module}.onnx"),
            None => format!("{group}/{name}"),
        };
        let known: BTreeMap<&str, ()> = OWN.into_iter().map(|domain| (domain, ())).collect();
        let foreign = self.summary.operators.iter();
        let foreign = foreign.filter(|(operator, _)| !known.contains_key(operator.domain.as_str()));
        Source {
            target,
            shown: self.shown.clone(),
            file: self.file.clone(),
            data: self.data.clone(),
            best: self
                .best
                .as_ref()
                .map(|best| Box::new(best.source(group, module, cut.clone()))),
            foreign: foreign.map(|(operator, _)| operator.to_string()).collect(),
            cut,
        }
    }
}

/// The error with the file's name as the user knows it.
fn renamed(e: Error, file: &std::path::Path, shown: &str) -> Error {
    let message = e.message().replace(&file.display().to_string(), shown);
    let renamed = Error::new(e.kind(), message);
    match e.remedy_text() {
        Some(remedy) => renamed.remedy(remedy),
        None => renamed,
    }
}

fn dtype(element: ElementType) -> Option<DType> {
    Some(match element {
        ElementType::FLOAT => DType::F32,
        ElementType::FLOAT16 => DType::F16,
        ElementType::INT64 => DType::I64,
        ElementType::INT32 => DType::I32,
        ElementType::UINT8 => DType::U8,
        ElementType::INT8 => DType::I8,
        ElementType::BOOL => DType::Bool,
        _ => return None,
    })
}
