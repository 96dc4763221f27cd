/* tokenizer_internal.h - the tables that tokenizer.c builds and tokenizer_encode.c reads. */
#ifndef GRETA_MODEL_TOKENIZER_INTERNAL_H
#define GRETA_MODEL_TOKENIZER_INTERNAL_H

#include "model/pretokenize.h"
#include "model/tokenizer.h"

/* tokenizer.ggml.token_type. 6, a byte token, belongs to other vocabularies. */
enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED };

typedef struct token {
    const char *bytes; /* what the token stands for */
    uint32_t length;
    uint8_t type;
} token;

typedef struct merge {
    uint64_t pair;     /* left id << 32 | right id; MERGE_NONE: a free slot */
    uint32_t rank;     /* lower merges first */
    int32_t joined;
} merge;

#define MERGE_NONE UINT64_MAX

struct tokenizer {
    token *token;        /* (n_vocab) */
    int32_t n_vocab;
    char *bytes;         /* of all tokens */
    int32_t bos, eos, eot, pad, unknown; /* -1: none */
    bool adds_bos, adds_eos;
    uint8_t *is_end;     /* (n_vocab) */
    size_t n_shadowed;   /* see tokenizer_n_shadowed */

    /* Open addressing; sizes are powers of two, at least twice the entries. */
    int32_t *word;       /* ids by bytes; -1: a free slot */
    merge *merge;
    uint32_t word_mask, merge_mask;

    int32_t byte_id[256]; /* -1: the vocabulary lacks the byte */
    int32_t *added;       /* control and user-defined ids, sorted by bytes */
    int32_t n_added;
    pretokenizer *pre;
};

/* The first token of these bytes; -1: none. */
int32_t tokenizer_find(const tokenizer *t, const char *bytes, size_t length);
/* NULL: these two never merge. */
const merge *tokenizer_merge(const tokenizer *t, int32_t left, int32_t right);

#endif
