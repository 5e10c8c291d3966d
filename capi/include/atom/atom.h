/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atom.h: the C interface of Atom, a runtime for video-language work on a device.
 *
 * A runtime opens a pack (a model cut into modules). Frames are pushed into an ingest, which cuts the stream into
 * segments, encodes one keyframe of each and keeps what it found in a store. Searches, captions, answers and storyboards read
 * the store. Every module is loaded once, when it is first needed, and shared by all of them.
 *
 *     atom_runtime *runtime = NULL;
 *     atom_store *store = NULL;
 *     atom_results *results = NULL;
 *     if (atom_runtime_open("/usr/share/atom/pack", NULL, &runtime) != ATOM_STATUS_OK ||
 *         atom_store_open(runtime, "/var/lib/atom", NULL, &store) != ATOM_STATUS_OK ||
 *         atom_search(runtime, store, "a red car", NULL, &results) != ATOM_STATUS_OK)
 *         fprintf(stderr, "%s\n", atom_last_error());
 *     atom_results_close(results);
 *     atom_store_close(store);
 *     atom_runtime_close(runtime);
 *
 * OWNERSHIP
 *   Handles (atom_runtime, atom_store …) are opaque. Who gets one through an `out` pointer owns it and closes it once,
 *   with the function its description names; closing NULL does nothing. Handles may be closed in any order: what was
 *   made from a handle keeps alive what it needs of it. Closing a handle while another thread is inside a call on it,
 *   or using it after it was closed, is an error Atom cannot always notice.
 *   Strings, frames, arrays and option structs given to Atom are read during the call only. Strings Atom gives out as
 *   `const char *` belong to the handle they came from; as `char *` they belong to the caller: atom_string_free().
 *
 * SUCCESS AND FAILURE
 *   Calls return an atom_status: 0 done, above 0 an answer that is no failure (full, empty), below 0 a failure.
 *   After a failure atom_last_error() says, for the same thread, what happened to which thing and what can be done.
 *   Outputs are written only when the call returns ATOM_STATUS_OK. Nothing given to a call, no pack, no frame and no
 *   store can end the process: Atom never exits, aborts or prints; its log goes to atom_log_set().
 *
 * THREADS
 *   A call that takes a `const` handle may run on any thread, at the same time as other calls on that handle. A call
 *   that takes a handle that is not const (the closing ones) needs it alone.
 *   atom_ingest_push() never waits; calls that load or run models do, for milliseconds to seconds. They wait for one
 *   step of another task at most, not for the task. What must not wait uses a queue: the asynchronous calls return at
 *   once, and one descriptor for poll() says when there is something to take with atom_queue_next().
 *   fork() after atom_runtime_open() is for exec() only. The first atom_runtime_open() of a process sets the environment
 *   variable ORT_DISABLE_TELEMETRY to 1 unless it is set, since ONNX Runtime would else write below the user's home and
 *   call home: make that call before other threads use getenv(), or set the variable yourself.
 *
 * CALLBACKS
 *   Blocking calls call back on the caller's thread; asynchronous calls never call back. From inside a callback only
 *   atom_canceller_cancel(), atom_cancel(), atom_ingest_push(), atom_last_error(), the functions that return a value
 *   of a handle, and the freeing of strings may be called; everything else returns ATOM_STATUS_IN_CALLBACK.
 *   A callback must return: no exception, no longjmp.
 *
 * STRINGS AND TIME
 *   Strings are UTF-8 and end with NUL; what is not UTF-8 or longer than the limit (64 kB for texts, 4096 bytes for
 *   paths and names) is ATOM_STATUS_INVALID_ARGUMENT. Times of frames and segments are nanoseconds on the stream's own
 *   clock (int64_t, not negative); deadlines are milliseconds from the call on.
 *
 * NUMBERS
 *   Fields and arguments that choose among named numbers have an integer type; a number without a name is
 *   ATOM_STATUS_INVALID_ARGUMENT. Numbers never change their meaning.
 *
 * VERSIONS
 *   Structs start with struct_size, which the caller sets to sizeof of the struct, most simply by
 *   `atom_search_options options = {.struct_size = sizeof options};`. Later versions append fields. A library that
 *   is newer than the program takes the missing fields as zero, which is always the default. A library that is older
 *   ignores fields it does not know if they are zero, and else returns ATOM_STATUS_UNSUPPORTED.
 *   The SONAME (libatom.so.0) changes when a program must be compiled again: compare atom_abi_version().
 */


#ifndef ATOM_H
#define ATOM_H

/* Generated from capi/src; do not edit. To make it again: ATOM_UPDATE=1 cargo test --release -p atom-tests --test header */

#include <stddef.h>
#include <stdint.h>

/**
 * Version of this header: major number.
 */
#define ATOM_VERSION_MAJOR 0

/**
 * Version of this header: minor number.
 */
#define ATOM_VERSION_MINOR 1

/**
 * Version of this header: patch number.
 */
#define ATOM_VERSION_PATCH 0

/**
 * Version of the binary interface of this header: the number in the library's SONAME (libatom.so.0). A library of
 * another number cannot be used with this header.
 */
#define ATOM_ABI_VERSION 0

/**
 * What every call returns. Zero is success; positive numbers are answers that are no failure; negative numbers are
 * failures, explained by atom_last_error(). A number never changes its meaning; later versions add numbers, so a
 * program must treat an unknown negative number as a failure.
 */
