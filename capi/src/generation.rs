//! What captions and answers share: options in, text out.

use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;

use atom_core::control::TextOptions;
use atom_core::engine::{Engine, Operation, Request, Text};
use atom_core::language::StopReason;

use crate::boundary::{InCallback, Outcome, guard, handle, read, read_struct, sized, take, texts};
use crate::control::{Bounds, atom_canceller, bounds};
use crate::status::{Failure, atom_status, to_c_string};

/// Why a generation ended.
#[repr(i32)]
#[derive(Debug, Clone, Copy)]
pub enum atom_stop {
    /// A later version's reason that this header has no number for.
    OTHER = 0,
    /// The text is complete.
    END_OF_TEXT = 1,
    /// max_tokens were generated.
    MAX_TOKENS = 2,
    /// A stop string came up.
    STOP_STRING = 3,
    /// The deadline passed; the text is what was made until then.
    DEADLINE = 4,
    /// It was cancelled, or the callback asked to stop; the text is what was made until then.
    CANCELLED = 5,
    /// The sentence is complete under the constraint (choices, or what the pack allows).
    CONSTRAINT = 6,
}

/// Receives text as it is generated, whole UTF-8 characters, on the thread of the blocking call. `text` is valid
/// during the call only. Return 0 to go on, anything else to stop (ATOM_STOP_CANCELLED). Must not throw or longjmp.
pub type atom_text_fn = Option<unsafe extern "C" fn(user: *mut c_void, text: *const c_char) -> i32>;

/// How to generate a caption or an answer. Zero is the default everywhere; NULL options are all defaults.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_generate_options {
    /// sizeof(atom_generate_options).
    pub struct_size: usize,
    /// Most tokens to generate, up to 4096; 0: as the pack says, else 48.
    pub max_tokens: u32,
    /// Milliseconds from the call on after which generation stops with ATOM_STOP_DEADLINE; 0: none.
    pub deadline_ms: u32,
    /// Stops the call; NULL: nothing does. Blocking calls only.
    pub canceller: *const atom_canceller,
    /// Called with text as it comes; NULL: not. Blocking calls only.
    pub on_text: atom_text_fn,
    /// Given to on_text.
    pub user: *mut c_void,
    /// Asynchronous calls only: not 0 to get ATOM_EVENT_KIND_TEXT events.
    pub text_events: u32,
    /// An atom_priority number.
    pub priority: i32,
    /// Texts of which the result must be exactly one, the likeliest; NULL: free.
    pub choices: *const *const c_char,
    /// Number of choices, up to 4096; each at most 64 kB.
    pub choices_count: usize,
    /// Not 0: a caption stored with the segment is not served, but made anew. Captions of segments only.
    pub fresh: u32,
    /// Texts that a beam search follows at once, up to 64; 1: the likeliest token at each step; 0: as the pack says.
    pub beams: u32,
    /// Captions only: the name of one of the pack's further prompts; NULL: its own.
    pub prompt: *const c_char,
    /// Above 0: tokens are drawn at random, from logits divided by this; 0: as the pack says.
    pub temperature: f32,
    /// A draw is among the likeliest tokens whose probabilities together reach this, up to 1; 0: as the pack says.
    pub top_p: f32,
    /// A draw is among so many of the likeliest tokens; 0: as the pack says.
    pub top_k: u32,
    /// Reserved; 0.
    pub reserved: u32,
    /// Start of the random sequence: the same seed draws the same text. Not 0: tokens are drawn, as by `temperature`.
    pub seed: u64,
}
sized!(atom_generate_options);

/// A generated text. Close it with atom_generated_close().
pub struct atom_generated {
    text: CString,
    tokens: u32,
    stop: i32,
    stored: bool,
}
handle!(atom_generated, b"text");

const MAX_TOKENS: u32 = 4096;

/// Options of a generation, checked. Holds no pointer of the caller's.
pub(crate) struct Settings {
    pub(crate) text: TextOptions,
    pub(crate) fresh: bool,
    bounds: Bounds,
    text_events: bool,
}

/// The caller's callback.
pub(crate) struct Sink(Option<(TextCall, *mut c_void)>);

type TextCall = unsafe extern "C" fn(*mut c_void, *const c_char) -> i32;

/// # Safety
/// `options` is NULL or an `atom_generate_options` as the header asks for.
unsafe fn options_of(
    options: *const atom_generate_options,
) -> Outcome<(Settings, atom_generate_options)> {
    // SAFETY: passed on.
    let given = unsafe { read_struct(options) }?.unwrap_or(atom_generate_options {
        struct_size: size_of::<atom_generate_options>(),
        max_tokens: 0,
        deadline_ms: 0,
        canceller: std::ptr::null(),
        on_text: None,
        user: std::ptr::null_mut(),
        text_events: 0,
        priority: 0,
        choices: std::ptr::null(),
        choices_count: 0,
        fresh: 0,
        beams: 0,
        prompt: std::ptr::null(),
        temperature: 0.0,
        top_p: 0.0,
        top_k: 0,
        reserved: 0,
        seed: 0,
    });
    if given.reserved != 0 {
        return Err(Failure::argument("reserved is not 0"));
    }
    let mut text = TextOptions::default();
    match given.max_tokens {
        0 => {}
        count if count <= MAX_TOKENS => text.max_tokens = Some(count as usize),
        count => {
            return Err(Failure::argument(format!(
                "max_tokens is {count}: the limit is {MAX_TOKENS}"
            )));
        }
    }
    // SAFETY: strings of the caller's, as the header asks for.
    text.choices = unsafe { texts(given.choices, given.choices_count, "choices") }?;
    if !given.prompt.is_null() {
        // SAFETY: a string of the caller's, as the header asks for.
        let name = unsafe { texts(&given.prompt, 1, "prompt") }?;
        text.prompt = name.into_iter().next();
    }
    let asked = |number: u32| (number != 0).then_some(number as usize);
    (text.beams, text.top_k) = (asked(given.beams), asked(given.top_k));
    text.temperature = (given.temperature != 0.0).then_some(given.temperature);
    text.top_p = (given.top_p != 0.0).then_some(given.top_p);
    text.seed = (given.seed != 0).then_some(given.seed);
    let settings = Settings {
        text,
        // SAFETY: NULL or an open canceller by the caller's contract.
        bounds: unsafe { bounds(given.canceller, given.deadline_ms, given.priority) }?,
        fresh: given.fresh != 0,
        text_events: given.text_events != 0,
    };
    Ok((settings, given))
}

