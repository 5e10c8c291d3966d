//! The engine's requests, responses and events survive being written and read: as JSON, and in a compact encoding that does
//! not describe itself.

use std::fmt::Debug;

use atom_core::control::{Priority, TextOptions};
use atom_core::engine::{
    Ask, Assemble, Caption, Embed, Event, IngestHandle, IngestInfo, OpenIngest, OpenStore,
    Operation, Pictures, ReadStore, Request, Response, Search, StoreHandle, StoreInfo, StoreRead,
    Text,
};
use atom_core::frame::{FrameBuf, FrameFormat, PixelFormat};
use atom_core::index::{Access, Hit, Segment, SegmentId, Source, StoreStats, Stream, StreamId};
use atom_core::language::StopReason;
use atom_core::runtime::IndexReport;
use atom_core::storyboard::{
    Clip, ClipStream, Line, Storyboard, StoryboardOptions, Unmatched, WrittenBy,
};
use atom_core::task::assemble::AssembleQuery;
use atom_core::task::ingest::IngestOptions;
use atom_core::task::search::SearchQuery;
use atom_core::{Error, ErrorKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

const STORE: StoreHandle = StoreHandle(3);
const INGEST: IngestHandle = IngestHandle(u64::MAX);

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let json = serde_json::to_string(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value, "{json}");
    let bytes = postcard::to_allocvec(value).unwrap();
    assert_eq!(&postcard::from_bytes::<T>(&bytes).unwrap(), value, "{json}");
    assert!(
        bytes.len() <= json.len(),
        "{} bytes for {json}",
        bytes.len()
    );
}

fn operations() -> Vec<Operation> {
    let options = TextOptions {
        max_tokens: Some(7),
        choices: vec!["yes".into(), "\"no\"\0".into()],
        prompt: Some("detailed-caption".into()),
        beams: Some(3),
        temperature: Some(0.7),
        top_k: Some(0),
        top_p: Some(0.9),
        seed: Some(u64::MAX),
    };
    let format = FrameFormat::new(PixelFormat::I420, 3, 3);
    let frame = FrameBuf::from_vec(format, (0..17).collect(), 5).unwrap();
    let pixel = FrameBuf::default();
    let segments = Pictures::Segments {
        store: STORE,
        segments: vec![SegmentId(1), SegmentId(1 << 52)],
    };
    let mut ingest = IngestOptions::new("door", 42);
    ingest.stream.source = Some(Source {
        uri: "file:///a b".into(),
        sha256: Some([7; 32]),
        bytes: None,
    });
    ingest.stream.start_wall_ns = Some(-1);
    let reads = [
        StoreRead::Streams,
        StoreRead::Segments {
            stream: "door".into(),
            from_ns: Some(0),
            to_ns: None,
        },
        StoreRead::SegmentAt {
            stream: "door".into(),
            at_ns: i64::MAX,
        },
        StoreRead::Stats,
        StoreRead::Thumbnail {
            segment: SegmentId(9),
        },
    ];
    let mut all = vec![
        Operation::Search(Search {
            store: STORE,
            query: SearchQuery {
                from_ns: Some(1),
                stream: Some("door".into()),
                min_score: Some(-0.25),
                ..SearchQuery::new("ein rotes Auto 🚗")
            },
        }),
        Operation::Assemble(Assemble {
            store: STORE,
            query: AssembleQuery {
                script: "one\ntwo".into(),
                title: Some("t".into()),
                options: StoryboardOptions {
                    per_line: 2,
                    to_ns: Some(99),
                    ..StoryboardOptions::default()
                },
            },
        }),
        Operation::Caption(Caption {
            pictures: segments.clone(),
            options: options.clone(),
            fresh: true,
            store_always: true,
        }),
        Operation::Ask(Ask {
            pictures: Pictures::Frames(vec![frame.clone()]),
            question: "What?".into(),
            options,
            store_always: true,
        }),
        Operation::Ask(Ask {
            pictures: Pictures::Images(vec![frame]),
            question: "And here?".into(),
            options: TextOptions::default(),
            store_always: false,
        }),
        Operation::Embed(Embed::Text(" a dog ".into())),
        Operation::Embed(Embed::Picture(pixel)),
        Operation::OpenStore(OpenStore {
            path: "/var/lib/atom".into(),
            access: Access::ReadOnly,
        }),
        Operation::CloseStore(STORE),
        Operation::OpenIngest(OpenIngest {
            store: STORE,
            options: ingest,
            captions: true,
        }),
        Operation::ReportIngest(INGEST),
        Operation::FinishIngest(INGEST),
        Operation::CloseIngest(INGEST),
    ];
    all.extend(reads.map(|read| Operation::ReadStore(ReadStore { store: STORE, read })));
    all
}

