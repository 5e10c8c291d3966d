/* What an ingest promises a camera: a push waits for nobody and allocates nothing, whatever other threads do meanwhile.
 *   ingest PACK STORE PUSHES
 * Pushes PUSHES frames at 120 a second while two threads read the statistics without pause and one finishes other ingests. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define RATE 120
#define WIDTH 64
#define HEIGHT 48
#define BYTES (WIDTH * HEIGHT * 3 / 2)

static atom_runtime *runtime;
static atom_store *store;

/* Allocations of a thread that counts them, libatom's included: these stand before the C library's own. */
static _Thread_local int counting;
static _Thread_local unsigned long allocations;

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

void *malloc(size_t size)
{
    allocations += counting;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    allocations += counting;
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    allocations += counting;
    return __libc_realloc(old, size);
}

static int64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

static void sleep_until(int64_t at)
{
    struct timespec when = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) != 0)
        ;
}

static atom_ingest *open_ingest(const char *stream, size_t bytes)
{
    atom_ingest_options options = {.struct_size = sizeof options, .max_frame_bytes = bytes};
    atom_ingest *ingest = NULL;
    if (!EXPECT(ATOM_STATUS_OK, atom_ingest_open(runtime, store, stream, &options, &ingest)))
        exit(report());
    return ingest;
}

/* What a thread did; only read after it was joined, but for `stop`. */
struct worker {
    pthread_t thread;
    const atom_ingest *ingest;
    atomic_int stop;
    uint64_t calls, taken, full, busy, finished, wrong;
    int64_t worst_ns;
    atom_ingest_report report;
};

static void start(struct worker *worker, const atom_ingest *ingest, void *(*run)(void *))
{
    memset(worker, 0, sizeof *worker);
    worker->ingest = ingest;
    CHECK(pthread_create(&worker->thread, NULL, run, worker) == 0);
}

static void join(struct worker *worker)
{
    CHECK(pthread_join(worker->thread, NULL) == 0);
    CHECK(worker->wrong == 0);
}

static void *poll_statistics(void *data)
{
    struct worker *self = data;
    uint64_t before = 0;
    while (!atomic_load(&self->stop)) {
        atom_ingest_report report = {.struct_size = sizeof report};
        int64_t began = now(), took;
        self->wrong += atom_ingest_stats(self->ingest, &report) != ATOM_STATUS_OK || report.frames < before;
        took = now() - began;
        if (took > self->worst_ns)
            self->worst_ns = took;
        before = report.frames;
        self->calls++;
    }
    return NULL;
}

/* Opens, fills and finishes one ingest after the other. */
static void *finish_others(void *data)
{
    struct worker *self = data;
    static uint8_t pixels[BYTES + 3 * (WIDTH + HEIGHT)];
    while (!atomic_load(&self->stop)) {
        atom_ingest_options options = {.struct_size = sizeof options, .max_frame_bytes = BYTES};
        atom_ingest_report report = {.struct_size = sizeof report};
        atom_ingest *ingest = NULL;
        char name[32];
        snprintf(name, sizeof name, "other %u", (unsigned)self->calls);
        self->wrong += atom_ingest_open(runtime, store, name, &options, &ingest) != ATOM_STATUS_OK;
        for (int64_t i = 0; i < 8; i++) {
            atom_frame frame = nv12(pixels, WIDTH, HEIGHT, i * 1000000000);
            self->wrong += atom_ingest_push(ingest, &frame) < 0;
        }
        self->wrong += atom_ingest_finish(ingest, &report) != ATOM_STATUS_OK || report.keyframes == 0;
        atom_ingest_close(ingest);
        self->calls++;
        sleep_until(now() + 100000000);
    }
    return NULL;
}

static void capture(long pushes)
{
    struct worker pollers[2], finisher;
    static uint8_t pixels[BYTES + 3 * (WIDTH + HEIGHT)];
    atom_ingest *ingest = open_ingest("camera", BYTES);
    atom_ingest_report report = {.struct_size = sizeof report};
    uint64_t taken = 0, full = 0, busy = 0, wrong = 0;
    int64_t worst = 0, sum = 0, begin;
    start(&pollers[0], ingest, poll_statistics);
    start(&pollers[1], ingest, poll_statistics);
    start(&finisher, NULL, finish_others);
    begin = now();
    for (long i = 0; i < pushes; i++) {
        atom_frame frame;
        atom_status status;
        int64_t began, took;
        memset(pixels, (int)(i / (5 * RATE) * 40 % 256), WIDTH * HEIGHT);
        frame = nv12(pixels, WIDTH, HEIGHT, i * (1000000000 / RATE));
        sleep_until(begin + i * (1000000000 / RATE));
        began = now();
        counting = 1;
        status = atom_ingest_push(ingest, &frame);
        counting = 0;
        took = now() - began;
        sum += took;
        if (took > worst)
            worst = took;
        taken += status == ATOM_STATUS_OK;
        full += status == ATOM_STATUS_FULL;
        busy += status == ATOM_STATUS_BUSY;
        wrong += status < 0;
    }
    atomic_store(&finisher.stop, 1);
    join(&finisher);
    EXPECT(ATOM_STATUS_OK, atom_ingest_finish(ingest, &report));
    for (int i = 0; i < 2; i++) {
        atomic_store(&pollers[i].stop, 1);
        join(&pollers[i]);
    }
    printf("%ld pushes at %d fps: %llu taken, %llu full, %llu busy; worst push %.3f ms, mean %.4f ms, %lu allocations\n", pushes,
           RATE, (unsigned long long)taken, (unsigned long long)full, (unsigned long long)busy, (double)worst / 1e6,
           (double)sum / (double)pushes / 1e6, allocations);
    printf("meanwhile %llu and %llu reads of statistics (worst %.3f ms), %llu other ingests finished\n",
           (unsigned long long)pollers[0].calls, (unsigned long long)pollers[1].calls,
           (double)(pollers[0].worst_ns > pollers[1].worst_ns ? pollers[0].worst_ns : pollers[1].worst_ns) / 1e6,
           (unsigned long long)finisher.calls);
    CHECK(busy == 0 && wrong == 0);
    CHECK(allocations == 0);
    CHECK(taken + full == (uint64_t)pushes && report.frames == taken && report.dropped == full);
    CHECK(finisher.calls > 0 && pollers[0].calls > (uint64_t)pushes);
    EXPECT(ATOM_STATUS_OK, atom_ingest_close(ingest));
    /* The counter counts. */
    counting = 1;
    void *volatile block = malloc(1); /* volatile: else the compiler leaves the call out */
    counting = 0;
    free(block);
    CHECK(allocations == 1);
}