/// Options of a blocking call.
///
/// # Safety
/// `options` is NULL or an `atom_generate_options` as the header asks for.
pub(crate) unsafe fn blocking(options: *const atom_generate_options) -> Outcome<(Settings, Sink)> {
    // SAFETY: passed on.
    let (settings, given) = unsafe { options_of(options) }?;
    if settings.text_events {
        return Err(Failure::argument(
            "text_events is for asynchronous calls (use on_text)",
        ));
    }
    Ok((settings, Sink(given.on_text.map(|call| (call, given.user)))))
}

/// Options of an asynchronous call.
///
/// # Safety
/// `options` is NULL or an `atom_generate_options` as the header asks for.
pub(crate) unsafe fn asynchronous(options: *const atom_generate_options) -> Outcome<Settings> {
    // SAFETY: passed on.
    let (settings, given) = unsafe { options_of(options) }?;
    if !given.canceller.is_null() || given.on_text.is_some() {
        return Err(Failure::argument(
            "canceller and on_text are for blocking calls (use atom_cancel() and text_events)",
        ));
    }
    Ok(settings)
}

impl Sink {
    /// Gives a piece of text to the caller's callback.
    pub(crate) fn deliver(&self, piece: &str) -> ControlFlow<()> {
        let Some((call, user)) = self.0 else {
            return ControlFlow::Continue(());
        };
        let text = to_c_string(piece);
        let _inside = InCallback::enter();
        // SAFETY: the caller's function and pointer, good for the time of the blocking call, on its own thread.
        match unsafe { call(user, text.as_ptr()) } {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }
}

impl Settings {
    /// The asynchronous request for `operation`.
    pub(crate) fn request(&self, operation: Operation) -> Request {
        Request {
            text_events: self.text_events,
            ..self.bounds.request(operation)
        }
    }

    /// Runs `operation` on this thread.
    pub(crate) fn run(
        &self,
        engine: &Engine,
        operation: Operation,
        sink: &Sink,
    ) -> Outcome<atom_generated> {
        let request = Request {
            text_events: sink.0.is_some(),
            ..self.bounds.request(operation)
        };
        let cancel = &self.bounds.cancel;
        let response = engine.run(request, cancel, &mut |piece| sink.deliver(piece))?;
        Ok(atom_generated::new(&Text::try_from(response)?))
    }
}

impl atom_generated {
    pub(crate) fn new(text: &Text) -> Self {
        let stop = match text.stop_reason {
            StopReason::EndOfText => atom_stop::END_OF_TEXT,
            StopReason::MaxTokens => atom_stop::MAX_TOKENS,
            StopReason::StopString => atom_stop::STOP_STRING,
            StopReason::Deadline => atom_stop::DEADLINE,
            StopReason::Cancelled => atom_stop::CANCELLED,
            StopReason::Constraint => atom_stop::CONSTRAINT,
            _ => atom_stop::OTHER,
        };
        Self {
            text: to_c_string(&text.text),
            tokens: u32::try_from(text.tokens).unwrap_or(u32::MAX),
            stop: stop as i32,
            stored: text.stored,
        }
    }
}

/// The text; UTF-8, valid until `generated` is closed. NULL if `generated` is not an open handle.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_generated_text(generated: *const atom_generated) -> *const c_char {
    // SAFETY: a handle of the caller's, or NULL.
    unsafe { read(generated, "atom_generated_text", |it| it.text.as_ptr()) }
        .unwrap_or(std::ptr::null())
}

/// Number of tokens the decoder made for it; 0 when no decoder was needed, or if `generated` is not an open handle.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_generated_tokens(generated: *const atom_generated) -> u32 {
    // SAFETY: a handle of the caller's, or NULL.
    unsafe { read(generated, "atom_generated_tokens", |it| it.tokens) }.unwrap_or(0)
}

/// Why it ended, an atom_stop number; 0 if `generated` is not an open handle.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_generated_stop(generated: *const atom_generated) -> i32 {
    // SAFETY: a handle of the caller's, or NULL.
    unsafe { read(generated, "atom_generated_stop", |it| it.stop) }.unwrap_or(0)
}

/// 1 if it is a caption that was stored with its segment, 0 if it was generated now or `generated` is not an open
/// handle.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_generated_stored(generated: *const atom_generated) -> i32 {
    // SAFETY: a handle of the caller's, or NULL.
    unsafe {
        read(generated, "atom_generated_stored", |it| {
            i32::from(it.stored)
        })
    }
    .unwrap_or(0)
}

/// Frees a generated text. NULL is fine.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_generated_close(generated: *mut atom_generated) -> atom_status {
    guard("atom_generated_close", || {
        // SAFETY: a handle the caller gives up, or NULL.
        drop(unsafe { take(generated) }?);
        Ok(atom_status::OK)
    })
}
