/* What the C interface promises of calls that go well: callbacks, cancelling, queues, threads, sizes of structs.
 *   calls PACK STORE FRAMES.nv12 WIDTH HEIGHT
 * Leaves a trace of what it did in STORE.trace.json. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <time.h>

static atom_runtime *runtime;
static atom_store *store;
static uint64_t segment;

static int log_lines;

static void on_log(void *user, int32_t level, const char *module, const char *message)
{
    (void)level;
    __atomic_add_fetch((int *)user, strlen(module) > 0 && strlen(message) > 0, __ATOMIC_RELAXED);
}

static void nap(long milliseconds)
{
    nanosleep(&(struct timespec){.tv_nsec = milliseconds * 1000000}, NULL);
}

static void index_frames(const char *path, uint32_t width, uint32_t height)
{
    size_t bytes = (size_t)width * height * 3 / 2;
    atom_ingest_options options = {.struct_size = sizeof options, .max_frame_bytes = bytes, .source = path, .captions = 1};
    atom_ingest_report report = {.struct_size = sizeof report};
    atom_segment found = {.struct_size = sizeof found};
    atom_ingest *ingest = NULL;
    uint8_t *pixels = malloc(bytes), *data = NULL;
    size_t size = 0;
    uint64_t count = 0;
    FILE *file = fopen(path, "rb");
    if (!file || !pixels || !EXPECT(ATOM_STATUS_OK, atom_ingest_open(runtime, store, "cam", &options, &ingest)))
        exit(2);
    for (int64_t i = 0; fread(pixels, 1, bytes, file) == bytes; i++) {
        atom_frame frame = nv12(pixels, width, height, i * 200000000);
        atom_status status;
        while ((status = atom_ingest_push(ingest, &frame)) == ATOM_STATUS_FULL)
            nap(2);
        EXPECT(ATOM_STATUS_OK, status);
    }
    EXPECT(ATOM_STATUS_OK, atom_ingest_finish(ingest, &report));
    CHECK(report.frames > 0 && report.keyframes == report.segments);
    CHECK(report.captions == report.segments && report.captions_failed == 0);
    EXPECT(ATOM_STATUS_OK, atom_store_segment_count(store, &count));
    CHECK(count == report.segments && count > 0);
    EXPECT(ATOM_STATUS_OK, atom_store_segment_at(store, "cam", 0, &found));
    segment = found.segment;
    EXPECT(ATOM_STATUS_OK, atom_store_thumbnail(store, segment, &data, &size));
    CHECK(size > 100 && data[0] == 0xff && data[1] == 0xd8);
    atom_bytes_free(data, size);
    EXPECT(ATOM_STATUS_OK, atom_ingest_close(ingest));
    /* Another source under the same name. */
    options.source = "another";
    EXPECT(ATOM_STATUS_ALREADY_EXISTS, atom_ingest_open(runtime, store, "cam", &options, &ingest));
    fclose(file);
    free(pixels);
}

static void hits_of_older_and_newer_programs(void)
{
    atom_search_options options = {.struct_size = sizeof options, .k = 3, .min_score = -1};
    atom_results *results = NULL;
    atom_hit hit = {.struct_size = offsetof(atom_hit, end_ns), .end_ns = 4242, .keyframe_ns = 4243, .score = 42};
    struct {
        atom_hit now;
        uint64_t later;
    } newer = {.now.struct_size = sizeof newer, .later = 99};
    EXPECT(ATOM_STATUS_OK, atom_search(runtime, store, "people on bicycles", &options, &results));
    CHECK(atom_results_count(results) >= 1 && atom_results_count(results) <= 3);
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_results_get(results, atom_results_count(results), &hit));
    EXPECT(ATOM_STATUS_OK, atom_results_get(results, 0, &hit));
    CHECK(strcmp(hit.stream, "cam") == 0);
    /* What the older program has no room for stays as it was. */
    CHECK(hit.end_ns == 4242 && hit.keyframe_ns == 4243 && (int)hit.score == 42);
    EXPECT(ATOM_STATUS_OK, atom_results_get(results, 0, &newer.now));
    CHECK(newer.later == 0 && newer.now.segment == hit.segment && newer.now.end_ns >= newer.now.start_ns);
    CHECK(newer.now.struct_size == sizeof newer);
    EXPECT(ATOM_STATUS_OK, atom_results_close(results));
}

struct callback {
    char text[4096];
    int calls, stop;
    atom_canceller *canceller;
};

