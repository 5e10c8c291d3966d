//! Assembling: a script to a storyboard of stored segments.

use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{Filter, Hit, Store};
use crate::language::QueryEncoder;
use crate::storyboard::{
    Board, Clip, ClipStream, Line, MAX_CLIPS, Moment, Storyboard, StoryboardOptions, Unmatched,
    WrittenBy, choose, moment, parse_script, place,
};
use crate::trace;

/// What to assemble.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AssembleQuery {
    /// One line for each shot, as [`parse_script`] reads it.
    pub script: String,
    /// What the storyboard is called.
    pub title: Option<String>,
    /// How clips are chosen.
    pub options: StoryboardOptions,
}

/// The assemble task: query encoder, the store's scan, then one choice over all lines. Safe to share between threads.
pub struct Assembler {
    encoder: QueryEncoder,
}

/// What a line may be shown with.
struct Found {
    best_score: Option<f32>,
    /// Segments that are similar enough, best first.
    hits: Vec<Hit>,
    /// Of those, the ones with time enough around them.
    candidates: Vec<(usize, f32)>,
}

impl Assembler {
    /// The assemble path with the pack's query encoder. Loads no module.
    pub fn new(encoder: QueryEncoder) -> Self {
        Self { encoder }
    }

    /// A storyboard of `store` for the script. A line for which nothing is left says why and has no clip.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a script as [`parse_script`] refuses it, options out of range, or more clips
    /// than [`MAX_CLIPS`]; [`ErrorKind::NotFound`] for a stream the store does not have; what encoder and store report.
    pub fn assemble(
        &self,
        store: &Store,
        query: &AssembleQuery,
        control: &Control,
    ) -> Result<Storyboard> {
        let _span = trace::span("storyboard", "assemble");
        let options = &query.options;
        options.check()?;
        let lines = parse_script(&query.script)?;
        let places = lines.len() * options.per_line;
        if places > MAX_CLIPS {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{} lines of {} clips are {places} clips, at most {MAX_CLIPS} are possible",
                    lines.len(),
                    options.per_line
                ),
            )
            .remedy("ask for fewer clips a line, or cut the script"));
        }
        let mut filter = Filter {
            // The others' clips take `places - 1` at most; the rest is for variety, and where there is no room.
            k: 2 * places + 32,
            stream: None,
            from_ns: options.from_ns,
            to_ns: options.to_ns,
            // The best score is told even when it is too low.
            min_score: None,
        };
        if let Some(name) = &options.stream {
            filter.stream = Some(store.stream(name)?.id);
        }
        filter.check()?;
        let min_score = options.min_score.unwrap_or(self.encoder.min_score());
        let mut found = Vec::with_capacity(lines.len());
        for line in &lines {
            control.check()?;
            let vector = self.encoder.encode(line, control)?;
            let mut hits = store.search(&vector, &filter)?;
            let best_score = hits.first().map(|hit| hit.score);
            hits.retain(|hit| hit.score >= min_score);
            found.push(Found {
                best_score,
                hits,
                candidates: Vec::new(),
            });
        }
        let (moments, streams) = moments(store, &mut found, options, control)?;
        let candidates: Vec<_> = found.iter().map(|line| line.candidates.clone()).collect();
        let chosen = choose(
            &Board {
                moments: &moments,
                lines: &candidates,
                per_line: options.per_line,
                least_ns: options.min_length_ns.max(1),
                most_ns: options.max_length_ns,
                variety: options.variety,
            },
            control,
        )?;
        let lines = lines.into_iter().zip(&found).zip(&chosen);
        let mut storyboard = Storyboard {
            title: query.title.clone(),
            lines: lines
                .map(|((text, found), chosen)| line(text, found, chosen))
                .collect(),
            clips: clips(&moments, &chosen, options)?,
            streams,
        };
        keep_used(&mut storyboard);
        Ok(storyboard)
    }
}

fn line(text: String, found: &Found, chosen: &[(usize, f32)]) -> Line {
    Line {
        text,
        written_by: WrittenBy::Script,
        best_score: found.best_score,
        unmatched: match chosen {
            [_, ..] => None,
            [] if found.hits.is_empty() => Some(Unmatched::NoMatch),
            [] if found.candidates.is_empty() => Some(Unmatched::TooShort),
            [] => Some(Unmatched::Taken),
        },
    }
}

