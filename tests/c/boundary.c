/* Bad arguments at the C boundary: each is told, nothing is written, nothing breaks.  boundary PACK STORE */
#include "check.h"

/* A handle that must not be written. */
static int sentinel;
#define UNTOUCHED(type) ((type *)(void *)&sentinel)

static const char *const NOT_UTF8 = "caf\xe9";

/* An option struct of a version that does not exist yet. */
struct future_runtime_options {
    atom_runtime_options now;
    uint64_t later;
};
struct future_frame {
    atom_frame now;
    uint64_t later;
};

static void without_anything(void)
{
    atom_runtime *runtime = UNTOUCHED(atom_runtime);
    atom_canceller *canceller = NULL;
    char *path = letters(5000);
    CHECK(strcmp(atom_last_error(), "") == 0);
    CHECK(atom_abi_version() == ATOM_ABI_VERSION);
    CHECK(strchr(atom_version(), '.') != NULL);
    CHECK(strcmp(atom_status_name(ATOM_STATUS_STORE_FOREIGN), "ATOM_STATUS_STORE_FOREIGN") == 0);
    CHECK(strcmp(atom_status_name(-9999), "ATOM_STATUS_UNKNOWN") == 0);

    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "pack is NULL", atom_runtime_open(NULL, NULL, &runtime));
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "out is NULL", atom_runtime_open("pack", NULL, NULL));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_open("", NULL, &runtime));
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "UTF-8", atom_runtime_open(NOT_UTF8, NULL, &runtime));
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "4096", atom_runtime_open(path, NULL, &runtime));
    CHECK(atom_runtime_open("there/is/no/such/pack", NULL, &runtime) < 0);
    CHECK(strstr(atom_last_error(), "there/is/no/such/pack") != NULL);
    CHECK(runtime == UNTOUCHED(atom_runtime));
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "path is NULL", atom_trace_start(NULL, 0));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_trace_start("", 0));
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "4096", atom_trace_start(path, 0));
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "spans", atom_trace_start("trace.json", UINT32_MAX));
    EXPECT_TOLD(ATOM_STATUS_NOT_FOUND, "no/such", atom_trace_start("there/is/no/such/trace.json", 0));
    EXPECT_TOLD(ATOM_STATUS_NOT_FOUND, "no trace", atom_trace_stop());
    free(path);

    EXPECT(ATOM_STATUS_OK, atom_runtime_close(NULL));
    EXPECT(ATOM_STATUS_OK, atom_store_close(NULL));
    EXPECT(ATOM_STATUS_OK, atom_ingest_close(NULL));
    EXPECT(ATOM_STATUS_OK, atom_results_close(NULL));
    EXPECT(ATOM_STATUS_OK, atom_generated_close(NULL));
    EXPECT(ATOM_STATUS_OK, atom_modules_close(NULL));
    EXPECT(ATOM_STATUS_OK, atom_canceller_close(NULL));
    EXPECT(ATOM_STATUS_OK, atom_queue_close(NULL));
    EXPECT(ATOM_STATUS_OK, atom_event_clear(NULL));
    atom_string_free(NULL);
    atom_bytes_free(NULL, 0);

    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_canceller_create(NULL));
    EXPECT(ATOM_STATUS_OK, atom_canceller_create(&canceller));
    EXPECT(ATOM_STATUS_OK, atom_canceller_cancel(canceller));
    EXPECT(ATOM_STATUS_OK, atom_canceller_cancel(canceller));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_canceller_cancel(NULL));
    /* Another kind of handle. */
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "atom_runtime",
                atom_runtime_serves((const atom_runtime *)(void *)canceller, ATOM_TASK_INDEX));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_close((atom_runtime *)(void *)canceller));
    CHECK(atom_results_count((const atom_results *)(void *)canceller) == 0);
    CHECK(atom_generated_text(NULL) == NULL);
    CHECK(atom_generated_tokens(NULL) == 0);
    CHECK(atom_modules_count(NULL) == 0);
    EXPECT(ATOM_STATUS_OK, atom_canceller_close(canceller));

    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_log_set(NULL, NULL, 5));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_log_set(NULL, NULL, -1));
    EXPECT(ATOM_STATUS_OK, atom_log_set(NULL, NULL, ATOM_LOG_LEVEL_OFF));
}

