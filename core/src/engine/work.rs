//! A request with everything it names looked up, ready to run on any thread.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handles::Handles;
use super::request::{
    Ask, Caption, Embed, OpenIngest, OpenStore, Operation, Pictures, Request, StoreRead,
};
use super::response::{IngestInfo, Response, StoreInfo, Text};
use crate::caption::OnText;
use crate::control::{CancelToken, Control};
use crate::error::{Error, ErrorKind, Result};
use crate::features::{FeatureMap, Features};
use crate::frame::FrameBuf;
use crate::index::{Access, SegmentId, Store};
use crate::language::StopReason;
use crate::pack::Source as Taken;
use crate::runtime::{Runtime, Task};
use crate::task::{OnMade, Statement, keep_in_store};

/// Which of an executor's threads runs an operation. Each lane has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Runs encoders: search and assemble.
    Encode,
    /// Generates text: captions and answers.
    Generate,
    /// Runs no model: reads stores, opens, and waits for ingests to finish, which can take long.
    Store,
}

impl Lane {
    pub(super) const fn thread_name(self) -> &'static str {
        match self {
            Self::Encode => "atom-encode",
            Self::Generate => "atom-generate",
            Self::Store => "atom-requests",
        }
    }
}

type Run = Box<dyn FnOnce(&Control, OnText<'_>) -> Result<Response> + Send>;

/// A request that is ready to run. It keeps open what it uses.
pub(super) struct Work {
    pub(super) lane: Lane,
    pub(super) control: Control,
    text_events: bool,
    run: Run,
}

impl Work {
    /// Looks up what `request` names. Its deadline counts from here.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a number that is not open, [`ErrorKind::InvalidArgument`] for options out of range.
    pub(super) fn new(
        runtime: &Runtime,
        handles: &Arc<Handles>,
        request: Request,
        cancel: CancelToken,
    ) -> Result<Self> {
        let deadline_ms = request.deadline_ms;
        let (lane, run) = prepare(runtime.clone(), Arc::clone(handles), request.operation)?;
        Ok(Self::of(
            lane,
            Control {
                cancel,
                // One that is too far away to be counted is none.
                deadline: deadline_ms
                    .and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms))),
                priority: request.priority,
            },
            request.text_events,
            run,
        ))
    }

    pub(super) fn of(lane: Lane, control: Control, text_events: bool, run: Run) -> Self {
        Self {
            lane,
            control,
            text_events,
            run,
        }
    }

    /// Runs it, unless it was cancelled or its deadline has passed.
    pub(super) fn run(self, on_text: OnText<'_>) -> Result<Response> {
        self.control.check()?;
        let wanted = self.text_events;
        (self.run)(&self.control, &mut |piece| match wanted {
            true => on_text(piece),
            false => ControlFlow::Continue(()),
        })
    }
}

fn prepare(runtime: Runtime, handles: Arc<Handles>, operation: Operation) -> Result<(Lane, Run)> {
    Ok(match operation {
        Operation::Search(search) => {
            let store = handles.store(search.store)?;
            let run: Run = Box::new(move |control, _| {
                let hits = runtime.search(&store, &search.query, control)?;
                Ok(Response::Hits(hits))
            });
            (Lane::Encode, run)
        }
        Operation::Assemble(assemble) => {
            let store = handles.store(assemble.store)?;
            assemble.query.options.check()?;
            let run: Run = Box::new(move |control, _| {
                let board = runtime.assemble(&store, &assemble.query, control)?;
                Ok(Response::Storyboard(board))
            });
            (Lane::Encode, run)
        }
        Operation::Embed(embed) => {
            let run: Run = Box::new(move |control, _| {
                let vector = match &embed {
                    Embed::Picture(frame) => runtime.embed_picture(&frame.as_frame()?, control)?,
                    Embed::Text(words) => runtime.embed_text(words, control)?,
                };
                Ok(Response::Vector(vector))
            });
            (Lane::Encode, run)
        }
        Operation::Caption(request) => (Lane::Generate, caption(runtime, &handles, request)?),
        Operation::Ask(request) => (Lane::Generate, ask(runtime, &handles, request)?),
        Operation::OpenStore(OpenStore { path, access }) => {
            let run: Run = Box::new(move |_, _| {
                let store = runtime.open_store(Path::new(&path), access)?;
                Ok(Response::Store(StoreInfo {
                    access: store.access(),
                    store: handles.add_store(store),
                }))
            });
            (Lane::Store, run)
        }
        Operation::ReadStore(request) => {
            let store = handles.store(request.store)?;
            let run: Run = Box::new(move |_, _| request.read.read(&store));
            (Lane::Store, run)
        }
        Operation::CloseStore(store) => {
            let run: Run = Box::new(move |_, _| {
                handles.close_store(store)?;
                Ok(Response::Closed)
            });
            (Lane::Store, run)
        }
        Operation::OpenIngest(request) => {
            let store = handles.store(request.store)?;
            let run: Run = Box::new(move |_, _| open_ingest(&runtime, &handles, &store, &request));
            (Lane::Store, run)
        }
        Operation::ReportIngest(ingest) => {
            let ingest = handles.ingest(ingest)?;
            let run: Run = Box::new(move |_, _| Ok(Response::Report(ingest.report())));
            (Lane::Store, run)
        }
        Operation::FinishIngest(ingest) => {
            let ingest = handles.ingest(ingest)?;
            let run: Run = Box::new(move |_, _| Ok(Response::Report(ingest.finish()?)));
            (Lane::Store, run)
        }
        Operation::CloseIngest(ingest) => {
            let run: Run = Box::new(move |_, _| {
                handles.close_ingest(ingest)?;
                Ok(Response::Closed)
            });
            (Lane::Store, run)
        }
    })
}

