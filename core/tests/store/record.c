/* Preloaded into a process that writes a store: records what it does to files below ATOM_RECORD_DIR, in order, in the file
 * ATOM_RECORD_LOG. One entry: kind, length of the path, offset, length of the data (8 bytes each, native order), path, data. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, TRUNCATE, SYNC, UNLINK, MKDIR, RENAME };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void die(const char *what) {
    fprintf(stderr, "record: %s: %s\n", what, strerror(errno));
    _exit(97);
}

static void put(const void *bytes, size_t len) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = REAL(write);
    while (len > 0) {
        ssize_t n = real(log_fd, bytes, len);
        if (n <= 0) die("log");
        bytes = (const char *)bytes + n;
        len -= (size_t)n;
    }
}

static int ours(const char *path) {
    const char *dir = getenv("ATOM_RECORD_DIR");
    size_t len = dir ? strlen(dir) : 0;
    return len && strncmp(path, dir, len) == 0 && (path[len] == '/' || path[len] == 0);
}

/* Absolute already in these tests; of an open file by /proc. */
static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 4095);
    if (n < 0) return 0;
    path[n] = 0;
    return ours(path);
}

static void note(int64_t kind, const char *path, int64_t at, const void *data, size_t len) {
    const char *log = getenv("ATOM_RECORD_LOG");
    int keep = errno;
    pthread_mutex_lock(&mutex);
    if (log_fd < 0) log_fd = REAL(open)(log ? log : "", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log_fd < 0) die("open log");
    int64_t head[4] = {kind, (int64_t)strlen(path), at, (int64_t)len};
    put(head, sizeof head);
    put(path, (size_t)head[1]);
    put(data, len);
    pthread_mutex_unlock(&mutex);
    errno = keep;
}

static int opened(const char *path, int flags, int existed, int fd) {
    if (fd >= 0 && ours(path)) {
        if (!existed) note(CREATE, path, 0, "", 0);
        else if (flags & O_TRUNC) note(TRUNCATE, path, 0, "", 0);
    }
    return fd;
}

#define OPEN(name)                                                                                   \
    int name(const char *path, int flags, ...) {                                                     \
        va_list list;                                                                                \
        va_start(list, flags);                                                                       \
        mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;                                    \
        va_end(list);                                                                                \
        int existed = access(path, F_OK) == 0;                                                       \
        return opened(path, flags, existed, REAL(name)(path, flags, mode));                          \
    }
OPEN(open)
OPEN(open64)

/* Refused rather than missed: nothing here should use them on a store. */
#define NEVER(fd, what)                                                                              \
    do {                                                                                             \
        char path[4096];                                                                             \
        if (path_of(fd, path)) die(what);                                                            \
    } while (0)

ssize_t writev(int fd, const struct iovec *v, int n) {
    NEVER(fd, "writev");
    return REAL(writev)(fd, v, n);
}
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at) {
    NEVER(fd, "pwritev");
    return REAL(pwritev)(fd, v, n, at);
}
int fallocate64(int fd, int mode, off64_t at, off64_t len) {
    NEVER(fd, "fallocate");
    return REAL(fallocate64)(fd, mode, at, len);
}

ssize_t write(int fd, const void *data, size_t len) {
    char path[4096];
    int mine = path_of(fd, path);
    int64_t at = mine ? lseek(fd, 0, SEEK_CUR) : 0;
    ssize_t n = REAL(write)(fd, data, len);
    if (mine && n > 0) note(WRITE, path, at, data, (size_t)n);
    return n;
}

#define PWRITE(name, type)                                                                           \
    ssize_t name(int fd, const void *data, size_t len, type at) {                                    \
        char path[4096];                                                                             \
        ssize_t n = REAL(name)(fd, data, len, at);                                                   \
        if (n > 0 && path_of(fd, path)) note(WRITE, path, at, data, (size_t)n);                      \
        return n;                                                                                    \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define FTRUNCATE(name, type)                                                                        \
    int name(int fd, type len) {                                                                     \
        char path[4096];                                                                             \
        int result = REAL(name)(fd, len);                                                            \
        if (result == 0 && path_of(fd, path)) note(TRUNCATE, path, len, "", 0);                      \
        return result;                                                                               \
    }
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

#define SYNCS(name)                                                                                  \
    int name(int fd) {                                                                               \
        char path[4096];                                                                             \
        int result = REAL(name)(fd);                                                                 \
        if (result == 0 && path_of(fd, path)) note(SYNC, path, 0, "", 0);                            \
        return result;                                                                               \
    }
SYNCS(fsync)
SYNCS(fdatasync)

int unlink(const char *path) {
    int result = REAL(unlink)(path);
    if (result == 0 && ours(path)) note(UNLINK, path, 0, "", 0);
    return result;
}
int mkdir(const char *path, mode_t mode) {
    int result = REAL(mkdir)(path, mode);
    if (result == 0 && ours(path)) note(MKDIR, path, 0, "", 0);
    return result;
}
int rename(const char *from, const char *to) {
    int result = REAL(rename)(from, to);
    if (result == 0 && ours(from)) note(RENAME, from, 0, to, strlen(to));
    return result;
}
