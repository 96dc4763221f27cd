/* tokenizer_encode.c - bytes to token ids.
 *
 * The text goes through four cuts:
 *   1. added tokens: at each place the longest control or user-defined token whose text stands
 *      there. User-defined ones count always, control ones with options->special; without it a
 *      control token's text is ordinary text, and no user-defined token is looked for inside it.
 *      (The added tokens of the `tokenizers` library, with or without encode_special_tokens.)
 *   2. stretches of valid UTF-8. A byte that begins no valid sequence (continuation bytes, overlong
 *      forms, surrogates, a sequence that breaks off) is a word of its own and merges with nothing;
 *      the next byte is tried afresh. So any bytes have exactly one encoding.
 *   3. words of the pre-tokenizer, within a stretch (pretokenize.c).
 *   4. byte pair encoding of a word: start with one token per byte; as long as some neighbouring
 *      pair is a merge, join the pair of the lowest rank, the leftmost among equals.
 *
 * Step 4 keeps the symbols of a word in a doubly linked list and the candidate pairs in a binary
 * heap ordered by (rank, place). A pair that has changed since it entered the heap is recognised
 * when it is taken out: its place no longer holds a pair of that rank. Every join adds at most two
 * candidates, so a word of n bytes takes O(n log n) even when it is a megabyte of one letter, where
 * scanning for the best pair after every join would be quadratic.
 *
 * A byte without a token is refused by its place, or dropped before merging (as the `tokenizers`
 * library drops it: its neighbours may then join) and counted.
 */
#include "model/tokenizer_internal.h"

#include "base/limits.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* The symbols of one word, as a list through arrays, and the heap of candidate pairs. */
typedef struct word_scratch {
    int32_t *id;         /* -1: joined to its left neighbour */
    int32_t *prev, *next; /* -1: none */
    uint64_t *heap;      /* rank << 32 | place; the least first */
    size_t n_heap;
    size_t capacity;     /* symbols */
} word_scratch;

typedef struct encoder {
    const tokenizer *t;
    const greta_tokenize_options *options;
    const char *text;
    pretokenize_scan *scan;
    word_scratch word;
    greta_tokens *tokens;
    size_t capacity; /* of tokens->id */
    greta_error *err;
} encoder;

/* ---- Output ---------------------------------------------------------------------------------- */

static greta_status emit(encoder *e, int32_t id)
{
    greta_tokens *tokens = e->tokens;
    if (tokens->n == e->capacity) {
        size_t capacity = e->capacity < 64 ? 64 : e->capacity * 2;
        int32_t *grown = realloc(tokens->id, capacity * sizeof *grown);
        if (grown == NULL) {
            return error_memory(e->err, "the token ids", capacity * sizeof *grown);
        }
        tokens->id = grown;
        e->capacity = capacity;
    }
    tokens->id[tokens->n++] = id;
    return GRETA_OK;
}

/* ---- Byte pair encoding ---------------------------------------------------------------------- */

static greta_status scratch_reserve(encoder *e, size_t n)
{
    word_scratch *w = &e->word;
    if (n <= w->capacity) {
        return GRETA_OK;
    }
    size_t capacity = n < 4096 ? 4096 : n;
    size_t bytes = capacity * (3 * sizeof(int32_t) + 2 * sizeof(uint64_t));
    free(w->heap);
    w->capacity = 0;
    w->heap = malloc(bytes); /* One block: the heap never holds more than two pairs a symbol. */
    if (w->heap == NULL) {
        return error_memory(e->err, "a word of the text", bytes);
    }
    w->id = (int32_t *)(w->heap + 2 * capacity);
    w->prev = w->id + capacity;
    w->next = w->prev + capacity;
    w->capacity = capacity;
    return GRETA_OK;
}

