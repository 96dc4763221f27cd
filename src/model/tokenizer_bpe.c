/* tokenizer_bpe.c - byte pair encoding of one word, or with SentencePiece of one text: as long as
 * some neighbouring pair may be joined, join the best one, the leftmost among equals.
 *
 * With merges the best pair is that of the lowest rank, and symbols are bytes or characters of
 * which some may have become byte tokens before. With scores (SentencePiece) it is the one whose
 * joined text is the piece of the highest score; symbols are characters and user-defined pieces,
 * which stay as they are. There a joined piece may be marked unused: it is taken apart again at the
 * end, as it was joined (https://github.com/google/sentencepiece, src/bpe_model.cc).
 *
 * The symbols of a word lie in a doubly linked list, the candidate pairs in a binary heap ordered
 * by (rank, place). A pair that has changed since it entered the heap is recognised when it is
 * taken out: its place no longer holds a pair of that rank. Every join adds at most two candidates,
 * so a word of n bytes takes O(n log n) even when it is a megabyte of one letter, where scanning
 * for the best pair after every join would be quadratic.
 */
#include "model/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- Scratch --------------------------------------------------------------------------------- */

static greta_status scratch_reserve(encoder *e, size_t n)
{
    word_scratch *w = &e->word;
    if (n <= w->capacity) {
        return GRETA_OK;
    }
    size_t capacity = n < 4096 ? 4096 : n;
    size_t bytes = capacity * (4 * sizeof(int32_t) + 2 * sizeof(uint64_t) + 1);
    free(w->heap);
    w->capacity = 0;
    w->heap = malloc(bytes); /* One block: the heap never holds more than two pairs a symbol. */
    if (w->heap == NULL) {
        return error_memory(e->err, "a word of the text", bytes);
    }
    w->id = (int32_t *)(w->heap + 2 * capacity);
    w->prev = w->id + capacity;
    w->next = w->prev + capacity;
    w->at = w->next + capacity;
    w->is_fixed = (uint8_t *)(w->at + capacity);
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

/* ---- Merging --------------------------------------------------------------------------------- */

typedef struct text_span {
    const char *text;
    size_t bytes;
} text_span;

typedef struct pair {
    uint32_t rank;
    int32_t joined;
} pair;

static size_t symbol_end(const word_scratch *w, int32_t place, size_t bytes)
{
    return w->next[place] < 0 ? bytes : (size_t)w->at[w->next[place]];
}

/* The pair of the symbol at `place` and its right neighbour; false: they do not join. */
static bool pair_at(const encoder *e, text_span word, int32_t place, pair *found)
{
    const word_scratch *w = &e->word;
    int32_t right = place < 0 || w->id[place] == SYMBOL_JOINED ? -1 : w->next[place];
    if (right < 0 || w->is_fixed[place] || w->is_fixed[right]) {
        return false;
    }
    if (e->t->rank == NULL) {
        const merge *known = tokenizer_merge(e->t, w->id[place], w->id[right]);
        *found = known == NULL ? (pair){0, -1} : (pair){known->rank, known->joined};
        return known != NULL;
    }
    size_t start = (size_t)w->at[place], end = symbol_end(w, right, word.bytes);
    int32_t joined = tokenizer_find(e->t, word.text + start, end - start);
    *found = (pair){joined < 0 ? 0 : e->t->rank[joined], joined};
    return joined >= 0;
}

static void pair_push(encoder *e, text_span word, int32_t place)
{
    pair found;
    if (!pair_at(e, word, place, &found)) {
        return;
    }
    heap_push(&e->word, (uint64_t)found.rank << 32 | (uint32_t)place);
    if (e->split != NULL && e->t->token[found.joined].type == TOKEN_UNUSED) {
        const word_scratch *w = &e->word;
        e->split[found.joined] = (uint32_t)(w->at[w->next[place]] - w->at[place]);
    }
}

/* Joins the n symbols of the scratch until nothing joins. */
static void word_merge(encoder *e, text_span word, int32_t n)
{
    word_scratch *w = &e->word;
    w->n_heap = 0;
    for (int32_t i = 0; i < n; i++) {
        w->prev[i] = i - 1;
        w->next[i] = i + 1 < n ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < n; i++) {
        pair_push(e, word, i);
    }
    while (w->n_heap > 0) {
        uint64_t entry = heap_pop(w);
        int32_t place = (int32_t)(uint32_t)entry;
        pair found;
        if (!pair_at(e, word, place, &found) || found.rank != entry >> 32) {
            continue; /* A neighbour has joined something else since. */
        }
        int32_t right = w->next[place], after = w->next[right];
        w->id[place] = found.joined;
        w->id[right] = SYMBOL_JOINED;
        w->next[place] = after;
        if (after >= 0) {
            w->prev[after] = place;
        }
        pair_push(e, word, w->prev[place]);
        pair_push(e, word, place);
    }
}

/* ---- Merges by rank -------------------------------------------------------------------------- */

static void symbol_add(word_scratch *w, int32_t *n, int32_t id)
{
    w->id[*n] = id;
    w->is_fixed[*n] = 0;
    w->at[(*n)++] = 0; /* Only scores need to know. */
}

static bool has_bytes(const encoder *e, const char *input, size_t bytes)
{
    size_t i = 0;
    while (i < bytes && e->t->byte_id[(unsigned char)input[i]] >= 0) {
        i++;
    }
    return i == bytes;
}

/* The symbols of a word in characters. A character without a token becomes its byte tokens, else
 * the unknown token, one for a row of them where the model fuses them. */
static greta_status characters_split(encoder *e, const char *word, size_t bytes, int32_t *n)
{
    const tokenizer *t = e->t;
    bool is_pending = false; /* an unknown token not yet added */
    for (size_t at = 0, length; at < bytes; at += length) {
        length = utf8_length(word + at, bytes - at);
        int32_t id = tokenizer_find(t, word + at, length);
        if (id >= 0) {
            if (is_pending) {
                symbol_add(&e->word, n, t->model_unknown);
                is_pending = false;
            }
            symbol_add(&e->word, n, id);
        } else if (t->byte_fallback && has_bytes(e, word + at, length)) {
            for (size_t i = 0; i < length; i++) {
                symbol_add(&e->word, n, t->byte_id[(unsigned char)word[at + i]]);
            }
        } else if (t->model_unknown >= 0) {
            if (is_pending && !t->fuse_unknown) {
                symbol_add(&e->word, n, t->model_unknown);
            }
            is_pending = true;
        } else {
            GRETA_TRY(encoder_lacks(e, word + at, length));
        }
    }
    if (is_pending) {
        symbol_add(&e->word, n, t->model_unknown);
    }
    return GRETA_OK;
}

static greta_status bytes_split(encoder *e, const char *word, size_t bytes, int32_t *n)
{
    for (size_t i = 0; i < bytes; i++) {
        int32_t id = e->t->byte_id[(unsigned char)word[i]];
        if (id < 0 && e->t->model_unknown < 0) {
            GRETA_TRY(encoder_lacks(e, word + i, 1));
        } else {
            symbol_add(&e->word, n, id < 0 ? e->t->model_unknown : id);
        }
    }
    return GRETA_OK;
}

greta_status encode_bpe(encoder *e, const char *word, size_t bytes)
{
    int32_t n = 0;
    GRETA_TRY(scratch_reserve(e, bytes));
    GRETA_TRY(e->t->is_byte_level ? bytes_split(e, word, bytes, &n)
                                  : characters_split(e, word, bytes, &n));
    word_merge(e, (text_span){word, bytes}, n);
    for (int32_t i = 0; i >= 0 && i < n; i = e->word.next[i]) {
        GRETA_TRY(encoder_emit(e, e->word.id[i]));
    }
    return GRETA_OK;
}

/* ---- Merges by score ------------------------------------------------------------------------- */

/* Characters and user-defined pieces. */
static int32_t pieces_split(encoder *e, const char *input, size_t bytes)
{
    word_scratch *w = &e->word;
    int32_t n = 0;
    for (size_t at = 0, length; at < bytes; at += length, n++) {
        const lookup_key *user = lookup_longest(&e->t->added[1], input + at, bytes - at);
        length = user != NULL ? user->length : utf8_length(input + at, bytes - at);
        bool is_valid = length > 0;
        length = is_valid ? length : 1;
        int32_t id = user != NULL ? user->id
                     : is_valid   ? tokenizer_find(e->t, input + at, length)
                                  : -1;
        w->id[n] = id < 0 ? SYMBOL_UNKNOWN : id;
        w->at[n] = (int32_t)at;
        w->is_fixed[n] = user != NULL || !is_valid;
    }
    return n;
}

/* A piece that is unused, taken apart where it was joined, and its parts likewise. What begins at
 * each place is found from the whole piece downward. */
static greta_status unused_emit(encoder *e, const char *piece, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        size_t low = 0, high = bytes;
        int32_t id = tokenizer_find(e->t, piece, bytes);
        while (id >= 0 && e->t->token[id].type == TOKEN_UNUSED && e->split[id] > 0 &&
               e->split[id] < high - low) {
            size_t middle = low + e->split[id];
            high = at < middle ? middle : high;
            low = at < middle ? low : middle;
            id = tokenizer_find(e->t, piece + low, high - low);
        }
        GRETA_TRY(id >= 0 ? encoder_emit(e, id) : encode_unknown(e, piece + low, high - low));
        at = high;
    }
    return GRETA_OK;
}

greta_status encode_by_score(encoder *e, const char *input, size_t bytes)
{
    const tokenizer *t = e->t;
    GRETA_TRY(scratch_reserve(e, bytes));
    int32_t n = pieces_split(e, input, bytes);
    word_merge(e, (text_span){input, bytes}, n);
    for (int32_t i = 0; i >= 0 && i < n; i = e->word.next[i]) {
        size_t start = (size_t)e->word.at[i], length = symbol_end(&e->word, i, bytes) - start;
        int32_t id = e->word.id[i];
        if (id == SYMBOL_UNKNOWN) {
            GRETA_TRY(encode_unknown(e, input + start, length));
        } else if (e->split != NULL && t->token[id].type == TOKEN_UNUSED) {
            GRETA_TRY(unused_emit(e, input + start, length));
        } else {
            GRETA_TRY(encoder_emit(e, id));
        }
    }
    return GRETA_OK;
}
