//! One mode's fifteen subtasks, in a process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use atom_core::control::Control;
use atom_core::features::Features;
use atom_core::frame::{Frame, FrameBuf};
use atom_core::index::{Access, Filter, NewSegment, NewStream, Segment, Store, StreamId};
use atom_core::language::{LanguageModel, Message, TextEncoder};
use atom_core::module::Lease;
use atom_core::pack::Pack;
use atom_core::runtime::{Runtime, RuntimeOptions};
use atom_core::task::ingest::IngestOptions;
use atom_core::{Error, ErrorKind, Result};
use atom_grounding::Grounding;
use atom_media::VideoReader;

use super::job::{Clip, Job, Outcome, Outputs, Sharing};
use crate::memory::{self, Peak};

/// Tokens of every caption and of every answer; the end of the text does not end them.
pub const CAPTION_TOKENS: usize = 24;
pub const ANSWER_TOKENS: usize = 16;
/// Hits a search wants.
const HITS: usize = 5;
/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Index,
    Search,
    Caption,
    Ask,
}

/// A runtime and what tasks made from it.
struct Open {
    runtime: Runtime,
    text: Option<TextEncoder>,
    speaker: Option<Speaker>,
}

struct Speaker {
    model: LanguageModel,
    grounding: Grounding,
}

/// Does the job.
///
/// # Errors
/// What any subtask returns.
pub fn run(job: &Job) -> Result<Outcome> {
    if !job.memory {
        return Work::new(job).run();
    }
    let (mut outcome, peak) = memory::peak(LOOK, || Work::new(job).run())?;
    outcome.peak = peak;
    Ok(outcome)
}

struct Work<'a> {
    job: &'a Job,
    open: BTreeMap<Kind, Open>,
    store: Option<Store>,
    phases: BTreeMap<String, f64>,
    loads: BTreeMap<String, u64>,
    outputs: Outputs,
}

impl<'a> Work<'a> {
    fn new(job: &'a Job) -> Self {
        Self {
            job,
            open: BTreeMap::new(),
            store: None,
            phases: BTreeMap::new(),
            loads: BTreeMap::new(),
            outputs: Outputs::default(),
        }
    }

    fn run(mut self) -> Result<Outcome> {
        let started = Instant::now();
        for clip in &self.job.clips {
            self.subtask(Kind::Index, |work, open| work.index(open, clip))?;
            for query in &clip.queries {
                self.subtask(Kind::Search, |work, open| work.search(open, query))?;
            }
            self.subtask(Kind::Caption, |work, open| work.caption(open, clip))?;
            self.subtask(Kind::Ask, |work, open| work.ask(open, clip))?;
        }
        let wall_s = started.elapsed().as_secs_f64();
        for open in std::mem::take(&mut self.open).into_values() {
            self.count(&open);
        }
        Ok(Outcome {
            wall_s,
            phases_s: self.phases,
            loads: self.loads,
            peak: Peak::default(),
            outputs: self.outputs,
        })
    }

    /// Opens what is not open, loads what is not resident, works, and drops what is not kept.
    fn subtask(
        &mut self,
        kind: Kind,
        work: impl FnOnce(&mut Self, &mut Open) -> Result<()>,
    ) -> Result<()> {
        let owner = match self.job.sharing {
            // Any one key serves, as long as it is always the same.
            Sharing::Shared => Kind::Index,
            Sharing::Reload | Sharing::Unshared => kind,
        };
        let mut open = match self.open.remove(&owner) {
            Some(open) => open,
            None => self.timed("open", |work| Open::new(work.job))?,
        };
        if self.store.is_none() {
            let path = self.job.store.clone();
            let store = self.timed("open", |_| {
                open.runtime.open_store(&path, Access::ReadWrite)
            })?;
            self.store = Some(store);
        }
        let leases = self.timed("load", |work| open.lease(&work.modules(&open, kind)?))?;
        work(self, &mut open)?;
        if self.job.sharing == Sharing::Reload {
            self.count(&open);
            self.timed("release", |_| {
                drop((leases, open));
                Ok(())
            })?;
        } else {
            self.open.insert(owner, open);
        }
        Ok(())
    }