static void heap_push(word_scratch *w, uint64_t entry)
{
    size_t at = w->n_heap++;
    GRETA_ASSERT(at < 2 * w->capacity);
    while (at > 0 && w->heap[(at - 1) / 2] > entry) {
        w->heap[at] = w->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    w->heap[at] = entry;
}

static uint64_t heap_pop(word_scratch *w)
{
    uint64_t least = w->heap[0], last = w->heap[--w->n_heap];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= w->n_heap) {
            break;
        }
        if (child + 1 < w->n_heap && w->heap[child + 1] < w->heap[child]) {
            child++;
        }
        if (w->heap[child] >= last) {
            break;
        }
        w->heap[at] = w->heap[child];
        at = child;
    }
    w->heap[at] = last;
    return least;
}

/* The merge of the symbol at `place` with its right neighbour; NULL: none. */
static const merge *pair_at(const encoder *e, int32_t place)
{
    const word_scratch *w = &e->word;
    int32_t right = place < 0 || w->id[place] < 0 ? -1 : w->next[place];
    return right < 0 ? NULL : tokenizer_merge(e->t, w->id[place], w->id[right]);
}

static void pair_push(encoder *e, int32_t place)
{
    const merge *pair = pair_at(e, place);
    if (pair != NULL) {
        heap_push(&e->word, (uint64_t)pair->rank << 32 | (uint32_t)place);
    }
}

static greta_status word_merge(encoder *e, int32_t n)
{
    word_scratch *w = &e->word;
    w->n_heap = 0;
    for (int32_t i = 0; i < n; i++) {
        w->prev[i] = i - 1;
        w->next[i] = i + 1 < n ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < n; i++) {
        pair_push(e, i);
    }
    while (w->n_heap > 0) {
        uint64_t entry = heap_pop(w);
        int32_t place = (int32_t)(uint32_t)entry;
        const merge *pair = pair_at(e, place);
        if (pair == NULL || pair->rank != entry >> 32) {
            continue; /* A neighbour has joined something else since. */
        }
        int32_t right = w->next[place], after = w->next[right];
        w->id[place] = pair->joined;
        w->id[right] = -1;
        w->next[place] = after;
        if (after >= 0) {
            w->prev[after] = place;
        }
        pair_push(e, w->prev[place]);
        pair_push(e, place);
    }
    for (int32_t i = 0; i >= 0 && i < n; i = w->next[i]) {
        GRETA_TRY(emit(e, w->id[i]));
    }
    return GRETA_OK;
}

static greta_status encode_word(encoder *e, const char *word, size_t length)
{
    if (pretokenizer_ignores_merges(e->t->pre)) {
        int32_t whole = tokenizer_find(e->t, word, length);
        if (whole >= 0 && e->t->token[whole].type == TOKEN_NORMAL) {
            return emit(e, whole);
        }
    }
    GRETA_TRY(scratch_reserve(e, length));
    int32_t n = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)word[i];
        int32_t id = e->t->byte_id[byte];
        if (id >= 0) {
            e->word.id[n++] = id;
        } else if (e->options->unknown_bytes_drop) {
            e->tokens->n_dropped++;
        } else {
            greta_status status =
                error_set(e->err, GRETA_BAD_INPUT, "byte %zu (0x%02x) has no token",
                          (size_t)(word - e->text) + i, byte);
            error_hint(e->err, "--unknown-bytes drop leaves such bytes out");
            return status;
        }
    }
    return word_merge(e, n);
}

/* ---- Text without added tokens --------------------------------------------------------------- */

/* The bytes of the first sequence; 0: it is not valid UTF-8. */
static size_t sequence_length(const char *text, size_t bytes)
{
    utf8proc_int32_t code = 0;
    utf8proc_ssize_t n =
        utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &code);
    return n > 0 ? (size_t)n : 0;
}

static greta_status encode_plain(encoder *e, const char *text, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        size_t valid = 0, n = 0;
        while (at + valid < bytes && (n = sequence_length(text + at + valid, bytes - at - valid))) {
            valid += n;
        }
        pretokenize_begin(e->scan, text + at, valid);
        for (;;) {
            const char *word = NULL;
            size_t length = 0;
            GRETA_TRY(pretokenize_next(e->scan, &word, &length, e->err));
            if (length == 0) {
                break;
            }
            GRETA_TRY(encode_word(e, word, length));
        }
        at += valid;
        if (at < bytes) {
            GRETA_TRY(encode_word(e, text + at, 1));
            at++;
        }
    }
    return GRETA_OK;
}