static atom_runtime *open_runtime(const char *pack)
{
    struct future_runtime_options future;
    atom_runtime *runtime = UNTOUCHED(atom_runtime);
    memset(&future, 0, sizeof future);
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "struct_size", atom_runtime_open(pack, &future.now, &runtime));
    future.now.struct_size = 4;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_open(pack, &future.now, &runtime));
    future.now.struct_size = 1u << 20;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_open(pack, &future.now, &runtime));
    future.now.struct_size = sizeof future;
    future.later = 1;
    EXPECT_TOLD(ATOM_STATUS_UNSUPPORTED, "newer", atom_runtime_open(pack, &future.now, &runtime));
    future.later = 0;
    future.now.ort_library = NOT_UTF8;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_open(pack, &future.now, &runtime));
    future.now.ort_library = "there/is/no/such/library.so";
    EXPECT_TOLD(ATOM_STATUS_NATIVE_LIBRARY, "library.so", atom_runtime_open(pack, &future.now, &runtime));
    CHECK(runtime == UNTOUCHED(atom_runtime));
    future.now.ort_library = NULL;
    /* A newer program that sets nothing new. */
    if (!EXPECT(ATOM_STATUS_OK, atom_runtime_open(pack, &future.now, &runtime)))
        exit(report());
    return runtime;
}

static void on_runtime(const atom_runtime *runtime, const char *path)
{
    atom_store_options options = {.struct_size = sizeof options, .access = 7};
    atom_store *store = UNTOUCHED(atom_store);
    atom_module module = {.struct_size = sizeof module};
    atom_modules *modules = NULL;
    char *json = NULL;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_serves(NULL, ATOM_TASK_INDEX));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_serves(runtime, 0));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_serves(runtime, 99));
    EXPECT(ATOM_STATUS_OK, atom_runtime_serves(runtime, ATOM_TASK_SEARCH));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_set_pressure(runtime, 3));
    EXPECT(ATOM_STATUS_OK, atom_runtime_set_pressure(runtime, ATOM_PRESSURE_LOW));
    EXPECT(ATOM_STATUS_OK, atom_runtime_set_budget(runtime, 0));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_set_budget_share(runtime, 0.0));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_set_budget_share(runtime, 1.5));
    EXPECT(ATOM_STATUS_OK, atom_runtime_set_budget_share(runtime, 0.8));
    EXPECT(ATOM_STATUS_OK, atom_runtime_set_pressure(runtime, ATOM_PRESSURE_NONE));
    EXPECT(ATOM_STATUS_OK, atom_runtime_set_idle(runtime, 0, 0));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_trim(runtime, 9, NULL));
    EXPECT(ATOM_STATUS_OK, atom_runtime_trim(runtime, ATOM_PRESSURE_NONE, NULL));
    EXPECT_TOLD(ATOM_STATUS_NOT_FOUND, "no-such-module", atom_runtime_set_keep(runtime, "no-such-module", ATOM_KEEP_USUAL));
    EXPECT_TOLD(ATOM_STATUS_NOT_FOUND, "no-such-module", atom_runtime_prefetch(runtime, "no-such-module"));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_prefetch(runtime, NULL));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_memory_events(runtime, 0, NULL));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_status_json(runtime, NULL));
    EXPECT(ATOM_STATUS_OK, atom_runtime_status_json(runtime, &json));
    CHECK(json && strstr(json, "\"modules\":[") != NULL);
    atom_string_free(json);
    EXPECT(ATOM_STATUS_OK, atom_runtime_modules(runtime, &modules));
    CHECK(atom_modules_count(modules) >= 3);
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_modules_get(modules, atom_modules_count(modules), &module));
    EXPECT(ATOM_STATUS_OK, atom_modules_get(modules, 0, &module));
    CHECK(strcmp(module.state, "cold") == 0 && module.loads == 0 && strlen(module.id) > 0);
    EXPECT(ATOM_STATUS_OK, atom_modules_close(modules));

    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "access is 7", atom_store_open(runtime, path, &options, &store));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_store_open(runtime, "", NULL, &store));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_store_open(runtime, NOT_UTF8, NULL, &store));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_store_open(NULL, path, NULL, &store));
    options.access = ATOM_ACCESS_READ_ONLY;
    CHECK(atom_store_open(runtime, path, &options, &store) < 0); /* read-only does not make one */
    CHECK(store == UNTOUCHED(atom_store));
}

