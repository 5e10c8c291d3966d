//! A storyboard as Atom's own JSON.

use serde::Serialize;

use super::Storyboard;

/// The names are stable: the command prints them and the C interface hands them out.
#[derive(Serialize)]
struct Document<'a> {
    title: Option<&'a str>,
    clips: Vec<Clip<'a>>,
    lines: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Clip<'a> {
    line: usize,
    text: &'a str,
    stream: &'a str,
    segment: u64,
    start_s: f64,
    end_s: f64,
    keyframe_s: f64,
    score: f32,
}

#[derive(Serialize)]
struct Line<'a> {
    text: &'a str,
    written_by: &'static str,
    matched: bool,
    reason: Option<&'static str>,
    best_score: Option<f32>,
}

impl Storyboard {
    /// One JSON document without line breaks: `title`; `clips[]`: `line` (index into `lines`), `text`, `stream`,
    /// `segment`, `start_s`, `end_s`, `keyframe_s`, `score`; `lines[]`: `text`, `written_by` ("script", "decoder"),
    /// `matched`, `reason` (null, "no_match", "too_short", "taken"), `best_score`.
    pub fn to_json(&self) -> String {
        let seconds = |ns: i64| ns as f64 / 1e9;
        let document = Document {
            title: self.title.as_deref(),
            clips: self
                .clips
                .iter()
                .map(|clip| Clip {
                    line: clip.line,
                    text: self.lines.get(clip.line).map_or("", |line| &line.text),
                    stream: self.stream_name(clip),
                    segment: clip.segment.0,
                    start_s: seconds(clip.start_ns),
                    end_s: seconds(clip.end_ns),
                    keyframe_s: seconds(clip.keyframe_ns),
                    score: clip.score,
                })
                .collect(),
            lines: self
                .lines
                .iter()
                .map(|line| Line {
                    text: &line.text,
                    written_by: line.written_by.name(),
                    matched: line.unmatched.is_none(),
                    reason: line.unmatched.map(super::Unmatched::name),
                    best_score: line.best_score,
                })
                .collect(),
        };
        // Strings, numbers and lists only: nothing here can fail to be written.
        serde_json::to_string(&document).unwrap_or_default()
    }
}
