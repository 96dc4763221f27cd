/* normalize.h - what a tokenizer.json does to text before it is split. See normalize.c. */
#ifndef GRETA_MODEL_NORMALIZE_H
#define GRETA_MODEL_NORMALIZE_H

#include "base/text.h"
#include "model/charsmap.h"
#include "model/regex.h"

typedef struct normalizer normalizer;

typedef enum normalize_kind {
    NORMALIZE_NFC,
    NORMALIZE_NFD,
    NORMALIZE_NFKC,
    NORMALIZE_NFKD,
    NORMALIZE_LOWERCASE,
    NORMALIZE_PREPEND, /* `with`, unless the text is empty */
    NORMALIZE_REPLACE, /* each match of `pattern` by `with` */
    NORMALIZE_STRIP,   /* white space at the start, the end */
    NORMALIZE_MAP,     /* a precompiled charsmap */
} normalize_kind;

typedef struct normalize_step {
    normalize_kind kind;
    regex *pattern; /* owned by the normalizer once it is added; so are `with` and `map` */
    char *with;
    size_t with_bytes;
    bool strips_left, strips_right;
    charsmap *map;
} normalize_step;

greta_status normalizer_new(normalizer **out, greta_error *err);
/* Takes over what the step points to, also on failure. */
greta_status normalizer_add(normalizer *n, normalize_step step, greta_error *err);
void normalizer_free(normalizer *n); /* NULL is fine */

/* One caller's scratch; zeroed at first. */
typedef struct normalize_scratch {
    text side[2];
    int32_t *code; /* (capacity) */
    size_t capacity;
    regex_scan *scan;
} normalize_scratch;
void normalize_scratch_free(normalize_scratch *scratch);

/* Valid UTF-8 through all steps; *out lies in the text or the scratch until the next call.
 * `is_inner`: bytes that are no UTF-8 stand before it; nothing is put in front. */
greta_status normalize(const normalizer *n, normalize_scratch *scratch, const char *text,
                       size_t bytes, bool is_inner, const char **out, size_t *out_bytes,
                       greta_error *err);

#endif
