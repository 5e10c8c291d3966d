//! The sampler on made-up streams.

use atom_core::ErrorKind;
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::vision::{SampledSegment, Sampler, SamplerOptions};

const MS: i64 = 1_000_000;

/// A textured picture: `scene` sets the pattern, `shift` moves it, `blur` takes its edges away.
fn picture(scene: u32, shift: u32, blur: bool) -> Vec<u8> {
    let (width, height) = (160, 96);
    let value = |x: u32, y: u32| {
        let x = x + shift;
        let step = 8 + scene * 5;
        let cell = (x / step * 7 + y / step * 13 + scene * 3) % 5;
        (40 + cell * 35 + scene * 17 % 60) as f64
    };
    (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .map(|(x, y)| {
            if !blur {
                return value(x, y) as u8;
            }
            let near = (0..3).flat_map(|dy| (0..3).map(move |dx| (dx, dy)));
            (near.map(|(dx, dy)| value(x + dx, y + dy)).sum::<f64>() / 9.0) as u8
        })
        .collect()
}

fn push(sampler: &mut Sampler, pixels: &[u8], time: i64) -> Option<SampledSegment> {
    let format = FrameFormat::new(PixelFormat::Gray8, 160, 96);
    let frame = Frame::packed(format, pixels, time).unwrap();
    sampler.push(&frame).unwrap()
}

fn sampler() -> Sampler {
    Sampler::new(SamplerOptions::default()).unwrap()
}

#[test]
fn cuts_are_taken_and_motion_is_not() {
    let mut sampler = sampler();
    let mut ended = Vec::new();
    for index in 0..90 {
        // Three scenes of 30 frames; within each the picture moves fast.
        let pixels = picture(index / 30, index * 3, false);
        ended.extend(push(&mut sampler, &pixels, i64::from(index) * 40 * MS));
    }
    ended.extend(sampler.finish());
    let found: Vec<_> = ended
        .iter()
        .map(|s| (s.start_ns / MS, s.end_ns / MS))
        .collect();
    assert_eq!(found, [(0, 1200), (1200, 2400), (2400, 3600)]);
    assert!(sampler.finish().is_none());
}

#[test]
fn the_keyframe_is_sharp() {
    let mut sampler = sampler();
    let (sharp, blurred) = (picture(1, 0, false), picture(1, 0, true));
    for index in 0..75 {
        let pixels = if index == 40 { &sharp } else { &blurred };
        assert!(push(&mut sampler, pixels, index * 40 * MS).is_none());
    }
    let segment = sampler.finish().unwrap();
    assert_eq!(segment.keyframe.timestamp_ns(), 40 * 40 * MS);
    assert_eq!(segment.keyframe.as_frame().unwrap().plane(0).data, sharp);
}

#[test]
fn among_equals_the_keyframe_is_near_the_middle() {
    let still = picture(2, 0, false);
    for frames in [10, 30, 60, 99] {
        let mut sampler = sampler();
        for index in 0..frames {
            assert!(push(&mut sampler, &still, index * 40 * MS).is_none());
        }
        let segment = sampler.finish().unwrap();
        let at = segment.keyframe.timestamp_ns() as f64 / segment.end_ns as f64;
        assert!(
            (0.2..=0.8).contains(&at) || frames <= 12,
            "{frames}: at {at}"
        );
    }
}

#[test]
fn short_segments_do_not_end_in_a_cut() {
    let options = SamplerOptions {
        min_segment_ns: 400 * MS,
        ..SamplerOptions::default()
    };
    let mut sampler = Sampler::new(options).unwrap();
    let mut starts = Vec::new();
    for index in 0..40 {
        // A flash of another scene at 0.2 s, a lasting change at 0.8 s.
        let scene = u32::from(index == 5) + 2 * u32::from(index >= 20);
        let ended = push(&mut sampler, &picture(scene, 0, false), index * 40 * MS);
        starts.extend(ended.map(|s| s.end_ns / MS));
    }
    assert_eq!(starts, [800]);
}

#[test]
fn times_must_rise() {
    let mut sampler = sampler();
    let pixels = picture(0, 0, false);
    push(&mut sampler, &pixels, 100);
    let format = FrameFormat::new(PixelFormat::Gray8, 160, 96);
    for time in [100, 99, 0] {
        let frame = Frame::packed(format, &pixels, time).unwrap();
        let error = sampler.push(&frame).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadFrame);
        let says = format!("frame at {time} ns follows one at 100 ns");
        assert!(error.message().contains(&says), "{error}");
    }
    // The bad frames were not taken.
    push(&mut sampler, &pixels, 101);
    assert_eq!(sampler.finish().unwrap().start_ns, 100);
}

#[test]
fn a_pause_or_another_size_ends_the_segment() {
    let mut sampler = sampler();
    let pixels = picture(0, 0, false);
    for index in 0..10 {
        assert!(push(&mut sampler, &pixels, index * 40 * MS).is_none());
    }
    let paused = push(&mut sampler, &pixels, 60_000 * MS).unwrap();
    assert_eq!((paused.start_ns, paused.end_ns), (0, 400 * MS));
    let small = FrameFormat::new(PixelFormat::Gray8, 80, 48);
    let frame = Frame::packed(small, &pixels, 60_040 * MS).unwrap();
    let resized = sampler.push(&frame).unwrap().unwrap();
    assert_eq!(resized.start_ns, 60_000 * MS);
    assert_eq!(resized.end_ns, 60_040 * MS);
    assert_eq!(resized.keyframe.as_frame().unwrap().format().width, 160);
}

#[test]
fn options_out_of_range_are_refused() {
    let fine = SamplerOptions::default();
    for options in [
        SamplerOptions {
            min_segment_ns: -1,
            ..fine.clone()
        },
        SamplerOptions {
            max_segment_ns: 0,
            min_segment_ns: 0,
            ..fine.clone()
        },
        SamplerOptions {
            max_segment_ns: 1,
            ..fine.clone()
        },
        SamplerOptions {
            threshold: f32::NAN,
            ..fine.clone()
        },
        SamplerOptions {
            threshold: 1.5,
            ..fine
        },
    ] {
        let error = Sampler::new(options.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{options:?}");
    }
}

#[test]
fn one_pixel_frames_and_odd_formats_pass() {
    for pixels in [
        PixelFormat::Nv12,
        PixelFormat::I420,
        PixelFormat::Rgb8,
        PixelFormat::Bgr8,
    ] {
        for (width, height) in [(1, 1), (3, 1), (1, 7), (5, 5)] {
            let mut sampler = sampler();
            let format = FrameFormat::new(pixels, width, height);
            let data = vec![9; format.packed_bytes()];
            for time in 0..3 {
                sampler
                    .push(&Frame::packed(format, &data, time).unwrap())
                    .unwrap();
            }
            assert_eq!(sampler.finish().unwrap().end_ns, 3);
        }
    }
}