    fn index(&mut self, open: &mut Open, clip: &Clip) -> Result<()> {
        let Some(frames) = &self.job.frames else {
            return self.timed("decode video and index", |work| work.ingest(open, clip));
        };
        let format = clip.format();
        let data = self.timed("read frames", |_| {
            read(frames, clip, 0..clip.times_ns.len())
        })?;
        let mut encoded = Vec::new();
        for (bytes, at) in data.chunks(format.packed_bytes()).zip(&clip.times_ns) {
            let frame = Frame::packed(format, bytes, *at)?;
            let features = self.timed("encode", |_| {
                open.runtime.observe(&frame, &Control::default())
            })?;
            self.outputs.embeddings.push(bits(&features));
            encoded.push(features);
        }
        self.timed("store", |work| {
            let store = work.store()?;
            let stream = store.open_stream(&NewStream {
                name: clip.name.clone(),
                ..NewStream::default()
            })?;
            let segments: Vec<NewSegment<'_>> = encoded
                .iter()
                .zip(&clip.times_ns)
                .map(|(features, at)| NewSegment {
                    start_ns: *at,
                    end_ns: *at + 1,
                    keyframe_ns: *at,
                    features,
                    thumbnail: &[],
                })
                .collect();
            store.append_batch(stream, &segments).map(drop)
        })
    }

    fn ingest(&mut self, open: &Open, clip: &Clip) -> Result<()> {
        let options = IngestOptions::new(&clip.name, clip.format().packed_bytes());
        let store = self.store()?;
        let ingest = open.runtime.ingest(store, &options)?;
        let mut reader = VideoReader::open(&clip.file)?;
        while let Some(frame) = reader.next_frame()? {
            ingest.push_wait(&frame.as_frame()?)?;
        }
        let stream = ingest.stream();
        ingest.finish()?;
        let stored = stored(store, stream)?;
        self.outputs.embeddings.extend(stored);
        Ok(())
    }

    fn search(&mut self, open: &mut Open, words: &str) -> Result<()> {
        let task = open.runtime.pack().manifest().tasks.search.clone();
        let task = task.ok_or_else(|| unfit("search"))?;
        let registry = open.runtime.registry();
        if open.text.is_none() {
            let encoder = self.timed("prepare", |_| {
                TextEncoder::new(registry, &task.text_encoder)
            })?;
            open.text = Some(encoder);
        }
        let encoder = open.text.as_ref().ok_or_else(|| unfit("search"))?;
        let prompt = task.query_template.replace("{}", words);
        let vector = self.timed("text", |_| encoder.encode(&prompt, &Control::default()))?;
        // Without a threshold, so that every search has hits to compare.
        let hits = self.timed("scan", |work| {
            work.store()?.search(&vector, &Filter::best(HITS))
        })?;
        let hits = hits
            .into_iter()
            .map(|hit| (hit.stream, hit.keyframe_ns, hit.score.to_bits()))
            .collect();
        self.outputs.hits.push(hits);
        Ok(())
    }

    fn caption(&mut self, open: &mut Open, clip: &Clip) -> Result<()> {
        let wanted = "Describe the picture.";
        let ids = self.say(open, Kind::Caption, clip, wanted, CAPTION_TOKENS)?;
        self.outputs.captions.push(ids);
        Ok(())
    }

    fn ask(&mut self, open: &mut Open, clip: &Clip) -> Result<()> {
        let ids = self.say(open, Kind::Ask, clip, &clip.question, ANSWER_TOKENS)?;
        self.outputs.answers.push(ids);
        Ok(())
    }

    /// Exactly `count` tokens after the prompt that a grounded caption or answer has, the likeliest each time.
    fn say(
        &mut self,
        open: &mut Open,
        kind: Kind,
        clip: &Clip,
        wanted: &str,
        count: usize,
    ) -> Result<Vec<u32>> {
        if open.speaker.is_none() {
            let speaker = self.timed("prepare", |_| Speaker::new(&open.runtime, kind))?;
            open.speaker = Some(speaker);
        }
        let features = if self.job.features {
            self.timed("scan", |work| {
                let segment = work.segment(clip)?;
                work.store()?.features(segment.id)
            })?
        } else {
            let frame = self.timed("read frames", |work| work.frame(clip))?;
            self.timed("encode", |_| {
                open.runtime
                    .observe(&frame.as_frame()?, &Control::default())
            })?
        };
        let speaker = open.speaker.as_ref().ok_or_else(|| unfit("caption"))?;
        let control = Control::default();
        let model = &speaker.model;
        let (mut generation, fed) = self.timed("prefill", |_| {
            let seen = speaker.grounding.observe(&[&features])?;
            let prompt = format!("{} {wanted}", seen.context());
            let prompt = model.prompt(&[Message::user(prompt)])?;
            let mut generation = model.start(prompt.len() + count, &control)?;
            generation.feed(&prompt, &control)?;
            Ok((generation, prompt.len()))
        })?;
        self.outputs.prompt_tokens.push(fed);
        let ids = self.timed("decode", |_| {
            let mut ids = Vec::with_capacity(count);
            loop {
                let likeliest = likeliest(generation.logits());
                ids.push(likeliest);
                if ids.len() == count {
                    return Ok(ids);
                }
                generation.feed(&[likeliest], &control)?;
            }
        })?;
        self.outputs.texts.push(model.tokenizer().decode(&ids)?);
        Ok(ids)
    }