static int32_t on_text(void *user, const char *piece)
{
    struct callback *self = user;
    atom_results *results = NULL;
    atom_generated *generated = NULL;
    if (self->calls++ == 0) {
        EXPECT(ATOM_STATUS_IN_CALLBACK, atom_runtime_close(runtime));
        EXPECT(ATOM_STATUS_IN_CALLBACK, atom_store_close(store));
        EXPECT(ATOM_STATUS_IN_CALLBACK, atom_search(runtime, store, "a cat", NULL, &results));
        EXPECT_TOLD(ATOM_STATUS_IN_CALLBACK, "callback", atom_caption(runtime, store, segment, NULL, &generated));
        EXPECT(ATOM_STATUS_IN_CALLBACK, atom_canceller_close(self->canceller));
    }
    strncat(self->text, piece, sizeof self->text - strlen(self->text) - 1);
    return self->stop;
}

static void blocking_calls(const char *path, uint32_t width, uint32_t height)
{
    static struct callback callback;
    const char *choices[] = {"a bowl of soup", "a bicycle", "the moon"};
    atom_generate_options options = {.struct_size = sizeof options, .on_text = on_text, .user = &callback};
    atom_generate_options fresh = {.struct_size = sizeof fresh, .fresh = 1};
    atom_generated *text = NULL, *again = NULL;
    size_t bytes = (size_t)width * height * 3 / 2;
    uint8_t *pixels = malloc(bytes);
    FILE *file = fopen(path, "rb");
    atom_frame frame;
    EXPECT(ATOM_STATUS_OK, atom_canceller_create(&callback.canceller));
    options.canceller = callback.canceller;
    if (!EXPECT(ATOM_STATUS_OK, atom_caption(runtime, store, segment, &options, &text)))
        exit(report());
    CHECK(callback.calls > 0);
    CHECK(strcmp(callback.text, atom_generated_text(text)) == 0);
    CHECK(strlen(callback.text) > 0);
    /* Made while it was indexed, and the same when made anew. */
    CHECK(atom_generated_stored(text) == 1);
    EXPECT(ATOM_STATUS_OK, atom_caption(runtime, store, segment, &fresh, &again));
    CHECK(atom_generated_stored(again) == 0 && atom_generated_tokens(again) > 0);
    CHECK(strcmp(atom_generated_text(again), atom_generated_text(text)) == 0);
    EXPECT(ATOM_STATUS_OK, atom_generated_close(again));
    EXPECT(ATOM_STATUS_OK, atom_generated_close(text));

    /* The callback asks to stop. */
    callback.stop = 1;
    callback.calls = 0;
    EXPECT(ATOM_STATUS_OK, atom_caption(runtime, store, segment, &options, &text));
    CHECK(callback.calls == 1);
    CHECK(atom_generated_stop(text) == ATOM_STOP_CANCELLED);
    EXPECT(ATOM_STATUS_OK, atom_generated_close(text));

    EXPECT(ATOM_STATUS_OK, atom_canceller_cancel(callback.canceller));
    EXPECT(ATOM_STATUS_OK, atom_canceller_cancel(callback.canceller));
    text = NULL;
    EXPECT(ATOM_STATUS_CANCELLED, atom_caption(runtime, store, segment, &options, &text));
    CHECK(text == NULL);
    EXPECT(ATOM_STATUS_OK, atom_canceller_close(callback.canceller));

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.choices = choices;
    options.choices_count = 3;
    EXPECT(ATOM_STATUS_OK, atom_ask(runtime, store, segment, "What is in the picture?", &options, &text));
    CHECK(strcmp(atom_generated_text(text), choices[0]) == 0 || strcmp(atom_generated_text(text), choices[1]) == 0 ||
          strcmp(atom_generated_text(text), choices[2]) == 0);
    EXPECT(ATOM_STATUS_OK, atom_generated_close(text));

    if (!file || !pixels || fread(pixels, 1, bytes, file) != bytes)
        exit(2);
    frame = nv12(pixels, width, height, 0);
    EXPECT(ATOM_STATUS_OK, atom_caption_frame(runtime, &frame, NULL, &text));
    CHECK(strlen(atom_generated_text(text)) > 0);
    EXPECT(ATOM_STATUS_OK, atom_generated_close(text));
    EXPECT(ATOM_STATUS_OK, atom_ask_frame(runtime, &frame, "Is there a cat?", NULL, &text));
    CHECK(strlen(atom_generated_text(text)) > 0);
    EXPECT(ATOM_STATUS_OK, atom_generated_close(text));
    fclose(file);
    free(pixels);
}

