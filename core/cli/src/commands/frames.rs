//! `atom frames`: a video as raw NV12, what a camera delivers.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use atom_cli::output::{print_json, print_line, progress};
use atom_cli::session::Session;
use atom_core::frame::{Frame, PixelFormat};
use atom_core::{Error, ErrorKind, Result};
use atom_media::VideoReader;
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// An MP4 file with H.264 video.
    pub file: PathBuf,
    /// The file to write: Y, then interleaved U and V, picture after picture.
    #[arg(short, long)]
    pub output: PathBuf,
}

#[derive(Serialize)]
struct Written {
    frames: u64,
    width: u32,
    height: u32,
    frames_per_second: f64,
    bytes: u64,
}

pub fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let mut reader = VideoReader::open(&args.file)?;
    let info = reader.info().clone();
    let fail = |error: std::io::Error| Error::io(args.output.display(), &error);
    let mut output = BufWriter::new(File::create(&args.output).map_err(fail)?);
    let bar = progress(info.frames, "frames");
    let mut written = Written {
        frames: 0,
        width: info.width,
        height: info.height,
        frames_per_second: 0.0,
        bytes: 0,
    };
    let mut packed = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        packed.clear();
        nv12(&frame.as_frame()?, &mut packed)?;
        output.write_all(&packed).map_err(fail)?;
        written.frames += 1;
        written.bytes += packed.len() as u64;
        bar.inc(1);
    }
    output.flush().map_err(fail)?;
    bar.finish_and_clear();
    if info.duration_ns > 0 {
        written.frames_per_second = written.frames as f64 / (info.duration_ns as f64 / 1e9);
    }
    if session.global.json {
        print_json(&written)?;
    } else {
        print_line(&format!(
            "  {} frames of {}x{} at {:.3} per second in {}",
            written.frames,
            written.width,
            written.height,
            written.frames_per_second,
            args.output.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Appends an I420 picture, tightly packed, with its chroma planes interleaved.
fn nv12(frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<()> {
    let format = frame.format();
    if format.pixels != PixelFormat::I420 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("a {:?} picture cannot be written as NV12", format.pixels),
        ));
    }
    let rows = |plane: usize| {
        let (bytes, count) = format.pixels.plane_size(plane, format.width, format.height);
        let plane = frame.plane(plane);
        (0..count).map(move |row| &plane.data[row * plane.stride..][..bytes])
    };
    for row in rows(0) {
        out.extend_from_slice(row);
    }
    for (u, v) in rows(1).zip(rows(2)) {
        out.extend(u.iter().zip(v).flat_map(|(u, v)| [*u, *v]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use atom_core::frame::FrameFormat;

    use super::*;

    #[test]
    fn chroma_is_interleaved() {
        let format = FrameFormat::new(PixelFormat::I420, 3, 2);
        let data: Vec<u8> = (0..10).collect();
        let mut out = Vec::new();
        nv12(&Frame::packed(format, &data, 0).unwrap(), &mut out).unwrap();
        assert_eq!(out, [0, 1, 2, 3, 4, 5, 6, 8, 7, 9]);
    }
}