fn responses() -> Vec<Response> {
    let stream = Stream {
        id: StreamId(1),
        name: "door".into(),
        source: None,
        boot_id: Some("b".into()),
        start_wall_ns: None,
        complete: true,
    };
    let segment = Segment {
        id: SegmentId(4),
        stream: StreamId(1),
        stream_name: "door".into(),
        start_ns: 1,
        end_ns: 3,
        keyframe_ns: 2,
    };
    vec![
        Response::Hits(vec![Hit {
            segment: SegmentId(4),
            stream: "door".into(),
            start_ns: 1,
            end_ns: 3,
            keyframe_ns: 2,
            score: 0.1 + 0.2,
        }]),
        Response::Storyboard(Storyboard {
            title: None,
            lines: vec![Line {
                text: "one".into(),
                written_by: WrittenBy::Script,
                best_score: None,
                unmatched: Some(Unmatched::TooShort),
            }],
            clips: vec![Clip {
                line: 0,
                segment: SegmentId(4),
                stream: 0,
                start_ns: 1,
                end_ns: 3,
                keyframe_ns: 2,
                score: -1.0,
            }],
            streams: vec![ClipStream {
                stream: stream.clone(),
                start_ns: 0,
                end_ns: 9,
            }],
        }),
        Response::Vector(vec![0.6, -0.8]),
        Response::Text(Text {
            text: "a cat".into(),
            tokens: 3,
            prompt_ids: vec![0, 58, u32::MAX],
            token_ids: vec![1, 2, 3],
            stop_reason: StopReason::EndOfText,
            evidence: r#"[{"name":"cat"}]"#.into(),
            stored: true,
        }),
        Response::Store(StoreInfo {
            store: STORE,
            access: Access::ReadWrite,
        }),
        Response::Streams(vec![stream]),
        Response::Segments(vec![segment.clone()]),
        Response::Segment(segment),
        Response::Stats(StoreStats {
            segments: 1 << 40,
            ..StoreStats::default()
        }),
        Response::Thumbnail(vec![0xff, 0xd8, 0]),
        Response::Ingest(IngestInfo {
            ingest: INGEST,
            stream: StreamId(1),
        }),
        Response::Report(IndexReport {
            frames: 10_000,
            ..IndexReport::default()
        }),
        Response::Closed,
    ]
}

#[test]
fn requests_survive_both_encodings() {
    for operation in operations() {
        survives(&Request {
            priority: Priority::Interactive,
            deadline_ms: Some(u64::MAX),
            text_events: true,
            operation,
        });
    }
}

#[test]
fn responses_and_events_survive_both_encodings() {
    for response in responses() {
        survives(&Event::Done {
            request: 1,
            user: u64::MAX,
            result: Ok(response),
        });
    }
    let error = Error::new(ErrorKind::StoreLocked, "store /x is open");
    for error in [error.clone(), error.remedy("close it")] {
        survives(&Event::Done {
            request: 1,
            user: 2,
            result: Err(error),
        });
    }
    survives(&Event::Text {
        request: 1,
        user: 2,
        text: "ein".into(),
    });
}

/// What a client leaves out has the defaults of the library, and what it misspells is named.
#[test]
fn json_of_a_client_may_leave_out_what_has_a_default() {
    let read = |json: &str| serde_json::from_str::<Request>(json);
    let words = r#"{"operation": {"search": {"store": 3, "query": {"text": "a cat"}}}}"#;
    assert_eq!(
        read(words).unwrap(),
        Request::new(Operation::Search(Search {
            store: STORE,
            query: SearchQuery::new("a cat"),
        }))
    );
    let caption =
        r#"{"operation": {"caption": {"pictures": {"segments": {"store": 3, "segments": [1]}}}}}"#;
    let Operation::Caption(caption) = read(caption).unwrap().operation else {
        panic!("no caption");
    };
    assert_eq!(caption.options, TextOptions::default());
    assert!(!caption.fresh && !caption.store_always);
    let ingest = r#"{"operation": {"open_ingest": {"store": 3,
        "options": {"stream": {"name": "door"}, "max_frame_bytes": 42}}}}"#;
    assert_eq!(
        read(ingest).unwrap(),
        Request::new(Operation::OpenIngest(OpenIngest {
            store: STORE,
            options: IngestOptions::new("door", 42),
            captions: false,
        }))
    );
    let misspelt = words.replace("\"text\"", "\"txet\"");
    let error = read(&misspelt).unwrap_err().to_string();
    assert!(error.contains("txet"), "{error}");
}

/// A frame whose bytes do not fit its format is refused when it is read, as it is when it is made.
#[test]
fn a_frame_is_checked_when_it_is_read() {
    let format = FrameFormat::new(PixelFormat::Gray8, 2, 2);
    let frame = FrameBuf::from_vec(format, vec![0; 4], 0).unwrap();
    let json = serde_json::to_string(&frame).unwrap();
    let wide = json.replace("\"width\":2", "\"width\":3");
    assert_ne!(json, wide);
    let error = serde_json::from_str::<FrameBuf>(&wide).unwrap_err();
    assert!(error.to_string().contains("4 bytes given"), "{error}");
    // In the compact encoding: the format's numbers, then the bytes.
    let mut bytes = postcard::to_allocvec(&frame).unwrap();
    assert_eq!(postcard::from_bytes::<FrameBuf>(&bytes).unwrap(), frame);
    bytes[1] = 3;
    assert!(postcard::from_bytes::<FrameBuf>(&bytes).is_err());
}

#[test]
fn error_kinds_are_written_as_their_names() {
    for kind in [
        ErrorKind::InvalidArgument,
        ErrorKind::BadFrame,
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::Unsupported,
        ErrorKind::Busy,
        ErrorKind::Cancelled,
        ErrorKind::DeadlineExceeded,
        ErrorKind::OutOfBudget,
        ErrorKind::BadPack,
        ErrorKind::BadModel,
        ErrorKind::Inference,
        ErrorKind::NativeLibrary,
        ErrorKind::StoreCorrupt,
        ErrorKind::StoreVersion,
        ErrorKind::StoreForeign,
        ErrorKind::StoreLocked,
        ErrorKind::ReadOnly,
        ErrorKind::DiskFull,
        ErrorKind::BadMedia,
        ErrorKind::Io,
        ErrorKind::Internal,
    ] {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    for reason in [
        StopReason::EndOfText,
        StopReason::MaxTokens,
        StopReason::StopString,
        StopReason::Deadline,
        StopReason::Cancelled,
        StopReason::Constraint,
    ] {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
    }
}
