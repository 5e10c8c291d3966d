//! What a worker is told, and what it answers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use atom_core::frame::{FrameFormat, PixelFormat};
use serde::{Deserialize, Serialize};

use crate::memory::Peak;

/// Who owns modules, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// Every subtask opens what it needs and drops it afterwards.
    Reload,
    /// Every kind of task keeps modules of its own.
    Unshared,
    /// One runtime.
    Shared,
}

/// What the worker is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub sharing: Sharing,
    pub pack: PathBuf,
    pub clips: Vec<Clip>,
    /// The keyframes of all clips, packed I420; absent: the files themselves are decoded and sampled.
    pub frames: Option<PathBuf>,
    /// An empty folder.
    pub store: PathBuf,
    /// Captions and answers read the features that indexing stored; else they start from the picture.
    pub features: bool,
    /// Watch the memory; times are then worthless.
    pub memory: bool,
    pub ort_library: Option<PathBuf>,
    pub threads: Option<usize>,
}

/// A video and what is wanted of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Clip {
    pub name: String,
    pub file: PathBuf,
    pub width: u32,
    pub height: u32,
    /// Of the keyframes in [`Job::frames`].
    pub times_ns: Vec<i64>,
    /// Where the first of them starts there.
    pub offset: u64,
    pub queries: Vec<String>,
    pub question: String,
    /// The time that is captioned and asked about.
    pub at_ns: i64,
}

impl Clip {
    /// Of its keyframes in the file. What the video says of its colours is left out, in every mode.
    pub fn format(&self) -> FrameFormat {
        FrameFormat::new(PixelFormat::I420, self.width, self.height)
    }
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    pub wall_s: f64,
    /// Seconds by what was done.
    pub phases_s: BTreeMap<String, f64>,
    /// Loads by module.
    pub loads: BTreeMap<String, u64>,
    pub peak: Peak,
    pub outputs: Outputs,
}

/// Everything the subtasks said, floats as their bits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    pub embeddings: Vec<Vec<u32>>,
    /// Per search: stream, time of the keyframe, score.
    pub hits: Vec<Vec<(String, i64, u32)>>,
    pub captions: Vec<Vec<u32>>,
    pub answers: Vec<Vec<u32>>,
    /// Captions and answers as text, in the order they came.
    pub texts: Vec<String>,
    /// Lengths of their prompts.
    pub prompt_tokens: Vec<usize>,
}
