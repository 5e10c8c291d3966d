//! Search: words to segments.

use std::ffi::{CString, c_char, c_void};

use atom_core::engine::{Operation, Search, StoreHandle};
use atom_core::index::Hit;
use atom_core::task::search::SearchQuery;

use crate::boundary::{
    MAX_PATH, MAX_TEXT, Out, OutStruct, Outcome, borrow, guard, handle, optional_text, read,
    read_struct, sized, take, text,
};
use crate::control::{atom_canceller, bounds};
use crate::queue::{atom_queue, submit};
use crate::runtime::{atom_runtime, run};
use crate::status::{Failure, atom_status, to_c_string};
use crate::store::atom_store;

/// What to search besides the words. Zero is the default everywhere; NULL options are all defaults.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_search_options {
    /// sizeof(atom_search_options).
    pub struct_size: usize,
    /// Most hits wanted, up to 10000; 0: 10.
    pub k: u32,
    /// Milliseconds from the call on after which it fails with ATOM_STATUS_DEADLINE_EXCEEDED; 0: none.
    pub deadline_ms: u32,
    /// Only segments of the stream of this name; NULL: all streams.
    pub stream: *const c_char,
    /// Only segments that end at or after this time of the stream, in nanoseconds; 0: from the start.
    pub from_ns: i64,
    /// Only segments that start before this time of the stream, in nanoseconds; 0: to the end.
    pub to_ns: i64,
    /// Cosine below which a segment is no match; 0: the pack's own threshold; -1: no threshold.
    pub min_score: f32,
    /// An atom_priority number.
    pub priority: i32,
    /// Stops the call; NULL: nothing does. Blocking calls only.
    pub canceller: *const atom_canceller,
}
sized!(atom_search_options);

/// A segment that a search found.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct atom_hit {
    /// sizeof(atom_hit), set by the caller.
    pub struct_size: usize,
    /// The segment's number in the store, for atom_caption() and its like.
    pub segment: u64,
    /// Name of its stream; valid until the results are closed.
    pub stream: *const c_char,
    /// Start of the segment in nanoseconds on the stream's clock.
    pub start_ns: i64,
    /// End of the segment.
    pub end_ns: i64,
    /// Time of the keyframe it was judged by.
    pub keyframe_ns: i64,
    /// Cosine between the words and the keyframe, -1 to 1.
    pub score: f32,
}
sized!(atom_hit);

/// Hits of one search, best first. Close it with atom_results_close().
pub struct atom_results {
    hits: Vec<(Hit, CString)>,
}
handle!(atom_results, b"hits");

impl atom_results {
    pub(crate) fn new(hits: Vec<Hit>) -> Self {
        let hits = hits
            .into_iter()
            .map(|hit| {
                let stream = to_c_string(&hit.stream);
                (hit, stream)
            })
            .collect();
        Self { hits }
    }
}

/// # Safety
/// Pointers as the header asks for, or NULL.
unsafe fn operation(
    store: StoreHandle,
    words: *const c_char,
    options: *const atom_search_options,
) -> Outcome<(Operation, atom_search_options)> {
    // SAFETY: passed on.
    let (words, options) = unsafe { (text(words, "query", MAX_TEXT)?, read_struct(options)?) };
    let options = options.unwrap_or(atom_search_options {
        struct_size: size_of::<atom_search_options>(),
        k: 0,
        deadline_ms: 0,
        stream: std::ptr::null(),
        from_ns: 0,
        to_ns: 0,
        min_score: 0.0,
        priority: 0,
        canceller: std::ptr::null(),
    });
    if !(-1.0..=1.0).contains(&options.min_score) {
        return Err(Failure::argument(format!(
            "min_score is {}: -1 to 1 is possible",
            options.min_score
        )));
    }
    let mut query = SearchQuery::new(words);
    if options.k > 0 {
        query.k = options.k as usize;
    }
    query.from_ns = (options.from_ns != 0).then_some(options.from_ns);
    query.to_ns = (options.to_ns != 0).then_some(options.to_ns);
    query.min_score = (options.min_score != 0.0).then_some(options.min_score);
    // SAFETY: passed on.
    query.stream = unsafe { optional_text(options.stream, "stream", MAX_PATH) }?.map(str::to_owned);
    Ok((Operation::Search(Search { store, query }), options))
}

/// Finds the segments of `store` that fit `query` (words, at most 64 kB with the pack's `query_template` around them), best first. No match is success with zero
/// hits. `options` may be NULL.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_search(
    runtime: *const atom_runtime,
    store: *const atom_store,
    query: *const c_char,
    options: *const atom_search_options,
    out: *mut *mut atom_results,
) -> atom_status {
    guard("atom_search", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (engine, (operation, options), out) = unsafe {
            (
                borrow(runtime)?.engine.clone(),
                operation(borrow(store)?.number(), query, options)?,
                Out::new(out, "out")?,
            )
        };
        // SAFETY: NULL or an open canceller.
        let bounds = unsafe { bounds(options.canceller, options.deadline_ms, options.priority) }?;
        let hits = run(&engine, bounds.request(operation), &bounds.cancel)?;
        out.write_handle(atom_results::new(hits));
        Ok(atom_status::OK)
    })
}

/// atom_search() without waiting: the results arrive with the ATOM_EVENT_KIND_DONE event in `queue`. ATOM_STATUS_FULL
/// when the queue has no room. `user` comes back in the event; `request` (may be NULL) gets the number for
/// atom_cancel().
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_search_async(
    queue: *const atom_queue,
    store: *const atom_store,
    query: *const c_char,
    options: *const atom_search_options,
    user: *mut c_void,
    request: *mut u64,
) -> atom_status {
    guard("atom_search_async", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let ((operation, options), out) = unsafe {
            (
                operation(borrow(store)?.number(), query, options)?,
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

/// Number of hits; 0 if `results` is not an open handle.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_results_count(results: *const atom_results) -> usize {
    // SAFETY: a handle of the caller's, or NULL.
    unsafe { read(results, "atom_results_count", |results| results.hits.len()) }.unwrap_or(0)
}

/// Copies hit `index` (0 is the best) to `hit`; set hit->struct_size first.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_results_get(
    results: *const atom_results,
    index: usize,
    hit: *mut atom_hit,
) -> atom_status {
    guard("atom_results_get", || {
        // SAFETY: pointers as the header asks for, or NULL.
        let (results, out) = unsafe { (borrow(results)?, OutStruct::new(hit, "hit")?) };
        let (hit, stream) = results.hits.get(index).ok_or_else(|| {
            Failure::argument(format!("hit {index} of {} asked for", results.hits.len()))
        })?;
        out.write(&atom_hit {
            struct_size: size_of::<atom_hit>(),
            segment: hit.segment.0,
            stream: stream.as_ptr(),
            start_ns: hit.start_ns,
            end_ns: hit.end_ns,
            keyframe_ns: hit.keyframe_ns,
            score: hit.score,
        });
        Ok(atom_status::OK)
    })
}

/// Frees results and the strings of their hits. NULL is fine.
///
/// # Safety
/// See the rules at the top of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atom_results_close(results: *mut atom_results) -> atom_status {
    guard("atom_results_close", || {
        // SAFETY: a handle the caller gives up, or NULL.
        drop(unsafe { take(results) }?);
        Ok(atom_status::OK)
    })
}
