/*
 * Stands between a program and ONNX Runtime and writes down every session made and every run, so that tests count
 * from outside what Atom says of itself. Built by the tests:  cc -shared -fPIC -O2 -o libort_count.so ort_count.c -ldl -lpthread
 *
 *   ATOM_SHIM_REAL  the real libonnxruntime
 *   ATOM_SHIM_LOG   a file that one JSON line per event is appended to (complete at any moment, so also after a kill):
 *       {"event":"create","session":1,"pid":7,"ok":true,"model":"/path/of/model.onnx","inputs":["pixel_values"],
 *        "outputs":["image_embeds"]}
 *       {"event":"run","session":1,"pid":7,"ok":true}
 *       {"event":"release","session":1,"pid":7}
 *   ATOM_SHIM_FAIL  PART:N: a session whose model's path contains PART fails from its Nth run on, as one does whose
 *                   accelerator was lost
 *
 * OrtApi is a table of function pointers that only ever grows at its end (ORT's promise for its C API), so a copy of the
 * first N entries is a valid table of the version that had N. The positions and the N below are those of onnxruntime
 * 1.17 to 1.31; a newer version is refused by returning NULL, as ORT itself does with versions it does not know.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef void (*Entry)(void);
typedef struct Status Status;
typedef struct Session Session;
typedef struct {
    const Entry *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} ApiBase;

enum {
    CREATE_STATUS = 0,
    CREATE_SESSION = 7,
    CREATE_SESSION_FROM_ARRAY = 8,
    RUN = 9,
    SESSION_GET_INPUT_COUNT = 30,
    SESSION_GET_OUTPUT_COUNT = 31,
    SESSION_GET_INPUT_NAME = 36,
    SESSION_GET_OUTPUT_NAME = 37,
    GET_ALLOCATOR_WITH_DEFAULT_OPTIONS = 78,
    ALLOCATOR_FREE = 76,
    RELEASE_SESSION = 95,
    RUN_WITH_BINDING = 133,
    CREATE_SESSION_PREPACKED = 168,
    CREATE_SESSION_FROM_ARRAY_PREPACKED = 169,
    RUN_ASYNC = 260,
};

/* Entries of OrtApi as of each version, oldest first. */
static const struct { uint32_t version, entries; } known[] = {
    {17, 276}, {18, 280}, {19, 280}, {20, 285}, {21, 285}, {22, 318}, {23, 390}, {24, 415},
    {25, 419}, {26, 419}, {27, 422}, {28, 424}, {29, 425}, {30, 426}, {31, 428},
};
enum { VERSIONS = sizeof known / sizeof known[0], MOST_ENTRIES = 428 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const Entry *real; /* the real table, newest version asked for */
static Entry tables[VERSIONS][MOST_ENTRIES];
static int made[VERSIONS];
static const ApiBase *real_base;
static int log_file = -1;
static unsigned created;
static struct { Session *session; unsigned number, runs; int fails; } live[4096];
static char *fail_part; /* ATOM_SHIM_FAIL, split */
static unsigned fail_from;

static void die(const char *what, const char *why) {
    fprintf(stderr, "ort_count: %s: %s\n", what, why ? why : "?");
    abort();
}

static void line(const char *text, size_t length) {
    /* One write per line on a file opened for appending: lines of several threads and processes never mix. */
    if (log_file >= 0 && write(log_file, text, length) != (ssize_t)length) die("ATOM_SHIM_LOG", "short write");
}

/* The session's number; a new one for a session not seen before. Called with the lock held. */
static unsigned number_of(Session *session, int forget) {
    for (size_t i = 0; i < sizeof live / sizeof live[0]; i++)
        if (live[i].session == session) {
            unsigned number = live[i].number;
            if (forget) live[i].session = NULL;
            return number;
        }
    return 0;
}

static void note(const char *event, Session *session, int ok, int forget) {
    char text[160];
    pthread_mutex_lock(&lock);
    int n = snprintf(text, sizeof text, "{\"event\":\"%s\",\"session\":%u,\"pid\":%d,\"ok\":%s}\n", event,
                     number_of(session, forget), (int)getpid(), ok ? "true" : "false");
    line(text, (size_t)n);
    pthread_mutex_unlock(&lock);
}

static size_t quote(char *out, size_t room, const char *text) {
    size_t n = 0;
    for (; *text && n + 8 < room; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') out[n++] = '\\', out[n++] = (char)c;
        else if (c < 0x20) n += (size_t)snprintf(out + n, 8, "\\u%04x", c);
        else out[n++] = (char)c;
    }
    return n;
}

/* Appends a session's input or output names, which tell modules apart whatever file a session was loaded from. */
static size_t append_names(char *text, size_t n, size_t room, Session *session, int get_count, int get_name) {
    size_t count = 0;
    void *allocator = NULL;
    if (session != NULL) {
        ((Status * (*)(void **)) real[GET_ALLOCATOR_WITH_DEFAULT_OPTIONS])(&allocator);
        ((Status * (*)(const Session *, size_t *)) real[get_count])(session, &count);
    }
    for (size_t i = 0; i < count && n + 512 < room; i++) {
        char *name = NULL;
        ((Status * (*)(const Session *, size_t, void *, char **)) real[get_name])(session, i, allocator, &name);
        if (name == NULL) continue;
        n += (size_t)snprintf(text + n, room - n, i ? ",\"" : "\"");
        n += quote(text + n, 256, name);
        text[n++] = '"';
        ((Status * (*)(void *, void *)) real[ALLOCATOR_FREE])(allocator, name);
    }
    return n;
}

static void note_create(const char *model, Status *status, Session **out) {
    char text[32768];
    const size_t half = sizeof text / 2;
    Session *session = status == NULL && out != NULL ? *out : NULL;
    pthread_mutex_lock(&lock);
    unsigned number = ++created;
    if (session != NULL) {
        size_t slot = 0;
        while (slot < sizeof live / sizeof live[0] && live[slot].session != NULL) slot++;
        if (slot == sizeof live / sizeof live[0]) die("sessions", "too many alive at once");
        live[slot].session = session;
        live[slot].number = number;
        live[slot].runs = 0;
        live[slot].fails = fail_part != NULL && strstr(model, fail_part) != NULL;
    }
    size_t n = (size_t)snprintf(text, sizeof text, "{\"event\":\"create\",\"session\":%u,\"pid\":%d,\"ok\":%s,\"model\":\"",
                                number, (int)getpid(), session != NULL ? "true" : "false");
    n += quote(text + n, 4096, model);
    n += (size_t)snprintf(text + n, sizeof text - n, "\",\"inputs\":[");
    n = append_names(text, n, half, session, SESSION_GET_INPUT_COUNT, SESSION_GET_INPUT_NAME);
    n += (size_t)snprintf(text + n, sizeof text - n, "],\"outputs\":[");
    n = append_names(text, n, sizeof text, session, SESSION_GET_OUTPUT_COUNT, SESSION_GET_OUTPUT_NAME);
    n += (size_t)snprintf(text + n, sizeof text - n, "]}\n");
    line(text, n);
    pthread_mutex_unlock(&lock);
}

static Status *create_session(void *env, const char *path, void *options, Session **out) {
    Status *status = ((Status * (*)(void *, const char *, void *, Session **)) real[CREATE_SESSION])(env, path, options, out);
    note_create(path, status, out);
    return status;
}

static Status *create_session_from_array(void *env, const void *data, size_t length, void *options, Session **out) {
    Status *status = ((Status * (*)(void *, const void *, size_t, void *, Session **)) real[CREATE_SESSION_FROM_ARRAY])(
        env, data, length, options, out);
    note_create("(memory)", status, out);
    return status;
}

static Status *create_session_prepacked(void *env, const char *path, void *options, void *container, Session **out) {
    Status *status = ((Status * (*)(void *, const char *, void *, void *, Session **)) real[CREATE_SESSION_PREPACKED])(
        env, path, options, container, out);
    note_create(path, status, out);
    return status;
}

static Status *create_session_from_array_prepacked(void *env, const void *data, size_t length, void *options,
                                                   void *container, Session **out) {
    Status *status = ((Status * (*)(void *, const void *, size_t, void *, void *, Session **))
                          real[CREATE_SESSION_FROM_ARRAY_PREPACKED])(env, data, length, options, container, out);
    note_create("(memory)", status, out);
    return status;
}

/* Whether this run is one that ATOM_SHIM_FAIL has fail. */
static int to_fail(Session *session) {
    int fails = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < sizeof live / sizeof live[0]; i++)
        if (live[i].session == session && live[i].fails) fails = ++live[i].runs >= fail_from;
    pthread_mutex_unlock(&lock);
    return fails;
}

