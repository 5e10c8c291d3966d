//! Frames of a video file in presentation order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use atom_core::frame::{
    ColourMatrix, ColourRange, Frame, FrameBuf, FrameFormat, PixelFormat, Plane, Rotation,
};
use atom_core::{Error, ErrorKind, Result, trace};
use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use crate::boxes::Flaw;
use crate::mp4;
use crate::sps;
use crate::track::{Sample, Track};

/// A coded picture larger than this is damage: raw 8-bit 4:2:0 of 8192 x 4320 takes 53 MB.
const MAX_SAMPLE_BYTES: u32 = 64 << 20;

/// H.264 lets a decoder hold back no more pictures than this.
const MAX_HELD_BACK: usize = 16;

const NAL_SPS: u8 = 7;

/// What a video file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoInfo {
    /// Length in nanoseconds, from the first shown frame's start to the last one's end.
    pub duration_ns: i64,
    /// Width of the frames in pixels, before rotation.
    pub width: u32,
    /// Height of the frames in pixels, before rotation.
    pub height: u32,
    /// Turn that puts the frames upright; every frame carries it too.
    pub rotation: Rotation,
    /// Number of frames the file shows.
    pub frames: u64,
}

/// A video file being read. Use from one thread at a time; it may move between threads.
pub struct VideoReader {
    path: PathBuf,
    file: File,
    track: Track,
    info: VideoInfo,
    decoder: Decoder,
    /// Next sample to decode.
    next: usize,
    /// Times of the samples inside the decoder, in track ticks; pictures come out in the order of their times.
    inside: BinaryHeap<Reverse<i64>>,
    out: Out,
    /// Pictures shown before this may not decode since the last seek.
    decodable_from: i64,
    coded: Vec<u8>,
    annex_b: Vec<u8>,
}

impl VideoReader {
    /// Opens an MP4 or QuickTime file and reads its tables (not its pictures).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Io`] when the file cannot be opened; [`ErrorKind::BadMedia`], naming the
    /// file and what is wrong, when it is not a regular file, not MP4, damaged, truncated, has no video, or its video
    /// is not 8-bit 4:2:0 progressive H.264.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let io = |e: std::io::Error| Error::io(path.display(), &e);
        let meta = std::fs::metadata(&path).map_err(io)?;
        if !meta.is_file() {
            return Err(bad(&path, "this is not a file"));
        }
        let file = File::open(&path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let track = mp4::read(&file, len).map_err(|flaw| bad(&path, flaw))?;
        let sets = track.sps.first();
        let sps = sets.ok_or_else(|| bad(&path, "its video has no sequence parameters"))?;
        let sequence = sps::parse(sps).map_err(|flaw| bad(&path, flaw))?;
        let decoder = decoder(&path)?;
        let shown: Vec<i64> = track
            .samples
            .iter()
            .map(|s| s.shown)
            .filter(|&s| s >= 0)
            .collect();
        let Some(&last) = shown.iter().max() else {
            return Err(bad(&path, "its edit list shows no picture"));
        };
        // The last frame is taken to last as long as frames do on average.
        let mean = track.duration / track.samples.len() as u64;
        let end = last.saturating_add(i64::try_from(mean).unwrap_or(0).max(1));
        let info = VideoInfo {
            duration_ns: nanoseconds(end, track.timescale),
            width: sequence.width,
            height: sequence.height,
            rotation: track.rotation,
            frames: shown.len() as u64,
        };
        let out = Out {
            path: path.clone(),
            timescale: track.timescale,
            rotation: track.rotation,
            matrix: sequence.matrix,
            range: sequence.range,
            ready: VecDeque::new(),
            spare: Vec::new(),
            from: 0,
            last_ns: -1,
        };
        Ok(Self {
            path,
            file,
            track,
            info,
            decoder,
            next: 0,
            inside: BinaryHeap::new(),
            out,
            decodable_from: i64::MIN,
            coded: Vec::new(),
            annex_b: Vec::new(),
        })
    }

    /// What the file holds.
    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// The file's path, as given to [`open`](Self::open).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next frame in presentation order, or `None` after the last. Times rise strictly.
    ///
    /// # Errors
    /// [`ErrorKind::BadMedia`] naming the file and the time when a picture cannot be read or decoded.
    pub fn next_frame(&mut self) -> Result<Option<FrameBuf>> {
        let _span = trace::span("media", "decode");
        while self.out.ready.is_empty() {
            if !self.advance()? {
                break;
            }
        }
        Ok(self.out.ready.pop_front())
    }