enum atom_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Done; the outputs are written.
   */
  ATOM_STATUS_OK = 0,
  /**
   * There is no room now: the frame was dropped and counted, or the request was not queued. Nothing was kept.
   */
  ATOM_STATUS_FULL = 1,
  /**
   * There is no event now; wait for the queue's descriptor.
   */
  ATOM_STATUS_EMPTY = 2,
  /**
   * An argument is outside what the function documents (NULL, not UTF-8, too long, unknown number, bad struct_size).
   */
  ATOM_STATUS_INVALID_ARGUMENT = -1,
  /**
   * A frame's size, stride, format or planes do not fit together.
   */
  ATOM_STATUS_BAD_FRAME = -2,
  /**
   * The thing named does not exist.
   */
  ATOM_STATUS_NOT_FOUND = -3,
  /**
   * It exists already, and differs from what was asked for.
   */
  ATOM_STATUS_ALREADY_EXISTS = -4,
  /**
   * The pack, the build, this version or the device cannot do this.
   */
  ATOM_STATUS_UNSUPPORTED = -5,
  /**
   * Somebody else holds it now; trying again later may work.
   */
  ATOM_STATUS_BUSY = -6,
  /**
   * The caller cancelled the operation.
   */
  ATOM_STATUS_CANCELLED = -7,
  /**
   * The deadline passed before the operation ended.
   */
  ATOM_STATUS_DEADLINE_EXCEEDED = -8,
  /**
   * The memory budget cannot hold it.
   */
  ATOM_STATUS_OUT_OF_BUDGET = -9,
  /**
   * The pack's manifest or files are wrong.
   */
  ATOM_STATUS_BAD_PACK = -10,
  /**
   * A model does not load, or its ports do not fit the manifest.
   */
  ATOM_STATUS_BAD_MODEL = -11,
  /**
   * A model ran and failed, or returned something unusable.
   */
  ATOM_STATUS_INFERENCE = -12,
  /**
   * The ONNX Runtime library is missing, too old or broken.
   */
  ATOM_STATUS_NATIVE_LIBRARY = -13,
  /**
   * The store is damaged beyond what opening it mends.
   */
  ATOM_STATUS_STORE_CORRUPT = -14,
  /**
   * The store was written by a newer version of Atom.
   */
  ATOM_STATUS_STORE_VERSION = -15,
  /**
   * The store's vectors were made by another pack.
   */
  ATOM_STATUS_STORE_FOREIGN = -16,
  /**
   * Another process is writing to the store.
   */
  ATOM_STATUS_STORE_LOCKED = -17,
  /**
   * The store is read-only.
   */
  ATOM_STATUS_READ_ONLY = -18,
  /**
   * No space is left on the device.
   */
  ATOM_STATUS_DISK_FULL = -19,
  /**
   * A video cannot be read or decoded.
   */
  ATOM_STATUS_BAD_MEDIA = -20,
  /**
   * The operating system refused an operation.
   */
  ATOM_STATUS_IO = -21,
  /**
   * A defect of Atom itself.
   */
  ATOM_STATUS_INTERNAL = -22,
  /**
   * The function may not be called from inside one of Atom's callbacks.
   */
  ATOM_STATUS_IN_CALLBACK = -23,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_status atom_status;
#else
typedef int32_t atom_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How pixels lie in memory (atom_frame.pixels).
 */
enum atom_pixels
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Two planes: 8-bit Y; U and V interleaved, at half size in both directions (odd sizes round up).
   */
  ATOM_PIXELS_NV12 = 1,
  /**
   * Three planes: 8-bit Y, U, V; U and V at half size in both directions (odd sizes round up).
   */
  ATOM_PIXELS_I420 = 2,
  /**
   * One plane: 8-bit R, G, B interleaved.
   */
  ATOM_PIXELS_RGB8 = 3,
  /**
   * One plane: 8-bit B, G, R interleaved.
   */
  ATOM_PIXELS_BGR8 = 4,
  /**
   * One plane: 8-bit luminance.
   */
  ATOM_PIXELS_GRAY8 = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_pixels atom_pixels;
#else
typedef uint32_t atom_pixels;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * YUV to RGB matrix (atom_frame.matrix); ignored for RGB8, BGR8 and GRAY8.
 */
enum atom_matrix
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * ITU-R BT.601 (standard definition); the default.
   */
  ATOM_MATRIX_BT601 = 0,
  /**
   * ITU-R BT.709 (high definition).
   */
  ATOM_MATRIX_BT709 = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_matrix atom_matrix;
#else
typedef uint32_t atom_matrix;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Range of the samples (atom_frame.range); ignored for RGB8 and BGR8.
 */
enum atom_range
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Y 16 to 235, chroma 16 to 240; the default.
   */
  ATOM_RANGE_LIMITED = 0,
  /**
   * 0 to 255.
   */
  ATOM_RANGE_FULL = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_range atom_range;
#else
typedef uint32_t atom_range;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Who goes first when several calls wait for one module (the `priority` of option structs).
 */
enum atom_priority
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Work nobody waits for.
   */
  ATOM_PRIORITY_BACKGROUND = -1,
  /**
   * The default.
   */
  ATOM_PRIORITY_NORMAL = 0,
  /**
   * Somebody is waiting for the answer.
   */
  ATOM_PRIORITY_INTERACTIVE = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_priority atom_priority;
#else
typedef int32_t atom_priority;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How grave a log line is.
 */
enum atom_log_level
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Nothing at all.
   */
  ATOM_LOG_LEVEL_OFF = 0,
  /**
   * Something failed.
   */
  ATOM_LOG_LEVEL_ERROR = 1,
  /**
   * Something is wrong, and work goes on.
   */
  ATOM_LOG_LEVEL_WARN = 2,
  /**
   * What happens, in few lines.
   */
  ATOM_LOG_LEVEL_INFO = 3,
  /**
   * For those who look for a defect.
   */
  ATOM_LOG_LEVEL_DEBUG = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_log_level atom_log_level;
#else
typedef int32_t atom_log_level;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Why a generation ended.
 */
enum atom_stop
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * A later version's reason that this header has no number for.
   */
  ATOM_STOP_OTHER = 0,
  /**
   * The text is complete.
   */
  ATOM_STOP_END_OF_TEXT = 1,
  /**
   * max_tokens were generated.
   */
  ATOM_STOP_MAX_TOKENS = 2,
  /**
   * A stop string came up.
   */
  ATOM_STOP_STOP_STRING = 3,
  /**
   * The deadline passed; the text is what was made until then.
   */
  ATOM_STOP_DEADLINE = 4,
  /**
   * It was cancelled, or the callback asked to stop; the text is what was made until then.
   */
  ATOM_STOP_CANCELLED = 5,
  /**
   * The sentence is complete under the constraint (choices, or what the pack allows).
   */
  ATOM_STOP_CONSTRAINT = 6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_stop atom_stop;
#else
typedef int32_t atom_stop;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a pack may be able to do.
 */
enum atom_task
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Frames to stored segments.
   */
  ATOM_TASK_INDEX = 1,
  /**
   * Words to segments.
   */
  ATOM_TASK_SEARCH = 2,
  /**
   * A segment or picture to a sentence.
   */
  ATOM_TASK_CAPTION = 3,
  /**
   * A segment or picture and a question to an answer.
   */
  ATOM_TASK_ASK = 4,
  /**
   * A script to a storyboard.
   */
  ATOM_TASK_ASSEMBLE = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_task atom_task;
#else
typedef uint32_t atom_task;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How short the machine is of memory.
 */
enum atom_pressure
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Not short.
   */
  ATOM_PRESSURE_NONE = 0,
  /**
   * Getting short: what costs little to have again goes.
   */
  ATOM_PRESSURE_LOW = 1,
  /**
   * Give back all that can be given back.
   */
  ATOM_PRESSURE_CRITICAL = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_pressure atom_pressure;
#else
typedef uint32_t atom_pressure;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How dear a module is to the application.
 */
enum atom_keep
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * As it is used. The default.
   */
  ATOM_KEEP_USUAL = 0,
  /**
   * Goes before others.
   */
  ATOM_KEEP_LESS = 1,
  /**
   * Goes after others.
   */
  ATOM_KEEP_MORE = 2,
  /**
   * Is never evicted.
   */
  ATOM_KEEP_PINNED = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_keep atom_keep;
#else
typedef uint32_t atom_keep;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What happened to memory.
 */
