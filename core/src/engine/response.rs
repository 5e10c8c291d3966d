//! What the engine answers.

use serde::{Deserialize, Serialize};

use super::request::{IngestHandle, StoreHandle};
use crate::error::{Error, ErrorKind, Result};
use crate::index::{Access, Hit, Segment, StoreStats, Stream, StreamId};
use crate::language::StopReason;
use crate::runtime::IndexReport;
use crate::storyboard::Storyboard;

/// The outcome of a request that went well. `Vec<Hit>` and the other contents can be had with `try_into`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Response {
    /// Segments that fit the words, best first.
    Hits(Vec<Hit>),
    /// Clips for the lines of a script.
    Storyboard(Storyboard),
    /// A search vector, of length 1.
    Vector(Vec<f32>),
    /// A caption or an answer.
    Text(Text),
    /// A store was opened.
    Store(StoreInfo),
    /// The streams of a store.
    Streams(Vec<Stream>),
    /// Segments of a stream.
    Segments(Vec<Segment>),
    /// One segment.
    Segment(Segment),
    /// Sizes and counts of a store.
    Stats(StoreStats),
    /// A keyframe as JPEG.
    Thumbnail(Vec<u8>),
    /// An ingest was opened.
    Ingest(IngestInfo),
    /// What an ingest did so far, or in all.
    Report(IndexReport),
    /// A store or an ingest was closed.
    Closed,
}

/// A caption or an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Text {
    /// All of it; the text events, one after the other.
    pub text: String,
    /// Tokens that the decoder generated for it.
    pub tokens: u64,
    /// The tokens of the prompt; the picture's rows stand as the token in whose place they are. Empty if no decoder was needed.
    pub prompt_ids: Vec<u32>,
    /// The tokens the decoder generated, without the one that ended the text. Empty for a stored text.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// What it rests on, as JSON whose shape the pack's captioner decides.
    pub evidence: String,
    /// It was stored with the segment and not generated now.
    pub stored: bool,
}

/// A store that was opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreInfo {
    /// Its number in later requests.
    pub store: StoreHandle,
    /// Whether it is open for writing.
    pub access: Access,
}

/// An ingest that was opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IngestInfo {
    /// Its number in later requests.
    pub ingest: IngestHandle,
    /// Its stream's number in the store.
    pub stream: StreamId,
}

/// What a completion queue holds. The events of one request come in order; [`Done`](Self::Done) is its last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// More text of a caption or an answer.
    Text {
        /// The number that submitting gave.
        request: u64,
        /// What the caller gave to submitting.
        user: u64,
        /// The text since the event before.
        text: String,
    },
    /// The request has ended.
    Done {
        /// The number that submitting gave.
        request: u64,
        /// What the caller gave to submitting.
        user: u64,
        /// Its outcome.
        result: Result<Response>,
    },
}

macro_rules! contents {
    ($($variant:ident: $content:ty),* $(,)?) => {$(
        impl TryFrom<Response> for $content {
            type Error = Error;

            /// # Errors
            /// [`ErrorKind::Internal`] when the response is of another operation.
            fn try_from(response: Response) -> Result<Self> {
                match response {
                    Response::$variant(content) => Ok(content),
                    _ => Err(Error::new(
                        ErrorKind::Internal,
                        concat!("the response is no ", stringify!($variant)),
                    )),
                }
            }
        }
    )*};
}

contents! {
    Hits: Vec<Hit>,
    Storyboard: Storyboard,
    Vector: Vec<f32>,
    Text: Text,
    Store: StoreInfo,
    Streams: Vec<Stream>,
    Segments: Vec<Segment>,
    Segment: Segment,
    Stats: StoreStats,
    Thumbnail: Vec<u8>,
    Ingest: IngestInfo,
    Report: IndexReport,
}
