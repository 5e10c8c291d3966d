//! Videos to work on, and a store of them.

use std::path::{Path, PathBuf};

use atom_core::frame::{FrameFormat, PixelFormat};
use atom_core::index::Access;
use atom_core::runtime::Runtime;
use atom_core::task::ingest::IngestOptions;
use atom_core::{Error, ErrorKind, Result, cache};
use atom_media::VideoReader;

use atom_cli::session::stream_name;

/// `named`, or the demo's clips when that is empty.
///
/// # Errors
/// [`ErrorKind::NotFound`] when the clips were not fetched.
pub fn files(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let clips = ["bikes", "bigbuckbunny", "carphone"];
    let files = clips.map(|clip| cache::dir().join(format!("videos/{clip}.mp4")));
    match files.iter().find(|file| !file.exists()) {
        None => Ok(files.to_vec()),
        Some(missing) => Err(Error::new(
            ErrorKind::NotFound,
            format!("{} is missing", missing.display()),
        )
        .remedy("name videos, or run `python3 models/setup.py`")),
    }
}

/// Indexes `files` into a new store and captions their segments: meanwhile, or afterwards. The number of segments. None is
/// longer than `longest` nanoseconds.
///
/// # Errors
/// What reading the videos, indexing and captioning give.
pub fn index(
    runtime: &Runtime,
    files: &[PathBuf],
    store: &Path,
    longest: i64,
    overlapped: bool,
) -> Result<u64> {
    let store = runtime.open_store(store, Access::ReadWrite)?;
    let (mut segments, mut captions, mut rests) = (0, 0, Vec::new());
    for file in files {
        let mut reader = VideoReader::open(file)?;
        let info = reader.info().clone();
        let format = FrameFormat::new(PixelFormat::I420, info.width, info.height);
        let mut options = IngestOptions::new(stream_name(file)?, format.packed_bytes());
        options.sampler.max_segment_ns = longest;
        options.sampler.min_segment_ns = options.sampler.min_segment_ns.min(longest);
        let ingest = match overlapped {
            true => runtime.ingest_captioned(&store, &options)?,
            false => runtime.ingest(&store, &options)?,
        };
        while let Some(frame) = reader.next_frame()? {
            ingest.push_wait(&frame.as_frame()?)?;
        }
        ingest.finish_ingest()?;
        rests.push(ingest);
    }
    for ingest in rests {
        let report = ingest.finish()?;
        segments += report.segments;
        captions += report.captions;
        if !overlapped {
            captions += runtime.caption_stream(&store, ingest.stream())?.made;
        }
    }
    if captions != segments {
        return Err(Error::new(
            ErrorKind::Internal,
            format!("{captions} captions of {segments} segments"),
        )
        .remedy("see what -v says of the others"));
    }
    Ok(segments)
}