enum atom_memory_event_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * A module was loaded, or a vocabulary read: anon_bytes and mapped_bytes are what it takes.
   */
  ATOM_MEMORY_EVENT_KIND_LOADED = 1,
  /**
   * An arena or a cache was shrunk: the bytes are what came back, as with the next two.
   */
  ATOM_MEMORY_EVENT_KIND_SHRUNK = 2,
  /**
   * A module's weights were given back to the kernel; it stays usable.
   */
  ATOM_MEMORY_EVENT_KIND_PARKED = 3,
  /**
   * A module or a vocabulary was released; the next use loads it again.
   */
  ATOM_MEMORY_EVENT_KIND_RELEASED = 4,
  /**
   * The level of memory pressure changed; `text` says to which and why.
   */
  ATOM_MEMORY_EVENT_KIND_PRESSURE = 5,
  /**
   * The budget could not hold something; anon_bytes is what was asked for.
   */
  ATOM_MEMORY_EVENT_KIND_REFUSED = 6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_memory_event_kind atom_memory_event_kind;
#else
typedef uint32_t atom_memory_event_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Whether a store is opened to be changed (atom_store_options.access).
 */
enum atom_access
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Made if absent; one process at a time. The default.
   */
  ATOM_ACCESS_READ_WRITE = 0,
  /**
   * Any number, also beside a writer; the store must exist.
   */
  ATOM_ACCESS_READ_ONLY = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_access atom_access;
#else
typedef uint32_t atom_access;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What an event tells.
 */
enum atom_event_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * More text of a caption or an answer; only if asked for with text_events.
   */
  ATOM_EVENT_KIND_TEXT = 1,
  /**
   * The request has ended; its last event.
   */
  ATOM_EVENT_KIND_DONE = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_event_kind atom_event_kind;
#else
typedef int32_t atom_event_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Who wrote a line of a storyboard.
 */
enum atom_writer
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The caller's script.
   */
  ATOM_WRITER_SCRIPT = 0,
  /**
   * The language decoder, from the title.
   */
  ATOM_WRITER_DECODER = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_writer atom_writer;
#else
typedef int32_t atom_writer;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Why a line of a storyboard has no clip.
 */
enum atom_unmatched
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It has one.
   */
  ATOM_UNMATCHED_MATCHED = 0,
  /**
   * No segment is similar enough.
   */
  ATOM_UNMATCHED_NO_MATCH = 1,
  /**
   * What is similar enough has too little time around it for the minimum length.
   */
  ATOM_UNMATCHED_TOO_SHORT = 2,
  /**
   * What is similar enough is in other lines' clips, or leaves no room beside them.
   */
  ATOM_UNMATCHED_TAKEN = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum atom_unmatched atom_unmatched;
#else
typedef int32_t atom_unmatched;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A flag that stops blocking calls; one may serve several calls. Once cancelled it stays so.
 */
typedef struct atom_canceller atom_canceller;

/**
 * A generated text. Close it with atom_generated_close().
 */
typedef struct atom_generated atom_generated;

/**
 * A stream being indexed. Close it with atom_ingest_close().
 */
typedef struct atom_ingest atom_ingest;

/**
 * Events of memory. Close it with atom_memory_events_close().
 */
typedef struct atom_memory_events atom_memory_events;

/**
 * The modules of a pack as they were at one moment. Close it with atom_modules_close().
 */
typedef struct atom_modules atom_modules;

/**
 * Where the results of asynchronous calls arrive. One per main loop.
 */
typedef struct atom_queue atom_queue;

/**
 * Hits of one search, best first. Close it with atom_results_close().
 */
typedef struct atom_results atom_results;

/**
 * A pack opened for work. Close it with atom_runtime_close().
 */
typedef struct atom_runtime atom_runtime;

/**
 * An open store. Close it with atom_store_close().
 */
typedef struct atom_store atom_store;

/**
 * A script with the clips chosen for it. Close it with atom_storyboard_close().
 */
typedef struct atom_storyboard atom_storyboard;

/**
 * Receives one line of log. May run on any thread, several at once; must return soon, and must not call Atom.
 * `level` is an atom_log_level number, `message` is valid during the call only.
 */
typedef void (*atom_log_fn)(void *user, int32_t level, const char *module, const char *message);

/**
 * Options of a runtime; NULL or zeros are the defaults.
 */
typedef struct atom_runtime_options {
  /**
   * sizeof(atom_runtime_options).
   */
  size_t struct_size;
  /**
   * Folder for what can be made again (optimised model forms); NULL: $ATOM_CACHE/artifacts, else under
   * $XDG_CACHE_HOME or ~/.cache.
   */
  const char *artifacts;
  /**
   * ONNX Runtime's library; NULL: $ATOM_ORT_LIBRARY, else $ATOM_CACHE/ort, else what the loader finds.
   */
  const char *ort_library;
  /**
   * Threads of ONNX Runtime's pool; 0: every core. The first open of the process decides, for good: another number
   * later is ATOM_STATUS_INVALID_ARGUMENT.
   */
  uint32_t threads;
  /**
   * 1: memory is not governed. No budget, no pressure is listened to but atom_runtime_set_pressure(), nothing idle is given
   * up. 0: it is, with a budget of 0.9 of the cgroup's or the machine's memory; see atom_runtime_set_budget_share(),
   * atom_runtime_set_budget() and atom_runtime_set_idle().
   */
  uint32_t ungoverned;
  /**
   * A file that gets the runtime's state as JSON about once a second, for `atom top`; NULL: none. Replaced by renaming; it
   * stays when the runtime is closed.
   */
  const char *status_file;
} atom_runtime_options;

/**
 * A module of the pack as it is now.
 */
typedef struct atom_module {
  /**
   * sizeof(atom_module), set by the caller.
   */
  size_t struct_size;
  /**
   * Its id in the pack. This and the other strings are valid until the atom_modules is closed.
   */
  const char *id;
  /**
   * What it is: "visual-encoder", "text-encoder", "language-decoder" …
   */
  const char *kind;
  /**
   * "cold", "loading", "resident", "parked" (its weights were given back to the kernel) or "failed".
   */
  const char *state;
  /**
   * The execution provider asked for; "" before the first load.
   */
  const char *provider;
  /**
   * Where its nodes really run; "" before the first load.
   */
  const char *placement;
  /**
   * Why it failed; "" unless the state is "failed".
   */
  const char *error;
  /**
   * Times it was loaded.
   */
  uint64_t loads;
  /**
   * Times it ran.
   */
  uint64_t runs;
  /**
   * Anonymous bytes it holds.
   */
  uint64_t anon_bytes;
  /**
   * Bytes of files it has mapped, which the kernel may drop.
   */
  uint64_t mapped_bytes;
  /**
   * Milliseconds the last load took; 0 before the first.
   */
  double load_ms;
} atom_module;

/**
 * One event of memory.
 */
