//! A storyboard as OpenTimelineIO JSON, which editing programs read.
//!
//! Schemas as OpenTimelineIO 0.15 and later write them. Times are milliseconds (rate 1000), rounded: rounding keeps their
//! order, so clips that do not overlap do not overlap afterwards. The crate
//! opentimelineio is a placeholder; the tests read what is written here with OpenTimelineIO itself.

use serde_json::{Value, json};

use super::{Clip, ClipStream, Storyboard};

const RATE: f64 = 1000.0;

impl Storyboard {
    /// A `Timeline.1` with one video track: the clips in order, cut against each other. A clip is named after its line, has
    /// the stream's source as its media (a `MissingReference.1` for a camera), a marker at the keyframe, and what Atom
    /// knows of it in `metadata.atom`; the lines, also those without a clip, are in the timeline's `metadata.atom`.
    pub fn to_otio(&self) -> String {
        let lines: Vec<Value> = self
            .lines
            .iter()
            .map(|line| {
                json!({
                    "text": line.text,
                    "written_by": line.written_by.name(),
                    "matched": line.unmatched.is_none(),
                    "reason": line.unmatched.map(super::Unmatched::name),
                })
            })
            .collect();
        let clips: Vec<Value> = self.clips.iter().map(|clip| self.clip(clip)).collect();
        let name = self.title.as_deref().unwrap_or("Storyboard");
        let timeline = json!({
            "OTIO_SCHEMA": "Timeline.1",
            "name": name,
            "metadata": {"atom": {"lines": lines}},
            "global_start_time": null,
            "tracks": {
                "OTIO_SCHEMA": "Stack.1",
                "name": "tracks",
                "metadata": {},
                "source_range": null,
                "effects": [],
                "markers": [],
                "enabled": true,
                "children": [{
                    "OTIO_SCHEMA": "Track.1",
                    "name": "Storyboard",
                    "kind": "Video",
                    "metadata": {},
                    "source_range": null,
                    "effects": [],
                    "markers": [],
                    "enabled": true,
                    "children": clips,
                }],
            },
        });
        format!("{timeline:#}\n")
    }

    fn clip(&self, clip: &Clip) -> Value {
        let text = self.lines.get(clip.line).map_or("", |line| &line.text);
        json!({
            "OTIO_SCHEMA": "Clip.2",
            "name": text,
            "metadata": {"atom": {
                "line": clip.line,
                "text": text,
                "score": clip.score,
                "stream": self.stream_name(clip),
                "segment": clip.segment.0,
                "keyframe_s": clip.keyframe_ns as f64 / 1e9,
            }},
            "source_range": range(clip.start_ns, clip.end_ns),
            "effects": [],
            "markers": [{
                "OTIO_SCHEMA": "Marker.2",
                "name": "keyframe",
                "color": "RED",
                "comment": "",
                "metadata": {},
                "marked_range": range(clip.keyframe_ns, clip.keyframe_ns),
            }],
            "enabled": true,
            "media_references": {"DEFAULT_MEDIA": self.streams.get(clip.stream).map(media)},
            "active_media_reference_key": "DEFAULT_MEDIA",
        })
    }
}

fn media(of: &ClipStream) -> Value {
    let mut media = json!({
        "OTIO_SCHEMA": "MissingReference.1",
        "name": of.stream.name,
        "metadata": {},
        "available_range": range(of.start_ns, of.end_ns),
        "available_image_bounds": null,
    });
    if let Some(source) = &of.stream.source {
        media["OTIO_SCHEMA"] = "ExternalReference.1".into();
        media["target_url"] = url(&source.uri).into();
    }
    media
}

/// Whole milliseconds; infallibly ordered as the nanoseconds are.
fn milliseconds(ns: i64) -> f64 {
    (ns as f64 / 1e6).round()
}

fn range(start_ns: i64, end_ns: i64) -> Value {
    let time = |value: f64| json!({"OTIO_SCHEMA": "RationalTime.1", "rate": RATE, "value": value});
    let start = milliseconds(start_ns);
    json!({
        "OTIO_SCHEMA": "TimeRange.1",
        "start_time": time(start),
        "duration": time(milliseconds(end_ns) - start),
    })
}

/// The URL of a source: a URI stays as it is, an absolute path becomes a file URL, a relative one a relative URL.
fn url(source: &str) -> String {
    let scheme = source.split_once("://").map_or("", |(scheme, _)| scheme);
    let mut letters = scheme.chars();
    let is_uri = letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if is_uri {
        return source.to_owned();
    }
    let mut url = String::from(if source.starts_with('/') {
        "file://"
    } else {
        ""
    });
    for byte in source.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                url.push(byte.into());
            }
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_become_urls() {
        assert_eq!(url("/a/b c#1.mp4"), "file:///a/b%20c%231.mp4");
        assert_eq!(url("clips/café.mp4"), "clips/caf%C3%A9.mp4");
        assert_eq!(url("rtsp://door:554/main?a=b"), "rtsp://door:554/main?a=b");
        assert_eq!(url("odd name://x"), "odd%20name%3A//x");
        assert_eq!(url("://x"), "%3A//x");
    }

    #[test]
    fn rounding_never_makes_clips_overlap() {
        for (start, end) in [
            (0, 1),
            (499_999, 500_000),
            (1_000_000_499_999, 1_000_000_500_000),
        ] {
            let (before, after) = (range(start - 7_000_000, end), range(end, end + 7_000_000));
            let ended = before["start_time"]["value"].as_f64().unwrap()
                + before["duration"]["value"].as_f64().unwrap();
            assert_eq!(ended, after["start_time"]["value"].as_f64().unwrap());
        }
    }
}