    /// As [`next_frame`](Self::next_frame), into a buffer whose allocation is reused. `false` after the last frame.
    ///
    /// # Errors
    /// As [`next_frame`](Self::next_frame).
    pub fn next_frame_into(&mut self, frame: &mut FrameBuf) -> Result<bool> {
        match self.next_frame()? {
            Some(next) => {
                let used = std::mem::replace(frame, next);
                self.out.recycle(used);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Goes to the frame shown at `ns` nanoseconds (the first one when that is earlier than every frame): it is what
    /// [`next_frame`](Self::next_frame) returns next. Decoding starts at the sync sample before.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `ns` is negative or not before the end of the video.
    pub fn seek(&mut self, ns: i64) -> Result<()> {
        if ns < 0 || ns >= self.info.duration_ns {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{}: there is nothing at {} s",
                    self.path.display(),
                    seconds(ns)
                ),
            )
            .remedy(format!(
                "the video is {} s long",
                seconds(self.info.duration_ns)
            )));
        }
        let scale = self.track.timescale;
        let samples = &self.track.samples;
        let shown = |&(_, s): &(usize, &Sample)| s.shown >= 0;
        let all = || samples.iter().enumerate().filter(shown);
        let target = all()
            .filter(|(_, s)| nanoseconds(s.shown, scale) <= ns)
            .max_by_key(|(_, s)| s.shown)
            .or_else(|| all().min_by_key(|(_, s)| s.shown));
        let Some((index, target)) = target else {
            return Err(bad(&self.path, "its edit list shows no picture"));
        };
        let from = target.shown;
        // A sync sample shown later than the target cannot help it, though decoded earlier (open GOP).
        let sync = samples[..=index]
            .iter()
            .rposition(|s| s.sync && s.shown <= from)
            .unwrap_or(0);
        let decodable_from = samples[sync].shown;
        self.decoder = decoder(&self.path)?;
        self.inside.clear();
        self.out.ready.clear();
        self.out.from = from;
        self.out.last_ns = -1;
        self.next = sync;
        self.decodable_from = decodable_from;
        Ok(())
    }

    /// The frame shown at `ns` nanoseconds.
    ///
    /// # Errors
    /// As [`seek`](Self::seek) and [`next_frame`](Self::next_frame).
    pub fn frame_at(&mut self, ns: i64) -> Result<FrameBuf> {
        self.seek(ns)?;
        self.next_frame()?
            .ok_or_else(|| bad(&self.path, format!("no frame decodes at {} s", seconds(ns))))
    }

    /// Decodes one more sample, or takes the last pictures out of the decoder. `false` when nothing is left.
    fn advance(&mut self) -> Result<bool> {
        let Some(&sample) = self.track.samples.get(self.next) else {
            self.drain()?;
            return Ok(!self.out.ready.is_empty());
        };
        self.read_sample(sample)
            .map_err(|flaw| broken(&self.path, sample.shown, self.track.timescale, &flaw))?;
        self.next += 1;
        self.inside.push(Reverse(sample.shown));
        match self.decoder.decode(&self.annex_b) {
            Ok(Some(picture)) => self.out.take(&picture, &mut self.inside)?,
            Ok(None) if self.inside.len() > MAX_HELD_BACK => {
                // The decoder swallowed a picture: without this, every time after it would be too early.
                self.inside.pop();
                log::warn!("{}: a coded picture gave no frame", self.path.display());
            }
            Ok(None) => {}
            // Pictures before an open group's sync sample refer to what a seek skipped.
            Err(_) if sample.shown < self.decodable_from => {
                self.inside.retain(|&Reverse(shown)| shown != sample.shown);
            }
            Err(e) => {
                let flaw = format!("a picture does not decode: {e}");
                return Err(broken(
                    &self.path,
                    sample.shown,
                    self.track.timescale,
                    &flaw,
                ));
            }
        }
        Ok(true)
    }

    /// Takes every picture out of the decoder.
    fn drain(&mut self) -> Result<()> {
        if self.inside.is_empty() {
            return Ok(());
        }
        // Only at the end: flushing in mid-stream leaks the decoder's picture buffers until it has none left.
        let pictures = self
            .decoder
            .flush_remaining()
            .map_err(|e| bad(&self.path, format!("its last pictures do not decode: {e}")))?;
        for picture in &pictures {
            self.out.take(picture, &mut self.inside)?;
        }
        if !self.inside.is_empty() {
            log::warn!(
                "{}: {} coded pictures gave no frame",
                self.path.display(),
                self.inside.len()
            );
            self.inside.clear();
        }
        Ok(())
    }

