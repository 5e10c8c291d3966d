/* Indexes raw NV12 frames, searches them, captions the best hit and asks about it: all through atom.h.
 *
 *   index_search_caption PACK STORE QUERY [FRAMES.nv12 WIDTH HEIGHT FRAMES_PER_SECOND]
 *
 * FRAMES.nv12 holds pictures one after another, each WIDTH*HEIGHT bytes of Y and half as many of interleaved U and V.
 * Without it a test pattern of three shots is made up. */
#define _POSIX_C_SOURCE 200809L
#include <atom/atom.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define STREAM "camera"

static int failed(const char *what, atom_status status)
{
    fprintf(stderr, "%s: %s: %s\n", what, atom_status_name(status), atom_last_error());
    return 1;
}

/* Where frames come from. */
struct source {
    FILE *file; /* NULL: the test pattern */
    uint32_t width, height;
    double fps;
    uint8_t *pixels;
    size_t luma, bytes;
    unsigned count;
};

static int source_open(struct source *source, int argc, char **argv)
{
    memset(source, 0, sizeof *source);
    source->width = 320;
    source->height = 240;
    source->fps = 10;
    if (argc > 4) {
        if (argc != 8 || strtol(argv[5], NULL, 10) < 2 || strtol(argv[6], NULL, 10) < 2 ||
            !(strtod(argv[7], NULL) > 0)) {
            fprintf(stderr, "FRAMES.nv12 needs WIDTH HEIGHT FRAMES_PER_SECOND\n");
            return 1;
        }
        source->width = (uint32_t)strtol(argv[5], NULL, 10);
        source->height = (uint32_t)strtol(argv[6], NULL, 10);
        source->fps = strtod(argv[7], NULL);
        source->file = fopen(argv[4], "rb");
        if (!source->file) {
            fprintf(stderr, "%s: %s\n", argv[4], strerror(errno));
            return 1;
        }
    }
    source->luma = (size_t)source->width * source->height;
    source->bytes =
        source->luma + (size_t)((source->width + 1) / 2) * 2 * ((source->height + 1) / 2);
    source->pixels = malloc(source->bytes);
    return source->pixels ? 0 : 1;
}

static void source_close(struct source *source)
{
    if (source->file)
        fclose(source->file);
    free(source->pixels);
}

/* Three seconds of moving stripes, in another colour each second. */
static int pattern(struct source *source)
{
    unsigned shot = source->count / 10;
    if (shot >= 3)
        return 0;
    for (uint32_t y = 0; y < source->height; y++)
        for (uint32_t x = 0; x < source->width; x++)
            source->pixels[(size_t)y * source->width + x] =
                (uint8_t)(40 + 60 * shot + (((x + 4 * source->count) / 16 + y / 48) % 2) * 70);
    for (size_t i = source->luma; i < source->bytes; i += 2) {
        source->pixels[i] = (uint8_t)(60 + 60 * shot);
        source->pixels[i + 1] = (uint8_t)(200 - 60 * shot);
    }
    return 1;
}

/* The next frame: 1, or 0 at the end. */
static int source_next(struct source *source, atom_frame *frame)
{
    if (source->file ? fread(source->pixels, 1, source->bytes, source->file) != source->bytes
                     : !pattern(source))
        return 0;
    memset(frame, 0, sizeof *frame);
    frame->struct_size = sizeof *frame;
    frame->timestamp_ns = (int64_t)(source->count++ * 1e9 / source->fps);
    frame->pixels = ATOM_PIXELS_NV12;
    frame->width = source->width;
    frame->height = source->height;
    frame->planes[0].data = source->pixels;
    frame->planes[0].size = source->luma;
    frame->planes[0].stride = source->width;
    frame->planes[1].data = source->pixels + source->luma;
    frame->planes[1].size = source->bytes - source->luma;
    frame->planes[1].stride = (size_t)((source->width + 1) / 2) * 2;
    return 1;
}

static int index_frames(const atom_runtime *runtime, const atom_store *store, struct source *source)
{
    atom_ingest_options options = {.struct_size = sizeof options, .max_frame_bytes = source->bytes};
    atom_ingest_report report = {.struct_size = sizeof report};
    atom_ingest *ingest = NULL;
    atom_frame frame;
    atom_status status = atom_ingest_open(runtime, store, STREAM, &options, &ingest);
    if (status != ATOM_STATUS_OK)
        return failed("atom_ingest_open", status);
    while (status == ATOM_STATUS_OK && source_next(source, &frame)) {
        status = atom_ingest_push(ingest, &frame);
        /* A camera would go on with its next frame; a file can wait for room. */
        while (status == ATOM_STATUS_FULL) {
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
            status = atom_ingest_push(ingest, &frame);
        }
    }
    if (status == ATOM_STATUS_OK)
        status = atom_ingest_finish(ingest, &report);
    if (status != ATOM_STATUS_OK)
        failed("indexing", status);
    else
        printf("%llu frames, %llu segments, %llu keyframes encoded\n", (unsigned long long)report.frames,
               (unsigned long long)report.segments, (unsigned long long)report.keyframes);
    atom_ingest_close(ingest);
    return status != ATOM_STATUS_OK;
}

