//! A segment as something a clip can be cut around.

use super::StoryboardOptions;
use crate::error::Result;
use crate::index::{Hit, SegmentId, Store, Stream};

/// A segment that may become a clip, and the time around it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moment {
    pub(crate) segment: SegmentId,
    /// Which stream; moments of one stream have equal numbers.
    pub(crate) stream: usize,
    pub(crate) keyframe_ns: i64,
    /// The clip that is wanted when nothing is in its way.
    pub(crate) wanted: (i64, i64),
    /// What the store has around it without a gap, as far as a clip may reach.
    pub(crate) room: (i64, i64),
    /// The search vector; empty when nobody will compare it.
    pub(crate) embedding: Vec<f32>,
}

/// The moment of `hit`; `None` when there is not enough time around it for the minimum length.
///
/// # Errors
/// What the store reports.
pub(crate) fn moment(
    store: &Store,
    hit: &Hit,
    number: usize,
    stream: &Stream,
    options: &StoryboardOptions,
) -> Result<Option<Moment>> {
    let least = options.min_length_ns.max(1);
    // A clip holds its keyframe, so it reaches no further from it than this.
    let reach = (
        hit.start_ns.min(hit.keyframe_ns.saturating_sub(least)),
        hit.end_ns.max(hit.keyframe_ns.saturating_add(least)),
    );
    let mut room = (hit.start_ns, hit.end_ns);
    let near = store.segments(stream.id, Some(reach.0), Some(reach.1))?;
    for segment in near.iter().rev() {
        if segment.start_ns < room.0 && segment.end_ns >= room.0 {
            room.0 = segment.start_ns;
        }
    }
    for segment in &near {
        if segment.end_ns > room.1 && segment.start_ns <= room.1 {
            room.1 = segment.end_ns;
        }
    }
    room.0 = room.0.max(reach.0).max(options.from_ns.unwrap_or(i64::MIN));
    room.1 = room.1.min(reach.1).min(options.to_ns.unwrap_or(i64::MAX));
    let keyframe_ns = hit.keyframe_ns;
    if room.1.saturating_sub(room.0) < least || !(room.0..=room.1).contains(&keyframe_ns) {
        return Ok(None);
    }
    let segment = (hit.start_ns.max(room.0), hit.end_ns.min(room.1));
    Ok(Some(Moment {
        segment: hit.segment,
        stream: number,
        keyframe_ns,
        wanted: wanted(segment, keyframe_ns, room, least, options.max_length_ns),
        room,
        embedding: Vec::new(),
    }))
}

/// The segment, grown evenly to `least` or cut to `most` around its keyframe, within `room`.
fn wanted(
    segment: (i64, i64),
    keyframe: i64,
    room: (i64, i64),
    least: i64,
    most: i64,
) -> (i64, i64) {
    let length = segment.1.saturating_sub(segment.0);
    if length > most {
        let start = (keyframe - most / 2).clamp(segment.0, segment.1 - most);
        return (start, start + most);
    }
    if length < least {
        let start = (segment.0 - (least - length) / 2).clamp(room.0, room.1 - least);
        return (start, start + least);
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn grows_evenly_and_never_past_the_room() {
        assert_eq!(wanted((40, 60), 50, (0, 100), 40, 90), (30, 70));
        assert_eq!(wanted((0, 20), 10, (0, 100), 40, 90), (0, 40));
        assert_eq!(wanted((80, 100), 100, (0, 100), 40, 90), (60, 100));
        assert_eq!(wanted((40, 60), 50, (35, 65), 30, 90), (35, 65));
        assert_eq!(wanted((40, 60), 50, (0, 100), 1, 90), (40, 60));
    }

    #[test]
    fn a_long_segment_is_cut_around_its_keyframe() {
        assert_eq!(wanted((0, 100), 50, (0, 100), 1, 20), (40, 60));
        assert_eq!(wanted((0, 100), 3, (0, 100), 1, 20), (0, 20));
        assert_eq!(wanted((0, 100), 100, (0, 100), 1, 20), (80, 100));
    }
}