static void frames(const atom_ingest *ingest, uint8_t *pixels)
{
    struct {
        const char *told;
        atom_status status;
        atom_frame frame;
    } bad[32];
    size_t count = 0;
    struct future_frame future;
#define BAD(wanted, part, change)                 \
    do {                                          \
        atom_frame f = nv12(pixels, 64, 48, 0);   \
        change;                                   \
        bad[count].told = part;                   \
        bad[count].status = wanted;               \
        bad[count++].frame = f;                   \
    } while (0)
    BAD(ATOM_STATUS_INVALID_ARGUMENT, "struct_size", f.struct_size = 0);
    BAD(ATOM_STATUS_INVALID_ARGUMENT, "struct_size", f.struct_size = sizeof f - 8);
    BAD(ATOM_STATUS_INVALID_ARGUMENT, "pixels is 0", f.pixels = 0);
    BAD(ATOM_STATUS_INVALID_ARGUMENT, "pixels is 6", f.pixels = 6);
    BAD(ATOM_STATUS_INVALID_ARGUMENT, "pixels", f.pixels = UINT32_MAX);
    BAD(ATOM_STATUS_INVALID_ARGUMENT, "matrix", f.matrix = 2);
    BAD(ATOM_STATUS_INVALID_ARGUMENT, "range", f.range = 2);
    BAD(ATOM_STATUS_INVALID_ARGUMENT, "rotation is 45", f.rotation = 45);
    BAD(ATOM_STATUS_INVALID_ARGUMENT, "rotation", f.rotation = 360);
    BAD(ATOM_STATUS_BAD_FRAME, "0x48", f.width = 0);
    BAD(ATOM_STATUS_BAD_FRAME, "64x0", f.height = 0);
    BAD(ATOM_STATUS_BAD_FRAME, "16384", f.width = 16385);
    BAD(ATOM_STATUS_BAD_FRAME, "16384", f.height = UINT32_MAX);
    BAD(ATOM_STATUS_BAD_FRAME, "stride of 63", f.planes[0].stride = 63);
    BAD(ATOM_STATUS_BAD_FRAME, "plane 1", f.planes[1].stride = 0);
    BAD(ATOM_STATUS_BAD_FRAME, "plane 1", f.planes[1].stride = SIZE_MAX);
    BAD(ATOM_STATUS_BAD_FRAME, "plane 0", f.planes[0].size -= 1);
    BAD(ATOM_STATUS_BAD_FRAME, "plane 1", f.planes[1].size = 0);
    BAD(ATOM_STATUS_BAD_FRAME, "plane 0", f.planes[0].size = SIZE_MAX);
    BAD(ATOM_STATUS_BAD_FRAME, "NULL", f.planes[0].data = NULL);
    BAD(ATOM_STATUS_BAD_FRAME, "NULL", f.planes[1].data = NULL);
    BAD(ATOM_STATUS_BAD_FRAME, "plane 2", f.pixels = ATOM_PIXELS_I420); /* its third plane is missing */
    BAD(ATOM_STATUS_BAD_FRAME, "negative", f.timestamp_ns = -1);
    for (size_t i = 0; i < count; i++) {
        atom_status status = atom_ingest_push(ingest, &bad[i].frame);
        if (!CHECK(status == bad[i].status) || !CHECK(strstr(atom_last_error(), bad[i].told) != NULL))
            fprintf(stderr, "  frame %zu: %s: %s\n", i, atom_status_name(status), atom_last_error());
    }
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_ingest_push(ingest, NULL));
    memset(&future, 0, sizeof future);
    future.now = nv12(pixels, 64, 48, 0);
    future.now.struct_size = sizeof future;
    future.later = 3;
    EXPECT(ATOM_STATUS_UNSUPPORTED, atom_ingest_push(ingest, &future.now));
}