#define LARGE_WIDTH 1920
#define LARGE_HEIGHT 1080
#define LARGE_BYTES (LARGE_WIDTH * LARGE_HEIGHT * 3 / 2)

static uint8_t *large;
static _Atomic int64_t clock_ns;

static void count(struct worker *self, atom_status status)
{
    self->calls++;
    self->taken += status == ATOM_STATUS_OK;
    self->full += status == ATOM_STATUS_FULL;
    self->busy += status == ATOM_STATUS_BUSY;
    self->finished += status == ATOM_STATUS_INVALID_ARGUMENT;
}

static atom_status push_large(const atom_ingest *ingest)
{
    atom_frame frame = nv12(large, LARGE_WIDTH, LARGE_HEIGHT, atomic_fetch_add(&clock_ns, 1000000));
    return atom_ingest_push(ingest, &frame);
}

static void *push_until_stopped(void *data)
{
    struct worker *self = data;
    while (!atomic_load(&self->stop))
        count(self, push_large(self->ingest));
    return NULL;
}

/* Two threads push into one ingest: one of them is told that it is the second. */
static void two_cameras(void)
{
    struct worker other, self = {.calls = 0};
    atom_ingest *ingest = open_ingest("two", LARGE_BYTES);
    atom_ingest_report report = {.struct_size = sizeof report};
    int64_t until = now() + (int64_t)60 * 1000000000;
    start(&other, ingest, push_until_stopped);
    while (self.busy == 0 && now() < until)
        count(&self, push_large(ingest));
    atomic_store(&other.stop, 1);
    join(&other);
    CHECK(self.busy > 0);
    CHECK(self.taken + self.full + self.busy == self.calls && other.taken + other.full + other.busy == other.calls);
    EXPECT(ATOM_STATUS_OK, atom_ingest_finish(ingest, &report));
    CHECK(report.frames == self.taken + other.taken && report.dropped == self.full + other.full);
    EXPECT(ATOM_STATUS_OK, atom_ingest_close(ingest));
}

static void *push_until_finished(void *data)
{
    struct worker *self = data;
    while (self->finished == 0)
        count(self, push_large(self->ingest));
    return NULL;
}

static void *finish(void *data)
{
    struct worker *self = data;
    self->report.struct_size = sizeof self->report;
    self->wrong += atom_ingest_finish(self->ingest, &self->report) != ATOM_STATUS_OK;
    return NULL;
}

/* Finished by two threads at once, while a third pushes: every frame taken is indexed, every later one is refused. */
static void finished_amid_pushes(void)
{
    for (int round = 0; round < 10; round++) {
        struct worker camera, finishers[2];
        atom_ingest_report later = {.struct_size = sizeof later};
        char name[32];
        snprintf(name, sizeof name, "ends %d", round);
        atom_ingest *ingest = open_ingest(name, LARGE_BYTES);
        start(&camera, ingest, push_until_finished);
        sleep_until(now() + round * 1000000);
        start(&finishers[0], ingest, finish);
        start(&finishers[1], ingest, finish);
        join(&camera);
        join(&finishers[0]);
        join(&finishers[1]);
        CHECK(camera.busy == 0 && camera.taken + camera.full + 1 == camera.calls);
        CHECK(finishers[0].report.frames == camera.taken && finishers[0].report.dropped == camera.full);
        CHECK(memcmp(&finishers[0].report, &finishers[1].report, sizeof finishers[0].report) == 0);
        EXPECT_TOLD(ATOM_STATUS_INVALID_ARGUMENT, "finished", push_large(ingest));
        EXPECT(ATOM_STATUS_OK, atom_ingest_stats(ingest, &later));
        CHECK(memcmp(&later, &finishers[0].report, sizeof later) == 0);
        EXPECT(ATOM_STATUS_OK, atom_ingest_close(ingest));
    }
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    large = calloc(1, LARGE_BYTES + 3 * (LARGE_WIDTH + LARGE_HEIGHT));
    if (!large || !EXPECT(ATOM_STATUS_OK, atom_runtime_open(argv[1], NULL, &runtime)) ||
        !EXPECT(ATOM_STATUS_OK, atom_store_open(runtime, argv[2], NULL, &store)))
        return report();
    two_cameras();
    finished_amid_pushes();
    capture(atol(argv[3]));
    EXPECT(ATOM_STATUS_OK, atom_store_close(store));
    EXPECT(ATOM_STATUS_OK, atom_runtime_close(runtime));
    free(large);
    return report();
}