/// The moments of all lines, each once and by segment, and the streams they number; fills in the lines' candidates.
fn moments(
    store: &Store,
    found: &mut [Found],
    options: &StoryboardOptions,
    control: &Control,
) -> Result<(Vec<Moment>, Vec<ClipStream>)> {
    let mut hits: Vec<Hit> = found.iter().flat_map(|line| line.hits.clone()).collect();
    hits.sort_by_key(|hit| hit.segment);
    hits.dedup_by_key(|hit| hit.segment);
    let mut streams: Vec<ClipStream> = Vec::new();
    let mut moments = Vec::new();
    for hit in &hits {
        control.check()?;
        let known = streams.iter().position(|of| of.stream.name == hit.stream);
        let number = match known {
            Some(number) => number,
            None => {
                let Some(stream) = unless_gone(store.stream(&hit.stream))? else {
                    continue;
                };
                let range = store.range(stream.id)?;
                let (start_ns, end_ns) = range.unwrap_or((hit.start_ns, hit.end_ns));
                streams.push(ClipStream {
                    stream,
                    start_ns,
                    end_ns,
                });
                streams.len() - 1
            }
        };
        let stream = &streams[number].stream;
        let Some(mut moment) = moment(store, hit, number, stream, options)? else {
            continue;
        };
        if options.variety > 0.0 {
            let Some(embedding) = unless_gone(store.embedding(hit.segment))? else {
                continue;
            };
            moment.embedding = unit(embedding);
        }
        moments.push(moment);
    }
    for line in found {
        line.candidates = line
            .hits
            .iter()
            .filter_map(|hit| {
                let at = moments.binary_search_by_key(&hit.segment, |moment| moment.segment);
                Some((at.ok()?, hit.score))
            })
            .collect();
    }
    Ok((moments, streams))
}

/// What retention or a deletion took away since the search is no candidate any more.
fn unless_gone<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Embeddings need not be stored at unit length.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector
        .iter()
        .map(|v| f64::from(*v).powi(2))
        .sum::<f64>()
        .sqrt();
    for value in &mut vector {
        *value = (f64::from(*value) / norm) as f32;
    }
    vector
}

/// Cuts the chosen moments out of their streams.
fn clips(
    moments: &[Moment],
    chosen: &[Vec<(usize, f32)>],
    options: &StoryboardOptions,
) -> Result<Vec<Clip>> {
    let mut clips: Vec<Clip> = chosen
        .iter()
        .enumerate()
        .flat_map(|(line, chosen)| chosen.iter().map(move |(at, score)| (line, at, score)))
        .map(|(line, at, score)| Clip {
            line,
            segment: moments[*at].segment,
            stream: moments[*at].stream,
            start_ns: 0,
            end_ns: 0,
            keyframe_ns: moments[*at].keyframe_ns,
            score: *score,
        })
        .collect();
    let mut order: Vec<(usize, i64, usize)> = clips
        .iter()
        .enumerate()
        .map(|(at, clip)| (clip.stream, clip.keyframe_ns, at))
        .collect();
    order.sort_unstable();
    let of = |clip: &Clip| {
        let at = moments.binary_search_by_key(&clip.segment, |moment| moment.segment);
        at.ok().map(|at| &moments[at])
    };
    for same in order.chunk_by(|a, b| a.0 == b.0) {
        let row: Vec<&Moment> = same
            .iter()
            .filter_map(|(_, _, at)| of(&clips[*at]))
            .collect();
        let placed = place(&row, options.min_length_ns.max(1), options.max_length_ns)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the clips chosen do not fit"))?;
        for ((_, _, at), (start_ns, end_ns)) in same.iter().zip(placed) {
            (clips[*at].start_ns, clips[*at].end_ns) = (start_ns, end_ns);
        }
    }
    Ok(clips)
}

/// Leaves out the streams that no clip is of.
fn keep_used(storyboard: &mut Storyboard) {
    let mut used: Vec<usize> = storyboard.clips.iter().map(|clip| clip.stream).collect();
    used.sort_unstable();
    used.dedup();
    for clip in &mut storyboard.clips {
        clip.stream = used.partition_point(|stream| *stream < clip.stream);
    }
    let all = std::mem::take(&mut storyboard.streams);
    let mut number = 0;
    storyboard.streams = all
        .into_iter()
        .filter(|_| {
            number += 1;
            used.binary_search(&(number - 1)).is_ok()
        })
        .collect();
}
