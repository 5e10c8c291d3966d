//! The sampler on real videos.

use atom_core::vision::{SampledSegment, Sampler, SamplerOptions};
use atom_media::VideoReader;

mod common;
use common::video;

fn segments(name: &str, options: SamplerOptions) -> Vec<SampledSegment> {
    let mut reader = VideoReader::open(video(name)).unwrap();
    let mut sampler = Sampler::new(options).unwrap();
    let mut found = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        found.extend(sampler.push(&frame.as_frame().unwrap()).unwrap());
    }
    found.extend(sampler.finish());
    found
}

/// Starts in milliseconds.
fn starts(segments: &[SampledSegment]) -> Vec<i64> {
    segments.iter().map(|s| s.start_ns / 1_000_000).collect()
}

#[test]
fn the_shots_of_a_cut_film_are_found() {
    // Where the encoder, too, saw a new scene; seen by eye as well.
    let found = segments("bikes", SamplerOptions::default());
    assert_eq!(starts(&found), [0, 1200, 3040, 5480, 7480, 9680]);
    assert_eq!(found.last().unwrap().end_ns, 10_000_000_000);
    for pair in found.windows(2) {
        assert_eq!(pair[0].end_ns, pair[1].start_ns, "no time is left out");
    }
    for segment in &found {
        let at = segment.keyframe.timestamp_ns();
        assert!((segment.start_ns..segment.end_ns).contains(&at));
        let off = (at - (segment.start_ns + segment.end_ns) / 2).abs();
        let length = segment.end_ns - segment.start_ns;
        assert!(
            length < 500_000_000 || off <= length * 3 / 8,
            "{off} of {length}"
        );
    }
}

#[test]
fn one_long_shot_is_divided_by_length_only() {
    assert_eq!(
        starts(&segments("carphone", SamplerOptions::default())),
        [0]
    );
    assert_eq!(
        starts(&segments("bigbuckbunny", SamplerOptions::default())),
        [0, 4000]
    );
    let options = SamplerOptions {
        max_segment_ns: 1_000_000_000,
        ..SamplerOptions::default()
    };
    let found = starts(&segments("bigbuckbunny", options));
    assert_eq!(found, [0, 1000, 2000, 3000, 4000, 5000]);
}

#[test]
fn the_same_film_gives_the_same_segments() {
    let once = segments("bikes", SamplerOptions::default());
    let again = segments("bikes", SamplerOptions::default());
    for (a, b) in once.iter().zip(&again) {
        assert_eq!((a.start_ns, a.end_ns), (b.start_ns, b.end_ns));
        let (a, b) = (
            a.keyframe.as_frame().unwrap(),
            b.keyframe.as_frame().unwrap(),
        );
        assert_eq!(a.timestamp_ns(), b.timestamp_ns());
        assert_eq!(a.plane(0).data, b.plane(0).data);
    }
}
