//! `pack.toml`, schema 1.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::file_ref::FileRef;
use super::spec::ModuleSpec;
use crate::error::{Error, ErrorKind, Result};

/// A pack's manifest. Obtained by [`Manifest::parse`], so always valid.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format: 1.
    pub schema: u32,
    /// Name of the pack: `[a-z0-9-]+`.
    pub id: String,
    /// Version of the pack.
    pub version: String,
    /// SPDX expression.
    pub licence: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// The tasks the pack serves.
    #[serde(default)]
    pub tasks: TasksSpec,
    /// What makes captions and answers.
    pub captioner: Option<CaptionerSpec>,
    /// The modules, in the manifest's order.
    #[serde(rename = "module")]
    pub modules: Vec<ModuleSpec>,
}

/// What a pack may be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// Frames to stored segments.
    Index,
    /// Words to time ranges.
    Search,
    /// A picture to a sentence.
    Caption,
    /// A picture and a question to an answer.
    Ask,
    /// A script to a storyboard.
    Assemble,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Index,
        Self::Search,
        Self::Caption,
        Self::Ask,
        Self::Assemble,
    ];

    /// The name in manifests and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Search => "search",
            Self::Caption => "caption",
            Self::Ask => "ask",
            Self::Assemble => "assemble",
        }
    }
}

/// Tasks and the modules they go through; an absent one cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TasksSpec {
    /// Frames to features.
    pub index: Option<IndexTask>,
    /// Words to segments.
    pub search: Option<SearchTask>,
    /// A segment to a sentence.
    pub caption: Option<PromptTask>,
    /// A segment and a question to an answer.
    pub ask: Option<PromptTask>,
}

impl TasksSpec {
    /// The modules that indexing, searching or assembling goes through, in that order; none if the pack does not serve it. Those
    /// of captions and answers are known to the captioner.
    pub fn modules(&self, task: Task) -> Vec<&str> {
        match task {
            Task::Index => self.index.as_ref().map_or_else(Vec::new, |task| {
                let all = task.modules();
                all.map(String::as_str).collect()
            }),
            Task::Search | Task::Assemble => self
                .search
                .iter()
                .map(|task| task.text_encoder.as_str())
                .collect(),
            Task::Caption | Task::Ask => Vec::new(),
        }
    }

    /// The prompt of captions or answers.
    pub fn prompt(&self, task: Task) -> Option<&str> {
        let task = match task {
            Task::Caption => &self.caption,
            Task::Ask => &self.ask,
            _ => return None,
        };
        task.as_ref()?.prompt.as_deref()
    }

    /// Whether the pack has what `task` needs. Captions and answers need a captioner of a linked kind besides.
    pub fn has(&self, task: Task) -> bool {
        match task {
            Task::Index => self.index.is_some(),
            // The same modules serve both.
            Task::Search | Task::Assemble => self.search.is_some(),
            Task::Caption => self.caption.is_some(),
            Task::Ask => self.ask.is_some(),
        }
    }
}

/// The indexing task.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexTask {
    /// Module that encodes keyframes.
    pub visual_encoder: String,
    /// Modules that find things in them, each run once per keyframe.
    #[serde(default)]
    pub detectors: Vec<String>,
}

impl IndexTask {
    /// The identifiers of all its modules, in the order they are run.
    pub fn modules(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.visual_encoder).chain(&self.detectors)
    }
}

/// The search task.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchTask {
    /// Module that encodes queries.
    pub text_encoder: String,
    /// What the encoder is given; `{}` stands for the query.
    #[serde(default = "plain_template")]
    pub query_template: String,
    /// Cosine below which a segment is no match.
    pub min_score: f32,
}

impl Eq for SearchTask {}

fn plain_template() -> String {
    "{}".into()
}

/// A task of the captioner.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptTask {
    /// The prompt, for a kind of captioner that takes one.
    pub prompt: Option<String>,
    /// Captions only: further prompts, by the names that callers give.
    #[serde(default)]
    pub prompts: BTreeMap<String, String>,
}

/// When the rows that a captioner reads are made, and whether they are kept with their segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowsPolicy {
    /// At indexing; kept.
    Eager,
    /// When they are first asked for, of the keyframe's JPEG; kept.
    OnDemand,
    /// Each time they are asked for, of the keyframe's JPEG; never kept.
    Never,
}

