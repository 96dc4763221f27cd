/* pretokenize.h - splitting text into the words that BPE may merge within. See pretokenize.c. */
#ifndef GRETA_MODEL_PRETOKENIZE_H
#define GRETA_MODEL_PRETOKENIZE_H

#include "base/error.h"

#include <stdbool.h>

typedef struct pretokenizer pretokenizer;

/* `name` is the value of tokenizer.ggml.pre. GRETA_BAD_INPUT when it is not one of ours. Immutable
 * afterwards, shared between threads. */
greta_status pretokenizer_new(const char *name, size_t bytes, pretokenizer **out, greta_error *err);
void pretokenizer_free(pretokenizer *p); /* NULL is fine */

/* What the name implies beside the patterns. */
bool pretokenizer_ignores_merges(const pretokenizer *p); /* a word in the vocabulary is one token */
bool pretokenizer_adds_bos(const pretokenizer *p);       /* when the file does not say */

/* One caller's scratch: match data and limits. */
typedef struct pretokenize_scan pretokenize_scan;
greta_status pretokenize_scan_new(const pretokenizer *p, pretokenize_scan **out, greta_error *err);
void pretokenize_scan_free(pretokenize_scan *scan); /* NULL is fine */

/* Starts on a stretch of valid UTF-8, which must outlive the walk. */
void pretokenize_begin(pretokenize_scan *scan, const char *text, size_t bytes);
/* The next word, in text order; *length is 0 at the end. The words cover the stretch. */
greta_status pretokenize_next(pretokenize_scan *scan, const char **word, size_t *length,
                              greta_error *err);

#endif
