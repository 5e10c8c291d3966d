//! Real videos against what FFmpeg makes of them.

use atom_core::frame::{ColourMatrix, ColourRange, FrameBuf, Rotation};
use atom_media::VideoReader;

mod common;
use common::video;

/// What tells one picture from another.
#[derive(Debug, Clone)]
struct Seen {
    time: i64,
    crc: u32,
    grid: Vec<u8>,
}

impl Seen {
    /// The decoder rounds some implicitly weighted predictions by one step, so only `exact` videos agree in every bit.
    fn matches(&self, other: &Self, exact: bool) -> bool {
        let close = |(a, b): (&u8, &u8)| a.abs_diff(*b) <= 1;
        self.time == other.time
            && self.grid.iter().zip(&other.grid).all(close)
            && (!exact || self.crc == other.crc)
    }
}

/// Every frame of `name`, as FFmpeg decodes it.
fn reference(name: &str) -> Vec<Seen> {
    let hex = |text: &str| u32::from_str_radix(text, 16).unwrap();
    include_str!("data/frames.txt")
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields[0] == name)
        .map(|fields| Seen {
            time: fields[1].parse().unwrap(),
            crc: hex(fields[2]),
            grid: (0..16)
                .map(|i| hex(&fields[3][2 * i..2 * i + 2]) as u8)
                .collect(),
        })
        .collect()
}

fn seen(frame: &FrameBuf) -> Seen {
    let frame = frame.as_frame().unwrap();
    let format = frame.format();
    let mut hash = crc32fast::Hasher::new();
    for index in 0..3 {
        let plane = frame.plane(index);
        let (row, rows) = format.pixels.plane_size(index, format.width, format.height);
        for y in 0..rows {
            hash.update(&plane.data[y * plane.stride..][..row]);
        }
    }
    let luma = frame.plane(0);
    let (w, h) = (format.width as usize / 4, format.height as usize / 4);
    let mean = |cell: usize| {
        let rows = (0..h).map(|y| (cell / 4 * h + y) * luma.stride + cell % 4 * w);
        let sum: u64 = rows
            .flat_map(|start| &luma.data[start..start + w])
            .map(|&value| u64::from(value))
            .sum();
        (sum as f64 / (w * h) as f64).round() as u8
    };
    Seen {
        time: frame.timestamp_ns(),
        crc: hash.finalize(),
        grid: (0..16).map(mean).collect(),
    }
}

/// (name, equal to FFmpeg in every bit)
const VIDEOS: [(&str, bool); 3] = [("bikes", false), ("bigbuckbunny", true), ("carphone", true)];

#[test]
fn every_frame_equals_ffmpegs() {
    for (name, exact) in VIDEOS {
        let mut reader = VideoReader::open(video(name)).unwrap();
        let expected = reference(name);
        assert_eq!(reader.info().frames, expected.len() as u64, "{name}");
        for (index, expected) in expected.iter().enumerate() {
            let frame = reader.next_frame().unwrap().unwrap();
            let seen = seen(&frame);
            assert!(
                seen.matches(expected, exact),
                "{name}, frame {index}: {seen:?}, not {expected:?}"
            );
        }
        assert!(reader.next_frame().unwrap().is_none(), "{name}");
        assert!(reader.next_frame().unwrap().is_none(), "{name}");
    }
}

#[test]
fn seeking_gives_the_frame_shown_then_and_those_after() {
    // The second one has a single sync sample: seeking there only costs time.
    for (name, exact) in [VIDEOS[0], VIDEOS[2]] {
        let mut reader = VideoReader::open(video(name)).unwrap();
        let expected = reference(name);
        let mut frame = FrameBuf::with_capacity(0);
        for index in [expected.len() - 1, 0, 77, 31, 30, 2] {
            // In the middle of the time it is shown.
            reader.seek(expected[index].time + 1_000_000).unwrap();
            for expected in expected[index..].iter().take(3) {
                assert!(reader.next_frame_into(&mut frame).unwrap());
                let seen = seen(&frame);
                assert!(
                    seen.matches(expected, exact),
                    "{name}, from {index}: {seen:?}, not {expected:?}"
                );
            }
        }
        assert!(seen(&reader.frame_at(0).unwrap()).matches(&expected[0], exact));
        let end = reader.info().duration_ns;
        let last = seen(&reader.frame_at(end - 1).unwrap());
        assert!(last.matches(expected.last().unwrap(), exact));
        for outside in [-1, end, i64::MAX] {
            let error = reader.seek(outside).unwrap_err();
            assert!(error.to_string().contains("s long"), "{error}");
        }
    }
}

/// data/small.mp4, as data/small.py made it.
const SMALL: &[u8] = include_bytes!("data/small.mp4");

fn small(len: usize) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.mp4");
    std::fs::write(&path, &SMALL[..len]).unwrap();
    (dir, path)
}

#[test]
fn fragments_colour_and_rotation_are_read() {
    let (_dir, path) = small(SMALL.len());
    let mut reader = VideoReader::open(path).unwrap();
    let info = reader.info().clone();
    assert_eq!((info.width, info.height, info.frames), (64, 48, 24));
    assert_eq!(info.rotation, Rotation::R90);
    assert_eq!(info.duration_ns, 960_000_000);
    let expected = reference("small");
    // Without an edit list the first picture is the start; FFmpeg keeps the delay of reordering.
    let delay = expected[0].time;
    for expected in expected {
        let frame = reader.next_frame().unwrap().unwrap();
        let format = frame.as_frame().unwrap().format();
        assert_eq!(format.matrix, ColourMatrix::Bt709);
        assert_eq!(format.range, ColourRange::Full);
        assert_eq!(format.rotation, Rotation::R90);
        let time = expected.time - delay;
        let seen = seen(&frame);
        assert!(seen.matches(&Seen { time, ..expected }, true), "{seen:?}");
    }
    assert!(reader.next_frame().unwrap().is_none());
    // In the second fragment.
    let frame = reader.frame_at(500_000_000).unwrap();
    assert_eq!(frame.timestamp_ns(), 480_000_000);
}

#[test]
fn what_a_crash_left_of_a_fragmented_file_is_read() {
    let last = SMALL.windows(4).rposition(|w| w == b"moof").unwrap() - 4;
    // Behind the second fragment, in the last one's headers, in its pictures.
    for (len, least) in [(last, 16), (last + 60, 16), (last + 400, 17)] {
        let (_dir, path) = small(len);
        let mut reader = VideoReader::open(path).unwrap();
        let mut frames = 0;
        while reader.next_frame().unwrap().is_some() {
            frames += 1;
        }
        assert!((least..24).contains(&frames), "{frames} of {len} bytes");
        assert_eq!(frames, reader.info().frames);
    }
}
