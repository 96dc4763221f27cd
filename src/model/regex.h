/* regex.h - the regular expressions of pre-tokenizers, searched in time linear in the text. See
 * regex.c. */
#ifndef GRETA_MODEL_REGEX_H
#define GRETA_MODEL_REGEX_H

#include "base/error.h"

#include <stdbool.h>

typedef struct regex regex;

/* Compiles a pattern written for Oniguruma, as those of tokenizer.json are. GRETA_BAD_INPUT for
 * what the two engines read differently, or that cannot be bounded. Immutable afterwards. */
greta_status regex_new(const char *pattern, size_t bytes, regex **out, greta_error *err);
/* The text itself. */
greta_status regex_literal(const char *text, size_t bytes, regex **out, greta_error *err);
void regex_free(regex *r); /* NULL is fine */

/* One caller's scratch: match data and what may still be spent on the text. */
typedef struct regex_scan regex_scan;
greta_status regex_scan_new(regex_scan **out, greta_error *err);
void regex_scan_free(regex_scan *scan); /* NULL is fine */
/* Starts on a text of so many bytes; all searches in it together are bounded. */
void regex_begin(regex_scan *scan, size_t bytes);
/* The first match in valid UTF-8; both are `bytes` where there is none. Never empty. */
greta_status regex_find(regex_scan *scan, const regex *r, const char *text, size_t bytes,
                        size_t *start, size_t *stop, greta_error *err);

#endif