/* ---- Added tokens ---------------------------------------------------------------------------- */

/* Byte `depth` of the i-th added token; -1: it ends there. */
static int added_byte(const tokenizer *t, int32_t i, size_t depth)
{
    const token *entry = &t->token[t->added[i]];
    return depth < entry->length ? (unsigned char)entry->bytes[depth] : -1;
}

/* The first of [low, high), which agree up to `depth`, whose byte there is at least `byte`. */
static int32_t added_bound(const tokenizer *t, int32_t low, int32_t high, size_t depth, int byte)
{
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (added_byte(t, middle, depth) < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The longest added token that starts the text; -1: none. The sorted tokens are a tree without
 * nodes: each byte narrows the range of those that agree so far, and of a range the token that ends
 * here comes first. */
static int32_t added_longest(const tokenizer *t, const char *text, size_t bytes)
{
    int32_t low = 0, high = t->n_added, longest = -1;
    for (size_t depth = 0; low < high; depth++) {
        if (added_byte(t, low, depth) < 0) {
            longest = t->added[low++];
        }
        if (depth == bytes || low == high) {
            break;
        }
        int byte = (unsigned char)text[depth];
        if (added_byte(t, low, depth) != byte || added_byte(t, high - 1, depth) != byte) {
            low = added_bound(t, low, high, depth, byte);
            high = added_bound(t, low, high, depth, byte + 1);
        }
    }
    return longest;
}

static greta_status encode_text(encoder *e, size_t bytes)
{
    const tokenizer *t = e->t;
    size_t done = 0; /* everything before is encoded */
    for (size_t at = 0; at < bytes && t->n_added > 0;) {
        int32_t id = added_longest(t, e->text + at, bytes - at);
        if (id < 0) {
            at++;
            continue;
        }
        size_t length = t->token[id].length;
        if (e->options->special || t->token[id].type == TOKEN_USER_DEFINED) {
            GRETA_TRY(encode_plain(e, e->text + done, at - done));
            GRETA_TRY(emit(e, id));
            done = at + length;
        }
        at += length;
    }
    return encode_plain(e, e->text + done, bytes - done);
}

/* ---- Entry ----------------------------------------------------------------------------------- */

static greta_status encode_all(encoder *e, size_t bytes)
{
    const tokenizer *t = e->t;
    GRETA_TRY(pretokenize_scan_new(t->pre, &e->scan, e->err));
    if (t->adds_bos && !e->options->no_bos) {
        GRETA_TRY(emit(e, t->bos));
    }
    GRETA_TRY(encode_text(e, bytes));
    if (t->adds_eos && !e->options->no_bos) {
        GRETA_TRY(emit(e, t->eos));
    }
    return GRETA_OK;
}

greta_status tokenizer_encode(const tokenizer *t, const char *text, size_t bytes,
                              const greta_tokenize_options *options, greta_tokens *tokens,
                              greta_error *err)
{
    static const greta_tokenize_options defaults = {.size = sizeof defaults};
    *tokens = (greta_tokens){0};
    if (bytes > LIMIT_PROMPT_BYTES) {
        return error_set(err, GRETA_BAD_INPUT, "the text has %zu bytes (at most %u)", bytes,
                         LIMIT_PROMPT_BYTES);
    }
    encoder e = {.t = t, .options = options == NULL ? &defaults : options,
                 .text = bytes == 0 ? "" : text, .tokens = tokens, .err = err};
    greta_status status = encode_all(&e, bytes);
    pretokenize_scan_free(e.scan);
    free(e.word.heap);
    if (status != GRETA_OK) {
        free(tokens->id);
        *tokens = (greta_tokens){0};
    }
    return status;
}
