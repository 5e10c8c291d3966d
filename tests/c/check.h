/* What the C tests share. */
#ifndef CHECK_H
#define CHECK_H

#include <atom/atom.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int checks, failures;

#define CHECK(condition) check((condition) != 0, #condition, __FILE__, __LINE__)
#define EXPECT(wanted, call) expect(wanted, call, #call, __FILE__, __LINE__)
/* A failure whose message has `part` in it. */
#define EXPECT_TOLD(wanted, part, call)                          \
    do {                                                         \
        EXPECT(wanted, call);                                    \
        CHECK(strstr(atom_last_error(), part) != NULL);          \
        if (!strstr(atom_last_error(), part))                    \
            fprintf(stderr, "  told: %s\n", atom_last_error());  \
    } while (0)

static inline int check(int good, const char *what, const char *file, int line)
{
    checks++;
    if (!good) {
        failures++;
        fprintf(stderr, "%s:%d: %s\n", file, line, what);
    }
    return good;
}

static inline int expect(atom_status wanted, atom_status got, const char *what, const char *file, int line)
{
    checks++;
    if (got == wanted)
        return 1;
    failures++;
    fprintf(stderr, "%s:%d: %s is %s, not %s (%s)\n", file, line, what, atom_status_name(got),
            atom_status_name(wanted), atom_last_error());
    return 0;
}

static inline int report(void)
{
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}

/* `size` letters and a NUL. */
static inline char *letters(size_t size)
{
    char *text = malloc(size + 1);
    if (!text)
        exit(2);
    for (size_t i = 0; i < size; i++)
        text[i] = i % 6 == 5 ? ' ' : 'a';
    text[size] = 0;
    return text;
}

/* A grey NV12 frame over `pixels`, which must have room for width * height * 3 / 2 + 3 * (width + height). */
static inline atom_frame nv12(uint8_t *pixels, uint32_t width, uint32_t height, int64_t time)
{
    size_t luma = (size_t)width * height, row = (size_t)((width + 1) / 2) * 2;
    atom_frame frame;
    memset(&frame, 0, sizeof frame);
    frame.struct_size = sizeof frame;
    frame.timestamp_ns = time;
    frame.pixels = ATOM_PIXELS_NV12;
    frame.width = width;
    frame.height = height;
    frame.planes[0].data = pixels;
    frame.planes[0].size = luma;
    frame.planes[0].stride = width;
    frame.planes[1].data = pixels + luma;
    frame.planes[1].size = row * ((height + 1) / 2);
    frame.planes[1].stride = row;
    return frame;
}

#endif
