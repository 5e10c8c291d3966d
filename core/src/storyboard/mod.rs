//! Storyboards: a script's lines, the clips chosen for them, and the documents others read. No model, no pixels.

mod choose;
mod exchange;
mod json;
mod moment;
mod otio;
mod place;
mod script;

pub(crate) use choose::{Board, choose};
pub(crate) use moment::{Moment, moment};
pub(crate) use place::place;
pub use script::{MAX_LINES, MAX_SCRIPT_BYTES, parse_script};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::index::{SegmentId, Stream};

/// The most clips a storyboard may have: lines times clips a line.
pub const MAX_CLIPS: usize = 100;
/// The longest minimum length, in nanoseconds: ten minutes.
pub const MAX_MIN_LENGTH_NS: i64 = 600_000_000_000;

/// How clips are chosen for the lines of a script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoryboardOptions {
    /// The most clips for each line, 1 or more; lines times this at most [`MAX_CLIPS`].
    pub per_line: usize,
    /// No clip is shorter than this, nanoseconds, 0..=[`MAX_MIN_LENGTH_NS`]: a shorter segment's clip grows into the
    /// time around it that the store has without a gap; where there is not enough the segment is not used.
    pub min_length_ns: i64,
    /// No clip is longer than this, nanoseconds, at least 1 and at least `min_length_ns`: of a longer segment the part
    /// around its keyframe is taken.
    pub max_length_ns: i64,
    /// How much of a cosine a clip counts less that repeats another in full (same stream, same picture), 0..=1; 0 takes
    /// the best whatever it repeats.
    pub variety: f32,
    /// Cosine below which a segment is no match, -1..=1; the pack's own threshold when absent.
    pub min_score: Option<f32>,
    /// Only this stream.
    pub stream: Option<String>,
    /// No clip reaches before this stream time, nanoseconds.
    pub from_ns: Option<i64>,
    /// No clip reaches past this stream time, nanoseconds.
    pub to_ns: Option<i64>,
}

impl Default for StoryboardOptions {
    fn default() -> Self {
        Self {
            per_line: 1,
            min_length_ns: 1_000_000_000,
            max_length_ns: 10_000_000_000,
            variety: 0.2,
            min_score: None,
            stream: None,
            from_ns: None,
            to_ns: None,
        }
    }
}

impl StoryboardOptions {
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] naming the option that is out of range.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String, remedy: String| {
            Err(Error::new(ErrorKind::InvalidArgument, what).remedy(remedy))
        };
        let seconds = |ns: i64| ns as f64 / 1e9;
        if self.per_line == 0 || self.per_line > MAX_CLIPS {
            return wrong(
                format!("{} clips a line", self.per_line),
                format!("ask for 1 to {MAX_CLIPS}"),
            );
        }
        if !(0..=MAX_MIN_LENGTH_NS).contains(&self.min_length_ns) {
            return wrong(
                format!("clips of at least {} s", seconds(self.min_length_ns)),
                format!("0 to {} s is possible", seconds(MAX_MIN_LENGTH_NS)),
            );
        }
        if self.max_length_ns < self.min_length_ns.max(1) {
            return wrong(
                format!(
                    "clips of at least {} s and at most {} s",
                    seconds(self.min_length_ns),
                    seconds(self.max_length_ns)
                ),
                "the longest must be at least 1 ns and at least the shortest".to_owned(),
            );
        }
        if !(0.0..=1.0).contains(&self.variety) {
            return wrong(
                format!("a variety of {}", self.variety),
                "0 to 1 is possible".to_owned(),
            );
        }
        if let Some(score) = self.min_score.filter(|s| !(-1.0..=1.0).contains(s)) {
            return wrong(
                format!("a least score of {score}"),
                "-1 to 1 is possible".to_owned(),
            );
        }
        Ok(())
    }
}

/// Who wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WrittenBy {
    /// The caller.
    Script,
    /// The language decoder, from the title.
    Decoder,
}

impl WrittenBy {
    /// As a stable word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::Decoder => "decoder",
        }
    }
}

/// Why a line has no clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    /// No segment is similar enough.
    NoMatch,
    /// What is similar enough has too little time around it for the minimum length.
    TooShort,
    /// What is similar enough is in other lines' clips, or leaves no room beside them.
    Taken,
}

impl Unmatched {
    /// As a stable word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoMatch => "no_match",
            Self::TooShort => "too_short",
            Self::Taken => "taken",
        }
    }
}

/// A line of the script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its words.
    pub text: String,
    /// Who wrote it.
    pub written_by: WrittenBy,
    /// The best cosine any segment has with it, whether or not that is enough; `None` when the store holds nothing.
    pub best_score: Option<f32>,
    /// Why it has no clip; `None` when it has one.
    pub unmatched: Option<Unmatched>,
}

/// A stretch of a stream chosen for a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clip {
    /// Index into [`Storyboard::lines`].
    pub line: usize,
    /// The segment it was chosen by.
    pub segment: SegmentId,
    /// Index into [`Storyboard::streams`].
    pub stream: usize,
    /// Start, nanoseconds in the stream's clock.
    pub start_ns: i64,
    /// End, after the start.
    pub end_ns: i64,
    /// Time of the segment's keyframe, within start..=end.
    pub keyframe_ns: i64,
    /// Cosine between the line and the keyframe.
    pub score: f32,
}

/// A stream that clips are of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipStream {
    /// The stream.
    pub stream: Stream,
    /// Start of its first segment, nanoseconds in its clock.
    pub start_ns: i64,
    /// End of its last segment.
    pub end_ns: i64,
}

/// A script with the clips chosen for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Storyboard {
    /// What it is called, if it is.
    pub title: Option<String>,
    /// The lines, in order.
    pub lines: Vec<Line>,
    /// The clips, by line, those of one line best first. No two of one stream overlap.
    pub clips: Vec<Clip>,
    /// The streams of the clips.
    pub streams: Vec<ClipStream>,
}

impl Storyboard {
    /// The name of a clip's stream.
    pub fn stream_name(&self, clip: &Clip) -> &str {
        self.streams
            .get(clip.stream)
            .map_or("", |of| of.stream.name.as_str())
    }
}
