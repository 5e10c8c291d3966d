//! Captions, and answers to questions, of pictures and of frames spread over videos, for people to judge.
//!
//!     captions PACK OUT [--questions FILE.tsv] [--frames N] FILE…
//!
//! FILE is a video, of which N frames are taken (twelve if not said), or a binary PPM picture. Prints one line per picture (name, caption,
//! milliseconds, what it rests on) and writes each picture as OUT/NAME.jpg. FILE.tsv holds lines of "NAME<tab>question".

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use atom_core::caption::Statement;
use atom_core::control::{Control, TextOptions};
use atom_core::frame::{FrameBuf, FrameFormat, PixelFormat};
use atom_core::runtime::{Runtime, RuntimeOptions};
use atom_core::vision::thumbnail;
use atom_core::{Error, ErrorKind, Result};
use atom_grounding::{Ground, Grounded};
use atom_media::VideoReader;

const FRAMES: i64 = 12;

fn main() -> Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut option = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        let mut taken = args.drain(at..args.len().min(at + 2));
        Some(taken.nth(1).unwrap_or_default())
    };
    let questions = match option("--questions") {
        Some(path) => std::fs::read_to_string(&path).map_err(|e| Error::io(&path, &e))?,
        None => String::new(),
    };
    let frames = match option("--frames").map(|text| text.parse()) {
        None => FRAMES,
        Some(Ok(frames)) if frames > 0 => frames,
        Some(_) => {
            let message = "--frames takes a number above 0";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    };
    let [pack, out, files @ ..] = args.as_slice() else {
        let usage = "usage: captions PACK OUT FILE… [--questions FILE.tsv] [--frames N]";
        return Err(Error::new(ErrorKind::InvalidArgument, usage));
    };
    let mut opening = RuntimeOptions::new(pack);
    opening.captioners = vec![Arc::new(Grounded)];
    let runtime = Runtime::open(&opening)?;
    let options = TextOptions::default();
    let control = Control::default();
    for (name, frame) in pictures(files, frames)? {
        let frame = frame.as_frame()?;
        let jpeg = PathBuf::from(out).join(format!("{name}.jpg"));
        std::fs::write(&jpeg, thumbnail(&frame, 448, 90)?)
            .map_err(|e| Error::io(jpeg.display(), &e))?;
        let features = runtime.observe(&frame, &control)?;
        let mut quiet = |_: &str| ControlFlow::Continue(());
        let start = Instant::now();
        let said = runtime.caption(&[&features], &options, &control, &mut quiet)?;
        print(&name, "", &said, start);
        for (_, question) in questions
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter(|(of, _)| *of == name)
        {
            let start = Instant::now();
            let said = runtime.ask(&[&features], question, &options, &control, &mut quiet)?;
            print(&name, question, &said, start);
        }
    }
    Ok(())
}

fn print(name: &str, question: &str, said: &Statement, start: Instant) {
    // Another captioner's evidence is shown as it is.
    let grounds = serde_json::from_value::<Vec<Ground>>(said.evidence.clone());
    let Ok(grounds) = grounds else {
        return println!(
            "{name}\t{question}\t{}\t{}\t{}",
            said.text,
            start.elapsed().as_millis(),
            said.evidence
        );
    };
    let grounds: Vec<String> = grounds
        .iter()
        .map(|ground| {
            let count = ground
                .count
                .map_or(String::new(), |count| format!("{count} x "));
            format!("{count}{} {:.2}", ground.name, ground.confidence)
        })
        .collect();
    let ms = start.elapsed().as_millis();
    println!(
        "{name}\t{question}\t{}\t{ms}\t{}",
        said.text,
        grounds.join(", ")
    );
}

/// Every picture by name.
fn pictures(files: &[String], frames: i64) -> Result<Vec<(String, FrameBuf)>> {
    let mut all = Vec::new();
    for file in files {
        let path = Path::new(file);
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|ending| ending == "ppm") {
            all.push((name.into_owned(), ppm(path)?));
            continue;
        }
        let mut video = VideoReader::open(path)?;
        let length = video.info().duration_ns;
        for index in 0..frames {
            let ns = length * (2 * index + 1) / (2 * frames);
            let frame = video.frame_at(ns)?;
            all.push((format!("{name}@{:.2}", ns as f64 / 1e9), frame));
        }
    }
    Ok(all)
}

/// A binary PPM as Pillow writes it: "P6", width and height, 255, pixels.
fn ppm(path: &Path) -> Result<FrameBuf> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path.display(), &e))?;
    let bad = || {
        Error::new(
            ErrorKind::BadMedia,
            format!("{}: not a PPM", path.display()),
        )
    };
    let mut lines = bytes.splitn(4, |byte| *byte == b'\n');
    let (magic, size, depth) = (lines.next(), lines.next(), lines.next());
    let (Some(b"P6"), Some(size), Some(b"255")) = (magic, size, depth) else {
        return Err(bad());
    };
    let size = std::str::from_utf8(size).map_err(|_| bad())?;
    let (width, height) = size.split_once(' ').ok_or_else(bad)?;
    let side = |text: &str| text.parse::<u32>().map_err(|_| bad());
    let format = FrameFormat::new(PixelFormat::Rgb8, side(width)?, side(height)?);
    FrameBuf::from_vec(format, lines.next().ok_or_else(bad)?.to_vec(), 0)
}