/* Waits for one event. */
static atom_event next(const atom_queue *queue)
{
    atom_event event = {.struct_size = sizeof event};
    int32_t descriptor = -1;
    EXPECT(ATOM_STATUS_OK, atom_queue_fd(queue, &descriptor));
    for (;;) {
        struct pollfd wait = {.fd = descriptor, .events = POLLIN};
        CHECK(poll(&wait, 1, 600000) == 1);
        if (atom_queue_next(queue, &event) == ATOM_STATUS_OK)
            return event;
        CHECK(0); /* readable means that there is an event */
        exit(report());
    }
}

/* Whether every promise about lines and clips is kept. */
static void check_storyboard(const atom_storyboard *board)
{
    char *json = NULL, *otio = NULL;
    size_t lines = atom_storyboard_line_count(board), clips = atom_storyboard_clip_count(board);
    CHECK(lines == 2 && clips >= 1);
    for (size_t i = 0; i < lines; i++) {
        atom_line line = {.struct_size = sizeof line};
        EXPECT(ATOM_STATUS_OK, atom_storyboard_line(board, i, &line));
        CHECK(line.writer == ATOM_WRITER_SCRIPT && line.best_score <= 1 && line.best_score >= -1);
        CHECK(strcmp(line.text, i ? "a submarine under the sea" : "cars parked in a street") == 0);
        CHECK(line.unmatched == (i ? ATOM_UNMATCHED_NO_MATCH : ATOM_UNMATCHED_MATCHED));
    }
    for (size_t i = 0; i < clips; i++) {
        atom_clip clip = {.struct_size = sizeof clip};
        EXPECT(ATOM_STATUS_OK, atom_storyboard_clip(board, i, &clip));
        CHECK(clip.line == 0 && clip.segment != 0 && clip.score > 0 && clip.stream && *clip.stream);
        CHECK(clip.end_ns - clip.start_ns >= 1500000000);
        CHECK(clip.start_ns <= clip.keyframe_ns && clip.keyframe_ns <= clip.end_ns);
        for (size_t j = 0; j < i; j++) {
            atom_clip other = {.struct_size = sizeof other};
            EXPECT(ATOM_STATUS_OK, atom_storyboard_clip(board, j, &other));
            CHECK(strcmp(clip.stream, other.stream) != 0 || clip.end_ns <= other.start_ns ||
                  other.end_ns <= clip.start_ns);
        }
    }
    EXPECT(ATOM_STATUS_OK, atom_storyboard_json(board, &json));
    EXPECT(ATOM_STATUS_OK, atom_storyboard_otio(board, &otio));
    CHECK(json && strstr(json, "\"clips\":[{") && strstr(json, "no_match"));
    CHECK(otio && strstr(otio, "Timeline.1") && strstr(otio, "cars parked in a street"));
    atom_string_free(json);
    atom_string_free(otio);
}

static void storyboards(void)
{
    static const char script[] = "# a comment\ncars parked in a street\n\n  a submarine under the sea\n";
    atom_assemble_options options = {.struct_size = sizeof options, .per_line = 2, .min_length_ns = 1500000000};
    atom_storyboard *board = NULL;
    atom_canceller *canceller = NULL;
    atom_queue *queue = NULL;
    uint64_t request = 0;
    int tag = 0;
    EXPECT(ATOM_STATUS_OK, atom_runtime_serves(runtime, ATOM_TASK_ASSEMBLE));
    EXPECT(ATOM_STATUS_OK, atom_assemble(runtime, store, script, &options, &board));
    check_storyboard(board);
    EXPECT(ATOM_STATUS_OK, atom_storyboard_close(board));
    EXPECT(ATOM_STATUS_OK, atom_assemble(runtime, store, script, NULL, &board));
    CHECK(atom_storyboard_clip_count(board) == 1);
    EXPECT(ATOM_STATUS_OK, atom_storyboard_close(board));

    EXPECT(ATOM_STATUS_OK, atom_canceller_create(&canceller));
    EXPECT(ATOM_STATUS_OK, atom_canceller_cancel(canceller));
    options.canceller = canceller;
    board = NULL;
    EXPECT(ATOM_STATUS_CANCELLED, atom_assemble(runtime, store, script, &options, &board));
    CHECK(board == NULL);
    options.canceller = NULL;
    EXPECT(ATOM_STATUS_OK, atom_canceller_close(canceller));

    EXPECT(ATOM_STATUS_OK, atom_queue_create(runtime, NULL, &queue));
    EXPECT(ATOM_STATUS_OK, atom_assemble_async(queue, store, script, &options, &tag, &request));
    {
        atom_event event = next(queue);
        CHECK(event.request == request && event.user == &tag && event.kind == ATOM_EVENT_KIND_DONE);
        EXPECT(ATOM_STATUS_OK, (atom_status)event.status);
        CHECK(event.storyboard && !event.results && !event.generated && !event.text);
        check_storyboard(event.storyboard);
        EXPECT(ATOM_STATUS_OK, atom_event_clear(&event));
        CHECK(event.storyboard == NULL);
    }
    /* Never taken. */
    EXPECT(ATOM_STATUS_OK, atom_assemble_async(queue, store, script, NULL, NULL, NULL));
    EXPECT(ATOM_STATUS_OK, atom_queue_close(queue));
}