    /// Reads a sample and puts it into `annex_b`, after the parameter sets where decoding can start.
    fn read_sample(&mut self, sample: Sample) -> Result<(), Flaw> {
        if sample.size > MAX_SAMPLE_BYTES {
            return Err(format!("a picture of {} bytes", sample.size));
        }
        self.coded.resize(sample.size as usize, 0);
        self.file
            .read_exact_at(&mut self.coded, sample.offset)
            .map_err(|e| format!("reading {} bytes at {}: {e}", sample.size, sample.offset))?;
        self.annex_b.clear();
        if sample.sync {
            for set in self.track.sps.iter().chain(&self.track.pps) {
                push_nal(&mut self.annex_b, set);
            }
        }
        let mut rest = &self.coded[..];
        while rest.len() > self.track.length_bytes {
            let (len, tail) = rest.split_at(self.track.length_bytes);
            let len = len.iter().fold(0, |all, &b| all << 8 | usize::from(b));
            if len > tail.len() {
                return Err("a picture ends inside a NAL unit".into());
            }
            let (nal, tail) = tail.split_at(len);
            rest = tail;
            if nal.first().is_some_and(|head| head & 0x1f == NAL_SPS) {
                let sequence = sps::parse(nal)?;
                self.out.matrix = sequence.matrix;
                self.out.range = sequence.range;
            }
            push_nal(&mut self.annex_b, nal);
        }
        Ok(())
    }
}

/// Decoded pictures on their way to the caller.
struct Out {
    path: PathBuf,
    timescale: u32,
    rotation: Rotation,
    matrix: ColourMatrix,
    range: ColourRange,
    ready: VecDeque<FrameBuf>,
    spare: Vec<FrameBuf>,
    /// Pictures shown before this are decoded, not returned.
    from: i64,
    last_ns: i64,
}

impl Out {
    /// Copies a picture, which comes out in the order of times, and gives it the earliest time inside the decoder.
    fn take(
        &mut self,
        picture: &DecodedYUV<'_>,
        inside: &mut BinaryHeap<Reverse<i64>>,
    ) -> Result<()> {
        let Some(Reverse(shown)) = inside.pop() else {
            return Err(bad(&self.path, "more pictures decode than it has"));
        };
        if shown < self.from {
            return Ok(());
        }
        // Two pictures at one time are a flaw of the file that nobody after us should meet.
        let time = nanoseconds(shown, self.timescale).max(self.last_ns + 1);
        self.last_ns = time;
        let (width, height) = picture.dimensions();
        let format = FrameFormat {
            pixels: PixelFormat::I420,
            width: width as u32,
            height: height as u32,
            matrix: self.matrix,
            range: self.range,
            rotation: self.rotation,
        };
        let (y, u, v) = picture.strides();
        let planes = [(picture.y(), y), (picture.u(), u), (picture.v(), v)]
            .map(|(data, stride)| Plane { data, stride });
        let frame = Frame::new(format, &planes, time)
            .map_err(|e| broken(&self.path, shown, self.timescale, e.message()))?;
        let mut place = self
            .spare
            .pop()
            .unwrap_or_else(|| FrameBuf::with_capacity(format.packed_bytes()));
        place.copy_from(&frame);
        self.ready.push_back(place);
        Ok(())
    }

    fn recycle(&mut self, frame: FrameBuf) {
        if self.spare.len() < 4 {
            self.spare.push(frame);
        }
    }
}

fn push_nal(stream: &mut Vec<u8>, nal: &[u8]) {
    stream.extend([0, 0, 0, 1]);
    stream.extend(nal);
}

fn decoder(path: &Path) -> Result<Decoder> {
    // Flushing after every picture would give them out in coding order.
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    Decoder::with_api_config(OpenH264API::from_source(), config)
        .map_err(|e| bad(path, format!("no H.264 decoder: {e}")))
}

fn nanoseconds(ticks: i64, timescale: u32) -> i64 {
    let ns = i128::from(ticks) * 1_000_000_000 / i128::from(timescale.max(1));
    // Half of the range, so that sums stay inside it.
    ns.clamp(0, i128::from(i64::MAX / 2)) as i64
}

fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

fn broken(path: &Path, shown: i64, timescale: u32, flaw: &str) -> Error {
    let at = seconds(nanoseconds(shown, timescale));
    bad(path, format!("at {at:.3} s: {flaw}"))
}

fn bad(path: &Path, flaw: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadMedia, format!("{}: {flaw}", path.display())).remedy(
        "give a whole MP4 or MOV file with progressive 8-bit H.264; other video can be converted, for example with \
         `ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4`",
    )
}
