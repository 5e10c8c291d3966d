//! What a session is loaded from, and how.

use std::path::PathBuf;

use super::env::Environment;
use super::provider::Target;

/// Which form of the graph to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GraphForm {
    /// As exported: optimised during the load, weights repacked into anonymous memory.
    Source,
    /// As exported; the optimised, prepacked form is also written.
    SourceAndSave {
        /// The file of the form's graph; its weights go to a file of the same name with `.data` appended. Neither may exist.
        to: PathBuf,
        /// Loaded in place of the model's file, whose weights it shares.
        graph: Option<Vec<u8>>,
    },
    /// This graph in place of the model's file, whose weights it shares: optimised during the load.
    InMemory(Vec<u8>),
    /// A form that `SourceAndSave` wrote on this machine: no optimisation, weights mapped from the file.
    Prepacked,
    /// As exported; what the provider compiled is also written, as a graph to this path and the compiled parts beside it.
    /// Neither may exist.
    SourceAndCompile(PathBuf),
    /// A form that `SourceAndCompile` wrote, for the same kind of device. Only the provider that made it can load it.
    Compiled,
}

impl GraphForm {
    /// What is loaded in place of the model's file.
    pub(super) fn graph(&self) -> Option<&[u8]> {
        match self {
            Self::SourceAndSave { graph, .. } => graph.as_deref(),
            Self::InMemory(graph) => Some(graph),
            _ => None,
        }
    }
}

/// Which threads share the work of a run with its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Threads {
    /// Those of the environment, which all such sessions share; they sleep whenever there is nothing to do.
    #[default]
    Shared,
    /// As many of the session's own. Within a run they stay awake for up to a tenth of a millisecond between two nodes,
    /// between runs they sleep. For graphs of hundreds of small nodes, where waking costs more than the node.
    Own,
}

/// What to load.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The open environment.
    pub environment: &'static Environment,
    /// The `.onnx` file; external data is found beside it.
    pub model: PathBuf,
    /// The form it has.
    pub form: GraphForm,
    /// Who works on it.
    pub threads: Threads,
    /// What runs it; the processor gets what that leaves.
    pub target: Target,
    /// Sizes for dimensions that the graph leaves open, by name.
    pub fixed: Vec<(String, usize)>,
    /// Leave ONNX Runtime's settings as they come, but for the form and the target: to compare with.
    pub untuned: bool,
    /// Time every node, for [`Session::profile`](super::Session::profile): costs several microseconds each. The file's name begins like this.
    pub profile: Option<PathBuf>,
}
