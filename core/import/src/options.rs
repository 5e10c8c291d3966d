//! What a caller says of an import.

use std::path::PathBuf;

use super::graphs::Wanted;
use super::layout::Layout;
/// What is imported, and how.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The folders. Several make one pack, such as a SigLIP for search and a SmolVLM for captions.
    pub folders: Vec<PathBuf>,
    /// The pack's folder, which must not exist.
    pub pack: PathBuf,
    /// The tasks to serve; all that the folders can, if absent.
    pub tasks: Option<Vec<For>>,
    /// The precisions to take.
    pub precision: Wanted,
    /// Whether pictures are cut into tiles; as the model's configuration says, if absent.
    pub tiles: Option<bool>,
    /// The layout to take where a folder has several.
    pub layout: Option<Layout>,
    /// Make hard links of weights in place of copies, where that is possible.
    pub link: bool,
    /// Take graphs as they are. Otherwise attention, activations and logits are rewritten to faster operators where the rewritten
    /// graph is seen to compute the same.
    pub keep_graphs: bool,
    /// ONNX Runtime's library; looked for in the usual places when absent.
    pub ort_library: Option<PathBuf>,
    /// Threads of ONNX Runtime's pool; every core when absent.
    pub threads: Option<usize>,
}

/// A task that a pack is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Frames to stored segments.
    Index,
    /// Words to time ranges.
    Search,
    /// A picture to a sentence.
    Caption,
    /// A picture and a question to an answer.
    Ask,
}

impl For {
    /// The task called `name`. `assemble` is what serves search.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "index" => Self::Index,
            "search" | "assemble" => Self::Search,
            "caption" => Self::Caption,
            "ask" => Self::Ask,
            _ => return None,
        })
    }
}