static int readable(const atom_queue *queue)
{
    int32_t descriptor = -1;
    struct pollfd wait = {.events = POLLIN};
    EXPECT(ATOM_STATUS_OK, atom_queue_fd(queue, &descriptor));
    wait.fd = descriptor;
    return poll(&wait, 1, 0) == 1;
}

static void queued_calls(void)
{
    atom_queue_options options = {.struct_size = sizeof options, .capacity = 2};
    atom_generate_options generate = {.struct_size = sizeof generate, .text_events = 1};
    atom_queue *queue = NULL;
    char text[4096] = "";
    uint64_t search = 0, caption = 0, none = 7;
    int done = 0, tag = 0;
    EXPECT(ATOM_STATUS_OK, atom_queue_create(runtime, &options, &queue));
    CHECK(!readable(queue));
    EXPECT(ATOM_STATUS_OK, atom_search_async(queue, store, "people on bicycles", NULL, &tag, &search));
    EXPECT(ATOM_STATUS_OK, atom_caption_async(queue, store, segment, &generate, text, &caption));
    EXPECT(ATOM_STATUS_FULL, atom_search_async(queue, store, "one too many", NULL, NULL, &none));
    CHECK(none == 7 && search != 0 && caption != 0 && search != caption);
    while (done < 2) {
        atom_event event = next(queue);
        EXPECT(ATOM_STATUS_OK, (atom_status)event.status);
        if (event.kind == ATOM_EVENT_KIND_TEXT) {
            CHECK(event.request == caption && event.user == text && event.text != NULL);
            strncat(text, event.text, sizeof text - strlen(text) - 1);
        } else if (event.request == search) {
            CHECK(event.user == &tag && event.results != NULL && event.generated == NULL);
            done++;
        } else {
            CHECK(event.request == caption && event.generated != NULL && event.results == NULL);
            CHECK(strcmp(atom_generated_text(event.generated), text) == 0);
            done++;
        }
        EXPECT(ATOM_STATUS_OK, atom_event_clear(&event));
        CHECK(event.results == NULL && event.generated == NULL && event.text == NULL);
        EXPECT(ATOM_STATUS_OK, atom_event_clear(&event));
    }
    CHECK(!readable(queue));
    EXPECT(ATOM_STATUS_NOT_FOUND, atom_cancel(queue, caption));

    /* Failures arrive as events too. */
    EXPECT(ATOM_STATUS_OK, atom_caption_async(queue, store, 1u << 30, NULL, NULL, NULL));
    {
        atom_event event = next(queue);
        CHECK(event.status == ATOM_STATUS_NOT_FOUND && event.text != NULL && event.generated == NULL);
        atom_event_clear(&event);
    }

    /* Cancelled, twice: it still ends with its event. */
    EXPECT(ATOM_STATUS_OK, atom_ask_async(queue, store, segment, "What is it?", NULL, NULL, &search));
    EXPECT(ATOM_STATUS_OK, atom_ask_async(queue, store, segment, "What is it?", NULL, NULL, &caption));
    EXPECT(ATOM_STATUS_OK, atom_cancel(queue, caption));
    EXPECT(ATOM_STATUS_OK, atom_cancel(queue, caption));
    for (done = 0; done < 2; done++) {
        atom_event event = next(queue);
        if (event.request == caption)
            CHECK(event.status == ATOM_STATUS_CANCELLED ||
                  (event.generated && atom_generated_stop(event.generated) == ATOM_STOP_CANCELLED));
        else
            CHECK(event.status == ATOM_STATUS_OK && event.generated != NULL);
        atom_event_clear(&event);
    }

    /* Closed with work under way and events nobody took. */
    EXPECT(ATOM_STATUS_OK, atom_search_async(queue, store, "a red car", NULL, NULL, NULL));
    EXPECT(ATOM_STATUS_OK, atom_caption_async(queue, store, segment, &generate, NULL, NULL));
    EXPECT(ATOM_STATUS_OK, atom_queue_close(queue));
}

