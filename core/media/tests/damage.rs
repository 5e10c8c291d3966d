//! Damaged, foreign and hostile files: an error that names the file, never a panic, a hang or a huge allocation.

use std::path::{Path, PathBuf};

use atom_core::ErrorKind;
use atom_media::VideoReader;

mod common;
use common::video;

/// Opens and decodes everything, and seeks once.
fn read_all(path: &Path) -> atom_core::Result<usize> {
    read(path, usize::MAX)
}

/// The same with at most `limit` frames, and no seek when there are more.
fn read(path: &Path, limit: usize) -> atom_core::Result<usize> {
    let mut reader = VideoReader::open(path)?;
    let mut frames = 0;
    while frames < limit
        && let Some(frame) = reader.next_frame()?
    {
        frame.as_frame()?;
        frames += 1;
    }
    if frames < limit {
        reader.frame_at(reader.info().duration_ns / 2)?;
    }
    Ok(frames)
}

fn written(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn assert_bad(path: &Path, says: &str) {
    let error = read_all(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadMedia, "{error}");
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "{text}");
    assert!(text.contains(says), "{text} does not say {says:?}");
    assert!(error.remedy_text().is_some(), "{text}");
}

#[test]
fn files_that_are_no_video_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let good = std::fs::read(video("carphone")).unwrap();
    assert_bad(dir.path(), "not a file");
    assert_bad(&written(dir.path(), "empty.mp4", b""), "empty");
    assert_bad(
        &written(
            dir.path(),
            "text.mp4",
            b"Not a video, only words about one.",
        ),
        "not an MP4",
    );
    assert_bad(
        &written(dir.path(), "noise.mp4", &[0xff; 4096]),
        "not an MP4",
    );
    assert_bad(&written(dir.path(), "zeros.mp4", &[0; 4096]), "not an MP4");
    assert_bad(
        &written(dir.path(), "half.mp4", &good[..good.len() / 2]),
        "truncated",
    );
    let missing = VideoReader::open(dir.path().join("missing.mp4"))
        .err()
        .unwrap();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");

    let replaced = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).rposition(|w| w == from).unwrap();
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    assert_bad(
        &written(dir.path(), "hevc.mp4", &replaced(b"avc1", b"hvc1")),
        "HEVC",
    );
    assert_bad(
        &written(dir.path(), "sound.mp4", &replaced(b"vide", b"soun")),
        "no video track",
    );
}

#[test]
fn a_file_cut_off_behind_its_headers_is_truncated() {
    // The headers in front, as for streaming: chunk offsets move by the size of the headers.
    let good = std::fs::read(video("carphone")).unwrap();
    let moov = good.windows(4).rposition(|w| w == b"moov").unwrap() - 4;
    let mut head = good[moov..].to_vec();
    let stco = head.windows(4).position(|w| w == b"stco").unwrap() + 12;
    let old = u32::from_be_bytes(head[stco..stco + 4].try_into().unwrap());
    let new = old + head.len() as u32;
    head[stco..stco + 4].copy_from_slice(&new.to_be_bytes());
    let ftyp = u32::from_be_bytes(good[..4].try_into().unwrap()) as usize;
    let whole = [&good[..ftyp], &head, &good[ftyp..moov]].concat();

    let dir = tempfile::tempdir().unwrap();
    let frames = read_all(&written(dir.path(), "fast.mp4", &whole)).unwrap();
    assert_eq!(frames, 120);
    assert_bad(
        &written(dir.path(), "cut.mp4", &whole[..whole.len() - 9]),
        "truncated",
    );
}

/// A small deterministic generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[test]
fn truncation_anywhere_gives_an_answer() {
    let good = std::fs::read(video("carphone")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for step in 0..200 {
        let len = good.len() * step / 200;
        let path = written(dir.path(), "cut.mp4", &good[..len]);
        assert!(read_all(&path).is_err(), "{len} bytes");
    }
    for cut in 1..200 {
        let path = written(dir.path(), "cut.mp4", &good[..good.len() - cut]);
        let _ = read(&path, 5);
    }
}

#[test]
fn flipped_bytes_give_an_answer() {
    let good = std::fs::read(video("carphone")).unwrap();
    let moov = good.windows(4).rposition(|w| w == b"moov").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(0x5eed);
    for round in 0..200 {
        let mut bytes = good.clone();
        // Two of three rounds hit the headers, where sizes and counts are.
        let (from, flips) = if round % 3 == 0 {
            (0, 20)
        } else {
            (moov, 1 + round % 4)
        };
        for _ in 0..flips {
            let at = from + random.below(good.len() - from);
            bytes[at] = match random.below(3) {
                0 => 0,
                1 => 0xff,
                _ => random.below(256) as u8,
            };
        }
        let path = written(dir.path(), "flipped.mp4", &bytes);
        match read(&path, 10) {
            Ok(frames) => assert!(frames > 0, "round {round}"),
            Err(error) => assert!(!error.message().is_empty(), "round {round}"),
        }
    }
}

#[test]
fn flipped_bytes_in_fragments_give_an_answer() {
    let good = include_bytes!("data/small.mp4");
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(0xf1a9);
    for round in 0..2000 {
        let mut bytes = good.to_vec();
        for _ in 0..1 + round % 4 {
            let at = random.below(good.len());
            bytes[at] = match random.below(3) {
                0 => 0,
                1 => 0xff,
                _ => random.below(256) as u8,
            };
        }
        let path = written(dir.path(), "flipped.mp4", &bytes);
        match read_all(&path) {
            Ok(frames) => assert!(frames > 0, "round {round}"),
            Err(error) => assert!(!error.message().is_empty(), "round {round}"),
        }
    }
}