/// Pictures with their store looked up.
enum Source {
    Stored(Store, Vec<SegmentId>),
    Frames(Vec<FrameBuf>, Taken),
}

impl Source {
    fn new(pictures: Pictures, handles: &Handles) -> Result<Self> {
        let source = match pictures {
            Pictures::Segments { store, segments } => Self::Stored(handles.store(store)?, segments),
            Pictures::Frames(frames) if frames.len() > 1 => Self::Frames(frames, Taken::Video),
            Pictures::Frames(frames) | Pictures::Images(frames) => {
                Self::Frames(frames, Taken::Still)
            }
        };
        let count = match &source {
            Self::Stored(_, segments) => segments.len(),
            Self::Frames(frames, _) => frames.len(),
        };
        match count {
            0 => Err(
                Error::new(ErrorKind::InvalidArgument, "no picture is named")
                    .remedy("name a segment or give a frame"),
            ),
            _ => Ok(source),
        }
    }

    /// The features of each picture, for `task`.
    fn features(
        &self,
        runtime: &Runtime,
        task: Task,
        on_made: OnMade<'_>,
        control: &Control,
    ) -> Result<Vec<Features>> {
        match self {
            Self::Stored(store, segments) => {
                let mut from_ns = None;
                let taken = match segments.len() {
                    1 => Taken::Still,
                    _ => Taken::Video,
                };
                segments
                    .iter()
                    .map(|id| {
                        let segment = store.segment(*id)?;
                        let from_ns = *from_ns.get_or_insert(segment.start_ns);
                        let mut features =
                            runtime.segment_features(store, *id, taken, on_made, control)?;
                        features.time_ns = Some(segment.keyframe_ns - from_ns);
                        Ok(features)
                    })
                    .collect()
            }
            Self::Frames(frames, source) => {
                // Loaded while the encoders run.
                runtime.prefetch(task);
                let observe = |frame: &FrameBuf| {
                    runtime.observe_for_text(&frame.as_frame()?, *source, control)
                };
                frames.iter().map(observe).collect()
            }
        }
    }
}

fn caption(runtime: Runtime, handles: &Handles, request: Caption) -> Result<Run> {
    let Caption {
        pictures,
        options,
        fresh,
        store_always,
    } = request;
    let source = Source::new(pictures, handles)?;
    Ok(Box::new(move |control, on_text| {
        let on_made = on_made(&runtime, store_always);
        let on_made: OnMade<'_> = &on_made;
        let statement = match &source {
            Source::Stored(store, segments) if segments.len() == 1 => {
                let segment = segments[0];
                let said = runtime.caption_segment_with(
                    store, segment, &options, fresh, on_made, control, on_text,
                )?;
                if store_always && !said.stored && options.is_plain() {
                    store_briefly(&runtime, store, segment, &said);
                }
                said
            }
            source => {
                let features = source.features(&runtime, Task::Caption, on_made, control)?;
                let features: Vec<&Features> = features.iter().collect();
                runtime.caption(&features, &options, control, on_text)?
            }
        };
        text(statement)
    }))
}