static void *searcher(void *words)
{
    for (int i = 0; i < 5; i++) {
        atom_results *results = NULL;
        if (atom_search(runtime, store, words, NULL, &results) != ATOM_STATUS_OK)
            return (void *)"search failed";
        atom_results_close(results);
    }
    if (strcmp(atom_last_error(), "") != 0)
        return (void *)"another thread's error";
    if (atom_search(runtime, store, "", NULL, NULL) == ATOM_STATUS_OK || strcmp(atom_last_error(), "") == 0)
        return (void *)"no error of its own";
    return NULL;
}

static void threads(void)
{
    static char *words[] = {"a dog", "a street", "people", "trees"};
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&thread[i], NULL, searcher, words[i]) == 0);
    for (int i = 0; i < 4; i++) {
        void *told = NULL;
        CHECK(pthread_join(thread[i], &told) == 0);
        if (!CHECK(told == NULL))
            fprintf(stderr, "  %s\n", (char *)told);
    }
}

/* Resident modules and all loads so far. */
static void tally(unsigned *resident, uint64_t *loads)
{
    atom_modules *modules = NULL;
    *resident = 0;
    *loads = 0;
    EXPECT(ATOM_STATUS_OK, atom_runtime_modules(runtime, &modules));
    for (size_t i = 0; i < atom_modules_count(modules); i++) {
        atom_module module = {.struct_size = sizeof module};
        EXPECT(ATOM_STATUS_OK, atom_modules_get(modules, i, &module));
        *resident += strcmp(module.state, "resident") == 0;
        *loads += module.loads;
    }
    EXPECT(ATOM_STATUS_OK, atom_modules_close(modules));
}

#include "memory.h"

static void pressure(void)
{
    unsigned resident;
    uint64_t before, after;
    atom_results *results = NULL;
    tally(&resident, &before);
    CHECK(resident >= 3 && before == resident);
    EXPECT(ATOM_STATUS_OK, atom_runtime_set_pressure(runtime, ATOM_PRESSURE_CRITICAL));
    tally(&resident, &after);
    CHECK(resident == 0 && after == before);
    EXPECT(ATOM_STATUS_OK, atom_runtime_set_pressure(runtime, ATOM_PRESSURE_NONE));
    EXPECT(ATOM_STATUS_OK, atom_search(runtime, store, "a red car", NULL, &results));
    EXPECT(ATOM_STATUS_OK, atom_results_close(results));
    tally(&resident, &after);
    CHECK(resident == 1 && after == before + 1);
    memory_events();
}

int main(int argc, char **argv)
{
    char trace[4096];
    atom_results *results = NULL;
    uint32_t width, height;
    if (argc != 6)
        return 2;
    width = (uint32_t)strtoul(argv[4], NULL, 10);
    height = (uint32_t)strtoul(argv[5], NULL, 10);
    snprintf(trace, sizeof trace, "%s.trace.json", argv[2]);
    EXPECT(ATOM_STATUS_OK, atom_log_set(on_log, &log_lines, ATOM_LOG_LEVEL_DEBUG));
    for (int round = 0; round < 2; round++) {
        if (!EXPECT(ATOM_STATUS_OK, atom_runtime_open(argv[1], NULL, &runtime)) ||
            !EXPECT(ATOM_STATUS_OK, atom_store_open(runtime, argv[2], NULL, &store)))
            return report();
        if (round == 0) {
            EXPECT(ATOM_STATUS_OK, atom_trace_start(trace, 0));
            EXPECT(ATOM_STATUS_BUSY, atom_trace_start(trace, 0));
            index_frames(argv[3], width, height);
            hits_of_older_and_newer_programs();
            blocking_calls(argv[3], width, height);
            storyboards();
            queued_calls();
            threads();
            pressure();
            budget();
            EXPECT(ATOM_STATUS_OK, atom_trace_stop());
            EXPECT(ATOM_STATUS_NOT_FOUND, atom_trace_stop());
        } else {
            /* The store is what it was. */
            EXPECT(ATOM_STATUS_OK, atom_search(runtime, store, "people on bicycles", NULL, &results));
            EXPECT(ATOM_STATUS_OK, atom_results_close(results));
        }
        EXPECT(ATOM_STATUS_OK, atom_runtime_close(runtime));
        EXPECT(ATOM_STATUS_OK, atom_store_close(store));
    }
    EXPECT(ATOM_STATUS_OK, atom_log_set(NULL, NULL, ATOM_LOG_LEVEL_OFF));
    printf("%d lines of log\n", log_lines);
    return report();
}