typedef struct atom_memory_event {
  /**
   * sizeof(atom_memory_event), set by the caller.
   */
  size_t struct_size;
  /**
   * 1 for the first since the runtime was opened; without gaps.
   */
  uint64_t number;
  /**
   * An atom_memory_event_kind number.
   */
  uint32_t kind;
  /**
   * The module's id or another owner's name; "" with PRESSURE. This and `text` are valid until the atom_memory_events is
   * closed.
   */
  const char *subject;
  /**
   * Anonymous bytes.
   */
  uint64_t anon_bytes;
  /**
   * Bytes of mapped files.
   */
  uint64_t mapped_bytes;
  /**
   * All of it in a sentence.
   */
  const char *text;
} atom_memory_event;

/**
 * Options of a store; NULL or zeros are the defaults.
 */
typedef struct atom_store_options {
  /**
   * sizeof(atom_store_options).
   */
  size_t struct_size;
  /**
   * An atom_access number.
   */
  uint32_t access;
} atom_store_options;

/**
 * A segment: a stretch of a stream that one keyframe stands for.
 */
typedef struct atom_segment {
  /**
   * sizeof(atom_segment), set by the caller.
   */
  size_t struct_size;
  /**
   * Its number in the store; never reused.
   */
  uint64_t segment;
  /**
   * Start in nanoseconds on the stream's clock.
   */
  int64_t start_ns;
  /**
   * End.
   */
  int64_t end_ns;
  /**
   * Time of the keyframe.
   */
  int64_t keyframe_ns;
} atom_segment;

/**
 * Options of an ingest; NULL or zeros are the defaults.
 */
typedef struct atom_ingest_options {
  /**
   * sizeof(atom_ingest_options).
   */
  size_t struct_size;
  /**
   * Bytes of the largest frame that will be pushed, without row padding; the ring is allocated once, from it. 0:
   * 3110400, a 1920x1080 NV12 picture.
   */
  size_t max_frame_bytes;
  /**
   * Where the frames come from (a path or URI), so that the same source under the same name adds nothing and another
   * source under the same name is refused; NULL: a camera.
   */
  const char *source;
  /**
   * Wall time (nanoseconds since 1970) at timestamp 0 of the stream's clock; 0: not known.
   */
  int64_t start_wall_ns;
  /**
   * Longest segment in nanoseconds; 0: the runtime's default.
   */
  int64_t max_segment_ns;
  /**
   * Longer side of a stored thumbnail in pixels, 16 to 1024; 0: 320.
   */
  uint32_t thumbnail_side;
  /**
   * Not 0: segments are captioned as they are stored, and those of the stream that have no caption yet too. One
   * thread does it for all ingests into the store, behind everything else; pushing and indexing never wait for it.
   */
  uint32_t captions;
} atom_ingest_options;

/**
 * One plane of a frame.
 */
typedef struct atom_plane {
  /**
   * The first row. Read during the call only.
   */
  const uint8_t *data;
  /**
   * Readable bytes at `data`: at least stride * (rows - 1) + the bytes of one row.
   */
  size_t size;
  /**
   * Bytes from the start of a row to the start of the next: at least the bytes of one row.
   */
  size_t stride;
} atom_plane;

/**
 * A picture as a camera or decoder delivers it. Set everything; the planes the format does not have may be zero.
 */
typedef struct atom_frame {
  /**
   * sizeof(atom_frame).
   */
  size_t struct_size;
  /**
   * Capture time in nanoseconds on the stream's own clock; not negative, growing within a stream.
   */
  int64_t timestamp_ns;
  /**
   * An atom_pixels number; zero is not one.
   */
  uint32_t pixels;
  /**
   * Width in pixels before rotation, 1 to 16384; odd is fine.
   */
  uint32_t width;
  /**
   * Height in pixels before rotation, 1 to 16384; odd is fine.
   */
  uint32_t height;
  /**
   * An atom_matrix number.
   */
  uint32_t matrix;
  /**
   * An atom_range number.
   */
  uint32_t range;
  /**
   * Degrees to turn the picture clockwise to be upright: 0, 90, 180 or 270.
   */
  uint32_t rotation;
  /**
   * The planes, in the order of the format.
   */
  struct atom_plane planes[3];
} atom_frame;

/**
 * What an ingest did.
 */
typedef struct atom_ingest_report {
  /**
   * sizeof(atom_ingest_report), set by the caller.
   */
  size_t struct_size;
  /**
   * Frames taken.
   */
  uint64_t frames;
  /**
   * Frames refused with ATOM_STATUS_FULL.
   */
  uint64_t dropped;
  /**
   * Segments found.
   */
  uint64_t segments;
  /**
   * Segments among them that the store had already.
   */
  uint64_t known;
  /**
   * Keyframes encoded.
   */
  uint64_t keyframes;
  /**
   * Captions made and stored.
   */
  uint64_t captions;
  /**
   * Segments whose captioning failed; the log says why, and they are indexed all the same.
   */
  uint64_t captions_failed;
} atom_ingest_report;

/**
 * What to search besides the words. Zero is the default everywhere; NULL options are all defaults.
 */
typedef struct atom_search_options {
  /**
   * sizeof(atom_search_options).
   */
  size_t struct_size;
  /**
   * Most hits wanted, up to 10000; 0: 10.
   */
  uint32_t k;
  /**
   * Milliseconds from the call on after which it fails with ATOM_STATUS_DEADLINE_EXCEEDED; 0: none.
   */
  uint32_t deadline_ms;
  /**
   * Only segments of the stream of this name; NULL: all streams.
   */
  const char *stream;
  /**
   * Only segments that end at or after this time of the stream, in nanoseconds; 0: from the start.
   */
  int64_t from_ns;
  /**
   * Only segments that start before this time of the stream, in nanoseconds; 0: to the end.
   */
  int64_t to_ns;
  /**
   * Cosine below which a segment is no match; 0: the pack's own threshold; -1: no threshold.
   */
  float min_score;
  /**
   * An atom_priority number.
   */
  int32_t priority;
  /**
   * Stops the call; NULL: nothing does. Blocking calls only.
   */
  const struct atom_canceller *canceller;
} atom_search_options;

/**
 * A segment that a search found.
 */
typedef struct atom_hit {
  /**
   * sizeof(atom_hit), set by the caller.
   */
  size_t struct_size;
  /**
   * The segment's number in the store, for atom_caption() and its like.
   */
  uint64_t segment;
  /**
   * Name of its stream; valid until the results are closed.
   */
  const char *stream;
  /**
   * Start of the segment in nanoseconds on the stream's clock.
   */
  int64_t start_ns;
  /**
   * End of the segment.
   */
  int64_t end_ns;
  /**
   * Time of the keyframe it was judged by.
   */
  int64_t keyframe_ns;
  /**
   * Cosine between the words and the keyframe, -1 to 1.
   */
  float score;
} atom_hit;

/**
 * How clips are chosen for the lines of a script. Zero is the default everywhere; NULL options are all defaults.
 */
