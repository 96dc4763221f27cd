/* trace_files.h - what the tests of traces share: a scratch folder and files in it. */
#ifndef GRETA_TESTS_TRACE_FILES_H
#define GRETA_TESTS_TRACE_FILES_H

#include "trace_sample.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[200]; /* scratch; files_begin makes it, files_end removes it */

typedef struct bytes {
    char *data;
    size_t n;
} bytes;

static inline const char *path_of(const char *name)
{
    static char path[4][sizeof folder + 301];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

static inline bytes load(const char *name)
{
    FILE *file = fopen(path_of(name), "rb");
    assert_non_null(file);
    bytes b = {malloc(1 << 22), 0};
    assert_non_null(b.data);
    b.n = fread(b.data, 1, (1 << 22) - 1, file);
    b.data[b.n] = '\0';
    fclose(file);
    return b;
}

/* Replaces a file by a new one: cutting the old one to nothing first makes some disks wait. */
static inline void store(const char *name, const void *data, size_t n)
{
    unlink(path_of(name));
    FILE *file = fopen(path_of(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    fclose(file);
}

static inline bool exists(const char *name)
{
    struct stat found;
    return lstat(path_of(name), &found) == 0;
}

static inline void remove_trace(const char *name)
{
    static const char *const suffix[] = {"", ".blob", ".partial", ".blob.partial"};
    for (int i = 0; i < 4; i++) {
        char path[400];
        snprintf(path, sizeof path, "%s%s", path_of(name), suffix[i]);
        unlink(path);
    }
}

/* The path lives until the fourth call after this one. */
static inline greta_trace_options options_for(const char *name)
{
    static char path[4][sizeof folder + 301];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return (greta_trace_options){
        .size = sizeof(greta_trace_options), .path = path[next], .bytes_max = 1u << 30};
}

static inline void write_sample(const char *name, int n)
{
    greta_error err = {0};
    greta_trace_options options = options_for(name);
    options.overwrite = 1;
    assert_int_equal(sample_write(&options, n, &err), GRETA_OK);
}

/* The status of opening; the trace is closed. */
static inline greta_status try_open(const char *name, greta_error *err)
{
    trace *t;
    greta_status status = trace_open(path_of(name), &t, err);
    assert_true((t != NULL) == (status == GRETA_OK));
    trace_close(t);
    return status;
}

static inline void expect(const greta_error *err, greta_status code, const char *part)
{
    char line[GRETA_ERROR_LINE];
    greta_error_line(err, line);
    if (err->code != code || strstr(line, part) == NULL) {
        fail_msg("expected %d \"%s\", got %d \"%s\"", code, part, err->code, line);
    }
}

static inline int files_begin(void **state)
{
    const char *base = getenv("GRETA_TMP");
    (void)state;
    snprintf(folder, sizeof folder, "%s/greta-trace-XXXXXX", base == NULL ? "/tmp" : base);
    return mkdtemp(folder) == NULL;
}

static inline int files_end(void **state)
{
    DIR *dir = opendir(folder);
    (void)state;
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        unlink(path_of(entry->d_name));
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return rmdir(folder);
}

#endif