/* Prints the hits; writes the best one's segment. 1 when there is one. */
static int show_hits(const atom_results *results, uint64_t *best)
{
    for (size_t i = 0; i < atom_results_count(results); i++) {
        atom_hit hit = {.struct_size = sizeof hit};
        if (atom_results_get(results, i, &hit) != ATOM_STATUS_OK)
            return 0;
        printf("  %s %7.2f s to %7.2f s, score %.3f\n", hit.stream, hit.start_ns / 1e9, hit.end_ns / 1e9,
               (double)hit.score);
        if (i == 0)
            *best = hit.segment;
    }
    return atom_results_count(results) > 0;
}

static int32_t print_text(void *user, const char *text)
{
    (void)user;
    fputs(text, stdout);
    fflush(stdout);
    return 0; /* go on */
}

/* The same search and a question, without waiting in a call: one descriptor for poll(). */
static int ask_in_background(const atom_runtime *runtime, const atom_store *store, const char *query,
                             uint64_t segment)
{
    atom_queue *queue = NULL;
    int32_t descriptor = -1;
    int left = 2, bad = 0;
    atom_status status = atom_queue_create(runtime, NULL, &queue);
    if (status != ATOM_STATUS_OK)
        return failed("atom_queue_create", status);
    if ((status = atom_queue_fd(queue, &descriptor)) != ATOM_STATUS_OK ||
        (status = atom_search_async(queue, store, query, NULL, "search", NULL)) != ATOM_STATUS_OK ||
        (status = atom_ask_async(queue, store, segment, "What is in the picture?", NULL, "answer", NULL)) !=
            ATOM_STATUS_OK) {
        bad = failed("asynchronous calls", status);
        left = 0;
    }
    while (left > 0) {
        struct pollfd wait = {.fd = descriptor, .events = POLLIN};
        atom_event event = {.struct_size = sizeof event};
        poll(&wait, 1, -1);
        while (atom_queue_next(queue, &event) == ATOM_STATUS_OK) {
            if (event.kind == ATOM_EVENT_KIND_DONE) {
                left--;
                if (event.status != ATOM_STATUS_OK) {
                    fprintf(stderr, "%s: %s\n", (const char *)event.user, event.text);
                    bad = 1;
                } else if (event.results) {
                    printf("%s: %zu hits\n", (const char *)event.user, atom_results_count(event.results));
                } else if (event.generated) {
                    printf("%s: %s\n", (const char *)event.user, atom_generated_text(event.generated));
                }
            }
            atom_event_clear(&event);
        }
    }
    atom_queue_close(queue);
    return bad;
}

static int look(const atom_runtime *runtime, const atom_store *store, const char *query)
{
    atom_search_options options = {.struct_size = sizeof options, .k = 5};
    atom_generate_options generate = {.struct_size = sizeof generate, .on_text = print_text};
    atom_segment first = {.struct_size = sizeof first};
    atom_results *results = NULL;
    atom_generated *caption = NULL;
    uint64_t segment = 0;
    int found;
    atom_status status = atom_search(runtime, store, query, &options, &results);
    if (status != ATOM_STATUS_OK)
        return failed("atom_search", status);
    printf("\"%s\"\n", query);
    found = show_hits(results, &segment);
    atom_results_close(results);
    if (!found) {
        printf("  no match; captioning the start of the stream\n");
        status = atom_store_segment_at(store, STREAM, 0, &first);
        if (status != ATOM_STATUS_OK)
            return failed("atom_store_segment_at", status);
        segment = first.segment;
    }
    printf("caption: ");
    status = atom_caption(runtime, store, segment, &generate, &caption);
    printf("\n");
    if (status != ATOM_STATUS_OK)
        return failed("atom_caption", status);
    printf("(%u tokens)\n", (unsigned)atom_generated_tokens(caption));
    atom_generated_close(caption);
    return ask_in_background(runtime, store, query, segment);
}

int main(int argc, char **argv)
{
    atom_runtime *runtime = NULL;
    atom_store *store = NULL;
    char *state = NULL;
    struct source source;
    atom_status status;
    int bad = 1;
    if (argc < 4) {
        fprintf(stderr, "usage: %s PACK STORE QUERY [FRAMES.nv12 WIDTH HEIGHT FRAMES_PER_SECOND]\n", argv[0]);
        return 2;
    }
    if (atom_abi_version() != ATOM_ABI_VERSION) {
        fprintf(stderr, "libatom %s does not fit the header this was compiled with\n", atom_version());
        return 1;
    }
    if (source_open(&source, argc, argv) != 0)
        return 1;
    if ((status = atom_runtime_open(argv[1], NULL, &runtime)) != ATOM_STATUS_OK)
        failed("atom_runtime_open", status);
    else if ((status = atom_store_open(runtime, argv[2], NULL, &store)) != ATOM_STATUS_OK)
        failed("atom_store_open", status);
    else
        bad = index_frames(runtime, store, &source) || look(runtime, store, argv[3]);
    if (!bad && (status = atom_runtime_status_json(runtime, &state)) != ATOM_STATUS_OK)
        bad = failed("atom_runtime_status_json", status);
    if (state)
        printf("%s\n", state);
    atom_string_free(state);
    atom_store_close(store);
    atom_runtime_close(runtime);
    source_close(&source);
    return bad;
}