typedef struct atom_assemble_options {
  /**
   * sizeof(atom_assemble_options).
   */
  size_t struct_size;
  /**
   * Most clips for each line; 0: 1. Lines times this may be 100 at most.
   */
  uint32_t per_line;
  /**
   * Milliseconds from the call on after which it fails with ATOM_STATUS_DEADLINE_EXCEEDED; 0: none.
   */
  uint32_t deadline_ms;
  /**
   * No clip is shorter, in nanoseconds, up to ten minutes; 0: one second. A shorter segment's clip grows into the time
   * around it that the store has; where there is not enough, the segment is not used.
   */
  int64_t min_length_ns;
  /**
   * No clip is longer, in nanoseconds; 0: ten seconds.
   */
  int64_t max_length_ns;
  /**
   * How much of a cosine a clip counts less that repeats another in full (same stream, same picture), up to 1; 0: 0.2;
   * -1: nothing.
   */
  float variety;
  /**
   * Cosine below which a segment is no match; 0: the pack's own threshold; -1: no threshold.
   */
  float min_score;
  /**
   * Only segments of the stream of this name; NULL: all streams.
   */
  const char *stream;
  /**
   * No clip reaches before this time of its stream, in nanoseconds; 0: from the start.
   */
  int64_t from_ns;
  /**
   * No clip reaches past this time of its stream, in nanoseconds; 0: to the end.
   */
  int64_t to_ns;
  /**
   * What the storyboard is called; NULL: nothing.
   */
  const char *title;
  /**
   * Stops the call; NULL: nothing does. Blocking calls only.
   */
  const struct atom_canceller *canceller;
  /**
   * An atom_priority number.
   */
  int32_t priority;
} atom_assemble_options;

/**
 * A stretch of a stream chosen for a line.
 */
typedef struct atom_clip {
  /**
   * sizeof(atom_clip), set by the caller.
   */
  size_t struct_size;
  /**
   * Number of its line, from 0.
   */
  size_t line;
  /**
   * Number of the segment it was chosen by.
   */
  uint64_t segment;
  /**
   * Name of its stream; valid until the storyboard is closed.
   */
  const char *stream;
  /**
   * Start in nanoseconds on the stream's clock.
   */
  int64_t start_ns;
  /**
   * End.
   */
  int64_t end_ns;
  /**
   * Time of the segment's keyframe.
   */
  int64_t keyframe_ns;
  /**
   * Cosine between the line and the keyframe, -1 to 1.
   */
  float score;
} atom_clip;

/**
 * A line of a storyboard.
 */
typedef struct atom_line {
  /**
   * sizeof(atom_line), set by the caller.
   */
  size_t struct_size;
  /**
   * Its words; valid until the storyboard is closed.
   */
  const char *text;
  /**
   * An atom_writer number.
   */
  int32_t writer;
  /**
   * An atom_unmatched number: why it has no clip.
   */
  int32_t unmatched;
  /**
   * The best cosine any segment has with it, also where that is not enough; -1 when the store holds nothing.
   */
  float best_score;
} atom_line;

/**
 * Receives text as it is generated, whole UTF-8 characters, on the thread of the blocking call. `text` is valid
 * during the call only. Return 0 to go on, anything else to stop (ATOM_STOP_CANCELLED). Must not throw or longjmp.
 */
typedef int32_t (*atom_text_fn)(void *user, const char *text);

/**
 * How to generate a caption or an answer. Zero is the default everywhere; NULL options are all defaults.
 */
typedef struct atom_generate_options {
  /**
   * sizeof(atom_generate_options).
   */
  size_t struct_size;
  /**
   * Most tokens to generate, up to 4096; 0: as the pack says, else 48.
   */
  uint32_t max_tokens;
  /**
   * Milliseconds from the call on after which generation stops with ATOM_STOP_DEADLINE; 0: none.
   */
  uint32_t deadline_ms;
  /**
   * Stops the call; NULL: nothing does. Blocking calls only.
   */
  const struct atom_canceller *canceller;
  /**
   * Called with text as it comes; NULL: not. Blocking calls only.
   */
  atom_text_fn on_text;
  /**
   * Given to on_text.
   */
  void *user;
  /**
   * Asynchronous calls only: not 0 to get ATOM_EVENT_KIND_TEXT events.
   */
  uint32_t text_events;
  /**
   * An atom_priority number.
   */
  int32_t priority;
  /**
   * Texts of which the result must be exactly one, the likeliest; NULL: free.
   */
  const char *const *choices;
  /**
   * Number of choices, up to 4096; each at most 64 kB.
   */
  size_t choices_count;
  /**
   * Not 0: a caption stored with the segment is not served, but made anew. Captions of segments only.
   */
  uint32_t fresh;
  /**
   * Texts that a beam search follows at once, up to 64; 1: the likeliest token at each step; 0: as the pack says.
   */
  uint32_t beams;
  /**
   * Captions only: the name of one of the pack's further prompts; NULL: its own.
   */
  const char *prompt;
  /**
   * Above 0: tokens are drawn at random, from logits divided by this; 0: as the pack says.
   */
  float temperature;
  /**
   * A draw is among the likeliest tokens whose probabilities together reach this, up to 1; 0: as the pack says.
   */
  float top_p;
  /**
   * A draw is among so many of the likeliest tokens; 0: as the pack says.
   */
  uint32_t top_k;
  /**
   * Reserved; 0.
   */
  uint32_t reserved;
  /**
   * Start of the random sequence: the same seed draws the same text. Not 0: tokens are drawn, as by `temperature`.
   */
  uint64_t seed;
} atom_generate_options;

/**
 * Options of a completion queue; NULL or zeros are the defaults.
 */
typedef struct atom_queue_options {
  /**
   * sizeof(atom_queue_options).
   */
  size_t struct_size;
  /**
   * Requests not yet collected: waiting, running, or finished with DONE unread. 1 to 4096; 0: 64.
   */
  uint32_t capacity;
  /**
   * Milliseconds atom_queue_close() waits for work under way to stop; 0: 10000.
   */
  uint32_t close_timeout_ms;
} atom_queue_options;

/**
 * One event, copied out of the queue. What it points to belongs to the caller: free it with atom_event_clear(), or
 * take a pointer over by setting the field to NULL.
 */
typedef struct atom_event {
  /**
   * sizeof(atom_event), set by the caller.
   */
  size_t struct_size;
  /**
   * The number the asynchronous call gave out.
   */
  uint64_t request;
  /**
   * The pointer given to the asynchronous call.
   */
  void *user;
  /**
   * An atom_event_kind number.
   */
  int32_t kind;
  /**
   * With DONE: an atom_status number.
   */
  int32_t status;
  /**
   * With TEXT: the text since the last event. With DONE and a failure: what atom_last_error() would say. Else NULL.
   */
  char *text;
  /**
   * With DONE of a search that went well: the results. Else NULL.
   */
  struct atom_results *results;
  /**
   * With DONE of a caption or an answer that went well: the text. Else NULL.
   */
  struct atom_generated *generated;
  /**
   * With DONE of an assembly that went well: the storyboard. Else NULL.
   */
  struct atom_storyboard *storyboard;
} atom_event;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Version of the library that was loaded, "major.minor.patch". Static; do not free. Never fails. Any thread.
 */
