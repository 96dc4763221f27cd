/* error.h - errors as values with a place. See greta_error in greta.h.
 *
 * A function that can fail ends on `return error_...(err, ...)`. The first error wins: a later call
 * on an already filled greta_error returns its own code but leaves the text. `err` may be NULL.
 * Callers add context upward with error_file / error_subject, which fill only empty fields.
 */
#ifndef GRETA_BASE_ERROR_H
#define GRETA_BASE_ERROR_H

#include "greta.h"

#include <assert.h>

/* Sets code and message (printf style); returns `code`. */
greta_status error_set(greta_error *err, greta_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same, with a place: "byte 16: ..." or "line 3: ...". */
greta_status error_at(greta_error *err, greta_status code, greta_place place, uint64_t position,
                      const char *format, ...) __attribute__((format(printf, 5, 6)));
/* The same, with a subject: `tensor "blk.0.attn_q.weight"`, `--threads`. */
greta_status error_about(greta_error *err, greta_status code, const char *subject,
                         const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Fill the field if it is empty. */
void error_file(greta_error *err, const char *file);
void error_subject(greta_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
void error_hint(greta_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* GRETA_IO "out of memory: <what> needs <bytes> bytes". */
greta_status error_memory(greta_error *err, const char *what, uint64_t bytes);

/* What an errno value means, in our words and in no locale's: "no space left". */
const char *error_reason(int number);

/* The one macro that hides a return. */
#define GRETA_TRY(expression)                                                                      \
    do {                                                                                           \
        greta_status try_status_ = (expression);                                                   \
        if (try_status_ != GRETA_OK) {                                                             \
            return try_status_;                                                                    \
        }                                                                                          \
    } while (0)

/* For our own mistakes only, never for input; stays on in release. */
_Noreturn void assert_failed(const char *expression, const char *file, int line);
#define GRETA_ASSERT(expression)                                                                   \
    ((expression) ? (void)0 : assert_failed(#expression, __FILE__, __LINE__))

/* Printable ASCII copy of `bytes`, others as \xNN, cut at 120 with "..."; always terminated.
 * Returns `out`. */
#define ESCAPED_MAX 512
const char *escape(const char *bytes, size_t n, char out[ESCAPED_MAX]);

/* `path`, or "..." and its end where it does not fit a file field. Returns `out`. */
#define PATH_CUT_MAX 256
const char *path_cut(const char *path, char out[PATH_CUT_MAX]);

#endif
