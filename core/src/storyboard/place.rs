//! Clips of one stream beside each other: none overlaps, each is long enough and holds its keyframe.
//!
//! Clips that do not overlap and hold their keyframes lie in the keyframes' order, so this is scheduling in a fixed order:
//! the earliest starts from the left and the latest from the right say exactly whether there is a solution, and between
//! the two each clip is put where it is wanted, or as near to that as the others leave room.

use super::moment::Moment;

/// Start and end of a clip around each of `moments`, which are of one stream, by keyframe; `None` when they do not fit.
/// `least` and `most` bound the lengths, 1 ns at least.
pub(crate) fn place(moments: &[&Moment], least: i64, most: i64) -> Option<Vec<(i64, i64)>> {
    // The clip [start, start + least) holds the keyframe; one at the very end of what there is belongs to the clip too.
    let bounds = moments.iter().map(|moment| {
        let (lo, hi) = moment.room;
        let keyframe = moment.keyframe_ns.min(hi.saturating_sub(1));
        (
            lo.max(keyframe.saturating_sub(least - 1)),
            keyframe.min(hi.saturating_sub(least)),
        )
    });
    let bounds: Vec<(i64, i64)> = bounds.collect();
    let mut free = i64::MIN;
    for (earliest, latest) in &bounds {
        let start = free.max(*earliest);
        if start > *latest {
            return None;
        }
        free = start.saturating_add(least);
    }
    // The latest start of each that leaves those after it their room.
    let mut latest = vec![0; moments.len()];
    let mut next = i64::MAX;
    for (at, (_, last)) in bounds.iter().enumerate().rev() {
        latest[at] = (*last).min(next.saturating_sub(least));
        next = latest[at];
    }
    let mut clips = Vec::with_capacity(moments.len());
    let mut free = i64::MIN;
    for (at, moment) in moments.iter().enumerate() {
        let start = moment.wanted.0.max(moment.room.0).max(free).min(latest[at]);
        let next = latest.get(at + 1).copied().unwrap_or(i64::MAX);
        let end = moment
            .wanted
            .1
            .max(start.saturating_add(least))
            .min(start.saturating_add(most))
            .min(moment.room.1)
            .min(next);
        clips.push((start, end));
        free = end;
    }
    Some(clips)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::SegmentId;

    fn moment(keyframe: i64, wanted: (i64, i64), room: (i64, i64)) -> Moment {
        Moment {
            segment: SegmentId(keyframe as u64),
            stream: 0,
            keyframe_ns: keyframe,
            wanted,
            room,
            embedding: Vec::new(),
        }
    }

    fn placed(moments: &[Moment], least: i64, most: i64) -> Option<Vec<(i64, i64)>> {
        place(&moments.iter().collect::<Vec<_>>(), least, most)
    }

    #[test]
    fn neighbours_make_room_for_each_other() {
        let all = (0, 100);
        let two = [moment(45, (30, 60), all), moment(55, (40, 70), all)];
        // The first gives way as little as it can, the second takes what is left.
        assert_eq!(placed(&two, 30, 90), Some(vec![(25, 55), (55, 85)]));
        // Alone each has its wish.
        assert_eq!(placed(&two[..1], 30, 90), Some(vec![(30, 60)]));
        // Exactly enough, and one too long.
        let three = [10, 20, 30].map(|key| moment(key, (0, 30), (0, 90)));
        let fits = placed(&three, 15, 90).unwrap();
        assert!(fits.iter().all(|(a, b)| b - a >= 15), "{fits:?}");
        assert_eq!(placed(&three, 16, 90), None);
    }

    #[test]
    fn whatever_is_placed_keeps_every_promise_and_nothing_that_fits_is_refused() {
        // Every pair and triple of keyframes of a short stream, against trying all starts.
        let (lo, hi) = (0, 12);
        let mut fitting = 0;
        for least in 1..=6 {
            for bits in 1u32..1 << 12 {
                if bits.count_ones() > 3 {
                    continue;
                }
                let keys: Vec<i64> = (0..12).filter(|bit| bits >> bit & 1 == 1).collect();
                let moments: Vec<Moment> = keys
                    .iter()
                    .map(|key| moment(*key, ((key - 2).max(lo), (key + 3).min(hi)), (lo, hi)))
                    .collect();
                let clips = placed(&moments, least, 7.max(least));
                assert_eq!(
                    clips.is_some(),
                    possible(&keys, least, lo, hi),
                    "{keys:?} {least}"
                );
                let Some(clips) = clips else { continue };
                fitting += 1;
                for ((start, end), key) in clips.iter().zip(&keys) {
                    assert!(lo <= *start && *end <= hi, "{keys:?} {least} {clips:?}");
                    assert!((least..=7.max(least)).contains(&(end - start)), "{clips:?}");
                    assert!(start <= key && key < end, "{keys:?} {least} {clips:?}");
                }
                assert!(clips.is_sorted_by(|a, b| a.1 <= b.0), "{clips:?}");
            }
        }
        assert!(fitting > 100, "{fitting}");
    }

    /// Tries every start.
    fn possible(keys: &[i64], least: i64, free: i64, hi: i64) -> bool {
        let Some((key, rest)) = keys.split_first() else {
            return true;
        };
        (free..=hi - least)
            .filter(|start| start <= key && *key < start + least)
            .any(|start| possible(rest, least, start + least, hi))
    }

    #[test]
    fn a_keyframe_at_the_very_end_fits() {
        let last = moment(100, (60, 100), (0, 100));
        assert_eq!(placed(&[last], 40, 90), Some(vec![(60, 100)]));
    }
}