const char *atom_version(void);

/**
 * ATOM_ABI_VERSION of the library that was loaded; compare it with the macro. Never fails. Any thread.
 */
uint32_t atom_abi_version(void);

/**
 * What went wrong in the last call that failed on this thread, and what can be done about it; "" when none has.
 * A successful call leaves it as it is. The string belongs to Atom and stays valid until the next call that fails on
 * this thread, or the thread's end. Never fails.
 */
const char *atom_last_error(void);

/**
 * The name of a status number, for logs: "ATOM_STATUS_NOT_FOUND"; "ATOM_STATUS_UNKNOWN" for a number this version
 * does not have. Static; do not free. Never fails. Any thread.
 */
const char *atom_status_name(int32_t status);

/**
 * Sends lines up to `level` (an atom_log_level number) to `callback` from now on; NULL stops it. When the call
 * returns, the callback set before is not running any more and will not be called again; until then `user` must stay good.
 * Concerns the whole process.
 */
atom_status atom_log_set(atom_log_fn callback,
                         void *user,
                         int32_t level);

/**
 * Makes a canceller. Close it with atom_canceller_close().
 */
atom_status atom_canceller_create(struct atom_canceller **out);

/**
 * Asks the calls that were given `canceller` to stop at their next step (one token, one batch). Never blocks; any
 * thread, also from a callback; more than once does no harm. Calls that generate text return what they have, with
 * ATOM_STOP_CANCELLED; other calls return ATOM_STATUS_CANCELLED.
 */
atom_status atom_canceller_cancel(const struct atom_canceller *canceller);

/**
 * Frees a canceller; calls under way keep what they need of it. NULL is fine.
 */
atom_status atom_canceller_close(struct atom_canceller *canceller);

/**
 * Opens the pack in folder `pack`, and ONNX Runtime if this is the process's first. Loads no module: the first task
 * that needs one does. `options` may be NULL. ATOM_STATUS_BAD_PACK for a wrong pack, ATOM_STATUS_NATIVE_LIBRARY when
 * ONNX Runtime is missing or too old.
 */
atom_status atom_runtime_open(const char *pack,
                              const struct atom_runtime_options *options,
                              struct atom_runtime **out);

/**
 * Closes a runtime. Its modules are released when everything made from it (ingests, queues, requests) is closed too,
 * in any order. ONNX Runtime itself and its threads, which sleep, stay until the process ends; opening again is fine.
 * NULL is fine.
 */
atom_status atom_runtime_close(struct atom_runtime *runtime);

/**
 * Whether the pack can serve `task` (an atom_task number): ATOM_STATUS_OK, or ATOM_STATUS_UNSUPPORTED.
 */
atom_status atom_runtime_serves(const struct atom_runtime *runtime, uint32_t task);

/**
 * The modules of the pack as they are now.
 */
atom_status atom_runtime_modules(const struct atom_runtime *runtime, struct atom_modules **out);

/**
 * Number of modules; 0 if `modules` is not an open handle.
 */
size_t atom_modules_count(const struct atom_modules *modules);

/**
 * Copies module `index` to `module`; set module->struct_size first.
 */
atom_status atom_modules_get(const struct atom_modules *modules, size_t index, struct atom_module *module);

/**
 * Frees a list of modules and its strings. NULL is fine.
 */
atom_status atom_modules_close(struct atom_modules *modules);

/**
 * The state of the runtime as JSON, with the names `atom doctor --json` uses: version, onnxruntime, pack, modules,
 * ledger (who owns which bytes), prefixes (beginnings of prompts kept for the next), memory (the kernel's figures and the
 * ledger's), pressure, counters, events. `out` gets a string to be freed with atom_string_free().
 */
atom_status atom_runtime_status_json(const struct atom_runtime *runtime,
                                     char **out);

/**
 * Frees a string Atom gave out. NULL is fine. Any thread, also in a callback.
 */
void atom_string_free(char *string);

/**
 * Says how short the machine is of memory, `level` being an atom_pressure number, until another level is set. Atom watches
 * the kernel's own signs as well; the worst counts. What the level leads to is done on return: LOW shrinks arenas and caches
 * and parks idle modules, CRITICAL releases every module that no task holds, and parks the others. Each is loaded again when
 * it is next needed.
 */
atom_status atom_runtime_set_pressure(const struct atom_runtime *runtime,
                                      uint32_t level);

/**
 * As atom_runtime_set_pressure(), but nobody will say when it is over, as with Android's onTrimMemory(). `returned_bytes`,
 * unless NULL, gets the bytes that came back, anonymous and mapped.
 */
atom_status atom_runtime_trim(const struct atom_runtime *runtime,
                              uint32_t level,
                              uint64_t *returned_bytes);

/**
 * Sets the most anonymous bytes that modules, generations and caches may hold together; 0: no bound. What is held beyond it
 * is evicted as far as no task holds it. What does not fit later waits for others to finish, and is else
 * ATOM_STATUS_OUT_OF_BUDGET with budget, need and holders in atom_last_error().
 */
atom_status atom_runtime_set_budget(const struct atom_runtime *runtime,
                                    uint64_t anon_bytes);

/**
 * Sets the budget to what keeps memory below `share` (over 0, at most 1) of the memory cgroup's limit and of the machine's
 * memory, the tighter of the two; followed once a second as others take and give back. A runtime starts with 0.9.
 */
atom_status atom_runtime_set_budget_share(const struct atom_runtime *runtime,
                                          double share);

/**
 * Sets when modules that nobody uses are given up without any pressure: parked after `park_ms`, released after `release_ms`
 * milliseconds without use; 0: never. A runtime starts with a minute and ten minutes.
 */
atom_status atom_runtime_set_idle(const struct atom_runtime *runtime,
                                  uint32_t park_ms,
                                  uint32_t release_ms);

/**
 * Says how dear the module called `module` is, `keep` being an atom_keep number. ATOM_STATUS_NOT_FOUND if the pack has no
 * such module.
 */
atom_status atom_runtime_set_keep(const struct atom_runtime *runtime,
                                  const char *module,
                                  uint32_t keep);

/**
 * Begins to load the module called `module`, or to read its weights again if they were parked, and returns at once: for who
 * will need it soon. ATOM_STATUS_NOT_FOUND if the pack has no such module; a load that fails is told to who uses it.
 */
atom_status atom_runtime_prefetch(const struct atom_runtime *runtime,
                                  const char *module);

/**
 * The events of memory after number `after` (0: all that are kept), oldest first. The newest 256 are kept.
 */
atom_status atom_runtime_memory_events(const struct atom_runtime *runtime,
                                       uint64_t after,
                                       struct atom_memory_events **out);

/**
 * Number of events; 0 if `events` is not an open handle.
 */
