/* pretokenize.h - splitting text into the words that a model works within. See pretokenize.c. */
#ifndef GRETA_MODEL_PRETOKENIZE_H
#define GRETA_MODEL_PRETOKENIZE_H

#include "model/regex.h"

typedef struct pretokenizer pretokenizer;

/* What a step makes of the matches of its pattern. The names are those of tokenizer.json. */
typedef enum split_behavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS
} split_behavior;

typedef enum prepend_scheme { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS } prepend_scheme;

/* One step: a prefix for the piece, spaces as U+2581, then a pattern that cuts it. */
typedef struct pretokenize_step {
    regex *pattern; /* NULL: does not cut. Owned by the pretokenizer once it is added */
    split_behavior behavior;
    bool is_inverted;
    bool marks_spaces;      /* each space becomes U+2581, and so is the prefix */
    prepend_scheme prepend; /* a space, unless the piece begins with one; FIRST: of a text only */
} pretokenize_step;

/* `name` is the value of tokenizer.ggml.pre. GRETA_BAD_INPUT when it is not one of ours. Immutable
 * afterwards, shared between threads. */
greta_status pretokenizer_named(const char *name, size_t bytes, pretokenizer **out,
                                greta_error *err);
greta_status pretokenizer_new(pretokenizer **out, greta_error *err);
/* Takes the pattern over, also on failure. */
greta_status pretokenizer_add(pretokenizer *p, pretokenize_step step, greta_error *err);
void pretokenizer_free(pretokenizer *p); /* NULL is fine */
/* GPT-2's pattern, which a ByteLevel step with use_regex has. */
extern const char pretokenize_gpt2[];

/* What a name implies beside the patterns. */
bool pretokenizer_ignores_merges(const pretokenizer *p); /* a word in the vocabulary is one token */
bool pretokenizer_adds_bos(const pretokenizer *p);       /* when the file does not say */

/* One caller's scratch. */
typedef struct pretokenize_scan pretokenize_scan;
greta_status pretokenize_scan_new(const pretokenizer *p, pretokenize_scan **out, greta_error *err);
void pretokenize_scan_free(pretokenize_scan *scan); /* NULL is fine */

/* Starts on a stretch of valid UTF-8, which must outlive the walk. `is_first`: nothing stands
 * before it in the whole text. `is_inner`: bytes that are no UTF-8 do; no prefix. */
void pretokenize_begin(pretokenize_scan *scan, const char *text, size_t bytes, bool is_first,
                       bool is_inner);
/* The next word, in text order; *length is 0 at the end. It is good until the next call. */
greta_status pretokenize_next(pretokenize_scan *scan, const char **word, size_t *length,
                              greta_error *err);

#endif
