//! Assemble: a script to a storyboard.

use std::ffi::{CString, c_char, c_void};

use atom_core::engine::{Assemble, Operation, StoreHandle};
use atom_core::storyboard::{Storyboard, StoryboardOptions, Unmatched, WrittenBy};
use atom_core::task::assemble::AssembleQuery;

use crate::boundary::{
    MAX_PATH, MAX_TEXT, Out, OutStruct, Outcome, borrow, guard, handle, optional_text, read,
    read_struct, sized, take, text,
};
use crate::control::{atom_canceller, bounds};
use crate::queue::{atom_queue, submit};
use crate::runtime::{atom_runtime, run};
use crate::status::{Failure, atom_status, to_c_string};
use crate::store::atom_store;

/// How clips are chosen for the lines of a script. Zero is the default everywhere; NULL options are all defaults.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_assemble_options {
    /// sizeof(atom_assemble_options).
    pub struct_size: usize,
    /// Most clips for each line; 0: 1. Lines times this may be 100 at most.
    pub per_line: u32,
    /// Milliseconds from the call on after which it fails with ATOM_STATUS_DEADLINE_EXCEEDED; 0: none.
    pub deadline_ms: u32,
    /// No clip is shorter, in nanoseconds, up to ten minutes; 0: one second. A shorter segment's clip grows into the time
    /// around it that the store has; where there is not enough, the segment is not used.
    pub min_length_ns: i64,
    /// No clip is longer, in nanoseconds; 0: ten seconds.
    pub max_length_ns: i64,
    /// How much of a cosine a clip counts less that repeats another in full (same stream, same picture), up to 1; 0: 0.2;
    /// -1: nothing.
    pub variety: f32,
    /// Cosine below which a segment is no match; 0: the pack's own threshold; -1: no threshold.
    pub min_score: f32,
    /// Only segments of the stream of this name; NULL: all streams.
    pub stream: *const c_char,
    /// No clip reaches before this time of its stream, in nanoseconds; 0: from the start.
    pub from_ns: i64,
    /// No clip reaches past this time of its stream, in nanoseconds; 0: to the end.
    pub to_ns: i64,
    /// What the storyboard is called; NULL: nothing.
    pub title: *const c_char,
    /// Stops the call; NULL: nothing does. Blocking calls only.
    pub canceller: *const atom_canceller,
    /// An atom_priority number.
    pub priority: i32,
}
sized!(atom_assemble_options);

/// Who wrote a line of a storyboard.
#[repr(i32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_writer {
    /// The caller's script.
    SCRIPT = 0,
    /// The language decoder, from the title.
    DECODER = 1,
}

/// Why a line of a storyboard has no clip.
#[repr(i32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_unmatched {
    /// It has one.
    MATCHED = 0,
    /// No segment is similar enough.
    NO_MATCH = 1,
    /// What is similar enough has too little time around it for the minimum length.
    TOO_SHORT = 2,
    /// What is similar enough is in other lines' clips, or leaves no room beside them.
    TAKEN = 3,
}

/// A line of a storyboard.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_line {
    /// sizeof(atom_line), set by the caller.
    pub struct_size: usize,
    /// Its words; valid until the storyboard is closed.
    pub text: *const c_char,
    /// An atom_writer number.
    pub writer: i32,
    /// An atom_unmatched number: why it has no clip.
    pub unmatched: i32,
    /// The best cosine any segment has with it, also where that is not enough; -1 when the store holds nothing.
    pub best_score: f32,
}
sized!(atom_line);

/// A stretch of a stream chosen for a line.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_clip {
    /// sizeof(atom_clip), set by the caller.
    pub struct_size: usize,
    /// Number of its line, from 0.
    pub line: usize,
    /// Number of the segment it was chosen by.
    pub segment: u64,
    /// Name of its stream; valid until the storyboard is closed.
    pub stream: *const c_char,
    /// Start in nanoseconds on the stream's clock.
    pub start_ns: i64,
    /// End.
    pub end_ns: i64,
    /// Time of the segment's keyframe.
    pub keyframe_ns: i64,
    /// Cosine between the line and the keyframe, -1 to 1.
    pub score: f32,
}
sized!(atom_clip);

/// A script with the clips chosen for it. Close it with atom_storyboard_close().
pub struct atom_storyboard {
    board: Storyboard,
    texts: Vec<CString>,
    streams: Vec<CString>,
}
handle!(atom_storyboard, b"bord");