size_t atom_memory_events_count(const struct atom_memory_events *events);

/**
 * Copies event `index` to `event`; set event->struct_size first.
 */
atom_status atom_memory_events_get(const struct atom_memory_events *events,
                                   size_t index,
                                   struct atom_memory_event *event);

/**
 * Frees a list of events and its strings. NULL is fine.
 */
atom_status atom_memory_events_close(struct atom_memory_events *events);

/**
 * Opens the store in folder `path` for vectors of `runtime`'s pack. `options` may be NULL.
 * ATOM_STATUS_STORE_FOREIGN when another pack made it, ATOM_STATUS_STORE_LOCKED when another process writes to it.
 */
atom_status atom_store_open(const struct atom_runtime *runtime,
                            const char *path,
                            const struct atom_store_options *options,
                            struct atom_store **out);

/**
 * The segment of stream `stream` at time `at_ns` (nanoseconds on the stream's clock). Set out->struct_size first.
 * ATOM_STATUS_NOT_FOUND when there is no such stream or nothing at that time.
 */
atom_status atom_store_segment_at(const struct atom_store *store,
                                  const char *stream,
                                  int64_t at_ns,
                                  struct atom_segment *out);

/**
 * Number of segments in the store.
 */
atom_status atom_store_segment_count(const struct atom_store *store, uint64_t *out);

/**
 * The keyframe of segment number `segment` as a JPEG: `data` and `size` get the bytes, to be freed with
 * atom_bytes_free().
 */
atom_status atom_store_thumbnail(const struct atom_store *store,
                                 uint64_t segment,
                                 uint8_t **data,
                                 size_t *size);

/**
 * Frees `size` bytes Atom gave out. NULL is fine.
 */
void atom_bytes_free(uint8_t *data, size_t size);

/**
 * Closes a store; what was acknowledged is on disk. Ingests and requests that use it keep it open until they end. NULL
 * is fine.
 */
atom_status atom_store_close(struct atom_store *store);

/**
 * Starts indexing frames into stream `stream` (1 to 1024 bytes) of `store`; a stream of that name is continued. `options` may
 * be NULL. Three threads are started, one more with captions; the visual encoder is loaded when the first keyframe is found.
 */
atom_status atom_ingest_open(const struct atom_runtime *runtime,
                             const struct atom_store *store,
                             const char *stream,
                             const struct atom_ingest_options *options,
                             struct atom_ingest **out);

/**
 * Offers a frame. Never waits and never allocates: the pixels are copied into the ring, or the answer is
 * ATOM_STATUS_FULL and the frame is dropped and counted. ATOM_STATUS_BUSY when another thread is pushing into `ingest`
 * (one thread captures); no other call makes a push fail or wait. ATOM_STATUS_INVALID_ARGUMENT once atom_ingest_finish()
 * was called. A failure of the indexing behind (a full disk, for example) is returned by the next push.
 */
atom_status atom_ingest_push(const struct atom_ingest *ingest,
                             const struct atom_frame *frame);

/**
 * What was done so far. Never waits, also while other threads push or finish. Set out->struct_size first.
 */
atom_status atom_ingest_stats(const struct atom_ingest *ingest, struct atom_ingest_report *out);

/**
 * Ends the stream: takes no more frames, waits until every frame taken is indexed, the last segment is stored and, if that
 * was asked for, every segment is captioned, and marks the stream complete. `report` (may be NULL) gets what was done; set
 * report->struct_size first. Calling it again, also from another thread, returns the same. The ingest must still be closed.
 */
atom_status atom_ingest_finish(const struct atom_ingest *ingest,
                               struct atom_ingest_report *report);

/**
 * Closes an ingest. If it was not finished, indexing stops after the frame at hand, and what is not stored yet is
 * dropped, what is not captioned yet stays without; the stream can be continued later. NULL is fine.
 */
atom_status atom_ingest_close(struct atom_ingest *ingest);

/**
 * Finds the segments of `store` that fit `query` (words, at most 64 kB with the pack's `query_template` around them), best first. No match is success with zero
 * hits. `options` may be NULL.
 */
atom_status atom_search(const struct atom_runtime *runtime,
                        const struct atom_store *store,
                        const char *query,
                        const struct atom_search_options *options,
                        struct atom_results **out);

/**
 * atom_search() without waiting: the results arrive with the ATOM_EVENT_KIND_DONE event in `queue`. ATOM_STATUS_FULL
 * when the queue has no room. `user` comes back in the event; `request` (may be NULL) gets the number for
 * atom_cancel().
 */
atom_status atom_search_async(const struct atom_queue *queue,
                              const struct atom_store *store,
                              const char *query,
                              const struct atom_search_options *options,
                              void *user,
                              uint64_t *request);

/**
 * Number of hits; 0 if `results` is not an open handle.
 */
size_t atom_results_count(const struct atom_results *results);

/**
 * Copies hit `index` (0 is the best) to `hit`; set hit->struct_size first.
 */
atom_status atom_results_get(const struct atom_results *results, size_t index, struct atom_hit *hit);

/**
 * Frees results and the strings of their hits. NULL is fine.
 */
atom_status atom_results_close(struct atom_results *results);

/**
 * Chooses clips of `store` for the lines of `script` (at most 64 kB and 100 lines; blank lines and lines that begin with #
 * do not count), all lines together, so that none takes the only segment of another. Clips of one stream never overlap.
 * A line for which nothing is left has no clip and says why; that is success. `options` may be NULL.
 */
atom_status atom_assemble(const struct atom_runtime *runtime,
                          const struct atom_store *store,
                          const char *script,
                          const struct atom_assemble_options *options,
                          struct atom_storyboard **out);

/**
 * atom_assemble() without waiting: the storyboard arrives with the ATOM_EVENT_KIND_DONE event in `queue`.
 * ATOM_STATUS_FULL when the queue has no room. `user` comes back in the event; `request` (may be NULL) gets the number
 * for atom_cancel().
 */
atom_status atom_assemble_async(const struct atom_queue *queue,
                                const struct atom_store *store,
                                const char *script,
                                const struct atom_assemble_options *options,
                                void *user,
                                uint64_t *request);

/**
 * Number of clips; 0 if `storyboard` is not an open handle.
 */
size_t atom_storyboard_clip_count(const struct atom_storyboard *storyboard);

/**
 * Number of lines; 0 if `storyboard` is not an open handle.
 */
size_t atom_storyboard_line_count(const struct atom_storyboard *storyboard);

/**
 * Copies clip `index` to `clip` (by line, those of one line best first); set clip->struct_size first.
 */
atom_status atom_storyboard_clip(const struct atom_storyboard *storyboard,
                                 size_t index,
                                 struct atom_clip *clip);

/**
 * Copies line `index` to `line`; set line->struct_size first.
 */
atom_status atom_storyboard_line(const struct atom_storyboard *storyboard,
                                 size_t index,
                                 struct atom_line *line);

