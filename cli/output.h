/* output.h - errors, stdout, stderr, files and signals of the command line.
 *
 * stdout carries the answer and every write to it is checked; notes, progress and errors go to
 * stderr. The program never calls setlocale, so numbers have a decimal point everywhere.
 */
#ifndef GRETA_CLI_OUTPUT_H
#define GRETA_CLI_OUTPUT_H

#include "greta.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/* ---- Errors: as in the library, the first one wins ------------------------------------------ */

greta_status fail(greta_error *err, greta_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Fills the hint if it is empty. */
void fail_hint(greta_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* GRETA_IO "<what>: <reason of errno>". */
greta_status fail_errno(greta_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
greta_status fail_memory(greta_error *err);
/* Printable ASCII copy, others as \xNN, cut at 120 characters with "...". */
#define QUOTED_MAX 128
const char *quoted(const char *bytes, size_t n, char out[QUOTED_MAX]);

/* ---- stdout --------------------------------------------------------------------------------- */

/* Gives closed standard streams a descriptor that fails or swallows, ignores SIGPIPE, and turns
 * SIGBUS (a mapped file that shrank) into an error line and exit code 4. */
void output_start(void);
greta_status output_bytes(const void *bytes, size_t n, greta_error *err);
greta_status output_text(const char *text, greta_error *err);
/* One line of JSON. Takes over the reference; NULL (out of memory) is an error. */
greta_status output_json(json_t *value, greta_error *err);
/* What a library function gave: malloc'd text, freed here. */
greta_status output_take(char *text, greta_error *err);
greta_status output_flush(greta_error *err);
/* The last words: the line of an error, if there is one. Returns whether the reader of stdout went
 * away, as when `head` has seen enough: then there are no words. */
bool output_end(const greta_error *err);

/* JSON values that cannot fail on strange content: bytes that are no UTF-8 become U+FFFD. */
json_t *json_text(const char *bytes, size_t n);
json_t *json_hex(const void *bytes, size_t n);
json_t *json_number(double value); /* null when not finite */
json_t *json_ids(const int32_t *id, size_t n);

/* ---- stderr --------------------------------------------------------------------------------- */

/* "greta: note: ..." */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A bar on a terminal, nothing otherwise. It goes when done = total or anything else is said. */
void progress(const char *what, uint64_t done, uint64_t total);
/* The same as a callback of the library. */
void progress_watch(void *user, const char *what, uint64_t done, uint64_t total);
/* The callback of greta_isolate: a part that begins is said in a line of its own, with its size. */
void progress_parts(void *user, const char *what, size_t done, size_t total);
const char *bytes_text(uint64_t bytes, char out[32]); /* "97.3 MiB" */

/* ---- Files ---------------------------------------------------------------------------------- */

/* A file that gets its name only when it is complete. */
typedef struct output_file {
    FILE *stream;      /* NULL: not open */
    const char *path;
    char *partial;
} output_file;

typedef struct output_target {
    const char *path;
    bool force;               /* replace what is there */
    const char *input[2];     /* files that are read: never the same as the output; may be NULL */
} output_target;

greta_status output_file_open(output_file *file, const output_target *target, greta_error *err);
greta_status output_file_write(output_file *file, const void *bytes, size_t n, greta_error *err);
/* Syncs and renames. On failure, and with `keep` false, the partial file is removed. */
greta_status output_file_close(output_file *file, bool keep, greta_error *err);
/* Whether two paths name one existing file. */
bool same_file(const char *a, const char *b);

/* ---- Signals -------------------------------------------------------------------------------- */

/* From here on the first SIGINT or SIGTERM is noted, a second one kills. */
void signals_catch(void);
int signals_seen(void); /* 0: none */

#endif
