/* text.h - growing text, and numbers as text that no locale can change.
 *
 * Failure (out of memory) is sticky: append freely, then ask text_take once.
 */
#ifndef GRETA_BASE_TEXT_H
#define GRETA_BASE_TEXT_H

#include "base/error.h"

#include <stdbool.h>

typedef struct text {
    char *data; /* NUL-terminated once something was appended */
    size_t length, capacity;
    bool failed;
} text;

void text_append(text *t, const char *bytes, size_t n);
void text_string(text *t, const char *string);
/* printf style; no floating-point conversions (they follow the locale): see number_ below. */
void text_format(text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Hands the malloc'd string over ("" if empty) and zeroes *t. */
greta_status text_take(text *t, char **string, greta_error *err);
void text_free(text *t);

/* Numbers. The buffer is returned. */
#define NUMBER_MAX 40
/* Shortest decimal that reads back as the same float / double: "0.1", "1e-05", "nan", "-inf". */
const char *number_f32(float value, char out[NUMBER_MAX]);
const char *number_f64(double value, char out[NUMBER_MAX]);
/* `digits` after the point, 0 to NUMBER_DIGITS_MAX (clamped). Rounded to nearest, ties to even, on
 * the exact value, whatever the rounding mode of the caller. */
#define NUMBER_DIGITS_MAX 17
/* C's %.<digits>e with a point: "1.241e-02". */
const char *number_scientific(double value, int digits, char out[NUMBER_MAX]);
/* C's %.<digits>f with a point; from 1e17 on, where that would not fit, as number_scientific. */
#define NUMBER_FIXED_BELOW 1e17
const char *number_fixed(double value, int digits, char out[NUMBER_MAX]);
/* "97.3 MiB" */
const char *number_bytes(uint64_t bytes, char out[NUMBER_MAX]);

/* Whether the bytes are UTF-8: no overlong form, no surrogate, nothing above U+10FFFF. NUL is
 * allowed. */
bool utf8_is_valid(const char *bytes, size_t n);

/* "0,3-5,all" -> a set over [0, n). A malformed text or a number >= n: GRETA_USAGE, naming `flag`.
 * NULL or "all" selects everything. `selected` holds n entries of 0 or 1. */
greta_status ranges_parse(const char *flag, const char *ranges, uint8_t *selected, size_t n,
                          greta_error *err);

#endif
