//! What can be asked of the engine.
//!
//! Requests own everything they hold, so that they can wait in a queue or cross a socket. They suit self-describing
//! encodings (JSON) and compact ones that are not (postcard): enums are externally tagged, no field is left out.

use serde::{Deserialize, Serialize};

use crate::control::{Priority, TextOptions};
use crate::frame::FrameBuf;
use crate::index::{Access, SegmentId};
use crate::task::assemble::AssembleQuery;
use crate::task::ingest::IngestOptions;
use crate::task::search::SearchQuery;

/// The number of an open store among its client's [`Handles`](super::Handles).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreHandle(pub u64);

/// The number of an open ingest among its client's [`Handles`](super::Handles).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IngestHandle(pub u64);

/// An operation and how it is to be run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Its place among waiting requests and among those that use the same module.
    #[serde(default)]
    pub priority: Priority,
    /// Milliseconds after which it must have ended, from the moment the engine gets it, waiting included.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
    /// The text of a caption or an answer is wanted piece by piece, before the response.
    #[serde(default)]
    pub text_events: bool,
    /// What is to be done.
    pub operation: Operation,
}

impl Request {
    /// A request of normal priority without deadline and without text events.
    pub fn new(operation: Operation) -> Self {
        Self {
            priority: Priority::default(),
            deadline_ms: None,
            text_events: false,
            operation,
        }
    }
}

/// What the engine can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// Finds segments by words; answered by [`Response::Hits`](super::Response::Hits).
    Search(Search),
    /// Chooses clips for the lines of a script; answered by [`Response::Storyboard`](super::Response::Storyboard).
    Assemble(Assemble),
    /// The search vector of a picture or of words; answered by [`Response::Vector`](super::Response::Vector).
    Embed(Embed),
    /// Says what pictures show; answered by [`Response::Text`](super::Response::Text).
    Caption(Caption),
    /// Answers a question about pictures; answered by [`Response::Text`](super::Response::Text).
    Ask(Ask),
    /// Opens a store; answered by [`Response::Store`](super::Response::Store).
    OpenStore(OpenStore),
    /// Reads from a store; answered as [`StoreRead`] says.
    ReadStore(ReadStore),
    /// Closes a store. Requests and ingests that use it keep it open until they end. Answered by
    /// [`Response::Closed`](super::Response::Closed).
    CloseStore(StoreHandle),
    /// Opens a stream for frames; answered by [`Response::Ingest`](super::Response::Ingest). Frames are pushed without a
    /// request, through [`Handles::ingest`](super::Handles::ingest).
    OpenIngest(OpenIngest),
    /// Reads the counters of an ingest; answered by [`Response::Report`](super::Response::Report).
    ReportIngest(IngestHandle),
    /// Takes no more frames and waits until those taken are stored and captioned; answered by
    /// [`Response::Report`](super::Response::Report).
    FinishIngest(IngestHandle),
    /// Closes an ingest. If it was not finished, frames not yet stored are dropped. Answered by
    /// [`Response::Closed`](super::Response::Closed).
    CloseIngest(IngestHandle),
}

/// Finds segments by words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Where to search.
    pub store: StoreHandle,
    /// What to search for.
    pub query: SearchQuery,
}

/// Chooses clips for the lines of a script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assemble {
    /// Where the clips come from.
    pub store: StoreHandle,
    /// The script, and how clips are chosen.
    pub query: AssembleQuery,
}

/// What a search vector is wanted of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Embed {
    /// A picture.
    Picture(FrameBuf),
    /// Words, as they are; they may be empty.
    Text(String),
}

/// The pictures of a caption or a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Pictures {
    /// The keyframes of these segments, in the order of time. Their stored features are used. Rows that the captioner reads and
    /// that are not stored are made of the stored keyframe, if the pack says so.
    Segments {
        /// The store that has them.
        store: StoreHandle,
        /// One or more.
        segments: Vec<SegmentId>,
    },
    /// One frame, or several of one video, in the order of time. They are encoded and not stored.
    Frames(Vec<FrameBuf>),
    /// Pictures that are of no video, in the order they are shown. They are encoded and not stored.
    Images(Vec<FrameBuf>),
}

/// Says what pictures show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caption {
    /// The pictures. A caption stored with a single segment is served without generating, and a new one is stored if
    /// the store is open for writing.
    pub pictures: Pictures,
    /// What the text may be.
    #[serde(default)]
    pub options: TextOptions,
    /// A stored caption is not served; a new one is generated.
    #[serde(default)]
    pub fresh: bool,
    /// A new caption of a single segment, and what the captioner's encoder made of it, is stored also when the store is open for reading only: the engine opens it
    /// for writing for that moment. While another process is writing to it, the caption is not stored; the log says so.
    #[serde(default)]
    pub store_always: bool,
}

/// Answers a question about pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// The pictures.
    pub pictures: Pictures,
    /// The question.
    pub question: String,
    /// What the answer may be.
    #[serde(default)]
    pub options: TextOptions,
    /// What was made to answer it and serves later questions is stored also when the store is open for reading only: the engine
    /// opens it for writing for that moment.
    #[serde(default)]
    pub store_always: bool,
}

/// Opens a store of this pack's vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenStore {
    /// Its folder.
    pub path: String,
    /// Whether it is changed.
    pub access: Access,
}

/// Reads from a store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadStore {
    /// The store.
    pub store: StoreHandle,
    /// What to read.
    pub read: StoreRead,
}

/// What can be read from a store without a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum StoreRead {
    /// All streams; answered by [`Response::Streams`](super::Response::Streams).
    Streams,
    /// The segments of a stream, in the order of time; answered by [`Response::Segments`](super::Response::Segments).
    Segments {
        /// The stream's name.
        stream: String,
        /// Only segments that end at or after this, in nanoseconds on the stream's clock.
        from_ns: Option<i64>,
        /// Only segments that start before this.
        to_ns: Option<i64>,
    },
    /// The segment at one time; answered by [`Response::Segment`](super::Response::Segment).
    SegmentAt {
        /// The stream's name.
        stream: String,
        /// The time, in nanoseconds on the stream's clock.
        at_ns: i64,
    },
    /// Sizes and counts; answered by [`Response::Stats`](super::Response::Stats).
    Stats,
    /// The keyframe of a segment as JPEG; answered by [`Response::Thumbnail`](super::Response::Thumbnail).
    Thumbnail {
        /// The segment.
        segment: SegmentId,
    },
}

/// Opens a stream for frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenIngest {
    /// Where its segments go; open for writing.
    pub store: StoreHandle,
    /// The stream, and how it is cut.
    pub options: IngestOptions,
    /// Segments are captioned as they are stored.
    #[serde(default)]
    pub captions: bool,
}