/// What makes captions and answers. Which keys a captioner needs and which it refuses depends on its kind.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptionerSpec {
    /// The kind: `vlm`, or one that the program links, such as `grounded`.
    pub kind: String,
    /// The module whose output of role `features` the captioner reads; the index task's encoder when absent.
    pub visual_encoder: Option<String>,
    /// When the rows that the captioner reads are made and whether they are kept; see [`Manifest::rows_policy`].
    #[serde(default)]
    pub features: Option<RowsPolicy>,
    /// The encoder of an encoder-decoder model: reads the pictures' rows and the prompt's embeddings.
    pub encoder: Option<String>,
    /// The decoder's module.
    pub language_decoder: Option<String>,
    /// The module from token ids to the decoder's input embeddings.
    pub token_embedding: Option<String>,
    /// The module from features to the decoder's input embeddings.
    pub connector: Option<String>,
    /// The token that marks where the features go in a prompt.
    pub image_token: Option<String>,
    /// What the chat template writes where a video goes. Absent: the frames of a video are shown as so many pictures.
    pub video_token: Option<String>,
    /// What the chat template gets as a message's content; `text` when absent.
    pub content: Option<ContentForm>,
    /// Whether the tokenizer puts its own tokens around the prompt. Absent: only without a chat template.
    pub add_special_tokens: Option<bool>,
    /// Which frames of a video the prompt shows.
    pub video: Option<VideoSpec>,
    /// Further files, by the name the kind gives them.
    #[serde(default)]
    pub files: BTreeMap<String, FileRef>,
    /// Settings that only the kind knows.
    #[serde(default)]
    pub options: toml::Table,
}

/// What a chat template gets as a message's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentForm {
    /// A list of records with a `type`: `image`, `video`, or `text` with the words as `text`.
    Parts,
    /// One string, with the markers of pictures and videos in it.
    #[default]
    Text,
}

/// Which frames of a video the prompt shows.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoSpec {
    /// Frames per second.
    #[serde(default = "one_per_second")]
    pub fps: f32,
    /// The most frames.
    #[serde(default = "most_frames")]
    pub max_frames: usize,
}

fn one_per_second() -> f32 {
    1.0
}

fn most_frames() -> usize {
    64
}

impl Manifest {
    /// The module called `id`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming the modules there are.
    pub fn module(&self, id: &str) -> Result<&ModuleSpec> {
        let found = self.modules.iter().find(|module| module.id == id);
        found.ok_or_else(|| {
            let known: Vec<&str> = self.modules.iter().map(|m| m.id.as_str()).collect();
            Error::new(
                ErrorKind::NotFound,
                format!("pack {} has no module {id:?}", self.id),
            )
            .remedy(format!("it has {}", known.join(", ")))
        })
    }

    /// The module whose features the captioner reads: the captioner's own, else the index task's.
    pub fn captioner_encoder(&self) -> Option<&str> {
        let own = self.captioner.as_ref()?.visual_encoder.as_deref();
        let index = self.tasks.index.as_ref();
        own.or_else(|| index.map(|index| index.visual_encoder.as_str()))
    }

    /// When the captioner's rows are made. The default is [`RowsPolicy::OnDemand`] for a captioner with an encoder of its own, and
    /// [`RowsPolicy::Eager`] for one that reads the index task's encoder, whose rows cost no further run.
    pub fn rows_policy(&self) -> RowsPolicy {
        let given = self.captioner.as_ref().and_then(|spec| spec.features);
        given.unwrap_or(match self.captioner_has_own_encoder() {
            true => RowsPolicy::OnDemand,
            false => RowsPolicy::Eager,
        })
    }

    /// Whether rows that a store lacks are made of its keyframes.
    pub fn remakes_rows(&self) -> bool {
        self.captioner_encoder().is_some()
            && (self.captioner_has_own_encoder() || self.rows_policy() != RowsPolicy::Eager)
    }

    fn captioner_has_own_encoder(&self) -> bool {
        let index = self.tasks.index.as_ref();
        let index = index.map(|index| index.visual_encoder.as_str());
        self.captioner_encoder().is_some_and(|id| index != Some(id))
    }

    /// Every file the manifest names; one named twice comes twice.
    pub fn files(&self) -> impl Iterator<Item = &FileRef> {
        let captioner = self.captioner.iter().flat_map(|spec| spec.files.values());
        captioner.chain(self.modules.iter().flat_map(ModuleSpec::files))
    }
}