impl atom_storyboard {
    pub(crate) fn new(board: Storyboard) -> Self {
        let texts = board.lines.iter().map(|line| to_c_string(&line.text));
        let streams = board
            .clips
            .iter()
            .map(|clip| to_c_string(board.stream_name(clip)));
        Self {
            texts: texts.collect(),
            streams: streams.collect(),
            board,
        }
    }
}

/// # Safety
/// Pointers as the header asks for, or NULL.
unsafe fn operation(
    store: StoreHandle,
    script: *const c_char,
    options: *const atom_assemble_options,
) -> Outcome<(Operation, atom_assemble_options)> {
    // SAFETY: passed on.
    let (script, options) = unsafe { (text(script, "script", MAX_TEXT)?, read_struct(options)?) };
    let options = options.unwrap_or(atom_assemble_options {
        struct_size: size_of::<atom_assemble_options>(),
        per_line: 0,
        deadline_ms: 0,
        min_length_ns: 0,
        max_length_ns: 0,
        variety: 0.0,
        min_score: 0.0,
        stream: std::ptr::null(),
        from_ns: 0,
        to_ns: 0,
        title: std::ptr::null(),
        canceller: std::ptr::null(),
        priority: 0,
    });
    let mut chosen = StoryboardOptions::default();
    if options.per_line > 0 {
        chosen.per_line = options.per_line as usize;
    }
    if options.min_length_ns != 0 {
        chosen.min_length_ns = options.min_length_ns;
    }
    if options.max_length_ns != 0 {
        chosen.max_length_ns = options.max_length_ns;
    }
    if options.variety != 0.0 {
        chosen.variety = if options.variety == -1.0 {
            0.0
        } else {
            options.variety
        };
    }
    chosen.min_score = (options.min_score != 0.0).then_some(options.min_score);
    chosen.from_ns = (options.from_ns != 0).then_some(options.from_ns);
    chosen.to_ns = (options.to_ns != 0).then_some(options.to_ns);
    // SAFETY: passed on.
    let (stream, title) = unsafe {
        (
            optional_text(options.stream, "stream", MAX_PATH)?,
            optional_text(options.title, "title", MAX_PATH)?,
        )
    };
    chosen.stream = stream.map(str::to_owned);
    let query = AssembleQuery {
        script: script.to_owned(),
        title: title.map(str::to_owned),
        options: chosen,
    };
    Ok((Operation::Assemble(Assemble { store, query }), options))
}

/// Chooses clips of `store` for the lines of `script` (at most 64 kB and 100 lines; blank lines and lines that begin with #
/// do not count), all lines together, so that none takes the only segment of another. Clips of one stream never overlap.
/// A line for which nothing is left has no clip and says why; that is success. `options` may be NULL.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_assemble(
    runtime: *const atom_runtime,
    store: *const atom_store,
    script: *const c_char,
    options: *const atom_assemble_options,
    out: *mut *mut atom_storyboard,
) -> atom_status {
    guard("atom_assemble", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (engine, (operation, options), out) = unsafe {
            (
                borrow(runtime)?.engine.clone(),
                operation(borrow(store)?.number(), script, options)?,
                Out::new(out, "out")?,
            )
        };
        // SAFETY: NULL or an open canceller.
        let bounds = unsafe { bounds(options.canceller, options.deadline_ms, options.priority) }?;
        let board = run(&engine, bounds.request(operation), &bounds.cancel)?;
        out.write_handle(atom_storyboard::new(board));
        Ok(atom_status::OK)
    })
}

/// atom_assemble() without waiting: the storyboard arrives with the ATOM_EVENT_KIND_DONE event in `queue`.
/// ATOM_STATUS_FULL when the queue has no room. `user` comes back in the event; `request` (may be NULL) gets the number
/// for atom_cancel().
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_assemble_async(
    queue: *const atom_queue,
    store: *const atom_store,
    script: *const c_char,
    options: *const atom_assemble_options,
    user: *mut c_void,
    request: *mut u64,
) -> atom_status {
    guard("atom_assemble_async", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let ((operation, options), out) = unsafe {
            (
                operation(borrow(store)?.number(), script, options)?,
                Out::optional(request, "request")?,
            )
        };
        if !options.canceller.is_null() {
            return Err(Failure::argument(
                "canceller is for blocking calls (use atom_cancel())",
            ));
        }
        // SAFETY: no canceller.
        let bounds = unsafe { bounds(std::ptr::null(), options.deadline_ms, options.priority) }?;
        // SAFETY: an open queue, or NULL.
        unsafe { submit(queue, bounds.request(operation), user, out) }
    })
}