/// Keeps rows that a captioner's encoder made of a stored keyframe. With `always` also in a store that is open for reading only,
/// which is opened for writing for that moment.
fn on_made(runtime: &Runtime, always: bool) -> impl Fn(&Store, SegmentId, Taken, &FeatureMap) + '_ {
    move |store, segment, source, map| {
        if !always || store.access() == Access::ReadWrite {
            return keep_in_store(store, segment, source, map);
        }
        let kept = runtime
            .open_store(store.path(), Access::ReadWrite)
            .and_then(|store| store.set_map(segment, source, map));
        if let Err(error) = kept {
            log::info!("the rows of segment {segment} are not kept: {error}");
        }
    }
}

/// Stores a caption in a store that is open for reading only. The lock of the one writer is held for this moment.
fn store_briefly(runtime: &Runtime, store: &Store, segment: SegmentId, said: &Statement) {
    if store.access() == Access::ReadWrite {
        return;
    }
    let stored = runtime
        .open_store(store.path(), Access::ReadWrite)
        .and_then(|store| runtime.keep_caption(&store, segment, said));
    if let Err(error) = stored {
        log::info!("the caption of segment {segment} is not stored: {error}");
    }
}

fn ask(runtime: Runtime, handles: &Handles, request: Ask) -> Result<Run> {
    let Ask {
        pictures,
        question,
        options,
        store_always,
    } = request;
    let source = Source::new(pictures, handles)?;
    Ok(Box::new(move |control, on_text| {
        let on_made = on_made(&runtime, store_always);
        let features = source.features(&runtime, Task::Ask, &on_made, control)?;
        let features: Vec<&Features> = features.iter().collect();
        text(runtime.ask(&features, &question, &options, control, on_text)?)
    }))
}

/// A response of what was said. Nothing said because of cancel or deadline is that failure.
fn text(statement: Statement) -> Result<Response> {
    let nothing = statement.tokens == 0 && statement.text.is_empty();
    match statement.stop_reason {
        StopReason::Cancelled if nothing => {
            let why = "cancelled before the first token";
            return Err(Error::new(ErrorKind::Cancelled, why));
        }
        StopReason::Deadline if nothing => {
            let why = "the deadline passed before the first token";
            return Err(Error::new(ErrorKind::DeadlineExceeded, why));
        }
        _ => {}
    }
    Ok(Response::Text(Text {
        evidence: statement.evidence.to_string(),
        text: statement.text,
        tokens: statement.tokens as u64,
        prompt_ids: statement.prompt_ids,
        token_ids: statement.token_ids,
        stop_reason: statement.stop_reason,
        stored: statement.stored,
    }))
}

fn open_ingest(
    runtime: &Runtime,
    handles: &Handles,
    store: &Store,
    request: &OpenIngest,
) -> Result<Response> {
    let ingest = match request.captions {
        true => runtime.ingest_captioned(store, &request.options)?,
        false => runtime.ingest(store, &request.options)?,
    };
    Ok(Response::Ingest(IngestInfo {
        stream: ingest.stream(),
        ingest: handles.add_ingest(Arc::new(ingest)),
    }))
}

impl StoreRead {
    /// Reads it from `store`. Needs no runtime.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a stream, a segment or a time the store does not have, and what the store reports.
    pub fn read(&self, store: &Store) -> Result<Response> {
        Ok(match self {
            Self::Streams => Response::Streams(store.streams()?),
            Self::Segments {
                stream,
                from_ns,
                to_ns,
            } => {
                let id = store.stream(stream)?.id;
                Response::Segments(store.segments(id, *from_ns, *to_ns)?)
            }
            Self::SegmentAt { stream, at_ns } => {
                let id = store.stream(stream)?.id;
                let segment = store.segment_at(id, *at_ns)?.ok_or_else(|| {
                    Error::new(
                        ErrorKind::NotFound,
                        format!("stream {stream:?} has nothing at {at_ns} ns"),
                    )
                    .remedy("choose a time inside one of its segments")
                })?;
                Response::Segment(segment)
            }
            Self::Stats => Response::Stats(store.stats()?),
            Self::Thumbnail { segment } => Response::Thumbnail(store.thumbnail(*segment)?),
        })
    }
}
