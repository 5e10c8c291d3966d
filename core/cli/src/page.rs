//! Results as one HTML page that needs nothing else: pictures inside, no scripts. Works without a network, in print, and
//! in light and dark.

use atom_core::index::{Hit, SegmentId, Store};
use atom_core::storyboard::{Storyboard, Unmatched, WrittenBy};
use atom_core::{Error, ErrorKind, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::{Environment, context};
use serde::Serialize;

/// One picture with its times.
#[derive(Serialize)]
struct Card {
    /// JPEG as base64; empty when the store has none.
    picture: String,
    alt: String,
    stream: String,
    start: String,
    end: String,
    keyframe: String,
    score: String,
}

#[derive(Serialize)]
struct Row {
    text: String,
    written: bool,
    why: String,
    clips: Vec<Card>,
}

/// What a page is made from: rows for a storyboard, cards for a search.
struct Page<'a> {
    title: &'a str,
    summary: String,
    lines: Option<Vec<Row>>,
    hits: Vec<Card>,
}

/// The page of a search for `words`.
pub fn search(store: &Store, words: &str, hits: &[Hit]) -> Result<String> {
    let cards = hits.iter().map(|hit| {
        let times = (hit.start_ns, hit.end_ns, hit.keyframe_ns);
        card(store, hit.segment, &hit.stream, times, hit.score)
    });
    render(&Page {
        title: words.trim(),
        summary: format!("{}, best first", count(hits.len(), "hit")),
        lines: None,
        hits: cards.collect::<Result<_>>()?,
    })
}

/// The page of a storyboard of `store`.
pub fn storyboard(store: &Store, board: &Storyboard) -> Result<String> {
    let mut rows = Vec::new();
    for (number, line) in board.lines.iter().enumerate() {
        let mut cards = Vec::new();
        for clip in board.clips.iter().filter(|clip| clip.line == number) {
            let times = (clip.start_ns, clip.end_ns, clip.keyframe_ns);
            let stream = board.stream_name(clip);
            cards.push(card(store, clip.segment, stream, times, clip.score)?);
        }
        let best = line
            .best_score
            .map(|score| format!(" (best score {score:.2})"));
        rows.push(Row {
            text: line.text.clone(),
            written: line.written_by == WrittenBy::Decoder,
            why: line.unmatched.map_or_else(String::new, |reason| {
                format!("{}{}", unmatched(reason), best.unwrap_or_default())
            }),
            clips: cards,
        });
    }
    let length = board
        .clips
        .iter()
        .map(|clip| clip.end_ns.saturating_sub(clip.start_ns));
    render(&Page {
        title: board.title.as_deref().unwrap_or("Storyboard"),
        summary: format!(
            "{}, {} of {} streams, {} in all",
            count(board.lines.len(), "line"),
            count(board.clips.len(), "clip"),
            board.streams.len(),
            time(length.fold(0, i64::saturating_add))
        ),
        lines: Some(rows),
        hits: Vec::new(),
    })
}

/// Why a line has no clip, in words; the command prints the same.
pub fn unmatched(reason: Unmatched) -> &'static str {
    match reason {
        Unmatched::NoMatch => "nothing in the store is similar enough",
        Unmatched::TooShort => "what is similar enough is shorter than a clip may be",
        Unmatched::Taken => "what is similar enough is in the clips of other lines",
    }
}

fn render(page: &Page<'_>) -> Result<String> {
    let mut environment = Environment::new();
    // A name that ends in .html: every value is escaped.
    let page = environment
        .add_template("page.html", include_str!("page.html"))
        .and_then(|()| environment.get_template("page.html"))
        .and_then(|template| {
            template.render(context! {
                version => env!("CARGO_PKG_VERSION"),
                title => page.title,
                summary => page.summary,
                lines => page.lines,
                // One clip a line at most: panels side by side instead of a row for each line.
                single => page.lines.iter().flatten().all(|row| row.clips.len() < 2),
                hits => page.hits,
            })
        });
    page.map_err(|error| Error::new(ErrorKind::Internal, format!("writing the page: {error}")))
}

fn card(
    store: &Store,
    segment: SegmentId,
    stream: &str,
    (start, end, keyframe): (i64, i64, i64),
    score: f32,
) -> Result<Card> {
    let keyframe = time(keyframe);
    Ok(Card {
        picture: STANDARD.encode(store.thumbnail(segment)?),
        alt: format!("Keyframe of {stream} at {keyframe}"),
        stream: stream.to_owned(),
        start: time(start),
        end: time(end),
        keyframe,
        score: format!("{score:.2}"),
    })
}

fn count(number: usize, what: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {what}{end}")
}

/// `mm:ss.s`, with hours before it from one hour on.
fn time(ns: i64) -> String {
    let tenths = (ns as f64 / 1e8).round().max(0.0) as u64;
    let (hours, minutes, seconds, tenth) = (
        tenths / 36_000,
        tenths / 600 % 60,
        tenths / 10 % 60,
        tenths % 10,
    );
    match hours {
        0 => format!("{minutes:02}:{seconds:02}.{tenth}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}.{tenth}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_minutes_and_seconds() {
        assert_eq!(time(0), "00:00.0");
        assert_eq!(time(9_680_000_000), "00:09.7");
        assert_eq!(time(59_960_000_000), "01:00.0");
        assert_eq!(time(3_725_000_000_000), "1:02:05.0");
        assert_eq!(time(-5), "00:00.0");
    }

    #[test]
    fn every_string_is_escaped() {
        let evil = "<script>alert('\"x\"')</script> & \"'";
        let card = || Card {
            picture: "AAAA".to_owned(),
            alt: evil.to_owned(),
            stream: evil.to_owned(),
            start: "00:00.0".to_owned(),
            end: "00:01.0".to_owned(),
            keyframe: "00:00.5".to_owned(),
            score: "0.50".to_owned(),
        };
        let row = Row {
            text: evil.to_owned(),
            written: true,
            why: evil.to_owned(),
            clips: vec![card()],
        };
        let empty = Row {
            text: evil.to_owned(),
            written: false,
            why: evil.to_owned(),
            clips: Vec::new(),
        };
        for (lines, hits) in [(Some(vec![row, empty]), Vec::new()), (None, vec![card()])] {
            let page = render(&Page {
                title: evil,
                summary: evil.to_owned(),
                lines,
                hits,
            })
            .unwrap();
            assert!(!page.contains("<script"), "{page}");
            assert!(!page.contains("\"x\"") && !page.contains("'x'"), "{page}");
            assert!(page.contains("&lt;script&gt;"), "{page}");
            assert!(page.contains("data:image/jpeg;base64,AAAA"), "{page}");
        }
    }
}