static void ingests(const atom_runtime *runtime, const atom_store *store)
{
    uint8_t *pixels = calloc(1, 640 * 480 * 2);
    atom_ingest_options options = {.struct_size = sizeof options, .max_frame_bytes = 64 * 48 * 3 / 2};
    atom_ingest_report before = {.struct_size = sizeof before}, after = {.struct_size = sizeof after};
    atom_ingest *ingest = UNTOUCHED(atom_ingest);
    atom_frame odd, large;
    if (!pixels)
        exit(2);
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_ingest_open(runtime, store, NULL, NULL, &ingest));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_ingest_open(runtime, store, "", NULL, &ingest));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_ingest_open(runtime, store, NOT_UTF8, NULL, &ingest));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_ingest_open(runtime, NULL, "odd", NULL, &ingest));
    options.thumbnail_side = 1;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_ingest_open(runtime, store, "odd", &options, &ingest));
    options.thumbnail_side = 0;
    options.max_segment_ns = -5;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_ingest_open(runtime, store, "odd", &options, &ingest));
    options.max_segment_ns = 0;
    options.max_frame_bytes = SIZE_MAX;
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "max_frame_bytes", atom_ingest_open(runtime, store, "odd", &options, &ingest));
    options.max_frame_bytes = 64 * 48 * 3 / 2;
    CHECK(ingest == UNTOUCHED(atom_ingest));
    if (!EXPECT(ATOM_STATUS_OK, atom_ingest_open(runtime, store, "odd", &options, &ingest)))
        exit(report());
    frames(ingest, pixels);
    EXPECT(ATOM_STATUS_OK, atom_ingest_stats(ingest, &before));
    CHECK(before.frames == 0 && before.dropped == 0);
    large = nv12(pixels, 640, 480, 0);
    EXPECT(ATOM_STATUS_BAD_FRAME, atom_ingest_push(ingest, &large));
    odd = nv12(pixels, 33, 17, 0);
    EXPECT(ATOM_STATUS_OK, atom_ingest_push(ingest, &odd));
    odd = nv12(pixels, 1, 1, 1000000000);
    EXPECT(ATOM_STATUS_OK, atom_ingest_push(ingest, &odd));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_ingest_finish(NULL, &after));
    EXPECT(ATOM_STATUS_OK, atom_ingest_finish(ingest, &after));
    CHECK(after.frames == 2 && after.dropped == 0 && after.segments >= 1 && after.keyframes == after.segments);
    EXPECT(ATOM_STATUS_OK, atom_ingest_finish(ingest, NULL));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_ingest_push(ingest, &odd));
    EXPECT(ATOM_STATUS_OK, atom_ingest_close(ingest));
    free(pixels);
}

static void searches(const atom_runtime *runtime, const atom_store *store)
{
    atom_search_options options = {.struct_size = sizeof options};
    atom_results *results = UNTOUCHED(atom_results);
    atom_generated *text = UNTOUCHED(atom_generated);
    atom_generate_options generate = {.struct_size = sizeof generate};
    const char *choices[] = {"yes", NULL};
    atom_segment segment = {.struct_size = sizeof segment};
    uint8_t *data = NULL;
    size_t size = 0;
    char *megabyte = letters(1u << 20);
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_search(runtime, store, NULL, NULL, &results));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_search(runtime, store, "", NULL, &results));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_search(runtime, store, "  \n", NULL, &results));
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "UTF-8", atom_search(runtime, store, NOT_UTF8, NULL, &results));
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "64 kB", atom_search(runtime, store, megabyte, NULL, &results));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_search(runtime, NULL, "a cat", NULL, &results));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_search(runtime, store, "a cat", NULL, NULL));
    options.k = 10001;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_search(runtime, store, "a cat", &options, &results));
    options.k = 1;
    options.min_score = 2;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_search(runtime, store, "a cat", &options, &results));
    options.min_score = 0.0f / (float)(options.k - 1);
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_search(runtime, store, "a cat", &options, &results));
    options.min_score = 0;
    options.priority = 9;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_search(runtime, store, "a cat", &options, &results));
    options.priority = 0;
    options.from_ns = 10;
    options.to_ns = 5;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_search(runtime, store, "a cat", &options, &results));
    options.from_ns = options.to_ns = 0;
    options.stream = "there is no such stream";
    EXPECT_TOLD(ATOM_STATUS_NOT_FOUND, "no such", atom_search(runtime, store, "a cat", &options, &results));
    CHECK(results == UNTOUCHED(atom_results));

    EXPECT(ATOM_STATUS_NOT_FOUND, atom_caption(runtime, store, 1u << 30, NULL, &text));
    EXPECT(ATOM_STATUS_NOT_FOUND, atom_caption(runtime, store, UINT64_MAX, NULL, &text));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_caption(runtime, store, 1, NULL, NULL));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_caption_frame(runtime, NULL, NULL, &text));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_ask(runtime, store, 1, NULL, NULL, &text));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_ask(runtime, store, 1, NOT_UTF8, NULL, &text));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_ask(runtime, store, 1, megabyte, NULL, &text));
    generate.max_tokens = 4097;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_caption(runtime, store, 1, &generate, &text));
    generate.max_tokens = 0;
    generate.choices_count = 2;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_caption(runtime, store, 1, &generate, &text));
    generate.choices = choices;
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "choices[1]", atom_caption(runtime, store, 1, &generate, &text));
    generate.choices_count = 5000;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_caption(runtime, store, 1, &generate, &text));
    generate.choices = NULL;
    generate.choices_count = 0;
    generate.text_events = 1;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_caption(runtime, store, 1, &generate, &text));
    CHECK(text == UNTOUCHED(atom_generated));

    EXPECT(ATOM_STATUS_NOT_FOUND, atom_store_segment_at(store, "nobody", 0, &segment));
    EXPECT(ATOM_STATUS_NOT_FOUND, atom_store_segment_at(store, "odd", -5, &segment));
    EXPECT(ATOM_STATUS_NOT_FOUND, atom_store_thumbnail(store, UINT64_MAX, &data, &size));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_store_thumbnail(store, 1, NULL, &size));
    free(megabyte);
}