static Status *run(Session *session, void *options, void *names, void *values, size_t count, void *out_names,
                   size_t out_count, void *out) {
    Status *status;
    if (to_fail(session))
        status = ((Status * (*)(int, const char *)) real[CREATE_STATUS])(1, "device lost (injected by the test)");
    else
        status = ((Status * (*)(Session *, void *, void *, void *, size_t, void *, size_t, void *)) real[RUN])(
            session, options, names, values, count, out_names, out_count, out);
    note("run", session, status == NULL, 0);
    return status;
}

static Status *run_with_binding(Session *session, void *options, void *binding) {
    Status *status = ((Status * (*)(Session *, void *, void *)) real[RUN_WITH_BINDING])(session, options, binding);
    note("run", session, status == NULL, 0);
    return status;
}

static Status *run_async(Session *session, void *options, void *names, void *values, size_t count, void *out_names,
                         size_t out_count, void *out, void *callback, void *data) {
    Status *status =
        ((Status * (*)(Session *, void *, void *, void *, size_t, void *, size_t, void *, void *, void *)) real[RUN_ASYNC])(
            session, options, names, values, count, out_names, out_count, out, callback, data);
    note("run", session, status == NULL, 0);
    return status;
}

static void release_session(Session *session) {
    /* Before the real release: afterwards the address may belong to a new session. */
    if (session != NULL) note("release", session, 1, 1);
    ((void (*)(Session *))real[RELEASE_SESSION])(session);
}

