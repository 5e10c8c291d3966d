//! `atom index`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use atom_cli::output::{nanoseconds, print_json, print_line, progress};
use atom_cli::session::{Session, stream_name};
use atom_core::frame::{FrameFormat, PixelFormat};
use atom_core::index::{Source, Store, StreamId};
use atom_core::runtime::{IndexReport, Indexing};
use atom_core::task::ingest::IngestOptions;
use atom_core::vision::SamplerOptions;
use atom_core::{Error, ErrorKind, Result};
use atom_media::VideoReader;
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// MP4 files with H.264 video.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Name of the stream; the file's own name when absent. Only with one file.
    #[arg(long)]
    pub stream: Option<String>,
    /// Longest segment, in seconds.
    #[arg(long, value_name = "S")]
    pub max_segment: Option<f64>,
    /// Caption the segments while they are indexed.
    #[arg(long)]
    pub captions: bool,
}

#[derive(Serialize)]
struct Indexed {
    streams: Vec<Stream>,
}

#[derive(Serialize)]
struct Stream {
    stream: String,
    frames: u64,
    segments: u64,
    added: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    captions: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    captions_failed: Option<u64>,
    seconds: f64,
}

/// Captions that are still being made.
enum Rest {
    /// Of a stream just indexed.
    New(Indexing),
    /// Of a stream that was complete.
    Old(StreamId, IndexReport),
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    if args.stream.is_some() && args.files.len() > 1 {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "--stream names one stream, but several files are given",
        )
        .remedy("index them one at a time, or without --stream"));
    }
    let mut sampler = SamplerOptions::default();
    if let Some(longest) = args.max_segment {
        sampler.max_segment_ns = nanoseconds("--max-segment", longest)?;
    }
    let (store, _) = session.store(true)?;
    let mut streams = Vec::new();
    let mut rests = Vec::new();
    for file in &args.files {
        let stream = match &args.stream {
            Some(name) => name.clone(),
            None => stream_name(file)?,
        };
        let started = Instant::now();
        let rest = index(
            session,
            &store,
            file,
            &stream,
            sampler.clone(),
            args.captions,
        )?;
        let report = match &rest {
            Rest::New(indexing) => indexing.report(),
            Rest::Old(_, report) => *report,
        };
        rests.push(rest);
        let done = Stream {
            frames: report.frames,
            segments: report.segments,
            added: report.keyframes,
            captions: None,
            captions_failed: None,
            seconds: started.elapsed().as_secs_f64(),
            stream,
        };
        if !session.global.json {
            print_line(&format!(
                "  {:<24} {:>4} segments ({} new) from {} frames in {:.1} s",
                done.stream, done.segments, done.added, done.frames, done.seconds
            ))?;
        }
        streams.push(done);
    }
    if args.captions {
        caption(session, &store, &mut streams, rests)?;
    }
    if session.global.json {
        print_json(&Indexed { streams })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn index(
    session: &mut Session,
    store: &Store,
    file: &Path,
    stream: &str,
    sampler: SamplerOptions,
    captions: bool,
) -> Result<Rest> {
    let mut reader = VideoReader::open(file)?;
    // So that it means the same elsewhere, in a storyboard's links for one.
    let path = std::path::absolute(file).map_err(|error| Error::io(file.display(), &error))?;
    let source = Source {
        uri: path.display().to_string(),
        sha256: Some(sha256(file)?),
        bytes: None,
    };
    let info = reader.info().clone();
    let streams = store.streams()?;
    let known = streams.iter().find(|known| known.name == stream);
    if let Some(known) = known
        && known.complete
        && known
            .source
            .as_ref()
            .is_some_and(|old| old.same_as(&source))
    {
        let segments = store.segments(known.id, None, None)?.len() as u64;
        let report = IndexReport {
            segments,
            known: segments,
            ..IndexReport::default()
        };
        return Ok(Rest::Old(known.id, report));
    }
    let format = FrameFormat::new(PixelFormat::I420, info.width, info.height);
    let mut options = IngestOptions::new(stream, format.packed_bytes());
    options.stream.source = Some(source);
    options.sampler = sampler;
    let runtime = session.runtime()?;
    let ingest = match captions {
        true => runtime.ingest_captioned(store, &options)?,
        false => runtime.ingest(store, &options)?,
    };
    let bar = progress(info.frames, stream);
    let mut decoded = || {
        // What the decoder takes is not what a module loaded meanwhile takes.
        let _at_work = runtime.ledger().at_work();
        reader.next_frame()
    };
    while let Some(frame) = decoded()? {
        ingest.push_wait(&frame.as_frame()?)?;
        bar.inc(1);
    }
    ingest.finish_ingest()?;
    bar.finish_and_clear();
    Ok(Rest::New(ingest))
}

/// Waits for the captions of all streams and notes their numbers.
fn caption(
    session: &mut Session,
    store: &Store,
    streams: &mut [Stream],
    rests: Vec<Rest>,
) -> Result<()> {
    let started = Instant::now();
    let (mut made, mut failed) = (0, 0);
    for (stream, rest) in streams.iter_mut().zip(rests) {
        let (new, lost) = match rest {
            Rest::New(indexing) => {
                let report = indexing.finish()?;
                (report.captions, report.captions_failed)
            }
            Rest::Old(id, _) => {
                let report = session.runtime()?.caption_stream(store, id)?;
                (report.made, report.failed)
            }
        };
        (stream.captions, stream.captions_failed) = (Some(new), Some(lost));
        (made, failed) = (made + new, failed + lost);
    }
    if !session.global.json {
        let failures = match failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        print_line(&format!(
            "  {made} captions{failures}, the last of them {:.1} s after the last segment",
            started.elapsed().as_secs_f64()
        ))?;
    }
    Ok(())
}

/// SHA-256 of the file's bytes: the same video under another path is the same source.
fn sha256(file: &Path) -> Result<[u8; 32]> {
    use sha2::{Digest, Sha256};
    let fail = |error: std::io::Error| Error::io(file.display(), &error);
    let mut input = File::open(file).map_err(fail)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fail(error)),
        }
    }
}