/// Number of clips; 0 if `storyboard` is not an open handle.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_storyboard_clip_count(storyboard: *const atom_storyboard) -> usize {
    // SAFETY: a handle of the caller's, or NULL.
    unsafe {
        read(storyboard, "atom_storyboard_clip_count", |it| {
            it.board.clips.len()
        })
    }
    .unwrap_or(0)
}

/// Number of lines; 0 if `storyboard` is not an open handle.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_storyboard_line_count(storyboard: *const atom_storyboard) -> usize {
    // SAFETY: a handle of the caller's, or NULL.
    unsafe {
        read(storyboard, "atom_storyboard_line_count", |it| {
            it.board.lines.len()
        })
    }
    .unwrap_or(0)
}

/// Copies clip `index` to `clip` (by line, those of one line best first); set clip->struct_size first.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_storyboard_clip(
    storyboard: *const atom_storyboard,
    index: usize,
    clip: *mut atom_clip,
) -> atom_status {
    guard("atom_storyboard_clip", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (storyboard, out) = unsafe { (borrow(storyboard)?, OutStruct::new(clip, "clip")?) };
        let clips = &storyboard.board.clips;
        let (clip, stream) = clips
            .get(index)
            .zip(storyboard.streams.get(index))
            .ok_or_else(|| {
                Failure::argument(format!("clip {index} of {} asked for", clips.len()))
            })?;
        out.write(&atom_clip {
            struct_size: size_of::<atom_clip>(),
            line: clip.line,
            segment: clip.segment.0,
            stream: stream.as_ptr(),
            start_ns: clip.start_ns,
            end_ns: clip.end_ns,
            keyframe_ns: clip.keyframe_ns,
            score: clip.score,
        });
        Ok(atom_status::OK)
    })
}

/// Copies line `index` to `line`; set line->struct_size first.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_storyboard_line(
    storyboard: *const atom_storyboard,
    index: usize,
    line: *mut atom_line,
) -> atom_status {
    guard("atom_storyboard_line", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (storyboard, out) = unsafe { (borrow(storyboard)?, OutStruct::new(line, "line")?) };
        let lines = &storyboard.board.lines;
        let (line, text) = lines
            .get(index)
            .zip(storyboard.texts.get(index))
            .ok_or_else(|| {
                Failure::argument(format!("line {index} of {} asked for", lines.len()))
            })?;
        let writer = match line.written_by {
            WrittenBy::Script => atom_writer::SCRIPT,
            WrittenBy::Decoder => atom_writer::DECODER,
        };
        let unmatched = match line.unmatched {
            None => atom_unmatched::MATCHED,
            Some(Unmatched::NoMatch) => atom_unmatched::NO_MATCH,
            Some(Unmatched::TooShort) => atom_unmatched::TOO_SHORT,
            Some(Unmatched::Taken) => atom_unmatched::TAKEN,
        };
        out.write(&atom_line {
            struct_size: size_of::<atom_line>(),
            text: text.as_ptr(),
            writer: writer as i32,
            unmatched: unmatched as i32,
            best_score: line.best_score.unwrap_or(-1.0),
        });
        Ok(atom_status::OK)
    })
}

/// The storyboard as one JSON object, the one `atom assemble --json` prints: clips[], lines[], title. `out` gets a string
/// to be freed with atom_string_free().
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_storyboard_json(
    storyboard: *const atom_storyboard,
    out: *mut *mut c_char,
) -> atom_status {
    guard("atom_storyboard_json", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (storyboard, out) = unsafe { (borrow(storyboard)?, Out::new(out, "out")?) };
        out.write(to_c_string(&storyboard.board.to_json()).into_raw());
        Ok(atom_status::OK)
    })
}

/// The storyboard as OpenTimelineIO JSON, which editing programs read. `out` gets a string to be freed with
/// atom_string_free().
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_storyboard_otio(
    storyboard: *const atom_storyboard,
    out: *mut *mut c_char,
) -> atom_status {
    guard("atom_storyboard_otio", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (storyboard, out) = unsafe { (borrow(storyboard)?, Out::new(out, "out")?) };
        out.write(to_c_string(&storyboard.board.to_otio()).into_raw());
        Ok(atom_status::OK)
    })
}

/// Frees a storyboard and the strings of its clips and lines. NULL is fine.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_storyboard_close(storyboard: *mut atom_storyboard) -> atom_status {
    guard("atom_storyboard_close", || {
        // SAFETY: a handle the caller gives up, or NULL.
        drop(unsafe { take(storyboard) }?);
        Ok(atom_status::OK)
    })
}