static const Entry *get_api(uint32_t version) {
    size_t v = 0;
    while (v < VERSIONS && known[v].version != version) v++;
    if (v == VERSIONS) return NULL;
    const Entry *api = real_base->GetApi(version);
    if (api == NULL) return NULL;
    pthread_mutex_lock(&lock);
    if (real == NULL) real = api;
    if (!made[v]) {
        Entry *table = tables[v];
        memcpy(table, api, known[v].entries * sizeof(Entry));
        table[CREATE_SESSION] = (Entry)create_session;
        table[CREATE_SESSION_FROM_ARRAY] = (Entry)create_session_from_array;
        table[RUN] = (Entry)run;
        table[RELEASE_SESSION] = (Entry)release_session;
        table[RUN_WITH_BINDING] = (Entry)run_with_binding;
        table[CREATE_SESSION_PREPACKED] = (Entry)create_session_prepacked;
        table[CREATE_SESSION_FROM_ARRAY_PREPACKED] = (Entry)create_session_from_array_prepacked;
        table[RUN_ASYNC] = (Entry)run_async;
        made[v] = 1;
    }
    pthread_mutex_unlock(&lock);
    return tables[v];
}

static const char *get_version(void) { return real_base->GetVersionString(); }

static void set_up(void) {
    const char *path = getenv("ATOM_SHIM_REAL"), *log = getenv("ATOM_SHIM_LOG");
    if (path == NULL || log == NULL) die("environment", "ATOM_SHIM_REAL and ATOM_SHIM_LOG must be set");
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) die(path, dlerror());
    const ApiBase *(*get)(void) = (const ApiBase *(*)(void))dlsym(library, "OrtGetApiBase");
    if (get == NULL) die(path, dlerror());
    const char *fail = getenv("ATOM_SHIM_FAIL"), *colon = fail != NULL ? strrchr(fail, ':') : NULL;
    if (fail != NULL) {
        if (colon == NULL || (fail_from = (unsigned)atoi(colon + 1)) == 0) die("ATOM_SHIM_FAIL", "is not PART:N");
        fail_part = strndup(fail, (size_t)(colon - fail));
    }
    log_file = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (log_file < 0) die(log, "cannot be opened");
    real_base = get();
}

/* The one symbol ONNX Runtime's users look up. */
__attribute__((visibility("default"))) const ApiBase *OrtGetApiBase(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static const ApiBase base = {get_api, get_version};
    pthread_once(&once, set_up);
    return &base;
}