/**
 * The storyboard as one JSON object, the one `atom assemble --json` prints: clips[], lines[], title. `out` gets a string
 * to be freed with atom_string_free().
 */
atom_status atom_storyboard_json(const struct atom_storyboard *storyboard,
                                 char **out);

/**
 * The storyboard as OpenTimelineIO JSON, which editing programs read. `out` gets a string to be freed with
 * atom_string_free().
 */
atom_status atom_storyboard_otio(const struct atom_storyboard *storyboard, char **out);

/**
 * Frees a storyboard and the strings of its clips and lines. NULL is fine.
 */
atom_status atom_storyboard_close(struct atom_storyboard *storyboard);

/**
 * The text; UTF-8, valid until `generated` is closed. NULL if `generated` is not an open handle.
 */
const char *atom_generated_text(const struct atom_generated *generated);

/**
 * Number of tokens the decoder made for it; 0 when no decoder was needed, or if `generated` is not an open handle.
 */
uint32_t atom_generated_tokens(const struct atom_generated *generated);

/**
 * Why it ended, an atom_stop number; 0 if `generated` is not an open handle.
 */
int32_t atom_generated_stop(const struct atom_generated *generated);

/**
 * 1 if it is a caption that was stored with its segment, 0 if it was generated now or `generated` is not an open
 * handle.
 */
int32_t atom_generated_stored(const struct atom_generated *generated);

/**
 * Frees a generated text. NULL is fine.
 */
atom_status atom_generated_close(struct atom_generated *generated);

/**
 * Says what segment number `segment` of `store` shows. A caption stored with it is served without generating
 * (atom_generated_stored()) unless options->fresh; else it is made from the stored features, no picture is encoded
 * again for search, and stored if the store is open for writing. Waits for the text; options->on_text gets it piece by piece. `options` may be NULL. When the deadline passes or the canceller
 * is used, the text so far is the result and atom_generated_stop() says so; before the first token it is a failure.
 */
atom_status atom_caption(const struct atom_runtime *runtime,
                         const struct atom_store *store,
                         uint64_t segment,
                         const struct atom_generate_options *options,
                         struct atom_generated **out);

/**
 * Says what one picture shows, storing nothing; else as atom_caption().
 */
atom_status atom_caption_frame(const struct atom_runtime *runtime,
                               const struct atom_frame *frame,
                               const struct atom_generate_options *options,
                               struct atom_generated **out);

/**
 * atom_caption() without waiting: the text arrives with the ATOM_EVENT_KIND_DONE event in `queue`. ATOM_STATUS_FULL
 * when the queue has no room. `user` comes back in every event; `request` (may be NULL) gets the number for
 * atom_cancel().
 */
atom_status atom_caption_async(const struct atom_queue *queue,
                               const struct atom_store *store,
                               uint64_t segment,
                               const struct atom_generate_options *options,
                               void *user,
                               uint64_t *request);

/**
 * Answers `question` (at most 16 kB) about segment number `segment` of `store`, from its stored features. Waits for the
 * answer; options->on_text gets it piece by piece. `options` may be NULL. When the deadline passes or the canceller
 * is used, the text so far is the result and atom_generated_stop() says so; before the first token it is a failure.
 */
atom_status atom_ask(const struct atom_runtime *runtime,
                     const struct atom_store *store,
                     uint64_t segment,
                     const char *question,
                     const struct atom_generate_options *options,
                     struct atom_generated **out);

/**
 * Answers `question` about one picture, storing nothing; else as atom_ask().
 */
atom_status atom_ask_frame(const struct atom_runtime *runtime,
                           const struct atom_frame *frame,
                           const char *question,
                           const struct atom_generate_options *options,
                           struct atom_generated **out);

/**
 * atom_ask() without waiting: the answer arrives with the ATOM_EVENT_KIND_DONE event in `queue`. ATOM_STATUS_FULL
 * when the queue has no room. `user` comes back in every event; `request` (may be NULL) gets the number for
 * atom_cancel().
 */
atom_status atom_ask_async(const struct atom_queue *queue,
                           const struct atom_store *store,
                           uint64_t segment,
                           const char *question,
                           const struct atom_generate_options *options,
                           void *user,
                           uint64_t *request);

/**
 * Makes a completion queue for asynchronous calls on `runtime`: two threads (one runs encoders, one generates text)
 * and one descriptor. Each thread runs the waiting request of the highest priority, of these the oldest. A request that
 * was overtaken eight times counts as one priority higher, so that none waits for ever. `options` may be NULL. Close it
 * with atom_queue_close().
 */
atom_status atom_queue_create(const struct atom_runtime *runtime,
                              const struct atom_queue_options *options,
                              struct atom_queue **out);

/**
 * Writes to `out` the queue's descriptor (an eventfd): readable while there are events. It belongs to the queue: poll
 * it, do not read, write or close it.
 */
atom_status atom_queue_fd(const struct atom_queue *queue,
                          int32_t *out);

/**
 * Cancels an asynchronous request. One that still waits ends at once, one that runs ends at its next step. Never blocks;
 * any thread; more than once does no harm. The request still ends with its DONE event: searches and assemblies with
 * ATOM_STATUS_CANCELLED, captions and answers with the text so far and ATOM_STOP_CANCELLED, or with ATOM_STATUS_CANCELLED
 * before the first token. ATOM_STATUS_NOT_FOUND when no request of that number is under way (it has ended, or never was).
 */
atom_status atom_cancel(const struct atom_queue *queue,
                        uint64_t request);

/**
 * Cancels what is under way, waits for it (close_timeout_ms at most) and frees the queue with its events and its
 * descriptor. NULL is fine. ATOM_STATUS_DEADLINE_EXCEEDED when work hangs in a provider: the queue is closed all the
 * same, and the hanging thread is left behind with what it uses.
 */
atom_status atom_queue_close(struct atom_queue *queue);

/**
 * Takes the oldest event out of the queue. Never waits: ATOM_STATUS_EMPTY when there is none. Set event->struct_size
 * first. Events of one request come in order. Any thread; each event is given out once.
 */
atom_status atom_queue_next(const struct atom_queue *queue,
                            struct atom_event *event);

/**
 * Frees what an event points to and sets those fields to NULL. NULL is fine.
 */
atom_status atom_event_clear(struct atom_event *event);

/**
 * Starts to record what runs when on which thread, of all runtimes of the process: model steps, waits for them,
 * encoding, storing, captions, searches. The file at `path` is created, or emptied, at once, and written by
 * atom_trace_stop() as Chrome trace JSON, which Perfetto and chrome://tracing open. The newest `max_spans` spans are
 * kept, at about 100 bytes each; 0: 131072. ATOM_STATUS_BUSY while a trace is being recorded.
 */
atom_status atom_trace_start(const char *path,
                             uint32_t max_spans);

/**
 * Stops recording and writes the file given to atom_trace_start(). ATOM_STATUS_NOT_FOUND when nothing is recorded.
 */
atom_status atom_trace_stop(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ATOM_H */