static void storyboards(const atom_runtime *runtime, const atom_store *store)
{
    atom_assemble_options options = {.struct_size = sizeof options};
    atom_storyboard *board = UNTOUCHED(atom_storyboard);
    atom_clip clip = {.struct_size = sizeof clip};
    atom_line line = {.struct_size = sizeof line};
    char *megabyte = letters(1u << 20), *json = NULL;
    char many[2 * 101 + 1] = "";
    float zero = 0;
    for (int i = 0; i < 101; i++)
        strcat(many, "a\n");
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_assemble(runtime, store, NULL, NULL, &board));
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "no lines", atom_assemble(runtime, store, "", NULL, &board));
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "no lines", atom_assemble(runtime, store, " \n\n# only\n", NULL, &board));
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "UTF-8", atom_assemble(runtime, store, NOT_UTF8, NULL, &board));
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "64 kB", atom_assemble(runtime, store, megabyte, NULL, &board));
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "101 lines", atom_assemble(runtime, store, many, NULL, &board));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_assemble(NULL, store, "a cat", NULL, &board));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_assemble(runtime, NULL, "a cat", NULL, &board));
    /* A closed store, or something else that is not an open one. */
    EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "not an open atom_store",
                atom_assemble(runtime, (const atom_store *)(const void *)runtime, "a cat", NULL, &board));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_assemble(runtime, store, "a cat", NULL, NULL));
#define BAD_OPTION(told, change)                                                                    \
    do {                                                                                            \
        options = (atom_assemble_options){.struct_size = sizeof options};                           \
        change;                                                                                     \
        EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, told, atom_assemble(runtime, store, "a cat", &options, &board)); \
    } while (0)
    BAD_OPTION("struct_size", options.struct_size = 3);
    BAD_OPTION("clips a line", options.per_line = 101);
    BAD_OPTION("clips a line", options.per_line = UINT32_MAX);
    BAD_OPTION("at least -", options.min_length_ns = -1);
    BAD_OPTION("at least", options.min_length_ns = INT64_MAX);
    BAD_OPTION("at most", options.max_length_ns = 1);
    BAD_OPTION("at most", options.max_length_ns = INT64_MIN);
    BAD_OPTION("variety", options.variety = zero / zero);
    BAD_OPTION("variety", options.variety = 1.5f);
    BAD_OPTION("variety", options.variety = -0.5f);
    BAD_OPTION("score", options.min_score = zero / zero);
    BAD_OPTION("score", options.min_score = -2);
    BAD_OPTION("UTF-8", options.stream = NOT_UTF8);
    BAD_OPTION("UTF-8", options.title = NOT_UTF8);
    BAD_OPTION("4096", options.title = megabyte);
    BAD_OPTION("empty", (options.from_ns = 10, options.to_ns = 5));
    BAD_OPTION("priority", options.priority = 9);
    options = (atom_assemble_options){.struct_size = sizeof options, .stream = "there is no such stream"};
    EXPECT_TOLD(ATOM_STATUS_NOT_FOUND, "no such", atom_assemble(runtime, store, "a cat", &options, &board));
    CHECK(board == UNTOUCHED(atom_storyboard));

    CHECK(atom_storyboard_clip_count(NULL) == 0 && atom_storyboard_line_count(NULL) == 0);
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_storyboard_clip(NULL, 0, &clip));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_storyboard_line(NULL, 0, &line));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_storyboard_json(NULL, &json));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_storyboard_otio(NULL, &json));
    EXPECT(ATOM_STATUS_OK, atom_storyboard_close(NULL));
    /* Every extreme that is allowed. */
    options = (atom_assemble_options){.struct_size = sizeof options, .per_line = 50, .min_length_ns = 1,
                                      .max_length_ns = INT64_MAX, .variety = 1, .min_score = -1,
                                      .from_ns = INT64_MIN, .to_ns = INT64_MAX};
    EXPECT(ATOM_STATUS_OK, atom_assemble(runtime, store, "a cat\na dog", &options, &board));
    CHECK(atom_storyboard_line_count(board) == 2);
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_storyboard_line(board, 2, &line));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_storyboard_line(board, SIZE_MAX, &line));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_storyboard_clip(board, SIZE_MAX, &clip));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_storyboard_line(board, 0, NULL));
    line.struct_size = 1;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_storyboard_line(board, 0, &line));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_storyboard_json(board, NULL));
    EXPECT(ATOM_STATUS_OK, atom_storyboard_close(board));
    free(megabyte);
}