    /// The modules that a subtask of this kind goes through.
    fn modules(&self, open: &Open, kind: Kind) -> Result<Vec<String>> {
        let mut found = modules(open.runtime.pack(), kind)?;
        if matches!(kind, Kind::Caption | Kind::Ask) && !self.job.features {
            found.extend(modules(open.runtime.pack(), Kind::Index)?);
        }
        Ok(found)
    }

    /// The segment that is captioned and asked about.
    fn segment(&self, clip: &Clip) -> Result<Segment> {
        let store = self.store()?;
        let stream = store.stream(&clip.name)?.id;
        store
            .segment_at(stream, clip.at_ns)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("nothing of {}", clip.name)))
    }

    /// Its keyframe's picture.
    fn frame(&self, clip: &Clip) -> Result<FrameBuf> {
        let at = self.segment(clip)?.keyframe_ns;
        let Some(frames) = &self.job.frames else {
            return VideoReader::open(&clip.file)?.frame_at(at);
        };
        let index = clip.times_ns.iter().position(|time| *time == at);
        let index = index.ok_or_else(|| Error::new(ErrorKind::Internal, "no such keyframe"))?;
        let data = read(frames, clip, index..index + 1)?;
        FrameBuf::from_vec(clip.format(), data, at)
    }

    fn store(&self) -> Result<&Store> {
        self.store
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the store is not open"))
    }

    fn count(&mut self, open: &Open) {
        for module in open.runtime.modules() {
            *self.loads.entry(module.id).or_default() += module.loads;
        }
    }

    fn timed<T>(&mut self, phase: &str, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let result = work(self);
        *self.phases.entry(phase.to_owned()).or_default() += started.elapsed().as_secs_f64();
        result
    }
}

impl Open {
    fn new(job: &Job) -> Result<Self> {
        let mut options = RuntimeOptions::new(&job.pack);
        options.ort_library.clone_from(&job.ort_library);
        options.threads = job.threads;
        Ok(Self {
            runtime: Runtime::open(&options)?,
            text: None,
            speaker: None,
        })
    }

    fn lease(&self, modules: &[String]) -> Result<Vec<Lease>> {
        let leases = modules.iter().map(|id| self.runtime.registry().lease(id));
        leases.collect()
    }
}

impl Speaker {
    fn new(runtime: &Runtime, kind: Kind) -> Result<Self> {
        let pack = runtime.pack();
        let decoder = &modules(pack, kind)?[0];
        Ok(Self {
            model: LanguageModel::new(runtime.registry(), decoder, None)?,
            grounding: Grounding::of(pack)?,
        })
    }
}

/// The modules a task of this kind goes through.
fn modules(pack: &Pack, kind: Kind) -> Result<Vec<String>> {
    let tasks = &pack.manifest().tasks;
    let found = match kind {
        Kind::Index => tasks
            .index
            .as_ref()
            .map(|task| task.modules().cloned().collect()),
        Kind::Search => tasks
            .search
            .as_ref()
            .map(|task| vec![task.text_encoder.clone()]),
        Kind::Caption | Kind::Ask => {
            let captioner = pack.manifest().captioner.as_ref();
            captioner.and_then(|spec| Some(vec![spec.language_decoder.clone()?]))
        }
    };
    found.ok_or_else(|| unfit("do every task"))
}

fn unfit(what: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("this pack cannot {what} as the benchmark does"),
    )
    .remedy("measure the reference pack: leave --pack out")
}

/// Some keyframes of a clip, one behind the other.
fn read(frames: &Path, clip: &Clip, which: Range<usize>) -> Result<Vec<u8>> {
    let fail = |error: std::io::Error| Error::io(frames.display(), &error);
    let bytes = clip.format().packed_bytes();
    let mut data = vec![0; which.len() * bytes];
    let mut file = File::open(frames).map_err(fail)?;
    let start = clip.offset + (which.start * bytes) as u64;
    file.seek(SeekFrom::Start(start)).map_err(fail)?;
    file.read_exact(&mut data).map_err(fail)?;
    Ok(data)
}

fn bits(features: &Features) -> Vec<u32> {
    features.embedding.iter().map(|v| v.to_bits()).collect()
}

/// The embeddings a stream has in the store, in the order of time.
fn stored(store: &Store, stream: StreamId) -> Result<Vec<Vec<u32>>> {
    let segments = store.segments(stream, None, None)?;
    segments
        .iter()
        .map(|segment| Ok(bits(&store.features(segment.id)?)))
        .collect()
}

fn likeliest(logits: &[f32]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        // The first of equals.
        .fold((0, f32::NEG_INFINITY), |best, (id, value)| {
            if *value > best.1 { (id, *value) } else { best }
        });
    best.0 as u32
}