static void queues(const atom_runtime *runtime, const atom_store *store)
{
    atom_queue_options options = {.struct_size = sizeof options, .capacity = 5000};
    atom_generate_options generate = {.struct_size = sizeof generate};
    atom_assemble_options assemble = {.struct_size = sizeof assemble};
    atom_event event = {.struct_size = sizeof event};
    atom_queue *queue = UNTOUCHED(atom_queue);
    atom_canceller *canceller = NULL;
    uint64_t request = 77;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_queue_create(runtime, &options, &queue));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_queue_create(NULL, NULL, &queue));
    CHECK(queue == UNTOUCHED(atom_queue));
    EXPECT(ATOM_STATUS_OK, atom_queue_create(runtime, NULL, &queue));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_queue_fd(queue, NULL));
    EXPECT(ATOM_STATUS_EMPTY, atom_queue_next(queue, &event));
    event.struct_size = 16;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_queue_next(queue, &event));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_queue_next(queue, NULL));
    EXPECT(ATOM_STATUS_NOT_FOUND, atom_cancel(queue, 0));
    EXPECT(ATOM_STATUS_NOT_FOUND, atom_cancel(queue, 12345));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_search_async(queue, store, NULL, NULL, NULL, &request));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_search_async(NULL, store, "a cat", NULL, NULL, &request));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_caption_async(queue, NULL, 1, NULL, NULL, &request));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_assemble_async(queue, store, NULL, NULL, NULL, &request));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_assemble_async(queue, NULL, "a cat", NULL, NULL, &request));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_assemble_async(NULL, store, "a cat", NULL, NULL, &request));
    EXPECT(ATOM_STATUS_OK, atom_canceller_create(&canceller));
    generate.canceller = canceller;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_caption_async(queue, store, 1, &generate, NULL, &request));
    assemble.canceller = canceller;
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_assemble_async(queue, store, "a cat", &assemble, NULL, &request));
    EXPECT(ATOM_STATUS_OK, atom_canceller_close(canceller));
    CHECK(request == 77);
    EXPECT(ATOM_STATUS_OK, atom_queue_close(queue));
}

int main(int argc, char **argv)
{
    atom_runtime *runtime;
    atom_store *store = NULL;
    /* A program compiled when the struct held nothing but its size. */
    size_t older = sizeof(size_t);
    if (argc != 3)
        return 2;
    without_anything();
    runtime = open_runtime(argv[1]);
    on_runtime(runtime, argv[2]);
    if (!EXPECT(ATOM_STATUS_OK,
                atom_store_open(runtime, argv[2], (const atom_store_options *)(void *)&older, &store)))
        return report();
    ingests(runtime, store);
    searches(runtime, store);
    storyboards(runtime, store);
    queues(runtime, store);
    /* In any order. */
    EXPECT(ATOM_STATUS_OK, atom_runtime_close(runtime));
    EXPECT(ATOM_STATUS_OK, atom_store_close(store));
    return report();
}
